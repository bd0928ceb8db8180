"""A study's runs and its table, by hand."""

from pathlib import Path

import numpy as np
import pytest
from covidct.errors import InputError
from covidct.run.plan import Images, Settings, SourceSet
from covidct.run.study import Study, read_study, study_plan
from covidct.run.study_figure import draw_gains
from covidct.run.study_report import markdown, study_rows
from covidct.run.study_scores import Scored, joined, read_csv, write_scores
from PIL import Image
from scipy import stats

TEXT = """
question = "Does it help?"
labels = [10, 0]
folds = [0, 3]
draws = 2
options = ["--ema", "0.9"]

[systems.plain]
title = "plain network"
method = "unet"

[systems.hidden]
title = "reconstruction"
method = "reconstruct"
options = ["--steps", "900"]

[systems.started]
title = "started"
method = "finetune"
start = "hidden"
against = ["plain"]

[systems.ours]
title = "the paper's"
method = "ours"
sources = ["lidc"]
against = ["plain"]
"""
IMAGES = Images(
    "covid_semiseg",
    "slices",
    ("--dataset", "covid_semiseg", "--data", "/d"),
    (SourceSet("lidc", ("/s/lidc",)), SourceSet("lung1", ("/s/lung1",))),
    unlabelled="/u",
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "study.toml").write_text(TEXT)
    return read_study(tmp_path / "study.toml")


def test_the_runs_are_systems_by_seed_labels_and_fold_after_their_starts(study: Study) -> None:
    found = study_plan(study, IMAGES, Settings("demo", seeds=(4, 5))).trainings
    names = [one.run for one in found]
    assert names[:5] == [
        "hidden-seed4",
        "hidden-seed5",
        "plain-labels10-fold0-seed4",
        "started-labels10-fold0-seed4",
        "ours-labels10-fold0-seed4",
    ]
    assert len(names) == 2 + 3 * 2 * 2 * 2
    assert names[-1] == "ours-labelsall-fold3-seed5"
    assert {one.start for one in found if one.run.startswith("started")} == {"hidden-seed4", "hidden-seed5"}


def test_a_runs_arguments(study: Study) -> None:
    found = {one.run: one for one in study_plan(study, IMAGES, Settings("demo", seeds=(5,), steps=7)).trainings}
    assert found["ours-labels10-fold3-seed5"].arguments == (
        *("--dataset", "covid_semiseg", "--data", "/d", "--method", "ours", "--preset", "demo", "--seed", "5"),
        *("--fold", "3", "--target-cases", "10", "--target-draw", "1", "--source", "/s/lidc", "--ema", "0.9"),
        *("--steps", "7"),
    )
    hidden = found["hidden-seed5"].arguments
    assert "--fold" not in hidden
    # What the command line asks for comes last and counts.
    assert hidden[-6:] == ("--ema", "0.9", "--steps", "900", "--steps", "7")
    assert hidden[hidden.index("--unlabelled") + 1] == "/u"
    assert "--target-cases" not in found["plain-labelsall-fold0-seed5"].arguments


