"""Preprocessed cases on disk: compressed in chunks, so that a patch is read without the whole volume."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from covidct.ct.labels import OUTSIDE
from covidct.errors import InputError
from covidct.files import digest, entries, read_json, replacing_folder, write_text, writing
from covidct.store.chunks import read_array, read_grey, write_array, write_grey
from covidct.store.lesion_samples import kept_positions, kept_values
from covidct.store.preprocess import Placement, Plan, Preprocessed, Shape, Spacing

VERSION = 1
SETTINGS = "store.json"
FACTS = "case.json"
IMAGE, MASK, POSITIONS, LEVELS = "image.b2nd", "mask.b2nd", "lesion_positions.npy", "lesion_values.npy"

# What mends a damaged file of a folder.
REMAKE = "delete {} and run prepare.py again"

# Bytes, time of change in ns, and SHA-256 of a file.
InputState = list[Any]


@dataclass(frozen=True)
class StoreSettings:
    """What decides the content of a store beside the cases: the data set's name and the voxels' size in mm."""

    dataset: str
    spacing: Spacing


@dataclass(frozen=True)
class _Version:
    version: int


@dataclass(frozen=True)
class StoredCase:
    """What `case.json` says of a preprocessed case.

    labelled: it has a mask. lesion_voxels: of the preprocessed mask. inputs: bytes, time of change and SHA-256 of each
    file that it was made from, by name. facts: what `scan_case` said of them. checksums: SHA-256 of each file
    of the folder.
    """

    name: str
    patient: str
    placement: Placement
    labelled: bool
    lesion_voxels: NonNegativeInt
    inputs: Mapping[str, Any]
    facts: Mapping[str, Any]
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class CaseStore(StoredCase):
    """A preprocessed case and its folder in the store."""

    folder: Path

    @property
    def shape(self) -> Shape:
        """(z, y, x) of the preprocessed volume."""
        return self.placement.resampled

    @property
    def positions(self) -> NDArray[np.int32]:
        """(n, 3): voxels of the preprocessed mask, drawn uniformly among them if there are too many to keep all."""
        return _load(self.folder / POSITIONS)

    @property
    def lesion_values(self) -> NDArray[np.float32]:
        """Evenly spaced quantiles of the grey values (0..255) in the lesions, before resampling; empty without."""
        return _load(self.folder / LEVELS)

    def patch(self, corner: Sequence[int], size: Sequence[int], plan: Plan) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Image and mask of the box of `size` (z, y, x) at `corner`, which may lie outside in part or altogether.

        Returns the image, float32, normalised by `plan` and 0 outside of the volume, and the mask, int16, 0 and 1 and
        -1 outside of it, or None. Only the blocks that the box touches are read. InputError if a file is unreadable.
        """
        inside = tuple(
            slice(max(c, 0), max(0, min(c + s, n))) for c, s, n in zip(corner, size, self.shape, strict=True)
        )
        image = np.zeros(size, dtype=np.float32)
        label = np.full(size, OUTSIDE, dtype=np.int16) if self.labelled else None
        if all(at.start < at.stop for at in inside):
            there = tuple(slice(at.start - c, at.stop - c) for at, c in zip(inside, corner, strict=True))
            image[there] = plan.normalise(read_grey(self.folder / IMAGE, inside))
            if label is not None:
                label[there] = read_array(self.folder / MASK, inside)
        return image, label

    def image(self) -> NDArray[np.float32]:
        """The whole preprocessed image, float32, 0..255."""
        return read_grey(self.folder / IMAGE)

    def mask(self) -> NDArray[np.bool_] | None:
        """The whole preprocessed mask, or None."""
        return read_array(self.folder / MASK).view(bool) if self.labelled else None

    def is_intact(self) -> bool:
        """Whether every file of the case has the checksum that was noted when it was written."""
        return all(
            (self.folder / name).is_file() and digest(self.folder / name) == expected
            for name, expected in self.checksums.items()
        )


@dataclass(frozen=True)
class Store:
    """The finished cases of a store, in the order of their names."""

    root: Path
    settings: StoreSettings
    cases: tuple[CaseStore, ...]

    def named(self, names: Sequence[str]) -> tuple[CaseStore, ...]:
        """The cases called `names`, in that order; InputError if some are not in the store."""
        found = {case.name: case for case in self.cases}
        missing = [name for name in names if name not in found]
        if missing:
            few = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            raise InputError(
                f"{self.root} lacks {len(missing)} of {len(names)} cases ({few}); run prepare.py again for this folder"
            )
        return tuple(found[name] for name in names)


