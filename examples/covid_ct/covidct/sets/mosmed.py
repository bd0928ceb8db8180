"""MosMedData: 1110 studies, of which 50 have masks of the infection."""

from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.sets.volume_set import VolumeSet, below, count_of, volumes_in


def read_mosmed(folder: Path) -> VolumeSet:
    """`studies/CT-*/study_0255.nii.gz` with `masks/study_0255_mask.nii.gz` of COVID19_1110, in HU; label 1 is lesion.

    `folder` is COVID19_1110 or what it was unpacked into. Studies without a mask are counted among the skipped.
    """
    root = below(folder, "COVID19_1110") or folder
    skipped: list[str] = []
    studies = root / "studies"
    grades = sorted(path for path in studies.iterdir() if path.is_dir()) if studies.is_dir() else []
    masks = volumes_in(root / "masks", skipped) if (root / "masks").is_dir() else {}
    cases: dict[str, VolumeCase] = {}
    for grade in grades:
        unlabelled = []
        for name, path in volumes_in(grade, skipped).items():
            if (mask := masks.get(f"{name}_mask")) is None:
                unlabelled.append(path)
            else:
                cases[name] = VolumeCase(name, path, mask, None, None, (), "hu", patient=name)
        if unlabelled:
            skipped.append(count_of(unlabelled, "without a mask"))
    skipped += [
        f"{path}: there is no study {stem.removesuffix('_mask')} in {studies}"
        for stem, path in masks.items()
        if stem.removesuffix("_mask") not in cases
    ]
    return VolumeSet("mosmed", tuple(cases.values()), tuple(skipped))
