"""Which files of a folder are CT volumes, and which file is the lesion mask of each."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from covidct.ct.names import SUFFIXES, is_volume, volumes_by_name
from covidct.ct.picture import natural_key
from covidct.errors import InputError
from covidct.files import entries

# Names without suffix, in lower case. In a folder of one case the image is one of these, or named as the folder.
IMAGE_NAMES = ("ct", "image", "img", "volume", "scan")
# Exactly one file of a case may have one of these names; gtv is the gross tumour volume of radiotherapy.
LESION_NAMES = (
    *("lesion", "lesions", "nodule", "nodules", "tumor", "tumour", "mass", "effusion", "infection"),
    *("gtv", "gtv-1", "mask", "seg", "segmentation", "label", "labels"),
)
# Every file whose name begins so is a lung mask: lung, lungs, Lung-Left, lung_right.
LUNG_PREFIX = "lung"
# In a folder of many cases the mask of X.nii.gz (or X_ct.nii.gz) is X_mask.nii.gz, X_seg.nii.gz or X_label.nii.gz.
MASK_ENDINGS = ("_mask", "_seg", "_label")
# What a lung mask of X adds to its name there, as a pattern: X_lung, X_lungs, X_lung_left.
LUNG_ENDING = rf"_{LUNG_PREFIX}[^_]*(?:_left|_right)?"


@dataclass(frozen=True)
class Case:
    """One CT volume with its lesion mask and, where they exist, masks of the lungs."""

    name: str
    image: Path
    lesion: Path
    lungs: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.image, self.lesion, *self.lungs)


def find_cases(folder: Path, faults: list[str] | None = None) -> tuple[Case, ...]:
    """The cases of `folder`, by their names, in natural order.

    Known layouts: a folder a case (`CASE/ct.nii.gz`, `CASE/nodule.nii.gz`), or one such folder itself; nnU-Net's
    raw data (`imagesTr/CASE_0000.nii.gz` or `imagesTr/CASE.nii.gz`, `labelsTr/CASE.nii.gz`); a flat folder
    (`CASE.nii.gz`, `CASE_mask.nii.gz`, `CASE_lung*.nii.gz`). NRRD and MetaImage files count as NIfTI does. Hidden files
    are skipped, and with them macOS' `._*`.

    faults: where it is given, what is wrong with one case is added to it and the others are returned.

    Raises InputError if there is no volume, a volume has no mask or the reverse, or several could be the mask.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} {'is a file' if folder.exists() else 'does not exist'}; give a folder of CT volumes"
        )
    if (folder / "imagesTr").is_dir():
        return _nnunet(folder, faults)
    doubled: list[str] | None = None if faults is None else []
    here = volumes_by_name(folder, faults=doubled)
    if here or doubled:
        if faults is not None:
            faults += [*_left_out(folder), *(doubled or ())]
        is_case = any(_is_image(stem, folder) for stem in here)
        return (_case(folder, here),) if is_case else _flat(here, faults)
    below = sorted((path for path in entries(folder) if path.is_dir()), key=lambda path: natural_key(path.name))
    cases = []
    for path in below:
        try:
            if found := volumes_by_name(path):
                cases.append(_case(path, found))
                continue
        except InputError as error:
            _fault(str(error), faults)
            continue
        if faults is not None and not path.name.startswith("."):
            faults.append(f"{path} holds no NIfTI, NRRD or MetaImage file; convert DICOM first")
    if not cases and not faults:
        wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise InputError(
            f"{folder} holds no CT volume: looked for {wanted} in it, in its folders and in imagesTr, "
            f"found {_listed(path.name for path in entries(folder))}; "
            "give a folder with one folder a case (ct.nii.gz, lesion.nii.gz), with imagesTr and labelsTr, "
            "or with X.nii.gz and X_mask.nii.gz"
        )
    return tuple(cases)


def _fault(message: str, faults: list[str] | None) -> None:
    if faults is None:
        raise InputError(message)
    faults.append(message)


def _left_out(folder: Path) -> list[str]:
    """A line for every folder of volumes in `folder`, which holds volumes itself."""
    below = (path for path in entries(folder) if path.is_dir() and not path.name.startswith("."))
    return [
        f"{path} is left out, since {folder} itself holds volumes; give it by itself"
        for path in below
        if any(is_volume(file) for file in entries(path))
    ]


