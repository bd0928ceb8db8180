"""The stores of the phantom volumes: made once, and found wherever the cache is now."""

import json
from pathlib import Path

from covidct.errors import InputError
from covidct.files import write_text
from covidct.phantoms.sets import MANIFEST, Progress, generated
from covidct.phantoms.volume_set import volume_phantom_root
from covidct.progress import Stages
from covidct.sets.names import PHANTOM_VOLUMES
from covidct.sets.readers import read_volume_set
from covidct.store.preparation import median_spacing, prepare, survey, usable_processors
from covidct.store.store import StoreSettings, begin_store


def make_phantom_volumes(stages: Stages, *, stores: bool) -> None:
    """Make the phantom volumes, and with `stores` theirs, unless they are there."""
    root = volume_phantom_root(progress=stages("generating phantom volumes"))
    if stores:
        _prepared(root, stages("preparing phantom volumes"))


def phantom_stores() -> tuple[Path, tuple[Path, ...]]:
    """Stores of the target volumes and of each source."""
    stores = _prepared(volume_phantom_root(), None)
    return stores / "target", (stores / "msd", stores / "nsclc")


def _prepared(root: Path, progress: Progress | None) -> Path:
    """The stores of the phantom volumes in `root`, made beside it on the first call."""
    return generated(root.with_name(f"{root.name}-stores"), lambda folder: _prepare(root, folder, progress))


def _prepare(root: Path, stores: Path, progress: Progress | None) -> None:
    sets = {
        "target": (PHANTOM_VOLUMES, root / "target"),
        "msd": ("msd-lung", root / "source" / "msd"),
        "nsclc": ("nsclc-pe", root / "source" / "nsclc"),
    }
    cases = {name: read_volume_set(dataset, folder).cases for name, (dataset, folder) in sets.items()}
    total, done, spacing = sum(map(len, cases.values())), 0, None
    for name, (dataset, _) in sets.items():
        workers = min(len(cases[name]), usable_processors())
        facts, failures = survey(cases[name], stores / name, workers)
        spacing = spacing or median_spacing(facts.values())
        begin_store(stores / name, StoreSettings(dataset, spacing))
        for outcome in prepare(cases[name], facts, stores / name, spacing, workers):
            if outcome.state == "failed":
                failures[outcome.name] = outcome.message
            done += 1
            if progress is not None:
                progress(done, total)
        for message in failures.values():
            raise InputError(f"{message}; delete {root}, it is generated anew")
    write_text(stores / MANIFEST, json.dumps({"made from": root.name}) + "\n")
