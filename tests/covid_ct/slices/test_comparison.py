"""Predictions of several runs beside each other, and every system on real slices."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from covidct.arguments import Arguments, resolve
from covidct.ct.picture import load_slice
from covidct.errors import InputError
from covidct.run.building import build_model
from covidct.run.checkpoint import save_weights
from covidct.run.config import Config
from covidct.run.figures import Compared, draw_comparison
from covidct.run.prediction import binarise
from covidct.run.systems import SYSTEMS
from covidct.slices.comparison import compare
from covidct.slices.data import SliceData, read_run_data
from covidct.slices.evaluation import predict_slice, score_slices, write_metrics
from covidct.training.engine import Trainer, make_fabric
from PIL import Image
from rich.console import Console

REAL = Path(os.environ.get("RELCONS_DATA", Path(__file__).resolve().parents[4] / "shared/data"))


@pytest.fixture
def scored(tmp_path: Path, write_covid: Callable[..., Path]) -> Callable[..., Path]:
    """A function that makes a scored run of a method; its weights are as they are drawn."""
    data = write_covid(tmp_path / "data", [str(number) for number in range(20)])

    def make(name: str, method: str, fold: int = 1) -> Path:
        config = resolve(Arguments(data=data, method=method, preset="demo", fold=fold)).config
        config = replace(config, size=(32, 32), features_per_stage=(4, 6, 8) if method == "unet" else (32,) * 5)
        run = tmp_path / name
        run.mkdir()
        (run / "config.json").write_text(config.to_json())
        model = build_model(config).eval()
        save_weights(run, model)
        write_metrics(run, *score_slices(model, read_run_data(config).test, config), config, flips=False)
        return run

    return make


def test_the_best_the_median_and_the_worst_of_the_first_run(scored: Callable[..., Path], tmp_path: Path) -> None:
    runs = {"plain": scored("a", "unet"), "other": scored("b", "gated-unet")}
    cases = compare(runs)
    assert [case.title.rpartition(" ")[2] for case in cases] == ["(best)", "(median)", "(worst)"]
    dice = []
    for case in cases:
        assert list(case.predictions) == ["plain", "other"]
        mask = case.predictions["plain"]
        assert mask.shape == case.image.shape == case.truth.shape
        dice.append(2 * (mask & case.truth).sum() / max(mask.sum() + case.truth.sum(), 1))
    assert dice == sorted(dice, reverse=True)
    with pytest.raises(InputError, match="the runs have no test slice in common"):
        compare(runs | {"elsewhere": scored("c", "unet", fold=2)})


def test_hits_false_alarms_and_misses_are_told_apart(tmp_path: Path) -> None:
    truth, mask = np.zeros((2, 20, 20), dtype=bool)
    truth[5:15, :], mask[:, 10:] = True, True
    case = Compared("one", np.full((20, 20), 128, dtype=np.float32), truth, {"a": mask, "b": ~mask})
    path = draw_comparison(tmp_path / "picture.png", [case, replace(case, title="two")])
    with Image.open(path) as picture:
        colours = {colour for count, colour in picture.convert("RGB").getcolors(10**6) if count > 200}
    # The three colours at an opacity of .55 over a grey of 128, and the truth's.
    for paint in ((0, 158, 115), (213, 94, 0), (0, 114, 178), (204, 121, 167)):
        wanted = tuple(0.45 * 128 + 0.55 * value for value in paint)
        assert any(np.abs(np.subtract(colour, wanted)).max() < 3 for colour in colours), paint


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "covid_semiseg").is_dir(), reason="no COVID-SemiSeg below RELCONS_DATA")
@pytest.mark.parametrize("method", [name for name, entry in SYSTEMS.items() if not entry.pseudo_labels])
def test_a_step_and_a_prediction_on_a_real_slice(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = real_config(method)
    data = few(read_run_data(config))
    (tmp_path / "run").mkdir()
    trainer = Trainer(make_fabric(config), config, tmp_path / "run", build_model(config), data)
    trainer.train(Console(file=io.StringIO()))
    if SYSTEMS[method].tested:
        image, _ = load_slice(data.test[0])
        probability = predict_slice(trainer.module, image, config, flips=config.flips, name="slice")
        assert probability.shape == image.shape
        assert 0 <= probability.min() < probability.max() <= 1
        assert binarise(probability).dtype == bool


def real_config(method: str) -> Config:
    chosen = SYSTEMS[method]
    source: dict[str, Any] = {"source": (REAL / "lung1",)} if chosen.needs_source else {}
    start = "general encoder" if chosen.needs_start and chosen.dual else "network"
    arguments = Arguments(data=REAL / "covid_semiseg", method=method, preset="demo", fold=0, steps=1, **source)
    if chosen.needs_start:
        # Any network of its kind will do: what it takes over is tested elsewhere.
        assert chosen.start == start
        config = resolve(replace(arguments, method="unet")).config
        return replace(config, method=method, batch_size=2, workers=0)
    return replace(resolve(arguments).config, batch_size=2, workers=0)


def few(data: SliceData) -> SliceData:
    return replace(
        data, train=data.train[:2], test=data.test[:1], source=data.source[:2], unlabelled=data.unlabelled[:2]
    )