def _is_image(stem: str, folder: Path) -> bool:
    return stem.lower() in (*IMAGE_NAMES, _name_of(folder).lower())


def _name_of(folder: Path) -> str:
    """The name by which the folder is given, not that of where a link leads; `.` has one, too."""
    return folder.absolute().name


def _case(folder: Path, volumes: dict[str, Path]) -> Case:
    image = [path for stem, path in volumes.items() if _is_image(stem, folder)]
    lungs = [path for stem, path in volumes.items() if stem.lower().startswith(LUNG_PREFIX) and path not in image]
    lesion = [path for stem, path in volumes.items() if stem.lower() in LESION_NAMES]
    for what, found, names in (
        ("CT volume", image, (*IMAGE_NAMES, _name_of(folder))),
        ("lesion mask", lesion, LESION_NAMES),
    ):
        if len(found) != 1:
            several = f"{len(found)} files could be the {what}, {_listed(path.name for path in found)}"
            none = f"no file is the {what}: found {_listed(path.name for path in volumes.values())}"
            raise InputError(
                f"{folder}: {several if found else none}; "
                f"name exactly one of them {_listed(names, len(names))} ({', '.join(SUFFIXES)})"
            )
    return Case(name=_name_of(folder), image=image[0], lesion=lesion[0], lungs=tuple(lungs))


def _nnunet(folder: Path, faults: list[str] | None) -> tuple[Case, ...]:
    images, labels = volumes_by_name(folder / "imagesTr", faults=faults), {}
    if (folder / "labelsTr").is_dir():
        labels = volumes_by_name(folder / "labelsTr", faults=faults)
    if not images and not faults:
        raise InputError(f"{folder / 'imagesTr'} is empty: no volume in it; put the volumes there")
    cases: dict[str, Case] = {}
    for stem, path in images.items():
        name = re.sub(r"_0000$", "", stem)
        if name in cases:
            _fault(f"{path} and {cases[name].image.name} are both the case {name}; remove one of them", faults)
            continue
        if name not in labels:
            missing = f"{folder / 'labelsTr' / name}.nii.gz is missing; add it or remove the image"
            _fault(f"{path} has no mask: {missing}", faults)
            continue
        cases[name] = Case(name=name, image=path, lesion=labels[name])
    for name, path in labels.items():
        if name not in cases:
            _fault(f"{path} has no image: {folder / 'imagesTr' / name}_0000.nii.gz is missing; add it", faults)
    return tuple(cases.values())


def _flat(volumes: dict[str, Path], faults: list[str] | None) -> tuple[Case, ...]:
    masks = {stem: path for stem, path in volumes.items() if stem.lower().endswith(MASK_ENDINGS)}
    # Of an image: its case's name, and its masks, of which there should be one.
    images = {stem: re.sub(r"_ct$", "", stem, flags=re.IGNORECASE) for stem in volumes if stem not in masks}
    owned = {
        stem: [key for key in masks if key.lower() in [name.lower() + ending for ending in MASK_ENDINGS]]
        for stem, name in images.items()
    }
    lungs = _lungs_of(images, owned)
    cases = []
    for stem, name in images.items():
        if stem in lungs:
            continue
        path, own = volumes[stem], owned[stem]
        if len(own) != 1:
            wanted = " or ".join(f"{name}{ending}.nii.gz" for ending in MASK_ENDINGS)
            what = f"{len(own)} masks ({_listed(own)})" if own else "no mask"
            _fault(f"{path} has {what}: exactly one of {wanted} must lie beside it", faults)
            continue
        of_case = tuple(volumes[key] for key, case in lungs.items() if case == name.lower())
        cases.append(Case(name=name, image=path, lesion=masks.pop(own[0]), lungs=of_case))
    for path in masks.values():
        _fault(f"{path} has no image beside it; add the CT volume or remove the mask", faults)
    return tuple(cases)


def _lungs_of(images: dict[str, str], owned: dict[str, list[str]]) -> dict[str, str]:
    """Of those `images` that are CASE_lung*, have no mask of their own, and whose CASE is there, CASE in lower case."""
    cases = {name.lower() for name in images.values()}
    found = {}
    for stem in images:
        match = re.fullmatch(rf"(.+){LUNG_ENDING}", stem.lower())
        if match and not owned[stem] and match[1] in cases:
            found[stem] = match[1]
    return found


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = sorted(names, key=natural_key)
    return (", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")) or "nothing"
