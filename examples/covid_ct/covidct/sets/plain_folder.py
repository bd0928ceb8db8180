"""Volumes and masks of the user's own, in a plain folder."""

from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.sets.cases import find_cases
from covidct.sets.volume_set import VolumeSet, volumes_in


def read_plain_folder(folder: Path) -> VolumeSet:
    """A folder a case (`CASE/ct.nii.gz`, `CASE/lesion.nii.gz`, `CASE/lung*.nii.gz`), or `CASE.nii.gz` beside its mask.

    Names as `find_cases` knows them; NIfTI, NRRD or MetaImage, in HU. The mask is 0 outside and 1 inside the lesion.
    """
    skipped: list[str] = []
    volumes_in(folder, skipped)
    found = find_cases(folder, skipped)
    cases = tuple(
        VolumeCase(case.name, case.image, case.lesion, None, None, case.lungs, "hu", patient=case.name)
        for case in found
    )
    return VolumeSet("folder", cases, tuple(skipped))
