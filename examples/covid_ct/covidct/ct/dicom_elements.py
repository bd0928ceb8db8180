"""The elements of a DICOM file as far as they must be known before GDCM reads it: it allocates what a length claims."""

import struct
from pathlib import Path

from covidct.ct.content import kind_of, reading, unreadable

# Where the first element begins, and how far elements are looked at: those before the pixels.
_FIRST, _REACH = 132, 2**16
# Value representations whose length has four bytes.
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT = tuple(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_UNDEFINED = 2**32 - 1
_IMPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


def storage_of(head: bytes) -> str:
    """The storage class that the first bytes of a DICOM file name; empty where they name none, or are no DICOM's."""
    return _text(head, b"\x02\x00\x02\x00UI") if kind_of(head) == "DICOM" else ""


def check_lengths(path: Path) -> None:
    """InputError, naming the file, if an element of it claims more bytes than the file has.

    Elements are followed one after another up to one of undefined length; those within sequences are not.
    """
    with reading(path), path.open("rb") as file:
        content, size = file.read(_REACH), path.stat().st_size
    syntax = _text(content, b"\x02\x00\x10\x00UI")
    place = _FIRST
    while place + 12 <= len(content):
        of_file = content[place : place + 2] == b"\x02\x00"
        if not of_file and syntax == _DEFLATED:
            return
        order = ">" if syntax == _BIG and not of_file else "<"
        header, length = _header(content[place : place + 12], order, explicit=of_file or syntax != _IMPLICIT)
        if length == _UNDEFINED:
            return
        if place + header + length > size:
            raise unreadable(path, f"its element at byte {place:,} claims {length:,} bytes, and the file has {size:,}")
        place += header + length


def _header(element: bytes, order: str, *, explicit: bool) -> tuple[int, int]:
    """How many bytes the header of an element takes, and how many it says that the value takes."""
    # GDCM takes an element without a known representation for one of the implicit kind.
    if not explicit or element[4:6] not in (*_LONG, *_SHORT):
        return 8, int(struct.unpack_from(f"{order}I", element, 4)[0])
    if element[4:6] in _LONG:
        return 12, int(struct.unpack_from(f"{order}I", element, 8)[0])
    return 8, int(struct.unpack_from(f"{order}H", element, 6)[0])


def _text(content: bytes, mark: bytes) -> str:
    """The value of the first element with this tag and representation among those about the file itself."""
    place = content.find(mark, _FIRST)
    if place < 0:
        return ""
    start = place + len(mark) + 2
    length = int.from_bytes(content[start - 2 : start], "little")
    return content[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
