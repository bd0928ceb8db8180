"""Arrays on disk, compressed in chunks: a box is read by decompressing the blocks that it touches."""

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from covidct.ct.content import reading

# Grey values of the window, 0 to 255, are stored as whole eighths in 16 bits: at most 1/16 of a grey value off, which
# is 0.37 HU. float16 is as far off and takes a fifth more room; the noise of a CT is some 20 HU.
STEPS = 8
# A patch of 56 x 225 x 225 touches some 27 chunks, of which only the blocks that it needs are decompressed.
CHUNKS, BLOCKS = (32, 128, 128), (8, 32, 32)


def write_grey(path: Path, image: NDArray[np.float32]) -> None:
    """Write grey values of 0 to 255, (z, y, x), to `path` (*.b2nd), rounded to eighths."""
    eighths = np.empty(image.shape, dtype=np.uint16)
    for section, into in zip(image, eighths, strict=True):
        into[:] = np.rint(section * STEPS)
    write_array(path, eighths)


def read_grey(path: Path, box: tuple[slice, ...] = ()) -> NDArray[np.float32]:
    """What `write_grey` wrote, float32, whole or the part in `box`."""
    result: NDArray[np.float32] = np.divide(read_array(path, box), np.float32(STEPS), dtype=np.float32)
    return result


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write whole numbers, (z, y, x), to `path` (*.b2nd). The same values give the same bytes."""
    chunks = tuple(min(*each) for each in zip(CHUNKS, values.shape, strict=True))
    blocks = tuple(min(*each) for each in zip(BLOCKS, values.shape, strict=True))
    settings = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=5, typesize=values.itemsize, nthreads=1)
    blosc2.asarray(np.ascontiguousarray(values), urlpath=str(path), chunks=chunks, blocks=blocks, cparams=settings)


def read_array(path: Path, box: tuple[slice, ...] = ()) -> NDArray[Any]:
    """What `write_array` wrote, whole or the part in `box`; InputError if the file is missing or damaged."""
    with reading(path, remedy="run prepare.py again, which replaces it"):
        # Opened each time: a handle that processes share after a fork is not safe, and opening takes 0.2 ms.
        stored = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
        # What the format can hold beside numbers is computed or fetched when it is read: nothing of ours.
        if type(stored) is not blosc2.NDArray or stored.dtype.kind not in "biu":
            raise ValueError(f"it holds a {type(stored).__name__}, not an array of whole numbers")
        result: NDArray[Any] = stored[box]
    return result
