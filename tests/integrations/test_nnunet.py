import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import Tensor, nn

from relcons import DualEncoderUNet, GaussianRampUp, RelationLoss
from relcons.integrations import nnunet
from relcons.integrations.nnunet_source import find_source, preparation
from relcons.integrations.nnunet_start import load_start, read_weights
from tests.integrations.nnunet_runs import ROOT, SOURCE, TARGET, Workspace, run_whole_path

CPU = torch.device("cpu")
TRAINERS = [
    nnunet.nnUNetTrainerRelCons,
    nnunet.nnUNetTrainerRelConsBaseline,
    nnunet.nnUNetTrainerRelConsGeneral,
    nnunet.nnUNetTrainerRelConsTarget,
]
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "object": 1}, "file_ending": ".nii.gz"}


def plans(dataset: str = TARGET, name: str = "nnUNetPlans", **changes: Any) -> dict[str, Any]:
    configuration = {
        "data_identifier": f"{name}_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16],
        "spacing": [1.0, 1.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 6, 8],
                "conv_op": "torch.nn.modules.conv.Conv2d",
                "kernel_sizes": [[3, 3]] * 3,
                "strides": [[1, 1], [2, 2], [2, 2]],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **changes,
    }
    return {
        "dataset_name": dataset,
        "plans_name": name,
        "transpose_forward": [0, 1],
        "transpose_backward": [0, 1],
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 2.0}},
        "label_manager": "LabelManager",
        "configurations": {"2d": configuration},
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / SOURCE).mkdir()
    for name in ("RELCONS_SOURCE", "RELCONS_START"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def make(kind: type[nnUNetTrainer], dataset: dict[str, Any] = DATASET, initialize: bool = True) -> Any:
    torch.manual_seed(0)
    trainer = kind({**plans(), "continue_training": False}, "2d", 0, dataset, CPU)
    trainer.num_epochs, trainer.num_iterations_per_epoch = 3, 4
    if initialize:
        # infer_dataset_class reads the kind of the files in the folder.
        Path(trainer.preprocessed_dataset_folder).mkdir(parents=True, exist_ok=True)
        Path(trainer.preprocessed_dataset_folder, "case_0.b2nd").touch()
        Path(trainer.preprocessed_dataset_folder, "case_0.pkl").touch()
        trainer.initialize()
    return trainer


def ready(kind: type[nnUNetTrainer]) -> Any:
    """A trainer as on_train_start leaves it, with a stream of source batches."""
    trainer = make(kind)
    if trainer.general or trainer.target:
        trainer.relation = trainer._build_relation()
    trainer.dataloader_source = sources()
    trainer.network.train()
    return trainer


def sources() -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield {"data": torch.rand(3, 1, 16, 16, generator=generator)}


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(2, (2, 1, 16, 16), generator=generator)
    return {"data": torch.rand(2, 1, 16, 16, generator=generator), "target": [label, label[..., ::2, ::2]]}


def prepare_source(folder: Path, channels: int = 1, images: bool = True, **changes: Any) -> None:
    base = folder / "preprocessed" / SOURCE
    base.mkdir()
    moved = plans(SOURCE, "nnUNetPlansFrom901", **changes)
    (base / "nnUNetPlansFrom901.json").write_text(json.dumps(moved), encoding="utf-8")
    description = {**DATASET, "channel_names": {str(channel): "CT" for channel in range(channels)}}
    (base / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    if images:
        (base / "nnUNetPlansFrom901_2d").mkdir()
        for ending in (".b2nd", ".pkl"):
            (base / "nnUNetPlansFrom901_2d" / f"case_0{ending}").touch()


@pytest.mark.slow
def test_smoke_of_the_command_lines_in_3d(tmp_path: Path) -> None:
    run_whole_path(Workspace(tmp_path), "3d_fullres")


def test_smoke_the_module_prints_the_folder_of_the_shim() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relcons.integrations.nnunet"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    printed = Path(done.stdout.removesuffix("\n"))
    assert [path.name for path in printed.glob("*.py")] == ["relcons_trainers.py"]


@pytest.mark.parametrize("kind", TRAINERS)
def test_smoke_nnunet_finds_the_trainers(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(nnunet.TRAINERS))
    found = recursive_find_trainer_class_by_name(kind.__name__)
    assert found is kind
    assert pickle.loads(pickle.dumps(found)) is kind


@pytest.mark.parametrize("kind", TRAINERS)
def test_smoke_a_step_logs_what_it_uses(kind: type, folder: Path) -> None:
    trainer = ready(kind)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    result = trainer.train_step(batch())
    assert set(result) == {"loss", *trainer._logged()}
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("target_encoder"))
    general = [not torch.equal(before[name], after[name]) for name in before if name.startswith("general_encoders")]
    assert any(general) is kind.general
    assert all(p.requires_grad is not kind.freeze_general for p in trainer.model.general_encoder.parameters())


@pytest.mark.parametrize("kind", TRAINERS)
def test_cardinality_prediction_rebuilds_the_trained_network(kind: type, folder: Path) -> None:
    trainer = make(kind)
    rebuilt = kind.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2, False)
    rebuilt.load_state_dict(trainer.network.state_dict())
    x = torch.rand(1, 1, 16, 16)
    trainer.set_deep_supervision_enabled(True)
    trainer.network.eval()
    finest = trainer.network(x)[0]
    trainer.set_deep_supervision_enabled(False)
    assert torch.equal(trainer.network(x), finest)
    assert torch.equal(rebuilt.eval()(x), finest)


