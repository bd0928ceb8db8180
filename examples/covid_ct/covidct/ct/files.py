"""Volume files of any format as arrays (z, y, x) from feet to head, back to front, left to right, and the way back."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covidct.ct.content import check_path, head_of, reading
from covidct.ct.dicom import check_no_slice, read_series
from covidct.ct.grid import Grid, check_shape, grid_of
from covidct.ct.itk import declared_by, open_itk, to_ras
from covidct.ct.names import NIFTI, check_volume_name
from covidct.ct.nifti import open_nifti
from covidct.files import entries

# What nibabel, zlib and NumPy raise for damaged files; a volume of colours is the TypeError.
UNREADABLE = (
    OSError,
    EOFError,
    TypeError,
    ValueError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
)
# Bytes that are decoded at a time; a float64 file is never whole in memory.
_SLAB = 16 * 2**20


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """An open file: `grid`, the type of its values, and the values themselves a slab at a time."""

    path: Path
    grid: Grid
    dtype: np.dtype[Any]
    values: Any

    def slabs(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """(which of the file's third axis, values along the file's axes, scaled by its header) one after another.

        Raises InputError, naming the file, where it is cut short or damaged.
        """
        rows, columns, count = self.grid.shape
        step = max(1, _SLAB // (rows * columns * 8))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            yield part, self._read(part).reshape(rows, columns, -1)

    def one_slice(self, k: int) -> NDArray[Any]:
        """Values of one slice along the file's third axis; errors as `slabs`."""
        return self._read(slice(k, k + 1))

    def _read(self, part: slice) -> NDArray[Any]:
        with reading(self.path):
            return np.asarray(self.values[:, :, part])


def open_volume(path: Path) -> VolumeFile:
    """Open a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series.

    Raises InputError, naming the file, if it is missing or unreadable, is no regular file or another one than its name
    says, has fewer voxels than its header declares, is not one volume of three axes with voxels in them, or if its
    affine cannot be that of a CT. Nothing is allocated for what a header declares before it is known to be there.
    """
    check_path(path)
    if path.is_dir():
        image, affine = read_series(path)
        check_shape(path, image.GetSize())
        view = sitk.GetArrayViewFromImage(image)
        return VolumeFile(path, grid_of(path, image.GetSize(), to_ras(affine)), view.dtype, _ItkValues(image))
    check_no_slice(path, head_of(path))
    check_volume_name(path)
    grid, dtype, values = (open_nifti if path.name.lower().endswith(NIFTI) else open_itk)(path)
    return VolumeFile(path, grid, dtype, values)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that hold the volume at `path`: the file, and that of its voxels where the header names another.

    Of a folder, all files in it. Raises InputError as `open_volume` does for headers that cannot be read.
    """
    check_path(path)
    if path.is_dir():
        return tuple(item for item in entries(path) if not item.is_dir())
    if path.name.lower().endswith(NIFTI):
        return (path,)
    data = declared_by(path).data
    return (path,) if data == path else (path, data)


@dataclass(eq=False)
class _ItkValues:
    """Values of an ITK image, which must outlive the view of them."""

    image: Any

    def __getitem__(self, key: Any) -> NDArray[Any]:
        values: NDArray[Any] = sitk.GetArrayViewFromImage(self.image).T[key].copy()
        return values
