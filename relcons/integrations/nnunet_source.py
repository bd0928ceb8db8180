"""The source data set of an nnU-Net training: a second nnU-Net data set in the target's plans."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relcons.checks import needing

with needing("nnunet", "relcons.integrations.nnunet"):
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id, maybe_convert_to_dataset_name
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

__all__ = ["SOURCE", "SourceSet", "find_source", "preparation", "source_batches"]

SOURCE = "RELCONS_SOURCE"
# What of the plans the preprocessed images depend on; all else may differ.
_OF_PLANS = ("transpose_forward", "foreground_intensity_properties_per_channel")
_OF_CONFIGURATION = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
)


@dataclass(frozen=True)
class SourceSet:
    """A source data set that is ready for training.

    Args:
        name: ``DatasetXXX_NAME``.
        folder: where its preprocessed images of the configuration lie.
        label_manager: of its own labels, which the loader reads and training ignores.
    """

    name: str
    folder: str
    label_manager: Any


def preparation(source: str, target: str, plans_name: str, configuration: str) -> list[str]:
    """Commands that preprocess the data set ``source`` with the plans of ``target``.

    Examples:
        >>> preparation("Dataset902_LIDC", "Dataset901_Covid", "nnUNetPlans", "2d")[1]
        'nnUNetv2_move_plans_between_datasets -s 901 -t 902 -sp nnUNetPlans -tp nnUNetPlansFrom901'
    """
    source_id, target_id = convert_dataset_name_to_id(source), convert_dataset_name_to_id(target)
    moved = moved_plans(target, plans_name)
    return [
        f"nnUNetv2_extract_fingerprint -d {source_id}",
        f"nnUNetv2_move_plans_between_datasets -s {target_id} -t {source_id} -sp {plans_name} -tp {moved}",
        f'cp "$nnUNet_raw/{source}/dataset.json" "$nnUNet_preprocessed/{source}/"',
        f"nnUNetv2_preprocess -d {source_id} -plans_name {moved} -c {configuration}",
    ]


def moved_plans(target: str, plans_name: str) -> str:
    """Name that the plans of ``target`` go by in the source data set's folder."""
    return f"{plans_name}From{convert_dataset_name_to_id(target):03d}"


def find_source(trainer: Any) -> SourceSet:
    """The data set that ``RELCONS_SOURCE`` names, preprocessed as the trainer's own.

    Raises:
        ValueError: the variable is not set or names no other data set, or that data set is not
            preprocessed with the target's plans; the message gives the commands that do it.
    """
    if trainer.is_cascaded:
        raise ValueError(
            f"configuration {trainer.configuration_name} takes the predictions of an earlier stage, which a source "
            f"data set has none of; train 2d, 3d_lowres or 3d_fullres with {type(trainer).__name__}"
        )
    target = trainer.plans_manager.dataset_name
    name = _named_source(target)
    plans_name, configuration = trainer.plans_manager.plans_name, trainer.configuration_name
    try:
        return _prepared(trainer, name)
    except _NotPrepared as reason:
        commands = "\n".join(f"    {line}" for line in preparation(name, target, plans_name, configuration))
        raise ValueError(
            f"{SOURCE}={name} is not preprocessed for {configuration} with the plans {plans_name} of {target}: "
            f"{reason}. Run\n{commands}"
        ) from None


class _NotPrepared(Exception):
    """Why a source data set cannot be used as it is."""


