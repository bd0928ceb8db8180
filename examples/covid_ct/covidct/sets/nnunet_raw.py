"""nnU-Net's raw data: imagesTr, labelsTr and dataset.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.files import read_json
from covidct.sets.cases import find_cases
from covidct.sets.volume_set import VolumeSet, volumes_in

# nnU-Net's reserved name of the label whose voxels have no truth: neither lesion nor background.
IGNORE = "ignore"
Label = int | str | tuple[int, ...]


def _numbered(labels: Mapping[str, Label]) -> Mapping[str, Label]:
    wrong = next((name for name, value in labels.items() if isinstance(value, str) and not name.isdecimal()), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} must be a number, or a list of numbers, got {labels[wrong]!r}")
    return labels


@dataclass(frozen=True)
class _Description:
    """dataset.json: {"0": "background"} in version 1, {"background": 0, "region": [1, 2]} in version 2."""

    labels: Annotated[Mapping[str, Label], AfterValidator(_numbered)]


def read_nnunet_raw(folder: Path) -> VolumeSet:
    """`imagesTr/CASE_0000.nii.gz` (or `CASE.nii.gz`) and `labelsTr/CASE.nii.gz`; every label above 0 is lesion.

    Which labels may occur is what `dataset.json` declares, of version 1 or 2; without it 0 and 1. A mask that holds
    the label `ignore` cannot be used. Images are in HU.
    """
    description = folder / "dataset.json"
    labels = declared_labels(description)[0] if description.is_file() else None
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


def declared_labels(path: Path) -> tuple[tuple[int, ...], int | None]:
    """All labels that the `dataset.json` at `path` names, without the one to ignore; and that one, if there is one."""
    labels = read_json(path, _Description, fix="expected nnU-Net's JSON with 'labels'").labels
    declared, ignored = {0}, None
    for name, value in labels.items():
        values = value if isinstance(value, tuple) else (value if isinstance(value, int) else int(name),)
        if IGNORE in (name, value):
            ignored = values[0]
        else:
            declared |= set(values)
    return tuple(sorted(declared)), ignored
