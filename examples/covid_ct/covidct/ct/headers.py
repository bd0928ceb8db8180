"""What the text headers of NRRD and MetaImage declare, read before ITK reads them: it trusts every number there."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from covidct.ct.content import check_path, reading, unreadable
from covidct.ct.stream import Packing
from covidct.errors import InputError

# A header is shorter, and so is a line of it; MetaIO keeps lines in arrays of fixed size.
_LONGEST_HEADER, _LONGEST_LINE, _LONGEST_KEY = 2**20, 2**14, 200
# Axes that the formats know.
_MOST_AXES = {"NRRD": 16, "MetaImage": 10}
_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_NRRD_ENCODINGS: dict[str, tuple[Packing, Literal["binary", "text", "hex"]]] = {
    "raw": ("none", "binary"),
    "gzip": ("gzip", "binary"),
    "gz": ("gzip", "binary"),
    "bzip2": ("bzip2", "binary"),
    "bz2": ("bzip2", "binary"),
    "txt": ("none", "text"),
    "text": ("none", "text"),
    "ascii": ("none", "text"),
    "hex": ("none", "hex"),
}
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Fields of a MetaImage that hold a number for every axis, and those that hold one for every pair of them.
_PER_AXIS = ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_PER_PAIR = ("TransformMatrix", "Orientation", "Rotation")
_META_FIELDS = (
    *("NDims", *_PER_AXIS, *_PER_PAIR, "ElementNumberOfChannels", "ElementType", "ElementDataFile", "HeaderSize"),
    *("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "CompressedDataSize"),
)


@dataclass(frozen=True)
class Declared:
    """What a header declares.

    shape: along the file's axes. dtype: with the order of its bytes. data: the file that holds the voxels, from byte
    `start` on, packed or not. form: bytes, numbers written out, or hexadecimal digits. skip: bytes between the start
    of what unpacks and the voxels; -1: the voxels are the last bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    data: Path
    start: int
    packing: Packing
    form: Literal["binary", "text", "hex"] = "binary"
    skip: int = 0

    @property
    def need(self) -> int:
        """Bytes that the voxels take at least, as they are written, after unpacking."""
        count = math.prod(self.shape)
        if self.form == "text":
            return 2 * count - 1
        return max(0, self.skip) + count * self.dtype.itemsize * (2 if self.form == "hex" else 1)


def read_nrrd_header(path: Path) -> Declared:
    """What the header of a NRRD file declares; InputError, naming the file, for a header that cannot be."""
    text, end = _header_text(path, re.compile(rb"\r?\n\r?\n"))
    fields = {}
    for line in _lines(text)[1:]:
        key, mark, value = line.partition(": ")
        if line.startswith("#") or ":=" in line or not line.strip():
            continue
        key = key.strip().lower().replace(" ", "")
        if not mark or key in fields:
            raise unreadable(path, f"its header says {line[:40]!r}" + (", twice" if mark else ", which is no field"))
        fields[key] = value.strip()
        if key == "datafile" and fields[key].startswith("LIST"):
            break
    shape = _shape(path, fields, "dimension", "sizes", "NRRD")
    if re.search("vector|color|matrix|complex|quaternion", fields.get("kinds", ""), re.IGNORECASE):
        shape = (*shape, -1)
    kind = next((kind for kind, names in _NRRD_TYPES.items() if fields.get("type", "").lower() in names), None)
    encoding = _NRRD_ENCODINGS.get(fields.get("encoding", "").lower())
    if kind is None or encoding is None:
        wrong = "type" if kind is None else "encoding"
        raise unreadable(path, f"its header says {wrong}: {fields.get(wrong, 'nothing')[:40]}")
    data, start = path, end
    named = fields.get("datafile")
    if named is not None:
        data, start = _data_file(path, named, several=named.startswith("LIST") or "%" in named), 0
    start = _after_lines(data, start, _number(path, fields, "lineskip", 0))
    big = fields.get("endian", "little").lower() == "big"
    packing, form = encoding
    skip = _number(path, fields, "byteskip", 0)
    if skip < (-1 if packing == "none" else 0):
        raise unreadable(path, f"its header says byte skip: {skip}")
    return Declared(shape, np.dtype(kind).newbyteorder(">" if big else "<"), data, start, packing, form, skip)


