"""Files that appear whole or not at all."""

import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from covidct.errors import InputError


def entries(folder: Path) -> list[Path]:
    """What `folder` holds, by name; InputError if it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check its permissions") from None


def cache_folder(cache: Path | None = None) -> Path:
    """Where derived data are kept: `relcons` in `cache`, by default in $XDG_CACHE_HOME or ~/.cache."""
    return Path(cache or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relcons"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write to; when the block ends well it takes the place of `path`.

    The sibling keeps the suffix of `path` (writers such as Pillow and nibabel read the format from it). It is
    flushed to the disk before the change of names, so that a power cut leaves the old file or the new one.
    If the block raises, the sibling is removed and `path` stays as it was.

        with replacing(run / "model.safetensors") as temporary:
            save_model(model, temporary)

    Raises FileNotFoundError if the block did not write the file; OSError as the file system does.
    """
    path = Path(path)
    suffix = "".join(path.suffixes[-2:])
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def remove_parts(path: Path) -> None:
    """Remove what processes that were killed in `replacing(path)` have left beside it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
        part.unlink()


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to write files to; when the block ends well it takes the place of `path`.

    Its name begins with a dot and the name of `path`; a killed process leaves it behind. If the block raises, it is
    removed and `path` stays as it was. Raises OSError as the file system does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush_folder(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(path.parent)


def digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; the folder must exist."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all; the folder must exist."""
    write_bytes(path, text.encode("utf-8"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    # A folder cannot be opened everywhere (Windows); the change of names itself has happened by then.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
