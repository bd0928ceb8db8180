"""The COVID-19-20 challenge's volumes."""

from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.sets.volume_set import VolumeSet, below, count_of, volumes_in


def read_covid_19_20(folder: Path) -> VolumeSet:
    """`Train/volume-covid19-A-XXXX_ct.nii.gz` and `_seg.nii.gz` of COVID-19-20_v2, in HU; label 1 is lesion.

    `folder` is COVID-19-20_v2, what it was unpacked into, or Train itself. The volumes of Validation have no masks.
    """
    root = below(folder, "COVID-19-20_v2") or folder
    skipped: list[str] = []
    files = volumes_in(root / "Train" if (root / "Train").is_dir() else root, skipped)
    cases = []
    for stem, path in files.items():
        name = stem.removesuffix("_ct")
        if name == stem:
            if f"{stem.removesuffix('_seg')}_ct" not in files:
                skipped.append(f"{path}: there is no {stem.removesuffix('_seg')}_ct.nii.gz")
        elif f"{name}_seg" in files:
            cases.append(VolumeCase(name, path, files[f"{name}_seg"], None, None, (), "hu", patient=name))
        else:
            skipped.append(f"{path}: there is no {name}_seg.nii.gz")
    if (root / "Validation").is_dir() and (tests := list(volumes_in(root / "Validation", skipped).values())):
        skipped.append(count_of(tests, "without a mask"))
    return VolumeSet("covid-19-20", tuple(cases), tuple(skipped))
