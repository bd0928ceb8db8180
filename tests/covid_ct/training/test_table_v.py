"""Trainings of the networks of Table V: their own losses, schedules, bounds and sizes."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from covidct.arguments import Arguments, resolve
from covidct.run.building import build_model
from covidct.run.config import Config
from covidct.run.systems import SYSTEMS
from covidct.slices.data import read_run_data
from covidct.slices.pseudo_labels import PseudoLabelTraining
from covidct.training.engine import Trainer, make_fabric
from covidct.training.optimisation import learning_rate
from PIL import Image
from rich.console import Console
from torch import nn

UNETS = ("u-net", "attention-unet", "gated-unet", "u-net++")


@pytest.fixture
def config(tmp_path: Path, write_covid: Callable[..., Path]) -> Callable[..., Config]:
    """A function that gives the config of a tiny run of a method, as train.py would."""
    unlabelled = [f"a_{number}" for number in range(3)]
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)], unlabelled=unlabelled)

    def make(method: str, **changes: Any) -> Config:
        task = resolve(Arguments(data=data, method=method, preset="demo", fold=1, output=tmp_path / "unused"))
        side = 64 if method in ("dense-unet", "inf-net", "semi-inf-net") else 32
        few = {"steps": 2, "batch_size": 2, "size": (side, side), "log_every": 1, "checkpoint_every": 1, "workers": 0}
        return replace(task.config, **(few | changes))

    return make


def trainer(config: Config, run: Path) -> Trainer:
    run.mkdir(exist_ok=True)
    return Trainer(make_fabric(config), config, run, build_model(config), read_run_data(config))


def quiet() -> Console:
    return Console(file=io.StringIO())


def stop_after(one: Trainer, steps: int) -> None:
    """Train `one` until it is stopped after so many steps, as a killed process is after a checkpoint."""
    stopping, step = iter(range(steps)), one._train_step
    one._train_step = lambda *batch: (next(stopping), step(*batch))[1]  # type: ignore[method-assign]
    with pytest.raises(StopIteration):
        one.train(quiet())


@pytest.mark.parametrize("method", [*UNETS, "dense-unet", "inf-net"])
def test_smoke(method: str, config: Callable[..., Config], tmp_path: Path) -> None:
    one = trainer(config(method), tmp_path / "run")
    before = {name: value.clone() for name, value in one.module.state_dict().items()}
    one.train(quiet())
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert all(line["segmentation"] > 0 and line["lambda"] is None for line in log)
    assert not (tmp_path / "run/relations").exists()
    # Adam's first steps move every weight that has a gradient by about the rate.
    weights = [name for name, parameter in one.module.named_parameters() if parameter.grad is not None]
    moved = [name for name in weights if not torch.equal(before[name], one.module.state_dict()[name])]
    assert len(moved) >= 0.95 * len(list(one.module.named_parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "dropout"), [("inf-net", False), ("dense-unet", True)])
def test_a_stopped_training_ends_as_one_that_was_not(
    method: str, dropout: bool, config: Callable[..., Config], tmp_path: Path
) -> None:
    """In the middle of a batch that is trained on at three sizes, and with dropout."""
    of = config(method, steps=4)
    whole = trainer(of, tmp_path / "whole")
    assert any(isinstance(module, nn.Dropout) for module in whole.module.modules()) == dropout
    whole.train(quiet())
    stop_after(trainer(of, tmp_path / "stopped"), 2)
    torch.manual_seed(1234)
    resumed = trainer(of, tmp_path / "stopped")
    assert resumed.step == 2
    resumed.train(quiet())
    for (name, wanted), got in zip(
        whole.module.state_dict().items(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(wanted, got), name


def test_inf_net_takes_each_batch_at_three_sizes(config: Callable[..., Config], tmp_path: Path) -> None:
    one = trainer(config("inf-net", size=(128, 96), steps=7), tmp_path / "run")
    batches = list(one._batches("target"))
    sizes = [tuple(batch["image"].shape[2:]) for batch in batches]
    assert sizes[:3] == [(96, 64), (128, 96), (160, 128)]
    assert sizes == 3 * sizes[:3]
    assert all(set(batch) == {"image", "mask", "edge"} for batch in batches)
    assert all(tensor.shape[2:] == batch["image"].shape[2:] for batch in batches for tensor in batch.values())
    # One image, brought to three sizes: their means differ by what is lost on the way.
    for batch in batches[:3]:
        assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
        torch.testing.assert_close(batch["image"].mean(), batches[1]["image"].mean(), atol=0.03, rtol=0)
    assert not torch.equal(batches[1]["image"], batches[4]["image"])


def test_entries_of_the_gradient_are_bounded_and_norms_are_not(config: Callable[..., Config], tmp_path: Path) -> None:
    one = trainer(config("inf-net", clip_value=1e-4), tmp_path / "run")
    one.train(quiet())
    entries = torch.cat([p.grad.flatten() for p in one.module.parameters() if p.grad is not None])
    assert entries.abs().max() == pytest.approx(1e-4)
    assert entries.norm() > 1e-4


def test_learning_rates(config: Callable[..., Config]) -> None:
    assert {learning_rate(config("u-net", steps=10), step) for step in range(10)} == {1e-3}
    of = config("inf-net", steps=99, learning_rate=1e-4)
    rates = [learning_rate(of, step) for step in range(99)]
    # As released: 1e-4 up to epoch 49, a tenth of the one before from epoch 50 on.
    assert rates[:49] == [1e-4] * 49
    assert rates[49:52] == pytest.approx([1e-5, 1e-6, 1e-7])
    described = [learning_rate(replace(of, variant="as_described"), step) for step in range(99)]
    assert described[49:] == pytest.approx([1e-5] * 50)


def test_the_papers_preset_is_the_recipe(config: Callable[..., Config], tmp_path: Path) -> None:
    def of(method: str) -> Config:
        arguments = Arguments(data=tmp_path / "data", method=method, preset="paper", fold=1, precision="32")
        return resolve(arguments).config

    unet, infnet = of("u-net"), of("inf-net")
    assert (unet.size, unet.batch_size, unet.optimizer, unet.learning_rate) == ((352, 352), 16, "adam", 1e-4)
    # 100 epochs of 4 batches; 99 of 3, each at three sizes.
    assert (unet.steps, infnet.steps) == (400, 891)
    assert (unet.clip, unet.clip_value, infnet.clip_value) == (None, None, 0.5)
    assert (unet.augmentation, infnet.augmentation) == ("flips", "none")
    assert (unet.unit_input, infnet.unit_input) == (False, True)
    assert (of("semi-inf-net").pseudo_group, of("semi-inf-net").pseudo_epochs) == (5, 9)
    assert of("semi-inf-net").pseudo_groups is None


def test_weights_from_imagenet_are_read_where_training_begins(config: Callable[..., Config], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    own = build_model(config("inf-net", seed=77)).encoder.state_dict()
    save_file({name: value.contiguous() for name, value in own.items()}, tmp_path / "weights.safetensors")
    of = config("inf-net", imagenet=str(tmp_path / "weights.safetensors"))
    taken = build_model(of, imagenet=True).encoder.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in taken.items())
    (tmp_path / "weights.safetensors").unlink()
    drawn = build_model(of).encoder.state_dict()
    assert not torch.equal(drawn["conv1.0.weight"], own["conv1.0.weight"])


def pseudo(config: Config, run: Path) -> PseudoLabelTraining:
    run.mkdir(exist_ok=True)
    return PseudoLabelTraining(make_fabric(config), config, run, read_run_data(config))


@pytest.mark.slow
def test_a_network_is_taught_on_its_own_labels_and_goes_on_where_it_was(
    config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SYSTEMS["semi-inf-net"].pseudo_labels
    of = config("semi-inf-net", pseudo_group=2, pseudo_epochs=1, pseudo_groups=2, steps=2, scales=(1.0,))
    whole = pseudo(of, tmp_path / "whole")
    assert [stage.kind for stage in whole.stages] == ["supervised", "round", "round", "pseudo", "semi"]
    whole.train(quiet())
    labels = sorted((tmp_path / "whole/pseudo-labels").iterdir())
    assert [path.name for path in labels] == ["a_0.png", "a_1.png", "a_2.png"]
    with Image.open(labels[0]) as label:
        assert label.getextrema() == (0, 255)
    log = [json.loads(line)["step"] for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    # 5 labelled slices and 2 or 3 more, in batches of 2.
    assert log == list(range(1, 2 + 4 + 4 + 2 + 2 + 1))
    assert [path.name for path in sorted((tmp_path / "whole").glob("stage-*"))] == ["stage-5"]

    stopped = pseudo(of, tmp_path / "stopped")
    calls = iter(range(9))
    step = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda self, batches: (next(calls), step(self, batches))[1])
    with pytest.raises(StopIteration):
        stopped.train(quiet())
    monkeypatch.setattr(Trainer, "_train_step", step)
    resumed = pseudo(of, tmp_path / "stopped")
    assert (resumed.done.stages, resumed.step) == (2, 6)
    resumed.train(quiet())
    for (name, wanted), got in zip(
        whole.module.state_dict().items(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(wanted, got), name
    for path in labels:
        assert (tmp_path / "stopped/pseudo-labels" / path.name).read_bytes() == path.read_bytes()
