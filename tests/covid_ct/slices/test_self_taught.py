"""One network, first on hidden parts of unlabelled slices, then on lesions, then on its own labels."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covidct.arguments import Arguments, resolve
from covidct.ct.picture import load_slice
from covidct.run.building import build_model
from covidct.run.config import Config
from covidct.slices.data import read_run_data
from covidct.slices.inference import predict_probability
from covidct.slices.sampling import SliceSamples
from covidct.slices.self_taught import SelfTaught
from covidct.slices.stages import stage_begun
from covidct.training.engine import Trainer, make_fabric
from PIL import Image
from rich.console import Console


@pytest.fixture
def config(tmp_path: Path, write_covid: Callable[..., Path]) -> Config:
    """A tiny run, of 4 labelled slices and 9 unlabelled ones."""
    data = write_covid(
        tmp_path / "data", [str(number) for number in range(5)], unlabelled=[f"a_{number}" for number in range(9)]
    )
    task = resolve(Arguments(data=data, method="self-taught", preset="demo", fold=1, output=tmp_path / "unused"))
    few: dict[str, Any] = {"steps": 2, "batch_size": 2, "size": (16, 16), "features_per_stage": (4, 6, 8)}
    return replace(task.config, **few, log_every=1, checkpoint_every=1, workers=0)


def taught(config: Config, run: Path, **given: Any) -> SelfTaught:
    run.mkdir(exist_ok=True)
    return SelfTaught(make_fabric(config), config, run, read_run_data(config), given.get("model", build_model(config)))


def quiet() -> Console:
    return Console(file=io.StringIO())


def weights(model: torch.nn.Module, *, heads: bool) -> dict[str, torch.Tensor]:
    return {name: v.clone() for name, v in model.state_dict().items() if heads or ".seg_layers." not in name}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def stop_after(one: SelfTaught, count: int) -> None:
    """Train until it is stopped after so many steps, as a killed process is after a checkpoint."""
    calls, step = iter(range(count)), Trainer._train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", lambda self, batch: (next(calls), step(self, batch))[1])
        with pytest.raises(StopIteration):
            one.train(quiet())


def test_every_training_starts_from_the_one_before(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[dict[str, torch.Tensor]] = []
    last: list[dict[str, torch.Tensor]] = []
    steps: list[tuple[str, int]] = []
    train = Trainer.train

    def watched(self: Trainer, console: Console, board: Any = None) -> None:
        first.append(weights(self.module, heads=True))
        train(self, console, board)
        last.append(weights(self.result, heads=True))
        steps.append((self.config.method, self.step))

    monkeypatch.setattr(Trainer, "train", watched)
    one = taught(replace(config, hidden_steps=3), tmp_path / "run")
    one.train(quiet())
    assert steps == [("reconstruct", 3), ("unet", 2), ("unet", 2)]
    seeds = weights(build_model(config), heads=True)
    assert same(first[0], seeds)
    body = {name: value for name, value in last[0].items() if ".seg_layers." not in name}
    assert same(body, first[1])
    heads = {name: value for name, value in seeds.items() if ".seg_layers." in name}
    assert same(heads, first[1])
    assert same(last[1], first[2])
    assert same(last[2], weights(one.result, heads=True))
    assert one.step == 7
    log = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert log == list(range(1, 8))


def test_its_labels_are_what_the_network_before_predicts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []
    train, data = Trainer.train, read_run_data(config)

    def watched(self: Trainer, console: Console, board: Any = None) -> None:
        drawn.append(self.data.train)
        if len(drawn) == 2:
            item = data.unlabelled[0]
            probability = predict_probability(
                one.module, load_slice(item)[0], size=(16, 16), resize=True, flips=True, precision=config.precision
            )
            with Image.open(tmp_path / f"run/pseudo-labels/{item.name}.png") as label:
                np.testing.assert_allclose(np.asarray(label) / 255, probability, atol=1 / 255)
        train(self, console, board)

    monkeypatch.setattr(Trainer, "train", watched)
    one = taught(replace(config, hidden_steps=0), tmp_path / "run")
    one.train(quiet())
    assert [item.mask_path is None for item in drawn[0]] == [False] * 4
    # 4 labelled slices twice, beside 9 others.
    names = [item.name for item in drawn[1]]
    assert len(names) == 17
    assert {names.count(item.name) for item in data.train} == {2}
    assert all(item.soft for item in drawn[1] if item.name.startswith("a_"))


def test_what_another_run_has_filled_in_is_its_first_stage(config: Config, tmp_path: Path) -> None:
    given = build_model(replace(config, seed=77))
    one = taught(replace(config, init="run of reconstruct"), tmp_path / "run", model=given)
    assert [part.text for part in one.parts] == ["lesions", "its own labels"]
    fresh = build_model(config)
    one.begin(0, fresh)
    assert same(weights(given, heads=True), weights(fresh, heads=True))


def test_stopped_in_any_stage_it_ends_with_the_same_weights(config: Config, tmp_path: Path) -> None:
    whole = taught(config, tmp_path / "whole")
    whole.train(quiet())
    run = tmp_path / "stopped"
    for count in (3, 2, 2):  # in the first stage, in the second, in the third
        stop_after(taught(config, run), count)
        assert stage_begun(run)
    last = taught(config, run)
    assert last.done.stages == 2
    last.train(quiet())
    assert same(weights(whole.result, heads=True), weights(last.result, heads=True))
    assert (run / "metrics.jsonl").read_text().count("\n") == 8


def test_of_a_soft_mask_what_is_above_one_half_is_lesion(config: Config, tmp_path: Path) -> None:
    item = read_run_data(config).train[0]
    height, width = load_slice(item)[0].shape
    soft = np.full((height, width), 127, np.uint8)
    soft[:, : width // 2] = 128
    Image.fromarray(soft).save(tmp_path / "soft.png")
    samples = SliceSamples(
        [replace(item, mask_path=tmp_path / "soft.png", soft=True)],
        **{"stream": "target", "size": (16, 16), "resize": True, "joined_batch": 1, "seed": 0, "augment": "none"},
    )
    mask = samples[0]["mask"][0]
    assert mask.unique().tolist() == [0.0, 1.0]
    assert mask[:, :7].all()
    assert not mask[:, 9:].any()
