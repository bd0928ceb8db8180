"""LiTS, tumours of the liver, as its challenge and as the Medical Segmentation Decathlon (Task03_Liver) give it."""

import re
from pathlib import Path

from covidct.ct.picture import natural_key
from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.sets.nnunet_raw import nnunet_cases
from covidct.sets.volume_set import VolumeSet, below, count_of, volumes_in

LESION, ALLOWED = (2,), (0, 1, 2)


def read_lits(folder: Path) -> VolumeSet:
    """`volume-N.nii` and `segmentation-N.nii`, in `folder` or the batches below it; or Task03_Liver's imagesTr.

    Label 1 is liver, 2 tumour, the lesion here. Volumes 28 to 47 are those of 3D-IRCADb and say 1 mm as the
    distance of their slices, whatever it was. Some segmentations of the challenge have a header that was never set:
    see `VolumeCase.placeholder_masks`.
    """
    root = below(folder, "Task03_Liver") or folder
    if (root / "imagesTr").is_dir():
        return VolumeSet("lits", *nnunet_cases(root, LESION, ALLOWED))
    skipped: list[str] = []
    files: dict[str, Path] = {}
    for place in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        found = volumes_in(place, skipped)
        twice = sorted(stem for stem in files.keys() & found.keys() if re.fullmatch(r"(volume|segmentation)-\d+", stem))
        if twice:
            first, again = files[twice[0]], found[twice[0]]
            raise InputError(f"{again} and {first} are the same volume twice; remove one of them")
        files |= found
    cases = []
    for stem, path in sorted(files.items(), key=lambda item: natural_key(item[0])):
        if not (number := re.fullmatch(r"volume-(\d+)", stem)):
            continue
        mask = files.get(f"segmentation-{number[1]}")
        if mask is None:
            skipped.append(f"{path}: there is no segmentation-{number[1]}.nii")
        else:
            case = VolumeCase(stem, path, mask, LESION, ALLOWED, (), "hu", patient=stem, placeholder_masks=True)
            cases.append(case)
    for stem, path in files.items():
        if (number := re.fullmatch(r"segmentation-(\d+)", stem)) and f"volume-{number[1]}" not in files:
            skipped.append(f"{path}: there is no volume-{number[1]}.nii")
    if tests := [path for stem, path in files.items() if re.fullmatch(r"test-volume-\d+", stem)]:
        skipped.append(count_of(tests, "without a mask"))
    return VolumeSet("lits", tuple(cases), tuple(skipped))
