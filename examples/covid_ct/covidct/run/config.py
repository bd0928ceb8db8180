"""What a run is: one frozen dataclass, and its JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from covidct.errors import InputError
from covidct.run.precision import PRECISIONS
from covidct.sets.splits import FOLDS

# What presets share: those of minutes or hours, and the paper's.
SHORT: dict[str, Any] = {"resize": False, "flips": False, "log_every": 10, "checkpoint_every": 100, "workers": 1}
LONG: dict[str, Any] = {
    **{"steps": 250_000, "batch_size": 2, "resize": False, "precision": "16", "flips": True, "workers": 8},
    **{"log_every": 250, "relations_every": 5000, "checkpoint_every": 1000},
}


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result. The device is not among it.

    `size` is the network's input (height, width), of volumes (depth, height, width). With `resize` every slice is
    resized to it; without, training takes padded patches of it and inference slides a window. `batch_size` counts per
    stream (target, source) and process. `fold` None is the published split. `split_seed` draws the folds and stays the
    same for all `seed`s. `strides` and `kernel_sizes` are the network's per stage and axis; empty: 2 and 3. `init` is
    the run whose weights training starts from, for the methods that start from one. Of volumes, `data` is the published
    set, `store` what prepare.py made of it, and `source` are stores. Of phantoms all three may be empty: theirs are
    where the cache is.
    """

    dataset: str
    data: str
    source: tuple[str, ...]
    method: str
    preset: str
    fold: int | None
    seed: int
    steps: int
    batch_size: int
    size: tuple[int, ...]
    resize: bool
    features_per_stage: tuple[int, ...]
    precision: str
    flips: bool
    log_every: int
    relations_every: int
    checkpoint_every: int
    workers: int
    split_seed: int = 0
    learning_rate: float = 0.01
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5
    clip: float = 12.0
    poly: float = 0.9
    oversample_foreground: float = 0.33
    relation_reduction: str = "row_mean"
    relation_peak: float = 0.1
    relation_power: float = 1.0
    strides: tuple[tuple[int, ...], ...] = ()
    kernel_sizes: tuple[tuple[int, ...], ...] = ()
    init: str = ""
    store: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "relations_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {self.seed}")
        if self.fold is not None and not 0 <= self.fold < FOLDS:
            raise InputError(f"--fold must be 0 to {FOLDS - 1}, got {self.fold}; leave it out for the published split")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        self._check_size()

    def to_json(self) -> str:
        """The text of config.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @property
    def axes(self) -> int:
        """Spatial axes of the network: 2 for slices, 3 for volumes."""
        return len(self.size)

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of the network's input must be a multiple of."""
        if not self.strides:
            return (2 ** (len(self.features_per_stage) - 1),) * self.axes
        return tuple(math.prod(steps) for steps in zip(*self.strides, strict=True))

    def _check_size(self) -> None:
        # Twice at least: instance norm needs two positions at the bottleneck.
        least = [max(divisor, 2 if divisor == 1 else 2 * divisor) for divisor in self.divisors]
        pairs = list(zip(self.size, self.divisors, least, strict=True))
        if any(length < small or length % divisor for length, divisor, small in pairs):
            good = [max(small, round(length / divisor) * divisor) for length, divisor, small in pairs]
            raise InputError(
                f"size {_times(self.size)} does not fit a network of {len(self.features_per_stage)} stages: its axes "
                f"must be multiples of {_times(self.divisors)}, at least {_times(least)}; take {_times(good)}"
            )


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


def read_config(path: Path) -> Config:
    """The config that `path` (a run's config.json) holds; InputError if it is missing or not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {path.parent} is not a run folder written by train.py") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); it should be the config.json of train.py") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}, not the fields of a run's config")
    return _from_json(values, path)


def _from_json(values: Mapping[str, Any], path: Path) -> Config:
    names = {field.name for field in fields(Config)}
    # Runs of the first version have none of these.
    values = {"strides": [], "kernel_sizes": [], "init": "", "store": "", **values}
    unknown, missing = sorted(set(values) - names), sorted(names - set(values))
    if unknown or missing:
        raise InputError(
            f"{path} does not fit this version of train.py: "
            f"unknown fields {unknown or 'none'}, missing fields {missing or 'none'}; train again with this version"
        )
    hints = get_type_hints(Config)
    read = {name: _tuples(value) for name, value in values.items()}
    for name, value in read.items():
        if not _fits(value, hints[name]):
            raise InputError(f"{path}: {name} is {value!r}, not {hints[name]}; train again")
    try:
        return Config(**read)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    # JSON writes 12.0 as 12.0, but a person may write 12; a bool counts as an int for Python only.
    allowed = (int, float) if hint is float else hint
    return isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))


def differences(saved: Config, asked: Mapping[str, Any]) -> list[str]:
    """One line a field in which `asked` differs from `saved`."""
    return [
        f"{name} is {getattr(saved, name)!r} in the run, {value!r} was asked for"
        for name, value in asked.items()
        if getattr(saved, name) != value
    ]
