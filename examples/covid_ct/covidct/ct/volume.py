"""One CT volume with its lesion mask: loading it so that every fault has one clear message, and facts about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covidct.ct.files import VolumeFile, open_volume
from covidct.ct.grid import Grid, check_memory
from covidct.errors import InputError

__all__ = [
    "CaseFacts",
    "Grid",
    "Intensity",
    "Volume",
    "VolumeCase",
    "check_case",
    "load_mask",
    "load_volume",
    "scan_case",
    "to_window",
]

# HU that become 0 and 255.
WINDOW = (-1250.0, 250.0)
# Every CT in HU has air, about -1000; nothing in an image windowed to 0..255 is that low.
AIR = -500.0
Intensity = Literal["hu", "window", "any"]
# Labels that a message lists.
_LISTED = 8


@dataclass(frozen=True)
class VolumeCase:
    """Where one volume lies and how it is to be read.

    name: unique in its set, as published. image: a file, or the folder of a DICOM series. mask: of the lesions; None
    without one. lesion_labels: mask values that are lesion; None, and none of them: above 0.5. allowed_labels: all
    values that may occur; None: 0 to 1, or any whole number where there are `lesion_labels`, if only none of them.
    Interpolated masks of 0 and 1 may overshoot by a tenth. lungs: masks whose union is the lungs.
    intensity: HU, or HU [-1250, 250] already brought to 0..255; any: one of them, or other values (of MR), of which the
    0.5 to 99.5 percentiles of what is above the least become 0..255. patient: shared by scans of one patient.
    slice: of the file's third axis, where every slice is a case of its own. placeholder_masks: the set has masks whose
    header was never set, an identity: their voxels are the image's, in the order of its file. single: one slice is
    volume enough.
    """

    name: str
    image: Path
    mask: Path | None
    lesion_labels: tuple[int, ...] | None
    allowed_labels: tuple[int, ...] | None
    lungs: tuple[Path, ...]
    intensity: Intensity
    patient: str
    slice: int | None = None
    placeholder_masks: bool = False
    single: bool = False


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in memory; arrays are (z, y, x), from feet to head, back to front, left to right of the patient.

    image: float32, HU [-1250, 250] as 0..255. hu: whether the file held HU. spacing: (z, y, x) in mm. mask, lungs:
    bool, None without one. grid: of the file. notes: what is odd but was read all the same, one line each.
    """

    case: VolumeCase
    image: NDArray[np.float32]
    hu: bool
    spacing: tuple[float, float, float]
    mask: NDArray[np.bool_] | None
    lungs: NDArray[np.bool_] | None
    grid: Grid
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseFacts:
    """What one case holds: shape and spacing (z, y, x; mm), mask values, lesion in ml, and what is odd about it."""

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    labels: tuple[float, ...]
    lesion_ml: float | None
    hu: bool
    notes: tuple[str, ...] = ()


def load_volume(case: VolumeCase) -> Volume:
    """Read the image of `case`, its mask and its lungs, all on the image's grid.

    Files may store their axes in any order and direction: the affine of each says where its voxels are. The image is
    held once, as float32. Values that are not what `case.intensity` says are taken for what they are, with a note.

    Raises InputError, naming the file, if one is missing, damaged, cut short, not of three axes, or has an impossible
    affine; if the image has one slice (and is not a slice by itself), NaN, one value, or is neither HU nor 0..255; if
    a mask has another shape, lies elsewhere, or holds a value that is not allowed.
    """
    with _in_memory(case):
        return _load(case)[0]


def scan_case(case: VolumeCase) -> CaseFacts:
    """Facts about `case`, which is read whole for them; errors as `load_volume`."""
    with _in_memory(case):
        volume, labels = _load(case)
    millilitres = None if volume.mask is None else float(volume.mask.sum()) * float(np.prod(volume.spacing)) / 1000
    z, y, x = volume.image.shape
    return CaseFacts(case.name, (z, y, x), volume.spacing, labels, millilitres, volume.hu, volume.notes)


def load_mask(path: Path, volume: Volume) -> NDArray[np.bool_]:
    """The mask in file `path`, whose voxels are those of `volume`; InputError if they are not, or as `load_volume`."""
    with _in_memory(volume.case):
        return _read_mask(_beside(path, volume.case, volume.grid))[0]


