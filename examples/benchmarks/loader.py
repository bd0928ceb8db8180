"""Training patches per second: the example's loader of volumes beside nnU-Net's own, on the same preprocessed data."""

import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from results import README, parser, publish, table
from timing import interleaved, ratio

sys.path.insert(0, str(README.parents[1] / "covid_ct"))
# nnU-Net reads them when it is imported, and complains without them.
os.environ["nnUNet_raw"] = os.environ["nnUNet_preprocessed"] = os.environ["nnUNet_results"] = tempfile.gettempdir()  # noqa: SIM112

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from covidct.store.preprocess import Placement, Plan, Preprocessed
from covidct.store.store import (
    CaseStore,
    StoreSettings,
    begin_store,
    intensity_of,
    open_store,
    write_case,
)
from covidct.training.augment import is_flat, larger_patch, rotation_range
from covidct.training.batches import numbered_loader
from covidct.volumes.sampling import VolumeSamples
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy import ndimage

SPACING = (1.25, 0.8, 0.8)
# Batches that are waited for before the clock starts: by then every process has worked for a while.
FIRST = 4


def main() -> None:
    options = parser(__doc__ or "", repeats=7)
    options.add_argument("--store", type=Path, help="a store made by prepare.py; without it noise with tissue's scale")
    options.add_argument("--cases", type=int, default=4, help="volumes of noise")
    options.add_argument("--shape", type=int, nargs=3, default=(240, 360, 400), help="voxels of each, z y x")
    options.add_argument("--patch", type=int, nargs=3, default=(56, 160, 192), help="voxels of a patch, z y x")
    options.add_argument("--batch-size", type=int, default=2)
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="processes that load; a row each")
    options.add_argument("--batches", type=int, default=24, help="batches that are timed in every run")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = open_store(chosen.store).cases if chosen.store else _noise(Path(folder) / "store", chosen)
        plan = Plan(cases[0].placement.target, tuple(chosen.patch), *intensity_of(cases))
        theirs = Path(folder) / "nnunet"
        _as_nnunet(cases, plan, theirs)
        rows = [_row(processes, cases, plan, theirs, chosen) for processes in chosen.processes]
    columns = ["processes", "covidct, patches/s", "nnU-Net, patches/s", "time to nnU-Net's (quartiles)", "target"]
    publish("loader", table(columns, rows), ["nnunetv2", "batchgeneratorsv2", "blosc2"], chosen)


def _row(processes: int, cases: tuple[CaseStore, ...], plan: Plan, theirs: Path, chosen: Namespace) -> list[object]:
    calls = {
        "ours": partial(_seconds, partial(_ours, cases, plan, processes, chosen), chosen.batches),
        "nnunet": partial(_seconds, partial(_nnunet, theirs, plan, processes, chosen), chosen.batches),
    }
    seconds = interleaved(calls, chosen.repeats, warmup=1 if chosen.repeats > 1 else 0)
    found = ratio(seconds["ours"], seconds["nnunet"])
    patches = chosen.batches * chosen.batch_size
    return [processes, *(f"{patches / median(values):.2f}" for values in seconds.values()), found, found.against(1)]


def _seconds(start: Callable[[], AbstractContextManager[Iterator[Any]]], batches: int) -> float:
    """Seconds that `batches` batches take after the first few, for a consumer that does nothing but wait."""
    with start() as loader:
        for _ in range(FIRST):
            next(loader)
        begin = time.perf_counter()
        for _ in range(batches):
            next(loader)
        return time.perf_counter() - begin


@contextmanager
def _ours(cases: tuple[CaseStore, ...], plan: Plan, processes: int, chosen: Namespace) -> Iterator[Iterator[object]]:
    samples = VolumeSamples([cases], plan=plan, stream="target", joined_batch=chosen.batch_size, seed=chosen.seed)
    loader = numbered_loader(samples, first_step=0, steps=10**6, workers=processes)
    with closing(iter(loader)) as batches:  # type: ignore[type-var]
        yield batches


@contextmanager
def _nnunet(folder: Path, plan: Plan, processes: int, chosen: Namespace) -> Iterator[Iterator[object]]:
    np.random.seed(chosen.seed)  # noqa: NPY002
    flat = is_flat(plan.patch_size)
    transforms = nnUNetTrainer.get_training_transforms(
        np.array(plan.patch_size), rotation_range(plan.patch_size), None, (0, 1, 2), flat
    )
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder)),
        chosen.batch_size,
        np.array(larger_patch(plan.patch_size)),
        np.array(plan.patch_size),
        LabelManager({"background": 0, "lesion": 1}, None),
        oversample_foreground_percent=0.33,
        transforms=transforms,
    )
    # As nnU-Net's trainer builds them.
    if processes == 0:
        yield SingleThreadedAugmenter(loader, None)
        return
    queue = max(6, processes // 2)
    batches = NonDetMultiThreadedAugmenter(
        loader, None, processes, queue, seeds=None, pin_memory=False, wait_time=0.002
    )
    try:
        yield batches
    finally:
        batches._finish()


def _noise(root: Path, chosen: Namespace) -> tuple[CaseStore, ...]:
    """Cases of smooth grey values with noise of 20 HU, and a lesion."""
    begin_store(root, StoreSettings("noise", SPACING))
    shape = tuple(chosen.shape)
    placement = Placement(shape, (0, 0, 0), shape, SPACING, SPACING, shape)
    for number in range(chosen.cases):
        rng = np.random.default_rng((chosen.seed, number))
        coarse = rng.normal(size=[length // 8 + 2 for length in shape]).astype(np.float32)
        image = ndimage.zoom(coarse, 9, order=1)[: shape[0], : shape[1], : shape[2]] * 40 + 110
        image += rng.normal(0, 20 * 255 / 1500, shape).astype(np.float32)
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(length // 3, length // 2) for length in shape)] = True
        image = np.clip(image, 0, 255)
        write_case(
            root,
            f"noise_{number}",
            Preprocessed(image, mask, placement),
            patient=f"noise_{number}",
            inputs={},
            facts={},
            lesion_values=image[mask],
        )
    return open_store(root).cases


def _as_nnunet(cases: Iterable[CaseStore], plan: Plan, folder: Path) -> None:
    """The same cases as nnU-Net stores them: normalised, float32, in chunks that it chooses for the patch."""
    folder.mkdir()
    for case in cases:
        image, mask = plan.normalise(case.image())[None], case.mask()
        if mask is None:
            raise SystemExit(f"{case.folder} has no mask; give a store whose cases have one")
        label = mask.astype(np.int8)[None]
        blocks, chunks = comp_blosc2_params(image.shape, plan.patch_size, image.itemsize)
        label_blocks, label_chunks = comp_blosc2_params(label.shape, plan.patch_size, label.itemsize)
        places = np.pad(case.positions.astype(np.int64), ((0, 0), (1, 0)))
        nnUNetDatasetBlosc2.save_case(
            image,
            label,
            {"class_locations": {1: places}},
            str(folder / case.name),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=label_chunks,
            blocks_seg=label_blocks,
        )


if __name__ == "__main__":
    main()