def test_of_some_systems_only_their_own_starts_are_trained(study: Study) -> None:
    assert [
        one.run for one in study_plan(study, IMAGES, Settings("demo", methods=("plain",), folds=(3,))).trainings
    ] == [
        "plain-labels10-fold3-seed0",
        "plain-labelsall-fold3-seed0",
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('method = "unet"', 'method = "u-nett"', "must be one of unet, .*got 'u-nett'"),
        ('start = "hidden"', 'start = "hiden"', "system started names hiden, which is no system of the study"),
        ('against = ["plain"]', 'against = ["hidden"]', "system started is compared with one that is not scored"),
        ("labels = [10, 0]", "labels = []", "labels"),
        ("question", "]", "is no TOML"),
        ("folds = [0, 3]", "folds = [0, 5]", "folds"),
        (
            'method = "reconstruct"',
            'method = "unet"',
            "started starts from hidden; methods that start .* pretrain",
        ),
        ('method = "finetune"', 'method = "u-net"', "system started starts from hidden; methods that start"),
        ('start = "hidden"\n', "", "system started is of method finetune, which needs a start"),
    ],
)
def test_faults_of_the_file_are_named(before: str, after: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TEXT.replace(before, after, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_study(tmp_path / "study.toml")
    assert "study.toml" in str(caught.value)
    with pytest.raises(InputError, match=r"absent\.toml cannot be read"):
        read_study(tmp_path / "absent.toml")


def test_faults_of_the_call_are_named(study: Study) -> None:
    with pytest.raises(
        InputError, match="--methods hidden is no system of the study; take some of plain, started, ours"
    ):
        study_plan(study, IMAGES, Settings("demo", methods=("hidden",)))
    alone = Images("covid_semiseg", "slices")
    with pytest.raises(InputError, match="system ours of the study learns from lidc: give --source"):
        study_plan(study, alone, Settings("demo"))


def scored(system: str, seed: int, dice: dict[str, float], fold: int = 0, labels: str = "10") -> list[Scored]:
    return [Scored(system, labels, fold, seed, name, value, 1000, 50.0) for name, value in dice.items()]


def test_gains_are_those_of_the_runs_that_both_have(study: Study) -> None:
    plain = scored("plain", 0, {"a": 0.5, "b": 0.6, "c": 0.4}) + scored("plain", 1, {"a": 0.7, "b": 0.6, "c": 0.6})
    started = scored("started", 0, {"a": 0.6, "b": 0.65, "c": 0.6})
    ours = scored("ours", 0, {"a": 0.5, "b": 0.7, "c": 0.4}) + scored("ours", 1, {"a": 0.7, "b": 0.8, "c": 0.5})
    rows = {row.system: row for row in study_rows(study, [*plain, *started, *ours])}
    assert rows["plain"].slices.mean == pytest.approx(1.7 / 3)
    assert rows["plain"].seeds.mean == pytest.approx((0.5 + 1.9 / 3) / 2)
    assert rows["plain"].gains == ()
    # Of the first seed alone: 0.1, 0.05, 0.2. The second of `plain` is not compared with anything.
    (gain,) = rows["started"].gains
    assert (gain.runs, gain.paired.count) == (1, 3)
    assert gain.paired.difference == pytest.approx(0.35 / 3)
    # Of both seeds, averaged slice by slice: 0, 0.15, -0.05.
    (other,) = rows["ours"].gains
    assert other.paired.difference == pytest.approx(0.1 / 3)
    t = [stats.ttest_1samp(values, 0).pvalue for values in ([0.1, 0.05, 0.2], [0, 0.15, -0.05])]
    assert [gain.t_holm, other.t_holm] == pytest.approx([2 * t[0], t[1]])


def test_the_spread_is_of_seeds_with_all_folds(study: Study) -> None:
    whole = [one for seed, value in ((0, 0.5), (1, 0.7)) for fold in (0, 3) for one in _fold(seed, fold, value)]
    (row,) = study_rows(study, [*whole, *scored("plain", 2, {"a0": 0.1})])
    assert (row.runs, row.seeds.count) == (5, 2)
    assert row.seeds.mean == pytest.approx(0.6)


def _fold(seed: int, fold: int, value: float) -> list[Scored]:
    return scored("plain", seed, {f"a{fold}": value}, fold)


def test_the_table_has_a_line_for_every_comparison(study: Study) -> None:
    plain = scored("plain", 0, {"a": 0.5, "b": 0.6, "c": 0.4})
    started = scored("started", 0, {"a": 0.6, "b": 0.65, "c": 0.6})
    text = markdown(study, study_rows(study, [*plain, *started, *scored("plain", 0, {"a": 0.5}, labels="all")]))
    first, second = text.split("**All labels of a fold**")
    lines = [line for line in first.splitlines() if line.startswith("|")]
    assert first.startswith("**10 labels**\n\n| system |")
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| plain network | 0.500 | 1 | 0.00 | 50 | - |")
    assert "| plain network | +11.7 (" in lines[3]
    assert second.count("plain network") == 1


def test_the_picture_has_a_panel_for_each_number_of_labels(study: Study, tmp_path: Path) -> None:
    scores = []
    for number, labels in enumerate(("10", "all")):
        scores += scored("plain", 0, {"a": 0.5, "b": 0.6, "c": 0.4}, labels=labels)
        scores += scored("started", 0, {"a": 0.6 + 0.1 * number, "b": 0.65, "c": 0.6}, labels=labels)
    wide = draw_gains(tmp_path / "both.png", study, study_rows(study, scores))
    with Image.open(wide) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    # The blue of the first comparison, in the legend and on both sides of the middle.
    blue = (pixels == (0, 114, 178)).all(axis=2).sum(axis=0)
    middle = pixels.shape[1] // 2
    assert blue[:middle].sum() > 20
    assert blue[middle + middle // 4 :].sum() > 20


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    first = scored("plain", 0, {"a": 0.5, "b": 0.25})
    write_scores(tmp_path / "scores.csv", first)
    assert read_csv(tmp_path / "scores.csv") == first
    again = scored("plain", 0, {"a": 0.75})
    assert joined(first, [*again, *scored("plain", 1, {"a": 0.1})]) == [*again, *scored("plain", 1, {"a": 0.1})]
    (tmp_path / "scores.csv").write_text("system,labels\nplain,10\n")
    with pytest.raises(InputError, match=r"scores\.csv holds no scores of a study"):
        read_csv(tmp_path / "scores.csv")
