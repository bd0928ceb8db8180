import numpy as np
import pytest
from covidct.errors import InputError
from covidct.run.scores import MASK, evaluations, read_scores, seed_means

from tests.covid_ct.fabricated_runs import config, slice_content, volume_content, write_run

DSC = (MASK, "dsc")


@pytest.fixture
def read(tmp_path):
    """A function that writes a run with `content` and reads its scores."""

    def from_run(of, content):
        kind = "volumes" if of.axes == 3 else "slices"
        return read_scores(write_run(tmp_path / f"fold{of.fold}-seed{of.seed}", of, content), of, kind)

    return from_run


@pytest.fixture
def volumes(read):
    def with_scores(scores, **changes):
        of = config(volumes=True, **changes)
        return read(of, volume_content(of, {name: (dsc, dsc) for name, dsc in scores.items()}))

    return with_scores


def test_volumes(read):
    of = config(volumes=True)
    content = volume_content(of, {"a": (0.5, 0.25), "b": (None, None)}, failed=[{"name": "c", "message": "damaged"}])
    found = read(of, content)
    assert found.values[MASK, "nsd"]["a"] == 0.25
    assert np.isnan(found.values[DSC]["b"])
    assert found.failed == ("c",)
    # Not the precision: another device computes in another one.
    assert found.inference == {"by_patient": False, "flips": False, "overlap": 0.5, "region": "body"}


def test_slices(read):
    of = config(volumes=False)
    found = read(of, slice_content(of, {"7": 0.75}, flips=True))
    assert found.values["table_v_hard", "dice"] == {"7": 0.75}
    assert found.values["table_v_soft", "dice"] == {"7": 0.5}
    assert found.values["at_0.5", "mae"] == {"7": 0.25}
    assert found.inference == {"flips": True}


def test_evaluations_are_means_over_seeds(volumes):
    runs = [
        volumes({"a": 0.2, "b": 0.4}),
        volumes({"a": 0.4, "b": None}, seed=1),
        volumes({"a": 0.9}, fold=1),
        volumes({"c": None}, fold=2),
    ]
    found = evaluations(runs, DSC)
    assert list(found) == [(0, "a"), (0, "b"), (1, "a"), (2, "c")]
    np.testing.assert_allclose(list(found.values()), [0.3, 0.4, 0.9, np.nan])


def test_seeds_with_fewer_folds_do_not_count_among_seeds(volumes):
    runs = [
        volumes({"a": 0.2, "b": 0.4}),
        volumes({"a": 0.6}, fold=1),
        volumes({"a": 0.3, "b": 0.5}, seed=1),
        volumes({"a": 0.7}, fold=1, seed=1),
        volumes({"a": 0.9, "b": 0.9}, seed=2),
    ]
    assert seed_means(runs, DSC) == pytest.approx([0.4, 0.5])
    assert seed_means([], DSC) == []


@pytest.mark.parametrize(("name", "value"), [("dataset", "phantom"), ("method", "ours"), ("fold", 4), ("seed", 9)])
def test_scores_of_another_run_are_refused(read, name, value):
    of = config(volumes=False)
    with pytest.raises(
        InputError, match=rf"metrics\.json is of {name} {value}, config\.json of .*; write it anew with"
    ):
        read(of, slice_content(of, {"7": 0.75}, **{name: value}))


@pytest.mark.parametrize(
    "images", [[{"name": "7"}], [7], [{"name": "7", "at_0.5": 1, "table_v_hard": 1, "table_v_soft": 1}]]
)
def test_damaged_scores_are_refused(read, images):
    of = config(volumes=False)
    with pytest.raises(InputError, match=r"metrics\.json is damaged: images\[0\].*; write it anew with evaluate\.py"):
        read(of, slice_content(of, {}, images=images))


def test_run_without_any_score_is_refused(read):
    of = config(volumes=True)
    with pytest.raises(InputError, match=r"metrics\.json has no scored volumes"):
        read(of, volume_content(of, {}))
