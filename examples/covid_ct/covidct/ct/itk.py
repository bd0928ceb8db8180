"""NRRD and MetaImage files: where the voxels are is ITK's reading of the header, the voxels are read from the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from covidct.ct.content import check_content, check_fetched, head_of, reading, unreadable
from covidct.ct.grid import Grid, check_shape, grid_of
from covidct.ct.headers import Declared, read_meta_header, read_nrrd_header
from covidct.ct.stream import Stream, StreamedVoxels, check_extent

NRRD = (".nrrd", ".nhdr")


class _Written:
    """Voxels that are written out as text or in hexadecimal digits, which are read whole."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._values: NDArray[Any] | None = None

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[Any]:
        if self._values is None:
            self._values = self._parse()
        return self._values[key]

    def _parse(self) -> NDArray[Any]:
        declared = self._declared
        content = declared.data.read_bytes()[declared.start :]
        if declared.form == "hex":
            values = np.frombuffer(bytes.fromhex(content.decode("ascii")), declared.dtype)
        else:
            values = np.array(content.replace(b",", b" ").split(), dtype=np.float64).astype(declared.dtype)
        count = int(np.prod(declared.shape))
        if values.size < count:
            raise EOFError(f"{values.size} of {count} voxels are there")
        return values[:count].reshape(declared.shape, order="F")


def open_itk(path: Path) -> tuple[Grid, np.dtype[Any], StreamedVoxels | _Written]:
    """Where the voxels of a NRRD or MetaImage file are, the type it stores, and the voxels; errors as `open_volume`."""
    declared = declared_by(path)
    check_shape(path, declared.shape)
    start = declared.start
    if declared.data != path:
        head = head_of(declared.data, f" as the voxels of {path}")
        check_fetched(declared.data, head, f", the voxels of {path},")
    check_extent(path, declared.shape, declared.need, data=declared.data, packing=declared.packing, skip=start)
    reader = sitk.ImageFileReader()
    with reading(path), quiet():
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        shape, affine = reader.GetSize(), itk_affine(reader)
    if shape != declared.shape:
        raise unreadable(path, f"its header declares the sizes {declared.shape}, read as {shape}")
    voxels = (
        _Written(declared) if declared.form != "binary" else StreamedVoxels(_opener(declared), shape, declared.dtype)
    )
    return grid_of(path, shape, to_ras(affine)), declared.dtype.newbyteorder("="), voxels


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, ITK does not say on the screen what it finds odd in files."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def declared_by(path: Path) -> Declared:
    """What the header of a NRRD or MetaImage file declares; InputError where it is none."""
    is_nrrd = path.name.lower().endswith(NRRD)
    check_content(path, head := head_of(path), "NRRD" if is_nrrd else "MetaImage")
    if is_nrrd and not head.startswith(b"NRRD0"):
        raise unreadable(path, "it does not begin as a NRRD file")
    return read_nrrd_header(path) if is_nrrd else read_meta_header(path)


def itk_affine(image: Any) -> NDArray[np.float64]:
    """Indices to mm in ITK's world, of an image or a reader of one."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine of ITK's world, which runs to the left and back, in that of NIfTI, to the right and front."""
    turned: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return turned


def _opener(declared: Declared) -> Callable[[], Stream]:
    def fresh() -> Stream:
        start, skip = declared.start, declared.skip
        if skip == -1:
            size = declared.data.stat().st_size
            start, skip = size - declared.need, 0
        stream = Stream(declared.data, declared.packing, start)
        stream.skim(skip)
        return stream

    return fresh
