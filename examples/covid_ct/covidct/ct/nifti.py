"""NIfTI files, packed or not, whatever their suffix says of that."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from covidct.ct.content import check_content, head_of, kind_of, reading
from covidct.ct.grid import Grid, check_shape, grid_of
from covidct.ct.stream import Packing, Stream, check_extent
from covidct.errors import InputError


class NiftiVoxels:
    """Voxels of a NIfTI file, scaled by its header; after the last slab the checksum of a packed one is compared."""

    def __init__(self, image: Any, shape: tuple[int, ...], stream: Stream) -> None:
        self._proxy = image.dataobj if len(image.shape) == 3 else image.dataobj.reshape(shape)
        self._count, self._stream = shape[2], stream

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[Any]:
        values: NDArray[Any] = np.asarray(self._proxy[key])
        if key[2].indices(self._count)[1] == self._count:
            self._stream.skim()
        return values


def open_nifti(path: Path) -> tuple[Grid, np.dtype[Any], NiftiVoxels]:
    """Where the voxels of a NIfTI file are, the type it stores, and the voxels; errors as `open_volume`."""
    head = head_of(path)
    check_content(path, head, "NIfTI", "gzip")
    packing: Packing = "gzip" if kind_of(head) == "gzip" else "none"
    with reading(path):
        # The file stays open between slabs: a gzip stream that is opened anew is unpacked from its start.
        stream = Stream(path, packing)
        head = stream.file.read(len(head)) if packing == "gzip" else head
    check_content(path, head, "NIfTI")
    with reading(path), _quiet():
        kind = nib.Nifti2Image if _is_second(head) else nib.Nifti1Image
        stream.file.seek(0)
        image = kind.from_file_map({"image": nib.FileHolder(fileobj=cast(IOBase, stream.file))})
        shape, affine, dtype, start = image.shape, image.affine, image.get_data_dtype(), image.dataobj.offset
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if dtype.kind == "V":
        shape = (*shape, -1)
    check_shape(path, shape)
    if dtype.kind == "c":
        raise InputError(f"{path} holds complex numbers ({dtype}); a CT holds real ones: save its real part")
    check_extent(path, shape, start + math.prod(shape) * dtype.itemsize, data=path, packing=packing)
    return grid_of(path, shape, affine), dtype, NiftiVoxels(image, shape, stream)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, nibabel does not say on the screen what it finds odd in a header: it does not say in which file's."""
    logger = nib.imageglobals.logger
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _is_second(head: bytes) -> bool:
    """Whether it is of the second version, whose header has 540 bytes, in whichever order."""
    return any(head[:4] == (540).to_bytes(4, order) for order in ("little", "big"))
