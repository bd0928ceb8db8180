"""Who is trained on and who is tested in the published sets, as splits.json lists them."""

from functools import cache
from pathlib import Path
from typing import Any

from covidct.ct.picture import natural_key
from covidct.errors import InputError
from covidct.files import read_json
from covidct.sets.names import COVID_CT_20, PHANTOM_VOLUMES

FOLDS = 5
# Sets with the published folds: the one that they were published for, and phantoms with its names.
WITH_FOLDS = (COVID_CT_20, PHANTOM_VOLUMES)
# Source sets with a published division, and where splits.json has it.
DIVIDED = {"msd-lung": "msd_lung", "nsclc-pe": "nsclc_pe"}


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
    folds = published()["covid20_task1_folds"]["folds"]
    if fold is None or not 0 <= fold < len(folds):
        raise InputError(f"--fold must be 0 to {len(folds) - 1}, got {fold}")
    train, test = folds[fold]["train"], folds[fold]["test"]
    known = {patient_of(name) for name in train} if by_patient else set()
    return tuple(train), tuple(name for name in test if patient_of(name) not in known)


def source_split(dataset: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the training and of the validation volumes of a published source set, msd-lung or nsclc-pe.

    Raises InputError for another set.
    """
    if dataset not in DIVIDED:
        raise InputError(f"source set {dataset} has no published split; {' and '.join(DIVIDED)} have")
    split = published()[DIVIDED[dataset]]
    return tuple(split["train"]), tuple(split["val"])


def covid_ct_20_names() -> tuple[str, ...]:
    """The 20 published names of COVID-19-CT-Seg 20, in natural order."""
    first = published()["covid20_task1_folds"]["folds"][0]
    return tuple(sorted((*first["train"], *first["test"]), key=natural_key))


def patient_of(name: str) -> str:
    """Who a scan of COVID-19-CT-Seg 20 shows: the first of the patient's scans; the name itself where it is alone."""
    groups: list[list[str]] = published()["covid20_task1_folds"]["same_patient"]["groups"]
    return next((group[0] for group in groups if name in group), name)


@cache
def published() -> dict[str, Any]:
    """The content of splits.json, not to be changed; each entry has a field "source" that says where it comes from."""
    return read_json(Path(__file__).parent / "splits.json", dict[str, Any], fix="restore it from the repository")
