"""NSCLC Pleural Effusion: PleThora's masks over the CT series of NSCLC-Radiomics."""

from pathlib import Path

from covidct.ct.names import NIFTI, is_volume
from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.files import entries
from covidct.sets.nnunet_raw import nnunet_cases
from covidct.sets.volume_set import VolumeSet, below, volumes_in

EFFUSION = "_effusion_first_reviewer"
CAVITY = "_thor_cav_primary_reviewer"


def read_nsclc_pe(folder: Path) -> VolumeSet:
    """Cases LUNG1-NNN with a mask of pleural effusion, the lesion here, in HU.

    As published: `Effusions/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz` and `Thoracic_Cavities/...` (taken as
    the lungs) of PleThora, and `NSCLC-Radiomics/LUNG1-001/STUDY/SERIES/*.dcm`, all somewhere in `folder`; a
    `LUNG1-001.nii.gz` in place of the series is taken too. Or as nnU-Net's raw data, `imagesTr` and `labelsTr`.
    The second reviewer's masks are not used. Masks and series store their axes in different directions (RPI, RAI):
    both are turned by their headers, and must then agree. Masks that were interpolated are cut at 0.5.
    """
    if (folder / "imagesTr").is_dir():
        return VolumeSet("nsclc-pe", *nnunet_cases(folder, None, None))
    masks, scans = _place(folder, "Effusions"), _place(folder, "NSCLC-Radiomics")
    cavities = below(folder, "Thoracic_Cavities")
    skipped: list[str] = []
    cases = []
    for place in (path for path in entries(masks) if path.is_dir()):
        try:
            cases.append(_case(place, scans, cavities, skipped))
        except InputError as error:
            skipped.append(str(error))
    known = {path.name for path in entries(masks)}
    if others := [path for path in entries(scans) if path.is_dir() and path.name not in known]:
        skipped.append(f"{scans}: {len(others)} scans without effusion ({others[0].name}, ...)")
    return VolumeSet("nsclc-pe", tuple(cases), tuple(skipped))


def _place(folder: Path, name: str) -> Path:
    found = below(folder, name)
    if found is None:
        raise InputError(f"{folder} has no folder {name}; give the one that holds PleThora and NSCLC-Radiomics")
    return found


def _case(place: Path, scans: Path, cavities: Path | None, skipped: list[str]) -> VolumeCase:
    name = place.name
    mask = _mask(place, name + EFFUSION, skipped)
    if mask is None:
        raise InputError(f"{place} has no {name}{EFFUSION}.nii.gz; unpack the archive again")
    cavity = None if cavities is None else _mask(cavities / name, name + CAVITY, skipped)
    image = _image(scans, name)
    return VolumeCase(name, image, mask, None, None, () if cavity is None else (cavity,), "hu", patient=name)


def _mask(folder: Path, stem: str, skipped: list[str]) -> Path | None:
    return volumes_in(folder, skipped).get(stem) if folder.is_dir() else None


def _image(scans: Path, name: str) -> Path:
    for suffix in NIFTI:
        if (scans / f"{name}{suffix}").is_file():
            return scans / f"{name}{suffix}"
    if not (scans / name).is_dir():
        raise InputError(f"{scans / name} is missing, the CT of {name}; download the series")
    # Structure sets (RTSTRUCT) and segmentations lie beside the CT, a file each.
    series = [path for path in sorted((scans / name).rglob("*")) if path.is_dir() and len(_dicom(path)) > 1]
    found = series or [path for path in sorted((scans / name).rglob("*")) if is_volume(path, NIFTI)]
    if len(found) != 1:
        listed = f" ({', '.join(str(path.relative_to(scans)) for path in found)})" if found else ""
        raise InputError(f"{scans / name} holds {len(found)} CT series{listed}, expected one; remove the others")
    return found[0]


def _dicom(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() == ".dcm" and not path.name.startswith(".")]