def open_store(root: Path) -> Store:
    """The store in folder `root`; InputError if it is none, or of another version, or a case's facts are damaged."""
    cases = tuple(read_case(path) for path in entries(root) if (path / FACTS).is_file()) if root.is_dir() else ()
    return Store(root, read_settings(root), cases)


def read_case(folder: Path) -> CaseStore:
    """The case in `folder`; InputError if its facts are damaged."""
    case = read_json(folder / FACTS, StoredCase, fix=REMAKE.format(folder))
    return CaseStore(folder=folder, **vars(case))


def read_settings(root: Path) -> StoreSettings:
    """What the store in folder `root` was begun with; InputError if it is no store of this version."""
    path = root / SETTINGS
    fix = REMAKE.format(root)
    missing = f"{root} is no store; make one with prepare.py"
    version = read_json(path, _Version, fix=fix, missing=missing).version
    if version != VERSION:
        raise InputError(f"{root} is a store of version {version}, not {VERSION}; delete it and run prepare.py again")
    return read_json(path, StoreSettings, fix=fix)


def begin_store(root: Path, settings: StoreSettings) -> None:
    """Make `root` a store with `settings`, or go on with it: then they must be its own, or InputError says which."""
    if (root / SETTINGS).exists():
        present = asdict(read_settings(root))
        other = [
            f"{name} {present[name]}, not {value}" for name, value in asdict(settings).items() if present[name] != value
        ]
        if other:
            raise InputError(f"{root} was begun with {'; '.join(other)}; give another --output, or delete that folder")
        return
    with writing(f"--output {root}"):
        root.mkdir(parents=True, exist_ok=True)
        check_free(root)
        text = json.dumps({"version": VERSION, **asdict(settings)}, indent=2) + "\n"
        write_text(root / SETTINGS, text)


def check_free(root: Path) -> None:
    """InputError unless a store can be begun or gone on with in folder `root`, as far as can be told before."""
    if not root.exists() or (root / SETTINGS).exists():
        return
    if not root.is_dir():
        raise InputError(f"--output {root} is a file; give a folder")
    # A preparation that was killed as it began has left its half-written settings.
    if not all(path.name.startswith(f".{SETTINGS}.") for path in entries(root)):
        raise InputError(f"--output {root} is neither empty nor a store; give another folder")


def write_case(
    root: Path,
    name: str,
    case: Preprocessed,
    *,
    patient: str,
    inputs: Mapping[str, InputState],
    facts: Mapping[str, Any],
    lesion_values: NDArray[np.float32],
) -> CaseStore:
    """Store a preprocessed case under `root`/`name`, whole or not at all; one that is there is replaced.

    lesion_values: grey values in the lesions before resampling, any number, in any order; sorted in place.
    """
    with replacing_folder(root / name) as folder:
        write_grey(folder / IMAGE, case.image)
        voxels = np.empty(0, dtype=np.int64)
        if case.mask is not None:
            write_array(folder / MASK, case.mask.view(np.int8))
            voxels = np.flatnonzero(case.mask)
        np.save(folder / POSITIONS, kept_positions(voxels, case.placement.resampled, name))
        np.save(folder / LEVELS, kept_values(lesion_values))
        content = {
            "name": name,
            "patient": patient,
            "placement": asdict(case.placement),
            "labelled": case.mask is not None,
            "lesion_voxels": len(voxels),
            "inputs": dict(inputs),
            "facts": dict(facts),
            "checksums": {path.name: digest(path) for path in entries(folder)},
        }
        (folder / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return read_case(root / name)


def intensity_of(cases: Sequence[CaseStore]) -> tuple[float, float, float, float]:
    """(low, high, mean, std) of the grey values in the lesions of `cases`: percentiles 0.5 and 99.5, and moments.

    nnU-Net's statistics for CT; every case with a lesion counts alike. InputError if none has one.
    """
    values = np.concatenate([np.empty(0, dtype=np.float32), *(case.lesion_values for case in cases)])
    if not len(values):
        raise InputError(f"none of the {len(cases)} training cases has a lesion; the grey values cannot be normalised")
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high), float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


@lru_cache(maxsize=512)
def _load(path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); run prepare.py again, which replaces it") from None
    return values
