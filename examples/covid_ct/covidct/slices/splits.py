"""Who is trained on and who is tested: the published split, and cross-validation inside the labelled slices."""

from dataclasses import dataclass

from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.sets.covid_semiseg import CovidSemiSeg
from covidct.sets.folds import draw_folds, own_folds
from covidct.sets.own_folder import OwnPictures
from covidct.sets.splits import FOLDS, published


@dataclass(frozen=True)
class Split:
    """train and test slices, without overlap, and what the split is called in results."""

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    name: str


def split(data: CovidSemiSeg, fold: int | None, seed: int) -> Split:
    """Divide the labelled slices of `data` into train and test.

    fold: 0 to 4 gives that fold of a cross-validation inside `data.train` (the test folder is not touched); None gives
        the published split, `data.train` against `data.test`; of the user's own, all of the one against the other.
    seed: draws the folds. They depend on it and on the names of the slices alone, so neither the order on disk nor a
        version of NumPy changes them. Slices of one scan, as `splits.json` lists them, or of one patient, stay in one
        fold.

    Raises InputError if `fold` is none of these, if there are fewer slices than folds, or if the published split is
    asked for and the test folder is absent or incomplete.
    """
    if fold is None:
        return _own_split(data) if isinstance(data, OwnPictures) else _published_split(data)
    if not 0 <= fold < FOLDS:
        raise InputError(f"--fold must be 0 to {FOLDS - 1}, got {fold}; leave it out for the published split")
    own = isinstance(data, OwnPictures)
    owners = {item.name: item.scan if own else _scan(item.name) for item in data.train}
    known = len(set(owners.values()))
    count = own_folds(known, fold) if own else _published_folds(known)
    held_out = draw_folds(owners, count, seed)[fold]
    return Split(
        train=tuple(item for item in data.train if item.name not in held_out),
        test=tuple(item for item in data.train if item.name in held_out),
        name=f"fold {fold} of {count}, split seed {seed}",
    )


def _published_folds(known: int) -> int:
    if known < FOLDS:
        raise InputError(
            f"{FOLDS} folds need at least {FOLDS} labelled slices of different scans, found {known}; add slices"
        )
    return FOLDS


def _own_split(data: OwnPictures) -> Split:
    if not data.test:
        raise InputError("there are no labelled images in test/; add them, or pass --fold 0 for cross-validation")
    return Split(train=data.train, test=data.test, name="given test images")


def _scan(name: str) -> str:
    for scan in published()["covid_semiseg"]["same_scan"]["groups"]:
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
    names = {str(number) for number in published()["covid_semiseg"][part]}
    missing = sorted(names - {item.name for item in items}, key=int)
    if missing:
        few = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise InputError(
            f"the published split lacks {len(missing)} of its {len(names)} {part} slices ({few}); "
            f"unpack the archive again, or pass --fold 0 to --fold {FOLDS - 1}"
        )
    return tuple(item for item in items if item.name in names)