def test_reference_lambda_follows_from_epoch_and_iteration(folder: Path) -> None:
    trainer = ready(nnunet.nnUNetTrainerRelCons)
    trainer.current_epoch = 2
    for iteration in range(2):
        result = trainer.train_step(batch())
        expected = GaussianRampUp(3 * 4, peak=0.1)(2 * 4 + iteration)
        assert trainer.relation.current_weight.item() == pytest.approx(expected)
    assert result["relation_general"] > 0 > result["relation_target"]


def test_reference_one_step_is_nnunets_loss_plus_the_relation_loss(folder: Path) -> None:
    trainer = ready(nnunet.nnUNetTrainerRelCons)
    model = trainer.model
    output = model(batch()["data"], source=next(sources())["data"])
    segmentation = trainer.loss(output.logits, batch()["target"])
    terms = RelationLoss(GaussianRampUp(12)(0), reduction="row_mean").terms(output)
    (segmentation + terms.total).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    sets = [[p for n, p in model.named_parameters() if n.startswith("general") is general] for general in (True, False)]
    for parameters in sets:
        nn.utils.clip_grad_norm_(parameters, 12)
    expected = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    result = trainer.train_step(batch())
    assert result["loss"] == pytest.approx(segmentation.item())
    assert result["relation_general"] == pytest.approx((terms.weight * terms.general).item())
    assert result["relation_target"] == pytest.approx((terms.weight * terms.target).item())
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_reference_the_general_encoders_gradient_leaves_the_segmentation_step_alone(folder: Path) -> None:
    gradients = []
    for peak in (0.0, 1e8):
        kind = type("Weighted", (nnunet.nnUNetTrainerRelConsGeneral,), {"peak": peak})
        trainer = ready(kind)
        trainer.train_step(batch())
        general, rest = trainer.model.clip_sets()
        assert not set(general) & set(rest)
        assert len(general) + len(rest) == len(list(trainer.network.parameters()))
        norm = torch.stack([parameter.grad.norm() for parameter in general]).norm().item()
        assert norm == pytest.approx(12.0 if peak else 0.0, abs=1e-3)
        gradients.append([parameter.grad for parameter in rest if parameter.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_reference_gradient_scaling_changes_nothing(folder: Path) -> None:
    states = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        trainer = ready(nnunet.nnUNetTrainerRelCons)
        trainer.grad_scaler = scaler
        trainer.train_step(batch())
        states.append(trainer.model.state_dict())
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize("kind", TRAINERS)
def test_smoke_of_a_step_under_distributed_data_parallel(kind: type, folder: Path) -> None:
    alone = ready(kind)
    alone.train_step(batch())
    trainer = ready(kind)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    try:
        trainer.is_ddp = True
        trainer.network = nn.parallel.DistributedDataParallel(trainer.network)
        if trainer.relation is not None:
            trainer.relation = trainer._build_relation()
            assert trainer.relation.relation.sync
        trainer.train_step(batch())
        trainer.set_deep_supervision_enabled(False)
    finally:
        torch.distributed.destroy_process_group()
    assert trainer.model.decoder.deep_supervision is False
    torch.testing.assert_close(trainer.model.state_dict(), alone.model.state_dict())


def test_compile_is_unwrapped(folder: Path) -> None:
    alone, trainer = ready(nnunet.nnUNetTrainerRelCons), ready(nnunet.nnUNetTrainerRelCons)
    model = trainer.network
    trainer.network = torch.compile(model, backend="aot_eager")
    assert trainer.model is model
    trainer.train_step(batch())
    alone.train_step(batch())
    torch.testing.assert_close(model.state_dict(), alone.model.state_dict(), rtol=1e-4, atol=1e-5)
    trainer.set_deep_supervision_enabled(False)
    assert model.decoder.deep_supervision is False


def test_smoke_source_is_found_by_id_and_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_source(folder)
    trainer = make(nnunet.nnUNetTrainerRelCons)
    for value in ("902", SOURCE):
        monkeypatch.setenv("RELCONS_SOURCE", value)
        found = find_source(trainer)
        assert (found.name, Path(found.folder).name) == (SOURCE, "nnUNetPlansFrom901_2d")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"RELCONS_SOURCE is not set: .*`export RELCONS_SOURCE=2`"),
        ("77", "RELCONS_SOURCE=77 names no data set under nnUNet_raw="),
        ("lungs", "RELCONS_SOURCE=lungs names no data set under nnUNet_raw="),
        ("Dataset077_Gone", "RELCONS_SOURCE=Dataset077_Gone names no data set: neither"),
        ("901", "is the target data set itself"),
    ],
)
def test_exception_source_that_names_nothing(
    value: str | None, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(nnunet.nnUNetTrainerRelCons)
    if value is not None:
        monkeypatch.setenv("RELCONS_SOURCE", value)
    with pytest.raises(ValueError, match=message):
        find_source(trainer)


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (None, "nnUNetPlansFrom901.json is missing"),
        ({"spacing": [2.0, 1.0]}, r"another spacing: \[2.0, 1.0\], the target's is \[1.0, 1.0\]"),
        ({"normalization_schemes": ["ZScoreNormalization"]}, "another normalization_schemes"),
        ({"images": False}, "no preprocessed images in "),
    ],
)
def test_exception_source_that_is_not_prepared(
    prepared: dict[str, Any] | None, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if prepared is not None:
        prepare_source(folder, **prepared)
    monkeypatch.setenv("RELCONS_SOURCE", "902")
    with pytest.raises(ValueError, match=message) as caught:
        find_source(make(nnunet.nnUNetTrainerRelCons))
    commands = preparation(SOURCE, TARGET, "nnUNetPlans", "2d")
    assert str(caught.value).endswith("Run\n" + "\n".join(f"    {command}" for command in commands))


def test_exception_source_with_damaged_plans(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_source(folder)
    (folder / "preprocessed" / SOURCE / "nnUNetPlansFrom901.json").write_text("{", encoding="utf-8")
    monkeypatch.setenv("RELCONS_SOURCE", "902")
    with pytest.raises(ValueError, match="is not readable JSON"):
        find_source(make(nnunet.nnUNetTrainerRelCons))


def test_exception_source_with_other_channels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_source(folder, channels=2)
    monkeypatch.setenv("RELCONS_SOURCE", "902")
    with pytest.raises(ValueError, match=r"images of 2 channel\(s\), the target's have 1"):
        find_source(make(nnunet.nnUNetTrainerRelCons))


def test_exception_cascades_second_stage(folder: Path) -> None:
    trainer = make(nnunet.nnUNetTrainerRelCons)
    trainer.is_cascaded = True
    with pytest.raises(ValueError, match="takes the predictions of an earlier stage"):
        find_source(trainer)


def stock_checkpoint(folder: Path, dataset: dict[str, Any] = DATASET) -> tuple[nn.Module, Path]:
    """A checkpoint by nnU-Net's own save_checkpoint, its log holding NumPy numbers as after an epoch."""
    trainer = make(nnUNetTrainer, dataset)
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    log = trainer.logger.local_logger.my_fantastic_logging
    log["train_losses"].append(np.mean(np.ones((2, 1), np.float32)))
    log["mean_fg_dice"].append(np.nanmean([0.5]))
    log["dice_per_class_or_region"].append([np.float64(0.5), np.float32(0.25)])
    trainer._best_ema = np.float64(0.5)
    path = folder / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    return trainer.network, path


def test_reference_start_gives_the_stock_networks_output(folder: Path) -> None:
    net, path = stock_checkpoint(folder)
    trainer = make(nnunet.nnUNetTrainerRelCons)
    general = {name: value.clone() for name, value in trainer.model.general_encoder.state_dict().items()}
    assert load_start(trainer.model, read_weights(path)) == []
    x = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(trainer.model(x), net(x))
    torch.testing.assert_close(trainer.model.general_encoder.state_dict(), general, rtol=0, atol=0)


def test_reference_start_leaves_heads_of_other_classes(folder: Path) -> None:
    _, path = stock_checkpoint(folder, {**DATASET, "labels": {"background": 0, "a": 1, "b": 2}})
    trainer = make(nnunet.nnUNetTrainerRelCons)
    heads = {name: value.clone() for name, value in trainer.model.decoder.seg_layers.state_dict().items()}
    trainer._start_from(str(path))
    torch.testing.assert_close(trainer.model.decoder.seg_layers.state_dict(), heads, rtol=0, atol=0)
    log = Path(trainer.log_file).read_text(encoding="utf-8")
    assert f"start from {path}; not in it, or of another shape: ['decoder.seg_layers.0.weight'" in log


class Touch:
    """Unpickled by code: writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_exception_start_that_is_no_checkpoint(folder: Path) -> None:
    _, path = stock_checkpoint(folder)
    content = path.read_bytes()
    wrong = folder / "wrong.pth"
    with pytest.raises(ValueError, match=r"got .*wrong.pth, which is not a file"):
        read_weights(wrong)
    for bytes_ in (content[: len(content) // 2], b"", b"no checkpoint"):
        wrong.write_bytes(bytes_)
        with pytest.raises(ValueError, match=r"wrong.pth cannot be read, is it complete\?"):
            read_weights(wrong)
    for foreign in ({"model": 1}, [1], {"network_weights": {"a": 1}}):
        torch.save(foreign, wrong)
        with pytest.raises(ValueError, match=r"wrong.pth holds no network_weights"):
            read_weights(wrong)
    torch.save({"network_weights": Touch(folder / "touched")}, wrong)
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(wrong)
    assert not (folder / "touched").exists()


def test_exception_start_of_another_architecture(folder: Path) -> None:
    trainer = make(nnunet.nnUNetTrainerRelCons)
    with pytest.raises(ValueError, match="no weight of the checkpoint fits the target encoder"):
        load_start(trainer.model, {"encoder.stages.0.weight": torch.zeros(1)})


def test_smoke_the_model_is_the_papers(folder: Path) -> None:
    model = make(nnunet.nnUNetTrainerRelCons).network
    assert isinstance(model, DualEncoderUNet)
    assert (model.outputs, model.route) == ("native", "paper")
    assert model.decoder.transpconvs[0].in_channels == 16
