"""MedSeg's 100 axial slices of COVID-19, one file that holds them all."""

from pathlib import Path

from covidct.ct.files import open_volume
from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.sets.volume_set import VolumeSet, volumes_in


def read_medseg(folder: Path) -> VolumeSet:
    """`tr_im.nii.gz` and `tr_mask.nii.gz`, with `tr_lungmasks_updated.nii.gz` where it is there.

    Every slice along the file's third axis is a case, named by its number from 0. Values are about HU: they were
    rebuilt from pictures by the grey of air and of fat. Labels 1 (ground glass), 2 (consolidation) and 3 (effusion)
    are all lesion, as in COVID-SemiSeg's infection masks.

    Raises InputError if one of the two files is missing, or they do not hold the same number of slices.
    """
    skipped: list[str] = []
    files = volumes_in(folder, skipped)
    for stem in ("tr_im", "tr_mask"):
        if stem not in files:
            raise InputError(f"{folder / stem}.nii.gz is missing; give the folder with tr_im.nii.gz and tr_mask.nii.gz")
    counts = [open_volume(files[stem]).grid.shape[2] for stem in ("tr_im", "tr_mask")]
    if counts[0] != counts[1]:
        raise InputError(
            f"{files['tr_mask']} has {counts[1]} slices, but {files['tr_im']} has {counts[0]}; fetch both again"
        )
    lungs = next((files[stem] for stem in ("tr_lungmasks_updated", "tr_lungmasks") if stem in files), None)
    skipped += [f"{path}: no mask of it is published" for stem, path in files.items() if stem.startswith("val_im")]
    cases = tuple(
        VolumeCase(
            name=str(number),
            image=files["tr_im"],
            mask=files["tr_mask"],
            lesion_labels=None,
            allowed_labels=(0, 1, 2, 3),
            lungs=() if lungs is None else (lungs,),
            intensity="hu",
            patient=str(number),
            slice=number,
        )
        for number in range(counts[0])
    )
    return VolumeSet("medseg", cases, tuple(skipped))
