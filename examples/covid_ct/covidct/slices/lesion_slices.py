"""Lesion slices cut from CT volumes, windowed, oriented and cropped to the lungs as COVID-SemiSeg's are."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from covidct.ct.files import files_of
from covidct.ct.picture import Slice
from covidct.ct.volume import WINDOW, VolumeCase, load_mask, load_volume, to_window
from covidct.errors import InputError
from covidct.files import not_written, read_json
from covidct.run.claims import given
from covidct.sets.cases import Case, find_cases

# Part of the cache's key: slices written by an older version of this file are not used again.
VERSION = 2
# Air is below HU -500, in lungs and elsewhere; skin and what it encloses begin above HU -400. Here as grey values.
AIR, BODY = to_window(np.array([-500.0, -400.0]))
# Lung has at least this share of the slice, and a piece of it this share of the largest piece.
LEAST_LUNG = 0.003
LEAST_PIECE = 0.05


@dataclass(frozen=True)
class Cut:
    """How slices are cut.

    least_area: mm2 of lesion that a slice needs.
    margin: what is left around the lungs, as a share of their height and width. COVID-SemiSeg's slices have a median
        of 0 to 1 % a side.
    """

    least_area: float = 10.0
    margin: float = 0.01


@dataclass(frozen=True)
class Entry:
    """A slice in the cache: its files' names, the scan that it is of, and its index from the feet upwards."""

    name: str
    image: str
    mask: str
    scan: str
    z: int


@dataclass(frozen=True)
class Index:
    """What index.json holds; `left_out`: slices with lesion and without lung."""

    cut: Cut
    slices: list[Entry]
    left_out: list[dict[str, Any]]


def read_volume_slices(folders: Sequence[Path], cache: Path, cut: Cut | None = None) -> tuple[Slice, ...]:
    """The lesion slices of the CT volumes in `folders`, as PNG pictures that look like COVID-SemiSeg's.

    folders: each in one of the layouts of `find_cases`; volumes are NIfTI, NRRD or MetaImage in
        HU, masks have their grid.
    cache: where the slices are written, once: a folder named by the names, sizes and times of the files and by `cut`,
        with `NAME.png`, `NAME_mask.png` and `index.json`. It appears whole or not at all.
    cut: least lesion area, margin.

    Returns slices with rows from the patient's right to the left and columns from anterior to posterior, 0..255,
    cropped to the lungs: those of the masks beside the volume, else what is air inside of the body. Slices without
    lung are left out (`index.json` lists them). Their `dataset` is the folder.

    Raises InputError naming the file if a case cannot be used (see `load_volume`), is not in HU or has no lesion slice,
    or if there is no case at all.
    """
    cut = cut or Cut()
    places = [given(folder) for folder in folders]
    for folder in places:
        if places.count(folder) > 1:
            raise InputError(f"{folder} is given twice as a source; give it once")
    return tuple(
        replace(item, dataset=str(folder)) for folder in places for item in _folder_slices(folder, Path(cache), cut)
    )


def _folder_slices(folder: Path, cache: Path, cut: Cut) -> tuple[Slice, ...]:
    cases = find_cases(folder)
    place = cache / f"{folder.name}-{_key(folder, cases, cut)}"
    if (found := _read_index(place)) is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cutting-", dir=cache) as temporary:
            written = Path(temporary) / place.name
            written.mkdir()
            _write(folder.name, cases, cut, written)
            # Another process may have written the same slices meanwhile; anything else that stands there is damaged.
            if _read_index(place) is None:
                shutil.rmtree(place, ignore_errors=True)
                written.replace(place)
    except OSError as error:
        if (found := _read_index(place)) is not None:
            return found
        raise InputError(not_written(f"{cache}: the slices", error, "or give another cache folder")) from None
    return _read_index(place) or ()


