"""What sets of phantoms share: they are made on the first call, and appear whole or not at all."""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covidct.errors import InputError
from covidct.files import not_written

# Written last: a set without it is not complete.
MANIFEST = "phantom.json"

Progress = Callable[[int, int], None]


def generated(root: Path, write: Callable[[Path], Any]) -> Path:
    """`root`, filled on the first call by `write(folder)`, whole or not at all; `write` leaves MANIFEST in it last.

    Raises InputError if the folder cannot be written.
    """
    if _complete(root):
        return root
    temporary = root.with_name(f".{root.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _remove_abandoned(root)
        write(temporary)
        _move(temporary, root)
    except OSError as error:
        otherwise = "or set XDG_CACHE_HOME to a folder that can be written"
        raise InputError(not_written(f"{root}: the phantom data", error, otherwise)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _complete(root: Path) -> bool:
    return (root / MANIFEST).is_file()


def _move(temporary: Path, root: Path) -> None:
    try:
        os.rename(temporary, root)
    except OSError:
        if _complete(root):
            return
        # Somebody removed a part of an older set, its manifest among it.
        shutil.rmtree(root)
        os.rename(temporary, root)


def _remove_abandoned(root: Path) -> None:
    for folder in root.parent.glob(f".{root.name}.*"):
        # No generation takes an hour: its process is gone.
        if time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)
