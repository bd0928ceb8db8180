"""The bytes of voxels, packed or not: how many there are, and reading them a part at a time."""

import bz2
import gzip
import io
import math
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from covidct.ct.content import reading, unreadable

Packing = Literal["none", "gzip", "zlib", "bzip2"]

# Bytes that a packed byte can become, at most; what a header declares beyond is not there.
_MOST: dict[Packing, int] = {"none": 1, "gzip": 1032, "zlib": 1032, "bzip2": 2_000_000}
_CHUNK = 2**20


class Stream:
    """The bytes of a file from `skip` on, unpacked as they are read; closed with the last reference to it.

    Reading raises what the unpacking does: OSError, EOFError, zlib.error.
    """

    def __init__(self, path: Path, packing: Packing, skip: int = 0) -> None:
        raw = path.open("rb")
        self.file: BinaryIO = _unpacking(raw, packing)
        weakref.finalize(self, _close, self.file, raw)
        raw.seek(skip)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; EOFError where there are fewer."""
        content = self.file.read(count)
        if len(content) < count:
            raise EOFError(f"it ends {count - len(content):,} bytes early")
        return content

    def skim(self, most: float = math.inf) -> int:
        """Read on to the end, or `most` bytes, and give their number; the end is where checksums are compared."""
        count = 0
        while count < most and (content := self.file.read(int(min(_CHUNK, most - count)))):
            count += len(content)
        return count


class StreamedVoxels:
    """Voxels of a file without a scale, in the order of its axes: slabs along the third, read one after another.

    Going back unpacks the file anew from its start. After the last slab the checksum is compared.
    """

    def __init__(self, fresh: Callable[[], Stream], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._fresh, self._stream, self._next = fresh, fresh(), 0

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[Any]:
        rows, columns, count = self.shape
        start, stop, _ = key[2].indices(count)
        if start < self._next:
            self._stream, self._next = self._fresh(), 0
        plane = rows * columns * self.dtype.itemsize
        while self._next < start:
            self._stream.read(plane)
            self._next += 1
        content = self._stream.read(plane * (stop - start))
        self._next = stop
        if stop == count:
            self._stream.skim()
        return np.frombuffer(content, self.dtype).reshape((rows, columns, stop - start), order="F")


def check_extent(
    path: Path, shape: tuple[int, ...], need: int, *, data: Path, packing: Packing = "none", skip: int = 0
) -> None:
    """InputError, naming `path`, if the bytes of `data` from `skip` on, unpacked, are fewer than the header needs.

    path: the file whose header declares `shape`, which takes `need` bytes. Nothing of that size is allocated: packed
    bytes are counted a chunk at a time, unless the length that ends a gzip file is the one that is needed.
    """
    with reading(data):
        there = max(0, data.stat().st_size - skip)
        if packing == "none" or there * _MOST[packing] < need:
            found = there
        elif packing == "gzip" and _trailer(data) == need % 2**32:
            return
        else:
            found = Stream(data, packing, skip).skim(need)
    if found < need:
        where = "the file" if data == path else data.name
        packed = "" if packing == "none" else " packed" if found == there else " unpacked"
        raise unreadable(
            path,
            f"its header declares {' x '.join(map(str, shape))} voxels, {need:,} bytes, and {where} has "
            f"{found:,}{packed}",
        )


def _close(*files: BinaryIO) -> None:
    for file in files:
        file.close()


def _unpacking(raw: BinaryIO, packing: Packing) -> BinaryIO:
    if packing == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if packing == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    return cast(BinaryIO, io.BufferedReader(_Inflated(raw), _CHUNK)) if packing == "zlib" else raw


class _Inflated(io.RawIOBase):
    """What a zlib stream unpacks to."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        # 47: with zlib's header or with gzip's, whichever is there.
        self._unpack = zlib.decompressobj(47)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content and not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or self._raw.read(_CHUNK)
            if not packed:
                raise EOFError("it ends before its end mark")
            content = self._unpack.decompress(packed, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _trailer(path: Path) -> int:
    """The length modulo 2**32 that ends a gzip file; of the last part where it has several."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")