def _key(folder: Path, cases: Sequence[Case], cut: Cut) -> str:
    paths = [path for case in cases for file in case.files for path in files_of(file)]
    files = [(Path(os.path.relpath(path, folder)).as_posix(), path.stat()) for path in paths]
    content = [VERSION, WINDOW, asdict(cut), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _read_index(place: Path) -> tuple[Slice, ...] | None:
    """The slices of a cache folder, None if it is absent or damaged."""
    try:
        entries = read_json(place / "index.json", Index, fix="").slices
    except InputError:
        return None
    found = tuple(Slice(entry.name, place / entry.image, place / entry.mask, entry.scan) for entry in entries)
    whole = all(
        path.is_file() and path.stat().st_size for item in found for path in (item.path, item.mask_path) if path
    )
    return found if whole else None


def _write(prefix: str, cases: Sequence[Case], cut: Cut, place: Path) -> None:
    entries: list[Entry] = []
    left_out: list[dict[str, Any]] = []
    for case in cases:
        scan = f"{prefix}_{case.name}"
        before = len(entries)
        for z, slices in _case_slices(case, cut):
            if slices is None:
                left_out.append({"scan": scan, "z": z, "why": "no lung in the slice"})
                continue
            name = f"{scan}_{z:03d}"
            Image.fromarray(slices[0]).save(place / f"{name}.png")
            Image.fromarray(slices[1]).save(place / f"{name}_mask.png")
            entries.append(Entry(name, f"{name}.png", f"{name}_mask.png", scan, z))
        if len(entries) == before:
            raise InputError(
                f"{case.lesion}: no slice has both lesion of {cut.least_area:g} mm2 and lung; remove the case"
            )
    index = asdict(Index(cut, entries, left_out))
    (place / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _case_slices(case: Case, cut: Cut) -> list[tuple[int, tuple[NDArray[np.uint8], NDArray[np.uint8]] | None]]:
    """(index from the feet upwards, (image, mask) or None without lung) of every lesion slice."""
    volume = load_volume(
        VolumeCase(case.name, case.image, None, None, None, case.lungs, "hu", patient=case.name, single=True)
    )
    if not volume.hu:
        low, high = volume.image.min(), volume.image.max()
        raise InputError(f"{case.image} is not in HU (values {low:g} to {high:g}, air is -1000); rescale it")
    lesion = load_mask(case.lesion, volume)
    area = lesion.sum((1, 2)) * (volume.spacing[1] * volume.spacing[2])
    result = []
    for z in np.flatnonzero((area >= cut.least_area) & (area > 0)):
        image, mask = _turned(volume.image[z]), _turned(lesion[z])
        masked = None if volume.lungs is None else _turned(volume.lungs[z])
        lung = masked if masked is not None and masked.any() else find_lungs(image)
        box = _box(lung, mask, cut.margin) if lung.any() else None
        shown = None if box is None else (image[box].round().astype(np.uint8), mask[box].astype(np.uint8) * 255)
        result.append((int(z), shown))
    return result


def _turned(section: NDArray[Any]) -> NDArray[Any]:
    """(back to front, left to right) as [right to left, front to back]."""
    return section[::-1, ::-1].T


def find_lungs(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Lung in one axial slice: air inside of the body, without the small pieces (airways, gut).

    image: (H, W), grey values of the window. Returns bool (H, W), nowhere True if there is none.
    """
    body = ndimage.binary_fill_holes(_largest(image > BODY))
    pieces, _ = ndimage.label((image < AIR) & body)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    if sizes.max() < LEAST_LUNG * image.size:
        return np.zeros(image.shape, dtype=bool)
    found: NDArray[np.bool_] = (sizes >= LEAST_PIECE * sizes.max())[pieces]
    return found


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax() if sizes.max() else mask


def _box(lung: NDArray[np.bool_], lesion: NDArray[np.bool_], margin: float) -> tuple[slice, slice]:
    inside = lung | lesion
    spans = []
    for axis in (0, 1):
        places = np.flatnonzero(inside.any(1 - axis))
        rim = round(margin * (places[-1] + 1 - places[0]))
        spans.append(slice(max(0, int(places[0]) - rim), int(places[-1]) + 1 + rim))
    return spans[0], spans[1]
