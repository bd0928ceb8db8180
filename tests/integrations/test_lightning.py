"""relcons.integrations.lightning: RelConsModule in Lightning's Trainer."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, StackDataset

from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, MultiEncoderUNet, RelationLoss
from relcons.integrations.lightning import RelConsModule
from tests.models.networks import dna_net, tiny_parts

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = GaussianRampUp(total_steps=10, peak=0.3)
BCE = nn.functional.binary_cross_entropy_with_logits
pytestmark = [
    # Lightning advises on workers and on validation sets, which these small runs go without.
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning 2.6 reads a class of torch's that torch 2.14 has announced the end of.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.05)


def build(relation: RelationLoss | None = None, optimizer: Callable[..., Any] = sgd, **options: Any) -> RelConsModule:
    torch.manual_seed(0)
    model = DualEncoderUNet(tiny_parts(), general="reset", **options)
    return RelConsModule(model, BCE, RelationLoss(SCHEDULE) if relation is None else relation, optimizer)


def loader(batches: int = 4, *names: str) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(2 * batches, 1, 8, 8, generator=generator) for name in names or ("image", "source")}
    if not names:
        tensors["mask"] = torch.randn(2 * batches, 2, 8, 8, generator=generator).gt(0).float()
    return DataLoader(StackDataset(**tensors), batch_size=2)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"enable_checkpointing": False, "max_epochs": 1, **quiet, **options}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{"devices": 1, **options})


def step_of(module: RelConsModule) -> int:
    return int(module.relation.get_extra_state())


def test_smoke(tmp_path: Path) -> None:
    module = build()
    run = trainer(tmp_path)
    run.fit(module, loader(), loader())
    logged = {"train/loss", "train/segmentation", "train/lambda", "train/general", "train/target", "val/loss"}
    assert set(run.callback_metrics) == logged
    assert run.callback_metrics["train/lambda"].item() == pytest.approx(SCHEDULE(3))
    assert run.callback_metrics["train/target"] < 0 < run.callback_metrics["train/general"]
    logits = run.predict(module, loader(2, "image"))
    assert [tuple(batch.shape) for batch in logits] == [(2, 2, 8, 8)] * 2
    assert torch.equal(module.predict_step(torch.zeros(1, 1, 8, 8)), module(torch.zeros(1, 1, 8, 8)))


def test_deep_supervision_and_unlabelled(tmp_path: Path) -> None:
    """Lists in training, a tensor in validation; unlabelled images reach the model."""
    seen: list[type] = []

    def segmentation(logits: Any, mask: Tensor) -> Tensor:
        seen.append(type(logits))
        return BCE(logits[0] if isinstance(logits, list) else logits, mask)

    module = RelConsModule(DualEncoderUNet(dna_net(), general="reset"), segmentation, RelationLoss(), sgd)
    data = loader(1)
    data.dataset.datasets["unlabelled"] = torch.randn(2, 1, 8, 8)
    rows: list[int] = []
    forward = module.model.forward
    module.model.forward = lambda *a, **k: (rows.append(len((out := forward(*a, **k))[1][0])), out)[1]
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(module, data)
    assert seen == [list]
    assert rows == [4]
    module.model.forward = forward
    trainer(tmp_path).validate(module, loader(1), verbose=False)
    assert seen == [list, Tensor]


def test_reference(tmp_path: Path) -> None:
    """Three steps of the Trainer are three steps by hand."""
    module = build()
    model, relation = copy.deepcopy(module.model), copy.deepcopy(module.relation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in loader(3):
        out = model(batch["image"], source=batch["source"])
        (BCE(out.logits, batch["mask"]) + relation(out)).backward()
        optimizer.step()
        optimizer.zero_grad()
        relation.step()
    trainer(tmp_path).fit(module, loader(3))
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 8), (2, 4), (3, 3)])
def test_steps_not_batches(tmp_path: Path, accumulate: int, steps: int) -> None:
    module = build()
    run = trainer(tmp_path, accumulate_grad_batches=accumulate)
    run.fit(module, loader(8))
    assert run.global_step == step_of(module) == steps
    assert module.relation.current_weight.item() == pytest.approx(SCHEDULE(steps))


def test_clipping_keeps_the_general_loss_out_of_the_segmentations_step(tmp_path: Path) -> None:
    norms = []
    for weight in (1e-9, 1e6):
        module = build(RelationLoss(weight, target=False))
        trainer(tmp_path, max_steps=1, gradient_clip_val=0.01).fit(module, loader(1))
        groups = {group["name"]: group["params"] for group in module.model.parameter_groups()}
        assert len(groups) == 3
        norms.append(
            [torch.nn.utils.get_total_norm([p.grad for p in groups[name]]) for name in ("target", "decoder", "general")]
        )
    assert torch.allclose(torch.stack(norms[0][:2]), torch.stack(norms[1][:2]))
    assert norms[1][2] == pytest.approx(0.01, rel=1e-3)


def test_one_norm_of_all_where_the_segmentation_reaches_all(tmp_path: Path) -> None:
    module = build(route="joint")
    trainer(tmp_path, max_steps=1, gradient_clip_val=0.01).fit(module, loader(1))
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.model.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_an_optimiser_that_unscales_in_its_step_is_not_clipped_before(tmp_path: Path) -> None:
    """Its gradients still carry the scale when they would be clipped; Lightning refuses, and so must the two norms."""
    module = build(optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0, fused=True))
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    with pytest.raises(RuntimeError, match="current optimizer, SGD, does not allow for gradient clipping"):
        trainer(tmp_path, plugins=[scaled], gradient_clip_val=0.01).fit(module, loader(1))


def test_several_validation_sets_and_a_test_set(tmp_path: Path) -> None:
    module = build()
    run = trainer(tmp_path)
    run.fit(module, loader(1), [loader(1), loader(2)])
    assert {"val/loss/dataloader_idx_0", "val/loss/dataloader_idx_1"} <= set(run.callback_metrics)
    (found,) = run.test(module, loader(1), verbose=False)
    with torch.no_grad():
        (batch,) = loader(1)
        assert found["test/loss"] == pytest.approx(BCE(module.eval()(batch["image"]), batch["mask"]).item())


def test_schedule_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    """Four steps, a checkpoint, four more in another Trainer: the weights of eight in one go."""
    whole = build()
    trainer(tmp_path, max_epochs=2).fit(whole, loader())
    first = trainer(tmp_path)
    first.fit(build(), loader())
    first.save_checkpoint(tmp_path / "four.ckpt")
    resumed = build()
    trainer(tmp_path, max_epochs=2).fit(resumed, loader(), ckpt_path=tmp_path / "four.ckpt", weights_only=True)
    assert step_of(resumed) == 8
    assert resumed.relation.current_weight.item() == pytest.approx(SCHEDULE(8))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
def test_the_step_outlives_averaged_weights(tmp_path: Path) -> None:
    """The copy that is averaged and saved was made before training, when the schedule stood at its start."""
    callbacks = pytest.importorskip("pytorch_lightning.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this release of Lightning averages no weights")
    first = trainer(tmp_path, callbacks=[callbacks.EMAWeightAveraging(decay=0.9)])
    first.fit(build(), loader())
    first.save_checkpoint(tmp_path / "averaged.ckpt")
    state = torch.load(tmp_path / "averaged.ckpt", weights_only=True)
    assert state["state_dict"]["relation._extra_state"] == state["current_model_state"]["relation._extra_state"] == 4
    resumed = build()
    trainer(tmp_path, max_epochs=2).fit(resumed, loader(), ckpt_path=tmp_path / "averaged.ckpt", weights_only=True)
    assert step_of(resumed) == 8
    again = build()
    averaging = [callbacks.EMAWeightAveraging(decay=0.9)]
    last = trainer(tmp_path, max_epochs=2, callbacks=averaging)
    last.fit(again, loader(), ckpt_path=tmp_path / "averaged.ckpt", weights_only=True)
    assert step_of(again) == 8


def test_schedulers_and_trainable_groups() -> None:
    def factory(groups: list[dict[str, Any]]) -> dict[str, Any]:
        optimizer = sgd(groups)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer)}

    module = build(RelationLoss(general=False), factory)
    module.model.freeze_general()
    configured = module.configure_optimizers()
    assert [group["name"] for group in configured["optimizer"].param_groups] == ["target", "decoder"]
    assert "lr_scheduler" in configured


def test_without_the_general_term_no_source_is_needed(tmp_path: Path) -> None:
    module = build(RelationLoss(general=False))
    module.model.freeze_general()
    before = copy.deepcopy(module.model.general_encoders.state_dict())
    data = loader()
    del data.dataset.datasets["source"]
    run = trainer(tmp_path)
    run.fit(module, data)
    assert "train/general" not in run.callback_metrics
    assert all(torch.equal(value, before[name]) for name, value in module.model.general_encoders.state_dict().items())


def test_segmentation_alone(tmp_path: Path) -> None:
    module = RelConsModule(DualEncoderUNet(tiny_parts()), BCE, None, sgd)
    module.model.freeze_general()
    data = loader()
    del data.dataset.datasets["source"]
    run = trainer(tmp_path)
    run.fit(module, data)
    assert set(run.callback_metrics) == {"train/loss", "train/segmentation"}


def test_several_general_encoders(tmp_path: Path) -> None:
    model = MultiEncoderUNet(tiny_parts(), generals=2)
    module = RelConsModule(model, BCE, RelationLoss(), sgd)
    batch = {
        "image": torch.randn(2, 1, 8, 8),
        "mask": torch.rand(2, 2, 8, 8),
        "source": [torch.randn(3, 1, 8, 8), None],
    }
    run = trainer(tmp_path)
    run.fit(module, DataLoader([batch], batch_size=None))
    assert run.global_step == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Linear(1, 1)}, TypeError, "model must be a DualEncoderUNet or MultiEncoderUNet, got Linear"),
        ({"relation": nn.Linear(1, 1)}, TypeError, "relation must be a RelationLoss or None, got Linear"),
        ({"segmentation_loss": 3}, TypeError, r"segmentation_loss must be called as \(logits, mask\), got 3"),
        ({"optimizer": torch.optim.SGD}, TypeError, "optimizer must be a function from parameter groups.*for example"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be a function from parameter groups.*got 0.1"),
    ],
)
def test_exception(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"model": DualEncoderUNet(tiny_parts()), "segmentation_loss": BCE, "relation": None, "optimizer": sgd}
    with pytest.raises(error, match=message):
        RelConsModule(**good | arguments)


def test_exception_in_batches() -> None:
    module = build()
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(TypeError, match="batch must be a dict with image, mask, source, got list"):
        module.training_step([x, x], 0)
    with pytest.raises(ValueError, match=r"batch lacks 'source', it has image, mask; add source images, or use Rel"):
        module.training_step({"image": x, "mask": x}, 0)
    with pytest.raises(ValueError, match="batch lacks 'mask', it has image"):
        module.validation_step({"image": x}, 0)
    with pytest.raises(ValueError, match="batch lacks 'image', it has nothing"):
        module.predict_step({})


def test_automatic_optimisation() -> None:
    assert build().automatic_optimization
    assert isinstance(build(), LightningModule)


class EveryNth(Sampler[int]):
    """This process's share in the order of the data; Lightning's own sampler shuffles."""

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers())

    def __len__(self) -> int:
        return len(self.numbers())

    def numbers(self) -> range:
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return range(rank, 16, processes)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """DistributedDataParallel, no parameter unused: the weights of one process with batches of twice the size."""
    trained = []
    for processes in (1, 2):
        module = build(RelationLoss(SCHEDULE, relation=GramRelation(sync=True)))
        data = DataLoader(loader(8).dataset, batch_size=4 // processes, sampler=EveryNth())
        strategy = {"devices": 2, "strategy": "ddp_spawn", "use_distributed_sampler": False} if processes == 2 else {}
        trainer(tmp_path, accumulate_grad_batches=2, **strategy).fit(module, data)
        assert step_of(module) == 2
        trained.append(module.model)
    one, two = trained
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(two.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)


CHOICE = """
import sys, types, warnings
warnings.simplefilter("ignore")
import pytorch_lightning.core as core
for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_lightning"]:
    del sys.modules[name]
lightning = types.ModuleType("lightning.pytorch")
lightning.LightningModule = type("LightningModule", (core.LightningModule,), {})
%s
from relcons.integrations.lightning import RelConsModule
print([base.__module__.partition(".")[0] for base in RelConsModule.__bases__], RelConsModule.__bases__[0].__qualname__)
print(RelConsModule.__bases__[0] is lightning.LightningModule)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loaded", "chosen"),
    [
        ('sys.modules["lightning.pytorch"] = lightning', True),
        ("import pytorch_lightning", False),
        ("", False),
    ],
)
def test_the_package_that_is_loaded_is_taken(loaded: str, chosen: bool) -> None:
    done = subprocess.run([sys.executable, "-c", CHOICE % loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(chosen)


def test_without_lightning() -> None:
    code = """
import sys
sys.modules.update({"lightning": None, "pytorch_lightning": None})
try:
    import relcons.integrations.lightning
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == 'relcons.integrations.lightning needs Lightning; pip install "relcons[lightning]"\n'
