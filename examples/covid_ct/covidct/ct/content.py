"""What lies at a path before a library opens it: nothing, no regular file, or another kind than its name says."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covidct.errors import InputError

DAMAGED = "it is damaged or cut short: replace the file"
# Bytes at the start of a file that tell its kind.
HEAD = 512
_LONGEST_REASON = 160
# (where, which bytes, what a file is that has them there). A MetaImage has none: its header is text.
_MAGIC = (
    (0, b"version https://git-lfs.github.com/", "Git LFS pointer"),
    (0, b"/annex/objects/", "git-annex pointer"),
    (0, b"\x1f\x8b", "gzip"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0", "NIfTI"),
    (4, b"ni2\0", "NIfTI"),
    (0, b"NRRD0", "NRRD"),
    (0, b"ObjectType", "MetaImage"),
    (0, b"NDims", "MetaImage"),
    (128, b"DICM", "DICOM"),
    (0, b"\x89PNG\r\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"7z\xbc\xaf", "7z archive"),
    (0, b"BZh", "bzip2 file"),
    (0, b"\xfd7zXZ", "xz file"),
    (0, b"%PDF", "PDF"),
    (0, b"<!doctype html", "web page"),
    (0, b"<html", "web page"),
)
# What is to be done with a file that is of such a kind, whatever it is called; of others, the name is wrong.
_REMEDY = {
    "Git LFS pointer": "a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`",
    "git-annex pointer": "a git-annex pointer, not the file itself; fetch the file with `git annex get`",
    "gzip": "packed by gzip; unpack it with gunzip",
    "ZIP archive": "a ZIP archive; unpack it",
    "7z archive": "a 7z archive; unpack it",
    "bzip2 file": "packed by bzip2; unpack it with bunzip2",
    "xz file": "packed by xz; unpack it with unxz",
    "DICOM": "a DICOM file; export the slice as a picture, with the lung window, HU [-1250, 250] -> 0..255",
    "web page": "a web page, not the file that was asked for; download the file again",
    "PDF": "a PDF document; give the picture or volume itself",
}
_POINTERS = ("Git LFS pointer", "git-annex pointer")
_SUFFIX = {"NIfTI": ".nii", "NRRD": ".nrrd", "MetaImage": ".mha", "PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif"}
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def check_path(path: Path) -> None:
    """InputError, naming `path`, unless it leads to a regular file or a folder and its name is UTF-8.

    Nothing is opened: a named pipe would wait for a writer for ever. Links are followed.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{path}: the name is not UTF-8, and what is read would go by another name; rename it"
        ) from None
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise _absent(path, error) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = next((what for is_kind, what in _KINDS if is_kind(mode)), "neither")
        raise InputError(f"{path} is {what}, not a file; give a regular file")


def head_of(path: Path, what: str = "") -> bytes:
    """The first bytes of the file at `path`, of which `kind_of` tells what it is; `what` as in `unreadable`."""
    with reading(path, what), path.open("rb") as file:
        return file.read(HEAD)


def kind_of(head: bytes) -> str | None:
    """What a file that begins with `head` is, by its content; None where that tells nothing."""
    for start, magic, kind in _MAGIC:
        if head[start : start + len(magic)].lower() == magic.lower():
            return kind
    return None


def check_fetched(path: Path, head: bytes, role: str = "") -> None:
    """InputError if the file at `path` only says where the content is, as Git LFS and git-annex leave them.

    `role` says in the message what the file is to another one that was asked for.
    """
    if (kind := kind_of(head)) in _POINTERS:
        raise InputError(f"{path}{role} is {_REMEDY[kind]}")


def check_content(path: Path, head: bytes, *expected: str) -> None:
    """InputError with the remedy if the file at `path` begins (`head`) as a known kind that is not among `expected`."""
    kind = kind_of(head)
    if kind is None or kind in expected:
        return
    if kind in _REMEDY:
        raise InputError(f"{path} is {_REMEDY[kind]}")
    name = path.name.split(".")[0] or "NAME"
    remedy = f"rename it to {name}{_SUFFIX[kind]}" if kind in _SUFFIX else "save it as one of the formats that are read"
    raise InputError(f"{path} is a {kind} file by its content, not what its name says; {remedy}")


@contextmanager
def reading(path: Path, what: str = "", remedy: str = DAMAGED) -> Iterator[None]:
    """Around every call of a library that reads the file at `path`: whatever it raises becomes the file's InputError.

    What libraries raise for damaged files has no end (zlib.error, struct.error, OverflowError, RecursionError, ...),
    so nothing but their calls should stand inside.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: not enough memory to read it; free some, or read fewer files at a time") from None
    except Exception as error:
        raise unreadable(path, last_line(error), what, remedy) from None


def unreadable(path: Path, why: str, what: str = "", remedy: str = DAMAGED) -> InputError:
    """The error of a file that cannot be read, or not as what it should be (" as a picture")."""
    return InputError(f"{path} cannot be read{what} ({why}); {remedy}")


def last_line(error: Exception) -> str:
    """What `error` says, without the lines of code that libraries put before it."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    last = text.strip().splitlines()[-1] if text.strip() else type(error).__name__
    # Some show the bytes that they could not read, and no file needs more than this.
    return last if len(last) <= _LONGEST_REASON else f"{last[:_LONGEST_REASON]}..."


def _absent(path: Path, error: OSError | ValueError) -> InputError:
    if isinstance(error, ValueError):
        return InputError(f"{str(path)!r} is no name of a file; correct the path")
    if error.errno == errno.ELOOP:
        return InputError(f"{path} is a link that leads back to itself; put the file in its place")
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and path.is_symlink():
        return InputError(
            f"{path} is a link to {path.readlink()}, which is missing; fetch the content (git annex get, dvc pull) "
            "or correct the link"
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError(f"{path} is missing; put it back or correct the path")
    return InputError(f"{path} cannot be read ({error.strerror}); check its permissions and the path")
