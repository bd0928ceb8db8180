"""COVID-19-CT-Seg 20: the target of the 3D experiments, as Zenodo and as Kaggle distribute it."""

import re
from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.files import entries
from covidct.sets.names import COVID_CT_20
from covidct.sets.splits import covid_ct_20_names, patient_of
from covidct.sets.volume_set import VolumeSet, volumes_in

# Folder names, lower case with nothing but letters and digits.
IMAGES = ("covid19ctseg20cases", "ctscans")
INFECTION, LUNGS, BOTH = "infectionmask", "lungmask", "lungandinfectionmask"


def read_covid_ct_20(folder: Path) -> VolumeSet:
    """The published scans that lie in `folder`.

    Zenodo (record 3757476): `COVID-19-CT-Seg_20cases/NAME.nii.gz`, or the images in `folder` itself, beside
    `Infection_Mask/`, `Lung_Mask/` and `Lung_and_Infection_Mask/` with files of the same names. Kaggle
    (andrewmvd/covid19-ct-scans): `ct_scans/`, `infection_mask/` and so on, with other names (`published_name`). Each
    may be `.nii` or `.nii.gz`. Without an infection mask the lesion is value 3 of the lung and infection mask.
    The `radiopaedia_*` are distributed windowed to 0..255, the `coronacases_*` in HU.
    """
    places = {re.sub("[^a-z0-9]", "", path.name.lower()): path for path in entries(folder) if path.is_dir()}
    inside = next((places[name] for name in IMAGES if name in places), folder)
    skipped: list[str] = []
    images = _published(inside, skipped)
    masks = {kind: _published(places[kind], skipped) if kind in places else {} for kind in (INFECTION, LUNGS, BOTH)}
    cases = []
    if absent := [name for name in covid_ct_20_names() if name not in images]:
        skipped.append(f"{inside}: {len(absent)} of the 20 scans are not there: {', '.join(absent)}")
    for name in images:
        if name not in masks[INFECTION] and name not in masks[BOTH]:
            skipped.append(f"{images[name]}: no mask of it in Infection_Mask or Lung_and_Infection_Mask; add it")
        else:
            cases.append(_case(name, images[name], {kind: found.get(name) for kind, found in masks.items()}))
    return VolumeSet(COVID_CT_20, tuple(cases), tuple(skipped))


def published_name(stem: str) -> str:
    """The published name of a scan by its file name without suffix, of Zenodo or Kaggle; others stay as they are.

    Kaggle has coronacases_org_001, coronacases_org_case007 and radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm, and
    masks named coronacases_001 or coronacases_case007, radiopaedia_10_85902_1 and the like.
    """
    if found := re.fullmatch(r"coronacases_(?:org_)?(?:case)?(\d+)", stem, re.IGNORECASE):
        return f"coronacases_{int(found[1]):03d}"
    if found := re.fullmatch(
        r"radiopaedia_(?:org_)?(?:covid-19-pneumonia-)?(\d+_\d+_\d+)(?:-dcm)?", stem, re.IGNORECASE
    ):
        return f"radiopaedia_{found[1]}"
    return stem


def _published(folder: Path, skipped: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in volumes_in(folder, skipped).items():
        name = published_name(stem)
        if name not in covid_ct_20_names():
            skipped.append(f"{path}: its name is none of the 20 published ones")
        elif name in found:
            raise InputError(f"{path} and {found[name].name} are both {name}; remove one of them")
        else:
            found[name] = path
    return found


def _case(name: str, image: Path, masks: dict[str, Path | None]) -> VolumeCase:
    lungs = masks[LUNGS]
    infection, both = masks[INFECTION], masks[BOTH]
    return VolumeCase(
        name=name,
        image=image,
        mask=infection or both,
        lesion_labels=None if infection else (3,),
        allowed_labels=None if infection else (0, 1, 2, 3),
        lungs=(lungs,) if lungs else (both,) if both else (),
        intensity="window" if name.startswith("radiopaedia") else "hu",
        patient=patient_of(name),
    )
