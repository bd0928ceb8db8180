"""The phantoms that runs without data of their own train on: made once, and found wherever the cache is now."""

import json
from collections.abc import Callable
from pathlib import Path

from covidct.errors import InputError
from covidct.files import write_text
from covidct.phantoms.slice_set import MANIFEST, Progress, generated, phantom_root
from covidct.phantoms.volume_set import volume_phantom_root
from covidct.run.config import Config
from covidct.sets.readers import read_volume_set
from covidct.store.preparation import median_spacing, prepare, survey, usable_processors
from covidct.store.store import StoreSettings, begin_store

SLICES, VOLUMES = "phantom", "phantom-volumes"

# Gives the progress of a stage of work that it is told the name of.
Stages = Callable[[str], Progress]


def make_phantoms(config: Config, stages: Stages, *, stores: bool = True) -> None:
    """Make the phantoms that a run takes, if it takes any and they are not there; `stores` of volumes, too."""
    if config.dataset == SLICES:
        phantom_root(progress=stages("generating phantoms"))
    elif config.dataset == VOLUMES:
        root = volume_phantom_root(progress=stages("generating phantom volumes"))
        if stores:
            _prepared(root, stages("preparing phantom volumes"))


def phantom_slices() -> tuple[Path, Path]:
    """Folders of the target slices and of the source volumes."""
    root = phantom_root()
    return root / "target", root / "source"


def phantom_volumes() -> Path:
    """Folder of the target volumes, in the layout of covid-ct-20."""
    return volume_phantom_root() / "target"


def phantom_stores() -> tuple[Path, tuple[Path, ...]]:
    """Stores of the target volumes and of each source."""
    stores = _prepared(volume_phantom_root(), None)
    return stores / "target", (stores / "msd", stores / "nsclc")


def _prepared(root: Path, progress: Progress | None) -> Path:
    """The stores of the phantom volumes in `root`, made beside it on the first call."""
    return generated(root.with_name(f"{root.name}-stores"), lambda folder: _prepare(root, folder, progress))


def _prepare(root: Path, stores: Path, progress: Progress | None) -> None:
    sets = {
        "target": (VOLUMES, root / "target"),
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
