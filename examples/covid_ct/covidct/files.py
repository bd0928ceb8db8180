"""Files that appear whole or not at all, and JSON files that hold what they should."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from covidct.errors import InputError

T = TypeVar("T")

# What helps against the faults that people meet.
ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, the quota is used up",
    errno.EFBIG: "the file is too large for its disk or a limit: write to another place",
    errno.EACCES: "give a place that you may write to",
    errno.EPERM: "give a place that you may write to",
    errno.EROFS: "give a place that you may write to",
    errno.EISDIR: "a folder stands in its place: move that, or write to another place",
    errno.ENOTDIR: "a file stands in the place of its folder: move that, or write to another place",
    errno.EEXIST: "a file stands in its place: move that, or write to another place",
    errno.ENOENT: "its folder is missing: make it, or write to another place",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ELOOP: "links lead in a circle: remove one of them",
}
# How the texts of the validator go on after the name of a field.
WORDING = {
    "missing": "is missing",
    "unexpected_keyword_argument": "is not known",
    "greater_than_equal": "must be {ge:g} or more",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be {le:g} or less",
    "less_than": "must be less than {lt:g}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}
# Characters of a wrong value, and wrong fields, that a message shows.
SHOWN, LISTED = 60, 40
# What a process writes before it takes the place of NAME: `.NAME.PROCESS-TOKEN` and a suffix. A token begins with the
# machine; those of the first version had none, and called the space that they reserved `.space-PROCESS-TOKEN`.
_PART = re.compile(r"\.(?:space-|.+\.)(\d+)-([0-9a-f]+)(?:\..*)?", re.DOTALL)
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
_TOKEN = len(_MACHINE) + 8
# Characters of a name, and of its suffix, that a temporary one keeps: file systems take 255 bytes.
_KEPT, _KEPT_SUFFIX = 50, 16
# A file that a process of another machine has not touched for a day was left.
_ABANDONED = 24 * 3600
_BEGUN = time.time()


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
    temporary = _part_of(path, suffix if len(suffix) <= _KEPT_SUFFIX else path.suffix[:_KEPT_SUFFIX])
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed in `replacing` have left in `folder`; not what one still writes.

    What cannot be removed stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if _is_left(path):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _is_left(path: Path) -> bool:
    found = _PART.fullmatch(path.name)
    if found is None:
        return False
    process, token = int(found[1]), found[2]
    changed = path.lstat().st_mtime
    if len(token) == _TOKEN and not token.startswith(_MACHINE):
        return time.time() - changed > _ABANDONED
    # In a container the number is the same in every run.
    return changed < _BEGUN if process == os.getpid() else not is_running(process)


def _part_of(path: Path, suffix: str = "") -> Path:
    """Where a process writes what will be `path`."""
    name = path.name if len(os.fsencode(path.name)) <= 4 * _KEPT else path.name[:_KEPT]
    return path.with_name(f".{name}.{os.getpid()}-{_MACHINE}{secrets.token_hex(4)}{suffix}")


def is_running(process: int) -> bool:
    """Whether a process of that number runs on this machine; where that cannot be asked, it does."""
    if os.name == "nt":  # there, the question would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _has_ended(process)


def _has_ended(process: int) -> bool:
    """Whether a process that still has its number has ended: a zombie, whose parent has not asked how."""
    with suppress(OSError):
        # The state stands behind the name, which may hold brackets of its own.
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"])
    return False


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` to write files to; when the block ends well it takes the place of `path`.

    What a killed process left of it goes by `remove_leftovers`. If the block raises, it is removed and `path` stays as
    it was. Raises OSError as the file system does.
    """
    temporary = _part_of(path)
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


@contextmanager
def writing(what: Path | str, otherwise: str = "") -> Iterator[None]:
    """Turns an OSError of the block into the InputError that `what` cannot be written, why, and what helps.

    otherwise: what could be done instead, if there is something: "or give another --output".
    """
    try:
        yield
    except OSError as error:
        raise InputError(not_written(what, error, otherwise)) from None


def not_written(what: Path | str, error: OSError, otherwise: str = "") -> str:
    """The message of `writing`."""
    help_ = ADVICE.get(error.errno or 0, "check the disk")
    return f"{what} cannot be written ({error.strerror or error}); {help_}{otherwise and ', '}{otherwise}"


def read_json(path: Path, kind: type[T], *, fix: str, missing: str = "") -> T:
    """What the JSON file `path` holds, as a `kind`: a dataclass, or any other type that pydantic knows.

    Types are strict: no text for a number, no number for a truth value; whole numbers may stand for broken ones, and
    lists are tuples where `kind` says so.

    Raises InputError, in one line that ends with `fix`, if the file is missing, unreadable, no JSON or too deeply
    nested, or does not hold a `kind`: then it names every field that is wrong, and what came. `missing` takes the
    place of `fix` where there is no file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing{f': {missing}' if missing else f'; {fix}'}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {fix}") from None
    return parse_json(content, kind, str(path), fix)


def parse_json(content: bytes | str, kind: type[T], name: str, fix: str) -> T:
    """The JSON text `content`, called `name` in messages, as a `kind`; see `read_json`."""
    hashable: Any = kind
    adapter: TypeAdapter[T] = _adapter(hashable)
    try:
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{name} is damaged: {faults_of(error)}; {fix}") from None


def faults_of(error: ValidationError, *, options: Mapping[str, str] | None = None) -> str:
    """What the validator found wrong, one fault for each field.

    options: name the fields as on the command line; those whose option has another name are listed here.
    """
    found: dict[Any, str] = {}
    for details in error.errors(include_url=False):
        found.setdefault(details["loc"][:1], _fault(details, options))
    more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return "; ".join(list(found.values())[:LISTED]) + more


# They take milliseconds to make, and a log has thousands of lines.
@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fault(details: ErrorDetails, options: Mapping[str, str] | None) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "json_invalid":
        return f"it is not JSON ({context['error']})"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"]).removeprefix(".")
    name = name or "it" if options is None else options.get(name, f"--{name.replace('_', '-')}")
    if kind == "value_error":
        return str(context["error"]) if name == "it" else f"{name} {context['error']}"
    text = WORDING[kind].format(**context) if kind in WORDING else details["msg"].replace("Input should", "must", 1)
    came = repr(details["input"])
    came = came if len(came) <= SHOWN else f"{came[:SHOWN]}..."
    return f"{name} {text}" if kind in ("missing", "unexpected_keyword_argument") else f"{name} {text}, got {came}"


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
