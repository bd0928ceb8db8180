"""What runs scored, image by image, and what they have in common when they are joined over folds and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from covidct.errors import InputError
from covidct.files import read_json
from covidct.run.config import Config
from covidct.run.paper import ALIKE, HARD, MEASURES, SOFT, Kind
from covidct.run.results import JSON
from covidct.run.statistics import summarise

# Ways to score an image. Of volumes there is one, the mask at probability 0.5.
MASK = "mask"
PROTOCOLS: Mapping[Kind, tuple[str, ...]] = {"volumes": (MASK,), "slices": (HARD, SOFT, ALIKE)}

# The protocol and the measure.
Score = tuple[str, str]
# One evaluation: the fold (None: the published split), and the name of the slice or volume.
Place = tuple[int | None, str]


@dataclass(frozen=True)
class _Whose:
    """Of metrics.json, whose it is."""

    dataset: str
    method: str
    fold: int | None
    seed: int


@dataclass(frozen=True)
class _Volume:
    name: str
    dsc: float | None
    nsd: float | None


@dataclass(frozen=True)
class _Failed:
    name: str


@dataclass(frozen=True)
class _Volumes:
    volumes: list[_Volume]
    by_patient: bool
    inference: dict[str, Any]
    failed: tuple[_Failed, ...] = ()


@dataclass(frozen=True)
class _Measures:
    dice: float
    sensitivity: float
    specificity: float
    mae: float


@dataclass(frozen=True)
class _Slice:
    name: str
    table_v_hard: _Measures
    table_v_soft: _Measures
    at_half: Annotated[_Measures, Field(alias=ALIKE)]


@dataclass(frozen=True)
class _Slices:
    images: list[_Slice]
    flips: bool


@dataclass(frozen=True)
class RunScores:
    """The scores of one finished run on images of a kind.

    values: score -> image -> value, NaN where there was nothing to find and nothing found.
    failed: volumes that could not be scored.
    inference: how they were predicted and chosen.
    """

    run: Path
    config: Config
    kind: Kind
    values: Mapping[Score, Mapping[str, float]]
    failed: tuple[str, ...] = ()
    inference: Mapping[str, Any] = field(default_factory=dict)


def read_scores(run: Path, config: Config, kind: Kind) -> RunScores:
    """The scores in a run's metrics.json; InputError if it is missing, damaged or another run's."""
    path, fix = run / JSON, f"write it anew with evaluate.py {run}"
    whose = read_json(path, _Whose, fix=fix)
    for name, found in asdict(whose).items():
        if found != getattr(config, name):
            raise InputError(f"{path} is of {name} {found}, config.json of {getattr(config, name)}; {fix}")
    if kind == "volumes":
        volumes = read_json(path, _Volumes, fix=fix)
        images = {item.name: _of_volume(item) for item in volumes.volumes}
        failed = tuple(item.name for item in volumes.failed)
        # Another device computes in another precision; that is no other protocol.
        settings = {name: value for name, value in volumes.inference.items() if name != "precision"}
        inference = {"by_patient": volumes.by_patient, **settings}
    else:
        slices = read_json(path, _Slices, fix=fix)
        images, failed = {item.name: _of_slice(item) for item in slices.images}, ()
        inference = {"flips": slices.flips}
    if not images:
        raise InputError(f"{path} has no scored {kind}; see what evaluate.py {run} says of them")
    scores = [(protocol, measure) for protocol in PROTOCOLS[kind] for measure in MEASURES[kind]]
    values = {score: {name: found[score] for name, found in images.items()} for score in scores}
    return RunScores(run, config, kind, values, failed, inference)


def _of_volume(item: _Volume) -> dict[Score, float]:
    values = {"dsc": item.dsc, "nsd": item.nsd}
    return {(MASK, measure): float("nan") if value is None else value for measure, value in values.items()}


def _of_slice(item: _Slice) -> dict[Score, float]:
    protocols = {HARD: item.table_v_hard, SOFT: item.table_v_soft, ALIKE: item.at_half}
    return {(name, measure): value for name, found in protocols.items() for measure, value in asdict(found).items()}


def evaluations(runs: Sequence[RunScores], score: Score) -> dict[Place, float]:
    """Every evaluation of a row, its value the mean over the seeds that have one; by fold, then name."""
    found: dict[Place, list[float]] = {}
    for one in runs:
        for name, value in one.values[score].items():
            found.setdefault((one.config.fold, name), []).append(value)
    order = sorted(found, key=lambda place: (-1 if place[0] is None else place[0], place[1]))
    return {place: summarise(found[place]).mean for place in order}


def seed_means(runs: Sequence[RunScores], score: Score) -> list[float]:
    """The mean of every seed over its evaluations; of the seeds with the most folds alone, whose means compare."""
    seeds: dict[int, list[RunScores]] = {}
    for one in runs:
        seeds.setdefault(one.config.seed, []).append(one)
    most = max((len(found) for found in seeds.values()), default=0)
    return [
        summarise([value for one in found for value in one.values[score].values()]).mean
        for _, found in sorted(seeds.items())
        if len(found) == most
    ]