def _named_source(target: str) -> str:
    value = os.environ.get(SOURCE, "").strip()
    if not value:
        raise ValueError(
            f"{SOURCE} is not set: name the source data set, as in `export {SOURCE}=Dataset002_NAME` or "
            f"`export {SOURCE}=2`; nnUNetTrainerRelConsTarget and nnUNetTrainerRelConsBaseline need none"
        )
    try:
        name = str(maybe_convert_to_dataset_name(value))
        convert_dataset_name_to_id(name)
    except (RuntimeError, ValueError):
        raise ValueError(
            f"{SOURCE}={value} names no data set under nnUNet_raw={nnUNet_raw.get()} or nnUNet_preprocessed="
            f"{nnUNet_preprocessed.get()}; give the id or the name DatasetXXX_NAME of one that is there"
        ) from None
    folders = [Path(root, name) for root in (nnUNet_raw.get(), nnUNet_preprocessed.get()) if root]
    if not any(folder.is_dir() for folder in folders):
        raise ValueError(
            f"{SOURCE}={value} names no data set: neither {' nor '.join(map(str, folders))} is a folder; "
            "give the id or the name DatasetXXX_NAME of one that is there"
        )
    if name == target:
        raise ValueError(f"{SOURCE}={value} is the target data set itself; name another one")
    return name


def _prepared(trainer: Any, name: str) -> SourceSet:
    base = Path(nnUNet_preprocessed.require(), name)
    plans = PlansManager(_read(base / f"{moved_plans(trainer.plans_manager.dataset_name, _plans_name(trainer))}.json"))
    dataset_json = _read(base / "dataset.json")
    if trainer.configuration_name not in plans.available_configurations:
        raise _NotPrepared(f"its plans have no configuration {trainer.configuration_name}")
    configuration = plans.get_configuration(trainer.configuration_name)
    for key in _OF_PLANS:
        _compare(key, plans.plans.get(key), trainer.plans_manager.plans.get(key))
    for key in _OF_CONFIGURATION:
        _compare(key, configuration.configuration.get(key), trainer.configuration_manager.configuration.get(key))
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    if channels != trainer.num_input_channels:
        raise ValueError(
            f"{SOURCE}={name} has images of {channels} channel(s), the target's have {trainer.num_input_channels}; "
            "a source data set needs as many"
        )
    folder = base / configuration.data_identifier
    if not folder.is_dir() or not infer_dataset_class(str(folder)).get_identifiers(str(folder)):
        raise _NotPrepared(f"no preprocessed images in {folder}")
    return SourceSet(name, str(folder), plans.get_label_manager(dataset_json))


def _plans_name(trainer: Any) -> str:
    return str(trainer.plans_manager.plans_name)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _NotPrepared(f"{path} is missing") from None
    except ValueError:
        raise _NotPrepared(f"{path} is not readable JSON") from None
    return content


def _compare(key: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise _NotPrepared(f"its plans have another {key}: {found!r:.80}, the target's is {expected!r:.80}")


def source_batches(trainer: Any, source: SourceSet) -> Any:
    """Endless augmented batches of source images, by nnU-Net's own loader, transforms and workers."""
    dataset_class = infer_dataset_class(source.folder)
    if trainer.local_rank == 0:
        dataset_class.unpack_dataset(
            source.folder, overwrite_existing=False, num_processes=max(1, get_allowed_n_proc_DA() // 2), verify=True
        )
    if trainer.is_ddp:
        torch.distributed.barrier()
    patch_size = trainer.configuration_manager.patch_size
    rotation, dummy_2d, initial_patch_size, mirror_axes = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    transforms = trainer.get_training_transforms(
        patch_size,
        rotation,
        None,  # no deep supervision: the labels are not used
        mirror_axes,
        dummy_2d,
        use_mask_for_norm=trainer.configuration_manager.use_mask_for_norm,
    )
    loader = nnUNetDataLoader(
        dataset_class(source.folder),
        trainer.batch_size,
        initial_patch_size,
        patch_size,
        source.label_manager,
        oversample_foreground_percent=trainer.oversample_foreground_percent,
        transforms=transforms,
        probabilistic_oversampling=trainer.probabilistic_oversampling,
    )
    processes = get_allowed_n_proc_DA()
    if processes == 0:
        return SingleThreadedAugmenter(loader, None)
    return NonDetMultiThreadedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=processes,
        num_cached=max(6, processes // 2),
        seeds=None,
        pin_memory=trainer.device.type == "cuda",
        wait_time=0.002,
    )
