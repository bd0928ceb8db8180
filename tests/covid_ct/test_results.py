"""A kind of image is a wing and one line of `covidct.results`."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from covidct import results
from covidct.arguments import Arguments, resolve
from covidct.errors import InputError
from covidct.run.building import build_model
from rich.console import Console

from tests.covid_ct.plain_demo import DEMO


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What a third wing, of drawings, was asked; the current folder is a run's."""
    asked: list[str] = []

    def answer(name: str, value: Any = None) -> Any:
        return lambda *_, **__: asked.append(name) or value

    drawings = SimpleNamespace(
        IMAGES="drawings",
        DATASETS=("pencil", "ink"),
        PHANTOM="pencil",
        PREPARED=(),
        AXES=4,
        PRESETS={"demo": DEMO | {"steps": 7}},
        default_fold=answer("default_fold", "fold 0, as all drawings"),
        fit=lambda config: config,
        score=answer("score"),
        draw=answer("draw"),
        show=answer("show", 3),
        is_whole=answer("is_whole", False),
    )
    monkeypatch.setattr(results, "WINGS", (*results.WINGS, drawings))
    monkeypatch.setattr(results, "draw_curves", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_third_wing_is_found_by_its_data_set(calls: list[str], tmp_path: Path) -> None:
    task = resolve(Arguments(dataset="ink", data=tmp_path, method="unet", preset="demo"))
    assert (task.config.dataset, task.config.steps, task.config.fold) == ("ink", 7, 0)
    assert task.notes == ("fold 0, as all drawings (--fold chooses another)",)
    assert calls == ["default_fold"]
    with pytest.raises(InputError, match="--dataset pencil is generated and takes no --data"):
        resolve(Arguments(dataset="pencil", data=tmp_path))
    with pytest.raises(InputError, match="method ours-un is for slices and pencil are drawings"):
        resolve(Arguments(dataset="pencil", method="ours-un"))
    with pytest.raises(InputError, match=r"'oil' is unknown; take one of .*own-volumes, pencil, ink"):
        resolve(Arguments(dataset="oil"))


def test_a_third_wing_scores_draws_and_shows(calls: list[str], tmp_path: Path) -> None:
    config = resolve(Arguments(dataset="pencil", method="unet", preset="demo", fold=1)).config
    console = Console(file=io.StringIO())
    model = build_model(config)
    assert results.finish(tmp_path, config, model, SimpleNamespace(), console) == 3  # type: ignore[arg-type]
    assert calls == ["score", "draw", "show"]
    for path in results.result_files(tmp_path, config):
        path.touch()
    assert not results.is_finished(tmp_path, config)
    assert calls[-1] == "is_whole"


@pytest.mark.parametrize("wing", results.WINGS, ids=lambda wing: wing.IMAGES)
def test_generated_and_prepared_sets_are_of_their_wing(wing: results.Wing[Any]) -> None:
    assert {wing.PHANTOM, *wing.PREPARED} <= set(wing.DATASETS)
    assert list(wing.PRESETS) == ["demo", "cpu", "paper"]
    assert [results.wing_of(name) is wing for name in wing.DATASETS] == [True] * len(wing.DATASETS)
