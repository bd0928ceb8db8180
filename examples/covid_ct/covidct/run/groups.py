"""Which runs belong together: those that differ in seed or fold alone."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from covidct.errors import InputError
from covidct.run.claims import given
from covidct.run.config import Config, read_config
from covidct.sets.names import OWN, OWN_VOLUMES
from covidct.sets.splits import FOLDS

# What may differ between runs of one group: whose mean is taken, and what does not change a result.
FREE = {
    *("seed", "fold", "data", "images", "masks", "store"),
    *("workers", "log_every", "relations_every", "checkpoint_every"),
}


class HasConfig(Protocol):
    """A run's results, whatever they are."""

    @property
    def config(self) -> Config: ...


T = TypeVar("T", bound=HasConfig)


def check_folds(runs: Sequence[tuple[Path, Config]]) -> None:
    """InputError unless every run is of a fold, and of another one than the others of its method and seed."""
    taken: dict[str, Path] = {}
    for run, config in runs:
        if config.fold is None:
            raise InputError(f"{run} was trained on the published split; --folds takes runs of --fold 0 to {FOLDS - 1}")
        place = f"{key(config)} {config.seed} {config.fold}"
        if place in taken:
            raise InputError(
                f"{taken[place]} and {run} are both fold {config.fold} of one method and seed; leave one out"
            )
        taken[place] = run


def groups(evaluated: Sequence[T]) -> list[list[T]]:
    """Runs of one method and the same settings, in the order of their first."""
    found: dict[str, list[T]] = {}
    for one in evaluated:
        found.setdefault(key(one.config), []).append(one)
    return list(found.values())


def key(config: Config) -> str:
    """Equal for runs of one group."""
    return repr(_settings(config))


def names(runs: Sequence[Path]) -> dict[Path, str]:
    """The runs' folder names, or whole paths where those repeat."""
    short = {run: given(run).name for run in runs}
    return short if len(set(short.values())) == len(runs) else {run: str(run) for run in runs}


def label(one: HasConfig, evaluated: Sequence[HasConfig]) -> str:
    """The method and whatever else sets its group apart from the method's others on screen."""
    others = [_settings(other.config) for other in evaluated if other.config.method == one.config.method]
    apart = [
        f"{name} {value}"
        for name, value in _settings(one.config).items()
        if name != "method" and any(other[name] != value for other in others)
    ]
    return ", ".join([one.config.method, *apart])


def _settings(config: Config) -> dict[str, Any]:
    """What runs of a group have in common."""
    settings = {name: value for name, value in asdict(config).items() if name not in FREE}
    if config.dataset in (OWN, OWN_VOLUMES):
        # By its name alone it could be any; images of the published sets are the same wherever they lie.
        settings["data"] = config.data or config.images
    return settings | {"init": _start(config.init)} if config.init else settings


def _start(init: str) -> str:
    """What a run started from, without the fold and seed of it: each fold starts from a run of its own."""
    try:
        first = read_config(Path(init) / "config.json")
    except InputError:
        # The folder has gone; its name is what is left of it.
        return init
    sources = " + ".join(Path(folder).name for folder in first.source) or f"sources of {first.dataset}"
    return f"{first.method} on {sources}, {first.steps} steps"
