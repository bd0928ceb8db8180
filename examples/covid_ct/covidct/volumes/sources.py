"""The source stores of a run on volumes: which of their cases are trained on, which published ones are missing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from covidct.errors import InputError
from covidct.files import read_json, write_text
from covidct.run.claims import given
from covidct.run.results import SOURCES
from covidct.sets.splits import DIVIDED, source_split
from covidct.store.store import CaseStore, Store, open_store

# Names that a line lists.
LISTED = 5


@dataclass(frozen=True)
class Source:
    """A store, its cases that are trained on, and the published training cases of its set that it lacks."""

    folder: Path
    dataset: str
    cases: tuple[CaseStore, ...]
    missing: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for the screen."""
        if not self.missing:
            return f"{self.dataset}: {len(self.cases)} {'case' if len(self.cases) == 1 else 'cases'}"
        names = ", ".join(self.missing[:LISTED]) + (", ..." if len(self.missing) > LISTED else "")
        published = len(self.cases) + len(self.missing)
        return (
            f"{self.dataset}: {len(self.cases)} of the {published} published training cases; {self.folder} lacks "
            f"{len(self.missing)}: {names}"
        )


@dataclass(frozen=True)
class Kept:
    """What sources.json says of a source that a run must not go on without."""

    dataset: str
    cases: list[str]


def read_sources(
    folders: Sequence[Path], target: Store, tested: set[str], *, phantoms: bool = False, unlabelled: bool = False
) -> tuple[Source, ...]:
    """The sources of a run whose target has the store `target` and is tested on the volumes `tested`.

    phantoms: the sources are phantoms, of which there are few: no published case is missing then.
    unlabelled: cases without masks count as well.

    Raises InputError if one is given twice, would show the fold's test volumes, is on another grid than the target,
    or holds no case to train on.
    """
    places = [given(folder) for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"--source {place} is given twice; leave one out")
    return tuple(_read(folder, target, tested, phantoms, unlabelled) for folder in folders)


def _read(folder: Path, target: Store, tested: set[str], phantoms: bool, unlabelled: bool) -> Source:
    store = open_store(folder)
    _check(store, target, tested)
    published = source_split(store.settings.dataset)[0] if store.settings.dataset in DIVIDED else None
    known = [case for case in store.cases if case.labelled or unlabelled]
    cases = tuple(case for case in known if published is None or case.name in published)
    if not cases:
        raise InputError(f"--source {folder} holds no labelled case to train on; look at what prepare.py said of it")
    there = {case.name for case in cases}
    missing = () if phantoms or published is None else tuple(name for name in published if name not in there)
    return Source(folder, store.settings.dataset, cases, missing)


def _check(store: Store, target: Store, tested: set[str]) -> None:
    folder = store.root
    if store.settings.dataset == target.settings.dataset:
        raise InputError(
            f"--source {folder} is a store of {store.settings.dataset}, the target itself, whose test volumes would be "
            "trained on; give stores of other lesions"
        )
    leaked = [case.name for case in store.cases if case.name in tested]
    if leaked:
        raise InputError(
            f"--source {folder} holds {leaked[0]}, which this fold is tested on; give stores of other lesions"
        )
    if store.settings.spacing != target.settings.spacing:
        raise InputError(
            f"--source {folder} has voxels of {store.settings.spacing} mm (z y x), the target's store {target.root} "
            f"has {target.settings.spacing}; prepare it again with prepare.py ... --like {target.root}"
        )


def keep_sources(run: Path, sources: Sequence[Source]) -> None:
    """Write which cases are trained on, and which are missing, to `run`/sources.json; nothing if there is no source.

    InputError if the file is there with other cases: a store has changed since the run began.
    """
    if not sources:
        return
    path = run / SOURCES
    before = _kept(path)
    now = [Kept(source.dataset, [case.name for case in source.cases]) for source in sources]
    if before is not None and before != now:
        raise InputError(
            f"{path} lists other cases than the sources of the run hold now; put the stores back as they were, or "
            "start another run"
        )
    places = [{"folder": str(source.folder), "missing": list(source.missing)} for source in sources]
    content = [asdict(one) | other for one, other in zip(now, places, strict=True)]
    write_text(path, json.dumps(content, indent=2) + "\n")


def _kept(path: Path) -> list[Kept] | None:
    """What the file `path` says; None if it is not there, or damaged: then it is written anew."""
    try:
        return read_json(path, list[Kept], fix="") or None
    except InputError:
        return None
