"""Who is trained on and who is tested: the published split, and cross-validation inside the labelled slices."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from covidct.ct.picture import Slice, natural_key
from covidct.errors import InputError
from covidct.files import read_json
from covidct.sets.covid_semiseg import CovidSemiSeg

FOLDS = 5
# Sets with the published folds: the one that they were published for, and phantoms with its names.
WITH_FOLDS = ("covid-ct-20", "phantom-volumes")


@dataclass(frozen=True)
class Split:
    """train and test slices, without overlap, and what the split is called in results."""

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    name: str


def split(data: CovidSemiSeg, fold: int | None, seed: int) -> Split:
    """Divide the labelled slices of `data` into train and test.

    fold: 0 to 4 gives that fold of a cross-validation inside `data.train` (the test folder is not touched); None gives
        the published split, `data.train` against `data.test`.
    seed: draws the folds. They depend on it and on the names of the slices alone, so neither the order on disk nor a
        version of NumPy changes them. Slices of one scan, as `splits.json` lists them, stay in one fold.

    Raises InputError if `fold` is none of these, if there are fewer slices than folds, or if the published split is
    asked for and the test folder is absent or incomplete.
    """
    if fold is None:
        return _published_split(data)
    if not 0 <= fold < FOLDS:
        raise InputError(f"--fold must be 0 to {FOLDS - 1}, got {fold}; leave it out for the published split")
    held_out = _folds([item.name for item in data.train], seed)[fold]
    return Split(
        train=tuple(item for item in data.train if item.name not in held_out),
        test=tuple(item for item in data.train if item.name in held_out),
        name=f"fold {fold} of {FOLDS}, split seed {seed}",
    )


def volume_fold(dataset: str, fold: int | None, *, by_patient: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the training and of the test volumes of a published fold of a target set.

    dataset: covid-ct-20, the set that has published folds, or phantom-volumes, which has its names: 4 scans to train
        on, the other 16 to test.
    fold: 0 to 4.
    by_patient: leave out of the test what shows a patient of the training scans. The 20 scans are of 19 patients:
        radiopaedia_10_85902_1 (trained on in fold 2) and radiopaedia_10_85902_3 (in fold 4) are one. The published
        folds test on the other scan of that patient, and the published figures include it; they are the default.

    Raises InputError for another set or fold.
    """
    if dataset not in WITH_FOLDS:
        raise InputError(f"--dataset {dataset} has no published folds; {' and '.join(WITH_FOLDS)} have")
    folds = _published()["covid20_task1_folds"]["folds"]
    if fold is None or not 0 <= fold < len(folds):
        raise InputError(f"--fold must be 0 to {len(folds) - 1}, got {fold}")
    train, test = folds[fold]["train"], folds[fold]["test"]
    known = {patient_of(name) for name in train} if by_patient else set()
    return tuple(train), tuple(name for name in test if patient_of(name) not in known)


def source_split(dataset: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the training and of the validation volumes of a published source set, msd-lung or nsclc-pe.

    Raises InputError for another set.
    """
    splits = {"msd-lung": "msd_lung", "nsclc-pe": "nsclc_pe"}
    if dataset not in splits:
        raise InputError(f"source set {dataset} has no published split; {' and '.join(splits)} have")
    split = _published()[splits[dataset]]
    return tuple(split["train"]), tuple(split["val"])


def covid_ct_20_names() -> tuple[str, ...]:
    """The 20 published names of COVID-19-CT-Seg 20, in natural order."""
    first = _published()["covid20_task1_folds"]["folds"][0]
    return tuple(sorted((*first["train"], *first["test"]), key=natural_key))


def patient_of(name: str) -> str:
    """Who a scan of COVID-19-CT-Seg 20 shows: the first of the patient's scans; the name itself where it is alone."""
    groups: list[list[str]] = _published()["covid20_task1_folds"]["same_patient"]["groups"]
    return next((group[0] for group in groups if name in group), name)


def _folds(names: Iterable[str], seed: int) -> list[set[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_scan(name), []).append(name)
    if len(groups) < FOLDS:
        raise InputError(
            f"{FOLDS} folds need at least {FOLDS} labelled slices of different scans, found {len(groups)}; add slices"
        )
    # Larger groups first and each to the smallest fold: the single slices then even the sizes out.
    order = sorted(groups, key=lambda scan: (-len(groups[scan]), _draw(scan, seed)))
    folds: list[set[str]] = [set() for _ in range(FOLDS)]
    for scan in order:
        min(folds, key=len).update(groups[scan])
    return folds


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _scan(name: str) -> str:
    for scan in _published()["covid_semiseg"]["same_scan"]["groups"]:
        if name.isdecimal() and int(name) in scan:
            return str(scan[0])
    return name


def _published_split(data: CovidSemiSeg) -> Split:
    if not data.test:
        raise InputError(
            "the published split needs the test slices (Dataset/TestingSet/LungInfection-Test), which are not there; "
            f"add them, or pass --fold 0 to --fold {FOLDS - 1} for cross-validation inside the training slices"
        )
    return Split(train=_only_published(data.train, "train"), test=_only_published(data.test, "test"), name="published")


def _only_published(items: tuple[Slice, ...], part: str) -> tuple[Slice, ...]:
    names = {str(number) for number in _published()["covid_semiseg"][part]}
    missing = sorted(names - {item.name for item in items}, key=int)
    if missing:
        few = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise InputError(
            f"the published split lacks {len(missing)} of its {len(names)} {part} slices ({few}); "
            f"unpack the archive again, or pass --fold 0 to --fold {FOLDS - 1}"
        )
    return tuple(item for item in items if item.name in names)


@cache
def _published() -> dict[str, Any]:
    # Each entry has a field "source" that says where it comes from.
    return read_json(Path(__file__).parent / "splits.json", dict[str, Any], fix="restore it from the repository")
