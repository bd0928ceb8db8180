"""The published split, and the folds inside the labelled slices."""

from dataclasses import replace
from pathlib import Path

import pytest
from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.sets import splits
from covidct.sets.covid_semiseg import CovidSemiSeg
from covidct.sets.splits import FOLDS
from covidct.slices.splits import split


def slices(names) -> tuple[Slice, ...]:
    return tuple(Slice(str(n), Path(f"{n}.jpg"), Path(f"{n}.png"), str(n)) for n in names)


@pytest.fixture
def published() -> CovidSemiSeg:
    ids = splits.published()["covid_semiseg"]
    return CovidSemiSeg(train=slices(ids["train"]), test=slices(ids["test"]), unlabelled=())


def names(items) -> set[str]:
    return {item.name for item in items}


def test_folds_partition_the_training_slices(published):
    folds = [split(published, fold, seed=0) for fold in range(FOLDS)]
    assert [len(fold.test) for fold in folds] == [10] * FOLDS
    assert set.union(*(names(fold.test) for fold in folds)) == names(published.train)
    for fold in folds:
        assert names(fold.train) | names(fold.test) == names(published.train)
        assert not names(fold.train) & names(fold.test)
    assert folds[2].name == "fold 2 of 5, split seed 0"


def test_folds_do_not_depend_on_the_order(published):
    turned = replace(published, train=published.train[::-1])
    for fold in range(FOLDS):
        assert names(split(turned, fold, 3).test) == names(split(published, fold, 3).test)


def test_folds_stay_what_they_are(published):
    # Results on disk name a fold and a seed: another draw would make them incomparable.
    expected = {"4", "5", "13", "17", "27", "33", "34", "42", "46", "52"}
    assert names(split(published, 0, 0).test) == expected


def test_seed_draws_other_folds(published):
    assert names(split(published, 0, 1).test) != names(split(published, 0, 0).test)


@pytest.mark.parametrize("seed", range(20))
def test_slices_of_one_scan_stay_together(published, seed):
    folds = [names(split(published, fold, seed).test) for fold in range(FOLDS)]
    assert [len(fold) for fold in folds] == [10] * FOLDS
    for scan in splits.published()["covid_semiseg"]["same_scan"]["groups"]:
        held = [fold & {str(number) for number in scan} for fold in folds]
        assert sum(bool(part) for part in held) == 1


def test_published_split(published):
    result = split(published, None, seed=5)
    assert result.name == "published"
    assert len(result.train) == 50
    assert len(result.test) == 48
    extra = replace(published, test=(*published.test, *slices([22, 48])))
    assert split(extra, None, 0).test == published.test


def test_published_split_without_test_folder(published):
    with pytest.raises(InputError, match=r"LungInfection-Test\), which are not there; .* pass --fold 0 to --fold 4"):
        split(replace(published, test=()), None, 0)


def test_published_split_incomplete(published):
    with pytest.raises(InputError, match=r"lacks 2 of its 48 test slices \(6, 7\); unpack .* --fold 0"):
        split(replace(published, test=published.test[2:]), None, 0)
    with pytest.raises(InputError, match=r"lacks 40 of its 50 train slices \(0, 1, 2, 3, 4 \.\.\.\)"):
        split(replace(published, train=published.train[40:]), None, 0)


@pytest.mark.parametrize("fold", [-1, 5])
def test_no_such_fold(published, fold):
    with pytest.raises(InputError, match=rf"--fold must be 0 to 4, got {fold}"):
        split(published, fold, 0)


def test_too_few_slices():
    few = CovidSemiSeg(train=slices([1, 2, 3, 10, 43]), test=(), unlabelled=())
    with pytest.raises(InputError, match=r"5 folds need at least 5 labelled slices of different scans, found 4"):
        split(few, 0, 0)
