"""What a run is: one frozen dataclass, and its JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, with_config

from covidct.errors import InputError
from covidct.files import faults_of, parse_json, read_json
from covidct.run.precision import PRECISIONS
from covidct.sets.splits import FOLDS
from relcons.functional import Reduction

# What presets share: those of minutes or hours, and the paper's.
SHORT: dict[str, Any] = {"resize": False, "flips": False, "log_every": 10, "checkpoint_every": 100, "workers": 1}
LONG: dict[str, Any] = {
    **{"steps": 250_000, "batch_size": 2, "resize": False, "precision": "16", "flips": True, "workers": 8},
    **{"log_every": 250, "relations_every": 5000, "checkpoint_every": 1000},
}
# Older runs have none of these.
YOUNGER = {
    *("strides", "kernel_sizes", "init", "store"),
    *("relation_levels", "fuse_levels", "fusion", "route", "width"),
    *("optimizer", "schedule", "augmentation", "unit_input", "scales", "clip_value", "variant", "imagenet"),
    *("unlabelled", "source_cases", "target_cases", "pseudo_group", "pseudo_epochs", "pseudo_groups"),
    *("hidden_block", "hidden_share", "anchor", "hidden_steps", "ema", "target_draw", "general_rate"),
    "source_policy",
    *("images", "masks", "labels", "patients"),
}
# Older runs have one peak for both terms.
PEAK, PEAKS = "relation_peak", ("relation_peak_general", "relation_peak_target")
# Options of train.py that have not the name of their field.
OPTIONS = {
    "relation_reduction": "--reduction",
    "relation_peak_general": "--peak-general",
    "relation_peak_target": "--peak-target",
    "relation_power": "--ramp-power",
    "relation_levels": "--levels",
    "hidden_block": "--hidden-block",
    "hidden_share": "--hidden-share",
}


def _fold(value: int | None) -> int | None:
    if value is not None and not 0 <= value < FOLDS:
        raise ValueError(f"must be 0 to {FOLDS - 1}, got {value}; leave it out for the published split")
    return value


def _one_of(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, got {value!r}")
        return value

    return AfterValidator(check)


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, got {value}")
    return value


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Odd = Annotated[Count, AfterValidator(_odd)]
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@with_config(STRICT)
@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result. The device is not among it.

    `size` is the network's input (height, width), of volumes (depth, height, width). With `resize` every slice is
    resized to it; without, training takes padded patches of it and inference slides a window. `batch_size` counts per
    stream (target, source) and process. `fold` None is the published split. `split_seed` draws the folds and stays the
    same for all `seed`s. `strides` and `kernel_sizes` are the network's per stage and axis; empty: 2 and 3. `init` is
    the run whose weights training starts from; empty: random ones. What the paper leaves open and its own choice, the
    default: `relation_*`, `fuse_levels` (empty: the method's own), `fusion`, `route`, and `width`, a factor on
    `features_per_stage` that makes a plain network as large as one of two encoders. Of volumes, `data` is the published
    set, `store` what prepare.py made of it, and `source` are stores. Of phantoms all three may be empty: theirs are
    where the cache is. `unlabelled` is a folder; empty: the data set's own. `source_cases` and `target_cases` are how
    many slices are drawn (by `split_seed`); None: all. `imagenet` is a file of ImageNet weights, or "timm", which
    downloads them; empty: none. `scales` are what every batch is trained at in turn, a step each, in parts of `size`;
    `unit_input` are slices in 0 to 1 instead of z-scored. `clip` bounds the norm of gradients, `clip_value` each entry.
    `anchor` holds the general term to the encoder's start (`relcons.RelationAnchor`).
    Of images of the user's own, `images` and `masks` are folders beside or instead of those in `data`, `labels` the
    mask values that are lesion (empty: all above 0), `patients` tells whose they are (see `patients_of`).
    `general_rate` is the general encoder's learning rate, where L_G alone trains it, as a part of `learning_rate`.
    `ema` is the decay of the average of weights that is kept in the end; 0: the last weights are. `target_draw` is
    which of many draws of `target_cases`.
    `variant` is which of two Inf-Nets. `pseudo_*` are Semi-Inf-Net's groups of unlabelled slices, `hidden_*` the
    squares that are hidden in `reconstruct` and `self-taught`, and for how many steps in the latter. `source_policy` is
    which slice of a scan `source_cases` takes.

    Raises InputError that names every field which is not of its type or out of its range.
    """

    dataset: str
    data: str
    source: tuple[str, ...]
    method: str
    preset: str
    fold: Annotated[int | None, AfterValidator(_fold)]
    seed: Annotated[int, Field(ge=0)]
    steps: Count
    batch_size: Count
    size: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]
    resize: bool
    features_per_stage: Annotated[tuple[Count, ...], Field(min_length=2)]
    precision: Annotated[str, _one_of(*PRECISIONS)]
    flips: bool
    log_every: Count
    relations_every: Count
    checkpoint_every: Count
    workers: Annotated[int, Field(ge=0)]
    split_seed: int = 0
    learning_rate: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    nesterov: bool = True
    weight_decay: NotNegative = 3e-5
    clip: Positive | None = 12.0
    poly: NotNegative = 0.9
    oversample_foreground: Share = 0.33
    relation_reduction: Reduction = "sum"
    relation_peak_general: NotNegative = 0.1
    relation_peak_target: NotNegative = 0.1
    relation_power: Positive = 1.0
    anchor: bool = False
    relation_levels: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    fuse_levels: tuple[int, ...] = ()
    fusion: Literal["concat", "project"] = "concat"
    route: Literal["paper", "joint"] = "paper"
    width: Positive = 1.0
    strides: tuple[tuple[Count, ...], ...] = ()
    kernel_sizes: tuple[tuple[Odd, ...], ...] = ()
    init: str = ""
    store: str = ""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["poly", "inf-net"] = "poly"
    augmentation: Literal["nnunet", "flips", "none"] = "nnunet"
    unit_input: bool = False
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    clip_value: Positive | None = None
    variant: Literal["as_released", "as_described"] = "as_released"
    imagenet: str = ""
    unlabelled: str = ""
    source_cases: Count | None = None
    source_policy: Literal["random", "max_area"] = "random"
    target_cases: Count | None = None
    pseudo_group: Count = 5
    pseudo_epochs: Count = 9
    pseudo_groups: Count | None = None
    hidden_block: Count = 8
    hidden_share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    hidden_steps: Annotated[int, Field(ge=0)] | None = None
    images: str = ""
    masks: str = ""
    labels: tuple[Count, ...] = ()
    patients: str = ""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_draw: Annotated[int, Field(ge=0)] = 0
    general_rate: Positive = 1.0

    def __post_init__(self) -> None:
        try:
            _rules()(**vars(self))
        except ValidationError as error:
            raise InputError(faults_of(error, options=OPTIONS)) from None
        faults = (self._stage_faults() or self._size_faults()) + self._level_faults()
        if self.nesterov and self.momentum == 0:
            faults.append("nesterov must be false where momentum is 0")
        if faults:
            raise InputError("; ".join(faults))

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

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the network's stages."""
        return tuple(max(1, round(self.width * features)) for features in self.features_per_stage)

    def _level_faults(self) -> list[str]:
        stages, faults = len(self.features_per_stage), []
        for name, option in (("relation_levels", "--levels"), ("fuse_levels", "--fuse-levels")):
            given = getattr(self, name)
            if any(not -stages <= level < stages for level in given):
                faults.append(f"{option} must be from {-stages} to {stages - 1}, the encoder's stages; got {given}")
            elif len({level % stages for level in given}) < len(given):
                faults.append(f"{option} names a stage twice: {given}")
        return faults

    def _stage_faults(self) -> list[str]:
        stages, faults = len(self.features_per_stage), []
        for name in ("strides", "kernel_sizes"):
            given = getattr(self, name)
            if given and (len(given) != stages or {len(each) for each in given} != {self.axes}):
                faults.append(
                    f"{name} must have {stages} items, one a stage of features_per_stage, of {self.axes} numbers each, "
                    f"one an axis of size; got {given}"
                )
        return faults

    def _size_faults(self) -> list[str]:
        # Twice at least: instance norm needs two positions at the bottleneck.
        least = [max(divisor, 2 if divisor == 1 else 2 * divisor) for divisor in self.divisors]
        pairs = list(zip(self.size, self.divisors, least, strict=True))
        if any(length < small or length % divisor for length, divisor, small in pairs):
            good = [max(small, round(length / divisor) * divisor) for length, divisor, small in pairs]
            return [
                f"size {_times(self.size)} does not fit a network of {len(self.features_per_stage)} stages: its axes "
                f"must be multiples of {_times(self.divisors)}, at least {_times(least)}; take {_times(good)}"
            ]
        return []


DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Config)}


def _times(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers))


@cache
def _rules() -> type[BaseModel]:
    """The types and ranges of Config's fields, to hold values against without making a Config."""
    hints = get_type_hints(Config, include_extras=True)
    required: dict[str, Any] = {name: (hint, ...) for name, hint in hints.items()}
    rules: type[BaseModel] = create_model("Rules", __config__=STRICT, **required)
    return rules


def read_config(path: Path) -> Config:
    """The config that `path` (a run's config.json) holds; InputError if it is missing or not one."""
    fix = "put it back as train.py wrote it, or train again"
    missing = f"{path.parent} is not a run folder written by train.py"
    saved = upgraded(read_json(path, dict[str, Any], fix=fix, missing=missing))
    present = saved.keys()
    names = {field.name for field in fields(Config)}
    # Also those that have a default: a run of other values would go on with them in silence.
    unknown, absent = sorted(present - names), sorted(names - present - YOUNGER)
    if unknown or absent:
        raise InputError(
            f"{path} does not fit this version of train.py: "
            f"unknown fields {unknown or 'none'}, missing fields {absent or 'none'}; train again with this version"
        )
    return parse_json(json.dumps(saved), Config, str(path), fix)


def upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """What an older version saved of a config, under the names of today."""
    if PEAK not in saved or set(PEAKS) & saved.keys():
        return saved
    return {name: value for name, value in saved.items() if name != PEAK} | dict.fromkeys(PEAKS, saved[PEAK])


def differences(saved: Config, asked: Mapping[str, Any]) -> list[str]:
    """One line a field in which `asked` differs from `saved`."""
    return [
        f"{name} is {getattr(saved, name)!r} in the run, {value!r} was asked for"
        for name, value in asked.items()
        if getattr(saved, name) != value
    ]
