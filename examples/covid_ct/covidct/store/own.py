"""Stores that train.py makes for itself of volumes of the user's own, in the cache."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from filelock import FileLock

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.files import cache_folder, remove_leftovers, writing
from covidct.store.preparation import (
    check_disk,
    compare_inputs,
    fitting_workers,
    median_spacing,
    needs,
    of_one_name,
    prepare,
    survey,
)
from covidct.store.preprocess import Spacing
from covidct.store.store import FACTS, SETTINGS, StoreSettings, begin_store, read_case, read_settings

Progress = Callable[[int, int], None]
# Memory of a process that looks at a case whose size is not known yet.
LOOKING_BYTES = 2 * 2**30
ELSEWHERE = "or set XDG_CACHE_HOME to a folder that can be written"


def own_store(name: str, cases: Sequence[VolumeCase], spacing: Spacing | None = None) -> Path:
    """Where the store of `cases` is, called by `name`, by where their files lie and what is lesion in them."""
    folders = sorted({str(path.parent.absolute()) for case in cases for path in (case.image, case.mask) if path})
    labels = cases[0].lesion_labels if cases else None
    key = hashlib.sha256(json.dumps([folders, labels, spacing]).encode()).hexdigest()[:12]
    return cache_folder() / "own-stores" / f"{name}-{key}"


def prepared(
    root: Path, dataset: str, cases: Sequence[VolumeCase], spacing: Spacing | None = None, show: Progress | None = None
) -> Path:
    """The store at `root`, with all `cases`, whose files may have changed since; what is done already is kept.

    spacing: (z, y, x) in mm; by default the store's, or the median of the cases. Processes of one run wait for the
    first. Raises InputError, naming its file, for the first case that cannot be used, and if there is no room.
    """
    with writing(f"{root}: the store", ELSEWHERE):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root.with_name(f".{root.name}.lock"))
    with lock:
        _prepare(root, dataset, cases, spacing, show)
    return root


def _prepare(
    root: Path, dataset: str, cases: Sequence[VolumeCase], spacing: Spacing | None, show: Progress | None
) -> None:
    states = {case.name: _state(root / case.name, case) for case in cases}
    if (root / SETTINGS).exists() and set(states.values()) == {"same"}:
        return
    for name, state in states.items():
        if state == "other":
            # Of files that others have replaced since: in the cache, nobody else keeps anything.
            shutil.rmtree(root / name)
    faults = of_one_name(cases)
    facts, unreadable = survey(cases, root, fitting_workers(len(cases), LOOKING_BYTES))
    for message in (faults | unreadable).values():
        raise InputError(message)
    if (root / SETTINGS).exists():
        spacing = spacing or read_settings(root).spacing
    spacing = spacing or median_spacing(facts.values())
    need = needs(facts.values(), spacing, root)
    check_disk(root, need)
    begin_store(root, StoreSettings(dataset, spacing))
    remove_leftovers(root)
    workers = fitting_workers(len(cases), need.worker)
    for done, outcome in enumerate(prepare(cases, facts, root, spacing, workers), start=1):
        if outcome.state == "failed":
            raise InputError(outcome.message)
        if show is not None:
            show(done, len(cases))


def _state(folder: Path, case: VolumeCase) -> Literal["absent", "same", "changed", "other"]:
    if not (folder / FACTS).is_file():
        return "absent"
    try:
        return compare_inputs(read_case(folder), case)
    except InputError:  # damaged, or the case's own fault, which is told where it is read
        return "other"