def check_case(case: VolumeCase) -> None:
    """Open the image of `case` and read its mask, for faults that show without the image's values; as `load_volume`."""
    with _in_memory(case):
        file = _open_image(case)
        if case.mask is not None:
            _read_lesion(case.mask, case, file.grid)


def to_window(hu: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """HU clipped to [-1250, 250] and brought to 0..255, as a new float32 array."""
    return _window(np.array(hu, dtype=np.float32))


@contextmanager
def _in_memory(case: VolumeCase) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise InputError(f"{case.image}: not enough memory to read it; free some, or take fewer --workers") from None


def _load(case: VolumeCase) -> tuple[Volume, tuple[float, ...]]:
    file = _open_image(case)
    # Masks first: a byte a voxel is all that stays of them while the image is read.
    mask, labels, of_mask = (None, (), []) if case.mask is None else _read_lesion(case.mask, case, file.grid)
    if mask is not None and not mask.any():
        of_mask.append(f"{case.mask}: no voxel is lesion; the case counts as healthy")
    lungs = None
    for path in case.lungs:
        own = _read_mask(_beside(path, case, file.grid))[0]
        lungs = own if lungs is None else np.logical_or(lungs, own, out=lungs)
    image, notes = _read_image(file)
    if file.grid.skew:
        notes.append(
            f"{case.image}: its axes are up to {file.grid.skew:.1f} degrees off right angles, as by a gantry's tilt; "
            f"taken as they lie, slices {file.grid.spacing[0]:.4g} mm apart"
        )
    hu, said = _is_hu(case, float(image.min()), float(image.max()))
    image = _stretched(image) if hu is None else _window(image) if hu else np.clip(image, 0, 255, out=image)
    hu = hu is True
    return Volume(case, image, hu, file.grid.spacing, mask, lungs, file.grid, (*notes, *said, *of_mask)), labels


def _open_image(case: VolumeCase) -> VolumeFile:
    file = _open(case.image, case)
    if case.slice is None and not case.single and 1 in file.grid.volume_shape:
        shape = " x ".join(map(str, file.grid.volume_shape))
        raise InputError(f"{case.image} has one slice only (z y x {shape}); give a volume of at least two")
    check_memory(case.image, file.grid.shape)
    return file


def _open(path: Path, case: VolumeCase) -> VolumeFile:
    file = open_volume(path)
    if case.slice is None:
        return file
    count = file.grid.shape[2]
    if not 0 <= case.slice < count:
        raise InputError(f"{path} has {count} slices, but number {case.slice} is asked for; replace the file")
    return replace(file, grid=file.grid.slice(case.slice), values=file.one_slice(case.slice))


def _read_image(file: VolumeFile) -> tuple[NDArray[np.float32], list[str]]:
    image = np.empty(file.grid.volume_shape, dtype=np.float32)
    native = file.grid.to_native(image)
    for part, slab in file.slabs():
        native[:, :, part] = slab
        _check_finite(file, part, slab)
    if image.min() == image.max():
        raise InputError(f"{file.path} is empty: every voxel is {image.min():g}; replace the file")
    wide = file.dtype.kind == "f" and file.dtype.itemsize > 4
    return image, [f"{file.path} is stored as {file.dtype}; read as float32"] if wide else []


def _check_finite(file: VolumeFile, part: slice, slab: NDArray[Any]) -> None:
    bad = slab.size - int(np.isfinite(slab).sum())
    if bad:
        where = f"{bad} in slices {part.start} to {part.stop - 1}"
        raise InputError(f"{file.path} holds NaN or infinite voxels ({where}); replace the file")


def _is_hu(case: VolumeCase, low: float, high: float) -> tuple[bool | None, list[str]]:
    """Whether values from `low` to `high` are HU, and a note if they are not what the case says; None: other values."""
    values = f"{case.image} holds values {low:g} to {high:g}"
    # Rounding leaves half a grey value; splines overshoot by a few, which are believed where a window is expected.
    slack = 5 if case.intensity == "window" else 0.5
    windowed = low >= -slack and 1 < high <= 255 + slack
    if case.intensity == "window" and windowed:
        return False, []
    if low <= AIR:
        note = f"{values}, expected 0 to 255 (already windowed); taken for HU and windowed to [-1250, 250]"
        return True, [note] if case.intensity == "window" else []
    if case.intensity == "any":
        return (False, []) if windowed else (None, [])
    if windowed:
        return False, [f"{values}, expected HU (air is -1000); taken for already windowed to 0..255"]
    raise InputError(f"{values}: neither HU (air is -1000) nor a lung window of 0 to 255; rescale it to HU")


def _window(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = WINDOW
    np.clip(values, low, high, out=values)
    values -= np.float32(low)
    values *= np.float32(255 / (high - low))
    return values


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    shown = values[values > values.min()]
    low, high = (float(value) for value in np.percentile(shown, (0.5, 99.5)))
    values -= np.float32(low)
    values *= np.float32(255 / max(high - low, 1e-8))
    return np.clip(values, 0, 255, out=values)


def _beside(path: Path, case: VolumeCase, grid: Grid) -> VolumeFile:
    """The mask at `path`, whose voxels are those of the image's grid."""
    file = _open(path, case)
    if case.placeholder_masks and _is_placeholder(file.grid, grid):
        return replace(file, grid=grid)
    own, shape = file.grid.volume_shape, grid.volume_shape
    if own != shape:
        swapped = ": its axes are swapped" if sorted(own) == sorted(shape) else ""
        raise InputError(
            f"{path} has shape {own} (z y x), but its volume {case.image} has {shape}{swapped}; "
            "a mask must have its volume's grid"
        )
    corners = np.array([(x, y, z, 1) for x in (0, shape[2] - 1) for y in (0, shape[1] - 1) for z in (0, shape[0] - 1)])
    apart = float(np.linalg.norm((corners @ (file.grid.volume_affine - grid.volume_affine).T)[:, :3], axis=1).max())
    # Headers written by different programs differ by rounding; half a voxel is another place.
    if apart > 0.5 * float(nib.affines.voxel_sizes(grid.affine).min()):
        raise InputError(
            f"{path} lies up to {apart:.1f} mm away from its volume {case.image}: the affines in their headers differ; "
            "resample the mask to the volume's grid or correct its header"
        )
    return file


def _is_placeholder(own: Grid, grid: Grid) -> bool:
    """Whether a mask has the header of a file whose header was never set, and its voxels can be those of `grid`."""
    unset = np.array_equal(own.affine[:3, :3], np.eye(3)) and not np.allclose(own.affine, grid.affine)
    return unset and own.shape == grid.shape


def _read_lesion(path: Path, case: VolumeCase, grid: Grid) -> tuple[NDArray[np.bool_], tuple[float, ...], list[str]]:
    """The lesion mask, its values, and what is odd about it."""
    file = _beside(path, case, grid)
    mask, labels = _read_mask(file, case.lesion_labels)
    if case.lesion_labels is None and case.allowed_labels in (None, (0, 1)):
        # Interpolated masks have values between, and splines overshoot.
        wrong = [label for label in labels if not -0.1 <= label <= 1.1]
        expected = "0, 1" if case.allowed_labels else "0 (background) and 1 (lesion)"
    elif case.allowed_labels is not None:
        wrong = [label for label in labels if label not in case.allowed_labels]
        expected = ", ".join(map(str, case.allowed_labels))
    else:
        wrong, expected = [label for label in labels if label < 0 or label % 1], "whole numbers"
    if wrong:
        listed = ", ".join(f"{label:.10g}" for label in wrong[:_LISTED]) + (", ..." if len(wrong) > _LISTED else "")
        raise InputError(
            f"{file.path} holds {listed}, expected {expected}; correct the mask or the labels that its set declares"
        )
    unset = [f"{path}: its header is not set (an identity); its voxels are taken for the image's, one by one"]
    return mask, labels, unset if file.grid is grid else []


def _read_mask(file: VolumeFile, lesion: tuple[int, ...] | None = None) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Where the mask is one of `lesion` (without any: above 0.5), and the values that occur, to a thousandth."""
    mask = np.empty(file.grid.volume_shape, dtype=bool)
    native = file.grid.to_native(mask)
    labels: set[float] = set()
    for part, slab in file.slabs():
        _check_finite(file, part, slab)
        native[:, :, part] = np.isin(_rounded(slab), lesion) if lesion else slab > 0.5
        other = slab[slab != 0]
        labels.update(_rounded(np.unique(other).astype(np.float64)).tolist())
        if other.size < slab.size:
            labels.add(0)
    return mask, tuple(sorted(labels))


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """`values` to a thousandth: a header's scaling leaves 0.99999994 of a 1."""
    return np.round(values, 3) if values.dtype.kind == "f" else values
