"""Where the voxels of a file are."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import DTypeLike, NDArray

from covidct.errors import InputError
from covidct.files import replacing
from covidct.parallel import total_memory

# Lengths of a voxel in mm that a CT can have.
_SHORTEST, _LONGEST = 0.05, 50.0
# Cosine between two axes from which on they are not at right angles; headers differ from them by rounding.
_OBLIQUE = 1e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of a file: how many, and where they are.

    shape: along the file's own axes. affine: voxel indices to mm (R, A, S). orientation: nibabel's, of the file's axes.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    orientation: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(z, y, x) in mm; their product is a voxel's volume.

        Where the axes are not at right angles (the tilt of a gantry), z is the distance between the planes of the
        slices and y that between their rows.
        """
        # Gram and Schmidt's: what each axis adds to the length, area and volume of those before it.
        columns = np.linalg.qr(self._columns).R.T if self.skew else self._columns
        sizes = np.abs(np.diag(columns)) if self.skew else np.sqrt((columns**2).sum(0))
        x, y, z = (float(size) for size in sizes)
        return z, y, x

    @property
    def skew(self) -> float:
        """Degrees by which the axes leave right angles, at most; 0 where rounding explains them."""
        return skew_of(self._columns)

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        x, y, z = (self.shape[axis] for axis in self._order)
        return z, y, x

    @property
    def volume_affine(self) -> NDArray[np.float64]:
        """From indices (x, y, z) of the array, in this order, to mm."""
        turned: NDArray[np.float64] = self.affine @ nib.orientations.inv_ornt_aff(self.orientation, self.shape)
        return turned

    @property
    def _order(self) -> list[int]:
        """The file's axes along the patient's x, y and z."""
        return [int(np.flatnonzero(self.orientation[:, 0] == axis)[0]) for axis in range(3)]

    @property
    def _columns(self) -> NDArray[np.float64]:
        return self.affine[:3, self._order]

    def to_native(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array` (z, y, x) along the file's own axes; a view."""
        if array.shape != self.volume_shape:
            raise ValueError(f"array has shape {array.shape}, the grid has {self.volume_shape} (z, y, x)")
        turned: NDArray[Any] = apply_orientation(array.T, ornt_transform(axcodes2ornt("RAS"), self.orientation))
        return turned

    def save_mask(self, path: Path, array: NDArray[Any], dtype: DTypeLike = np.uint8) -> None:
        """Write `array` (z, y, x) as NIfTI with this grid and affine; whole or not at all."""
        image = nib.Nifti1Image(np.asarray(self.to_native(array), dtype=dtype), self.affine)
        image.header.set_xyzt_units("mm")
        with replacing(path) as temporary:
            nib.save(image, temporary)

    def slice(self, k: int) -> "Grid":
        """The grid of one slice along the file's third axis."""
        affine = self.affine.copy()
        affine[:3, 3] += k * affine[:3, 2]
        return Grid((*self.shape[:2], 1), affine, self.orientation)


def skew_of(columns: NDArray[np.float64]) -> float:
    """Degrees by which the axes of a matrix leave right angles, at most; 0 where rounding explains them."""
    with np.errstate(all="ignore"):
        columns = columns / np.sqrt((columns**2).sum(0))
    cosine = float(np.abs(np.triu(columns.T @ columns, 1)).max())
    return float(np.degrees(np.arcsin(min(1.0, cosine)))) if cosine > _OBLIQUE else 0.0


def check_memory(path: Path, shape: tuple[int, ...]) -> None:
    """InputError, naming the file, if its voxels as float32 are more than this machine's memory."""
    need, there = 4 * math.prod(shape), total_memory()
    if need > there:
        raise InputError(
            f"{path} has {' x '.join(map(str, shape))} voxels, which take {need / 2**30:.1f} GB as they are read, and "
            f"this machine has {there / 2**30:.1f} GB of memory; crop or resample it"
        )


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """InputError, naming the file, unless it has three axes with voxels in them; -1 stands for colours or vectors."""
    if len(shape) != 3:
        what = "colours or vectors" if -1 in shape else f"{len(shape)} axes, {' x '.join(map(str, shape))}"
        raise InputError(f"{path} has {what}; a CT volume has three axes: save one volume a file")
    if min(shape) <= 0:
        raise InputError(f"{path} has shape {' x '.join(map(str, shape))}, no voxel; replace the file")


def grid_of(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Grid:
    """The grid of a file; InputError, naming it, if its affine cannot be that of a CT."""
    if affine is None or not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine in its header holds values that are not finite; correct the header")
    # Of values near the largest float, the squares are infinite, and refused as any that is too long.
    with np.errstate(over="ignore"):
        sizes = nib.affines.voxel_sizes(affine)
    if not _SHORTEST <= sizes.min() <= sizes.max() <= _LONGEST:
        raise InputError(
            f"{path}: by the affine in its header a voxel measures {' x '.join(f'{size:g}' for size in sizes)} mm; "
            f"expected {_SHORTEST:g} to {_LONGEST:g} mm an axis: correct the header"
        )
    # 1 for right angles, 0 where an axis lies in the plane of the others.
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.5:
        raise InputError(f"{path}: the affine in its header has axes far from right angles; correct the header")
    x, y, z = (int(length) for length in shape)
    return Grid((x, y, z), np.asarray(affine, dtype=np.float64), io_orientation(affine))
