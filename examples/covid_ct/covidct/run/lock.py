"""One process at a time trains in a run folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from covidct.errors import InputError
from covidct.files import is_running, read_json, write_text

LOCK, OWNER = ".lock", ".lock-owner.json"
# Seconds.
WORKERS_END = 30


@dataclass(frozen=True)
class Owner:
    """Who trains in a run folder."""

    process: int
    host: str


@contextmanager
def locked(run: Path, *, busy: str = "is trained in") -> Iterator[None]:
    """Hold the folder `run` while the block runs; InputError, naming the other process, if one holds it.

    busy: what that does, in the message.

    The system gives the lock back when its process ends, however it ends.
    """
    lock = FileLock(run / LOCK)
    try:
        # Loaders' workers of a killed process hold its lock until they see that it is gone.
        lock.acquire(timeout=WORKERS_END if _is_gone(run) else 0)
    except Timeout:
        owner = _owner(run)
        who = "another process" if owner is None else f"process {owner.process} on {owner.host}"
        raise InputError(f"{run} {busy} by {who}; wait for it or stop it, or give another --output") from None
    except NotImplementedError:  # some network file systems have no locks
        yield
        return
    try:
        write_text(run / OWNER, json.dumps(asdict(Owner(os.getpid(), socket.gethostname()))) + "\n")
        yield
    finally:
        (run / OWNER).unlink(missing_ok=True)
        lock.release()


def holder(run: Path) -> Owner | None:
    """The process on this machine that holds the folder `run` now, None if there is none."""
    owner = _owner(run)
    if owner is None or owner.host != socket.gethostname() or not is_running(owner.process):
        return None
    lock = FileLock(run / LOCK)
    try:
        # Another process may have its number by now.
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError):
        return owner
    lock.release()
    return None


def _owner(run: Path) -> Owner | None:
    try:
        return read_json(run / OWNER, Owner, fix="")
    except InputError:
        return None


def _is_gone(run: Path) -> bool:
    owner = _owner(run)
    return owner is not None and owner.host == socket.gethostname() and not is_running(owner.process)
