"""Results of volumes that took minutes each, kept one by one: a run that was stopped goes on where it was.

A record is a JSON file that gets its result after everything that belongs to it is there. It holds what the result was
computed from, so that one of other weights, settings or files is computed anew.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from covidct.ct.files import files_of
from covidct.ct.names import stem_of
from covidct.errors import InputError
from covidct.files import digest, read_json, write_text, writing
from covidct.run.checkpoint import WEIGHTS

T = TypeVar("T")


@dataclass(frozen=True)
class Record(Generic[T]):
    """What a record holds; without result while its files are written."""

    result: T
    origin: dict[str, Any]


def origin(run: Path, settings: dict[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """What a result is computed from: the run's weights, settings, and files by name, size and time of change.

    A volume in several files (a DICOM series, a header with its voxels beside it) counts with all of them.
    """
    seen = [file for path in files for file in files_of(path)]
    try:
        return {
            "weights": _weights(run / WEIGHTS),
            # As it is read back: JSON has no tuples.
            "settings": json.loads(json.dumps(settings)),
            "files": [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in seen],
        }
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); check the path") from None


def recorded(path: Path, kind: type[T], came_from: dict[str, Any], results: Iterable[Path] = ()) -> T | None:
    """The result in the record `path`, a `kind`; None unless it came from the same and all files `results` are there.

    A damaged record is none: its result is computed anew.
    """
    found: Record[T] | None = _read(path, kind)
    if found is None or found.origin != came_from or not all(file.is_file() for file in results):
        return None
    return found.result


def is_record(path: Path) -> bool:
    """Whether `path` is a record, whole or begun, and not somebody else's JSON: dcm2niix writes one beside a CT."""
    return _read(path, Any) is not None


def is_result(path: Path) -> bool:
    """Whether predict.py wrote the volume `path`: the record of one lies beside it, and not as what that came from."""
    if not path.name.endswith(".nii.gz"):
        return False
    for stem in (stem_of(path), stem_of(path).removesuffix("_probability")):
        found = _read(path.with_name(f"{stem}.json"), Any)
        if found is not None and str(path.absolute()) not in str(found.origin.get("files")):
            return True
    return False


def begin(path: Path, came_from: dict[str, Any]) -> None:
    """Write a record without result: what it stood for until now is about to be replaced."""
    _write(path, came_from, None)


def record(path: Path, came_from: dict[str, Any], result: dict[str, Any]) -> None:
    """Write a record, whole or not at all; InputError if that is impossible."""
    _write(path, came_from, result)


def _read(path: Path, kind: Any) -> Record[Any] | None:
    """The record at `path`, whose result is a `kind`; None if that is damaged, or anything but a file."""
    if not path.is_file():  # a named pipe would wait for ever
        return None
    try:
        found: Record[Any] = read_json(path, Record[kind], fix="")
    except InputError:
        return None
    return found


def _weights(path: Path) -> str:
    state = path.stat()
    return _once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _once(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, which is read once as long as size and time of change stay: runs have hundreds of cases."""
    return digest(path)


def _write(path: Path, came_from: dict[str, Any], result: dict[str, Any] | None) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"result": result, "origin": came_from}, indent=1) + "\n")
