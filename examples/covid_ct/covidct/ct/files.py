"""Volume files of any format as arrays (z, y, x) from feet to head, back to front, left to right, and the way back."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import DTypeLike, NDArray

from covidct.ct.names import NIFTI, SUFFIXES
from covidct.errors import InputError
from covidct.files import entries, replacing

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
# Lengths of a voxel in mm that a CT can have.
_SHORTEST, _LONGEST = 0.05, 50.0
# Nothing stands between slices further apart than this times their usual distance.
_GAP = 1.5


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
        """(z, y, x) in mm."""
        x, y, z = (self._sizes[int(np.flatnonzero(self.orientation[:, 0] == axis)[0])] for axis in range(3))
        return z, y, x

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        x, y, z = (self.shape[int(np.flatnonzero(self.orientation[:, 0] == axis)[0])] for axis in range(3))
        return z, y, x

    @property
    def volume_affine(self) -> NDArray[np.float64]:
        """From indices (x, y, z) of the array, in this order, to mm."""
        turned: NDArray[np.float64] = self.affine @ nib.orientations.inv_ornt_aff(self.orientation, self.shape)
        return turned

    @property
    def _sizes(self) -> list[float]:
        return [float(size) for size in nib.affines.voxel_sizes(self.affine)]

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
        try:
            return np.asarray(self.values[:, :, part])
        except UNREADABLE as error:
            raise _unreadable(self.path, error) from None


def open_volume(path: Path) -> VolumeFile:
    """Open a NIfTI, NRRD or MetaImage file, or the folder of a DICOM series.

    Raises InputError, naming the file, if it is missing or unreadable, is not one volume of three axes with voxels in
    them, or if its affine cannot be that of a CT.
    """
    if not path.exists():
        raise InputError(f"{path} is missing; put it back or correct the path")
    if not path.is_dir() and path.name.lower().endswith(NIFTI):
        return _open_nifti(path)
    if path.is_dir():
        series = _read_dicom(path)
        return _of_itk(path, series, series.GetNumberOfComponentsPerPixel(), lambda: series)
    header = _read_header(path)
    # Eight bytes a voxel become four on the way in: nothing that a CT or a mask holds is lost.
    kind = sitk.sitkFloat32 if _dtype_of(header).itemsize > 4 else sitk.sitkUnknown
    return _of_itk(path, header, header.GetNumberOfComponents(), lambda: sitk.ReadImage(str(path), kind))


def _of_itk(path: Path, header: Any, components: int, read: Callable[[], Any]) -> VolumeFile:
    """The file that ITK describes by `header`, an image or a reader; `read` gives the image with its values."""
    shape = header.GetSize()
    _check_shape(path, shape if components == 1 else (*shape, -1))
    affine = np.eye(4)
    # ITK's world runs to the left and back, that of NIfTI to the right and front.
    turn = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = turn @ np.array(header.GetDirection()).reshape(3, 3) @ np.diag(header.GetSpacing())
    affine[:3, 3] = turn @ np.array(header.GetOrigin())
    return VolumeFile(path, _grid(path, shape, affine), _dtype_of(header), _ItkValues(read))


def _dtype_of(header: Any) -> np.dtype[Any]:
    kind = header.GetPixelIDValue()
    components = 1 if "vector" in sitk.GetPixelIDValueAsString(kind) else 0
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], kind, components)).dtype
    return dtype


@dataclass(eq=False)
class _ItkValues:
    """Values of an ITK image, which is read when the first of them are asked for, and must outlive the view of them."""

    read: Callable[[], Any]
    image: Any = None

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if self.image is None:
            try:
                self.image = self.read()
            except RuntimeError as error:
                raise OSError(_last_line(error)) from None
        values: NDArray[Any] = sitk.GetArrayViewFromImage(self.image).T[key].copy()
        return values


def _open_nifti(path: Path) -> VolumeFile:
    try:
        # The file stays open between slabs: a gzip stream that is opened anew is unpacked from its start.
        image = nib.load(path, keep_file_open=True)
        shape, affine, dtype = image.shape, image.affine, image.get_data_dtype()
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_shape(path, shape if dtype.fields is None else (*shape, -1))
    if dtype.kind == "c":
        raise InputError(f"{path} holds complex numbers ({dtype}); a CT holds real ones: save its real part")
    values = image.dataobj if len(image.shape) == 3 else image.dataobj.reshape(shape)
    return VolumeFile(path, _grid(path, shape, affine), dtype, values)


def _read_header(path: Path) -> Any:
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path} is no volume by its name; expected {', '.join(SUFFIXES)}, or a DICOM series' folder")
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    return reader


def _read_dicom(folder: Path) -> Any:
    entries(folder)
    reader = sitk.ImageSeriesReader()
    series = {name: reader.GetGDCMSeriesFileNames(str(folder), name) for name in reader.GetGDCMSeriesIDs(str(folder))}
    # Structure sets and segmentations are one file each.
    series = {name: files for name, files in series.items() if len(files) > 1}
    if len(series) != 1:
        found = (
            f"{len(series)} DICOM series of more than one file ({', '.join(series)})" if series else "no DICOM series"
        )
        raise InputError(f"{folder} holds {found}; give a folder with the files of exactly one CT series")
    (files,) = series.values()
    try:
        _check_gaps(folder, files)
        reader.SetFileNames(files)
        return reader.Execute()
    except RuntimeError as error:
        raise _unreadable(folder, error) from None


def _check_gaps(folder: Path, files: Iterable[str]) -> None:
    reader, places = sitk.ImageFileReader(), []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        normal = np.array(reader.GetDirection()).reshape(3, 3)[:, 2]
        places.append(float(normal @ np.array(reader.GetOrigin())))
    gaps = np.abs(np.diff(places))
    usual = float(np.median(gaps))
    if gaps.max() > _GAP * usual or gaps.min() < usual / _GAP:
        raise InputError(
            f"{folder}: its slices are {gaps.min():g} to {gaps.max():g} mm apart, usually {usual:g}; "
            "some are missing or there twice: fetch the series again"
        )


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        what = "colours or vectors" if -1 in shape else f"{len(shape)} axes, {' x '.join(map(str, shape))}"
        raise InputError(f"{path} has {what}; a CT volume has three axes: save one volume a file")
    if min(shape) == 0:
        raise InputError(f"{path} has shape {' x '.join(map(str, shape))}, no voxel; replace the file")


def _grid(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64] | None) -> Grid:
    if affine is None or not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine in its header holds values that are not finite; correct the header")
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


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({_last_line(error)}); it is damaged or cut short: replace the file")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