def read_meta_header(path: Path) -> Declared:
    """What the header of a MetaImage declares; InputError, naming the file, for a header that cannot be."""
    text, end = _header_text(path, re.compile(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*[=:][^\n]*(?:\n|\Z)"))
    fields: dict[str, str] = {}
    for line in _lines(text):
        key, _, value = (part.strip(" \t\r") for part in re.split("([=:])", f"{line}=", maxsplit=1))
        if key in fields or len(key) > _LONGEST_KEY:
            raise unreadable(
                path, f"its header says {line[:40]!r}, {'twice' if key in fields else 'which is no field'}"
            )
        if key and not value:
            raise unreadable(path, f"its header says {line[:40]!r}, which is no field")
        if key in (*_PER_AXIS, *_PER_PAIR) and "NDims" not in fields:
            raise unreadable(path, f"its header says {key} before NDims")
        if key in _META_FIELDS:
            fields[key] = value.removesuffix("=").strip()
    shape = _shape(path, fields, "NDims", "DimSize", "MetaImage")
    _number(path, fields, "CompressedDataSize", 0)
    for key, count in [(key, len(shape)) for key in _PER_AXIS] + [(key, len(shape) ** 2) for key in _PER_PAIR]:
        _numbers(path, fields, key, count)
    if (channels := _number(path, fields, "ElementNumberOfChannels", 1)) != 1:
        if channels < 1:
            raise unreadable(path, f"its header says ElementNumberOfChannels = {channels}")
        shape = (*shape, -1)
    kind = _META_TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise unreadable(path, f"its header says ElementType = {fields.get('ElementType', 'nothing')[:40]}")
    named = fields.get("ElementDataFile", "")
    data, start = path, end
    if named.upper() != "LOCAL":
        data, start = _data_file(path, named, several=named.upper().startswith("LIST") or "%" in named), 0
    big = _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB")
    packing: Packing = "zlib" if _is_true(fields, "CompressedData") else "none"
    form: Literal["binary", "text"] = "binary" if _is_true(fields, "BinaryData") else "text"
    skip = _number(path, fields, "HeaderSize", 0)
    if skip < (-1 if packing == "none" else 0):
        raise unreadable(path, f"its header says HeaderSize = {skip}")
    if skip > 0:
        # Counted from the start of the file.
        start, skip = skip, 0
    return Declared(shape, np.dtype(kind).newbyteorder(">" if big else "<"), data, start, packing, form, skip)


def _header_text(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The header up to and with what `end` finds, and how many bytes it has; all of a file that has no voxels."""
    with reading(path), path.open("rb") as file:
        content = file.read(_LONGEST_HEADER)
    found = end.search(content)
    if found is None and len(content) == _LONGEST_HEADER:
        raise unreadable(path, "its header has no end")
    header = content[: found.end()] if found else content
    if b"\0" in header or max(map(len, header.splitlines()), default=0) > _LONGEST_LINE:
        raise unreadable(path, "its header is no text")
    return header.decode("utf-8", "replace"), len(header)


def _lines(text: str) -> list[str]:
    """Lines as ITK has them: `str.splitlines` ends one at other characters, too."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _shape(path: Path, fields: dict[str, str], axes: str, sizes: str, what: str) -> tuple[int, ...]:
    count = _number(path, fields, axes, 0)
    if not 1 <= count <= _MOST_AXES[what]:
        raise unreadable(path, f"its header declares {count} axes")
    lengths = fields.get(sizes, "").split()
    if len(lengths) != count or not all(re.fullmatch(r"[-+]?\d{1,18}", length) for length in lengths):
        raise unreadable(path, f"its header declares {count} axes and the sizes {' '.join(lengths)[:80] or 'none'}")
    return tuple(map(int, lengths))


def _number(path: Path, fields: dict[str, str], key: str, default: int) -> int:
    text = fields.get(key, str(default))
    if not re.fullmatch(r"[-+]?\d{1,18}", text):
        raise unreadable(path, f"its header says {key} {text[:40]}")
    return int(text)


def _numbers(path: Path, fields: dict[str, str], key: str, count: int) -> None:
    """Check that a field that is there holds `count` finite numbers."""
    if key not in fields:
        return
    try:
        values = [float(value) for value in fields[key].split()]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise unreadable(path, f"its header says {key} = {fields[key][:40]}, expected {count} numbers")


def _is_true(fields: dict[str, str], key: str) -> bool:
    return fields.get(key, "")[:1] in ("T", "t", "1")


def _data_file(path: Path, name: str, *, several: bool) -> Path:
    if several or not name:
        raise InputError(f"{path}: its voxels lie in several files ({name[:40]}); save the volume as one file")
    data = path.parent / name
    try:
        check_path(data)
    except InputError as error:
        raise InputError(f"{path}: its voxels should lie in {name[:80]}: {error}") from None
    if data.is_dir() or data.samefile(path):
        raise InputError(
            f"{path}: its voxels should lie in {name[:80]}, which is no file of voxels; correct the header"
        )
    return data


def _after_lines(data: Path, start: int, lines: int) -> int:
    """Where `lines` lines after `start` end."""
    with reading(data), data.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            if not file.readline(_LONGEST_HEADER):
                break
        return file.tell()
