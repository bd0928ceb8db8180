"""nnU-Net's raw data: imagesTr, labelsTr and dataset.json."""

import json
from pathlib import Path
from typing import Any

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.sets.cases import find_cases
from covidct.sets.volume_set import VolumeSet, volumes_in

# nnU-Net's reserved name of the label whose voxels have no truth: neither lesion nor background.
IGNORE = "ignore"


def read_nnunet_raw(folder: Path) -> VolumeSet:
    """`imagesTr/CASE_0000.nii.gz` (or `CASE.nii.gz`) and `labelsTr/CASE.nii.gz`; every label above 0 is lesion.

    Which labels may occur is what `dataset.json` declares, of version 1 or 2; without it 0 and 1. A mask that holds
    the label `ignore` cannot be used. Images are in HU.
    """
    labels = _declared(folder / "dataset.json")
    cases, skipped = nnunet_cases(folder, None, labels)
    return VolumeSet("nnunet-raw", cases, skipped)


def nnunet_cases(
    folder: Path, lesion: tuple[int, ...] | None, allowed: tuple[int, ...] | None
) -> tuple[tuple[VolumeCase, ...], tuple[str, ...]]:
    """The labelled cases of `folder` in nnU-Net's layout, which MSD's sets have too, and what was skipped."""
    skipped: list[str] = []
    for part in ("imagesTr", "labelsTr"):
        if not (folder / part).is_dir():
            raise InputError(f"{folder} has no folder {part}; give the one that holds imagesTr and labelsTr")
        # Told of here, left out by find_cases.
        volumes_in(folder / part, skipped)
    found = find_cases(folder, skipped)
    if (folder / "imagesTs").is_dir():
        tests = volumes_in(folder / "imagesTs", [])
        skipped.append(f"{folder / 'imagesTs'}: {len(tests)} test volumes, which have no masks")
    cases = tuple(
        VolumeCase(case.name, case.image, case.lesion, lesion, allowed, case.lungs, "hu", patient=case.name)
        for case in found
    )
    return cases, tuple(skipped)


def _declared(path: Path) -> tuple[int, ...] | None:
    """All labels that `dataset.json` names, without the one to ignore; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        labels: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["labels"]
        labels = {name: value for name, value in labels.items() if IGNORE not in (name, value)}
        # {"0": "background"} in version 1, {"background": 0, "region": [1, 2]} in version 2.
        turned = all(isinstance(value, str) for value in labels.values())
        values = list(labels) if turned else list(labels.values())
        flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
        return tuple(sorted({0, *map(int, flat)}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected nnU-Net's JSON with 'labels'"
        ) from None
