"""What runs scored, image by image, and what they have in common when they are joined over folds and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covidct.errors import InputError
from covidct.run.config import Config
from covidct.run.paper import ALIKE, HARD, MEASURES, SOFT, Kind
from covidct.run.statistics import summarise

# What metrics.json calls the list of its images.
LISTED: Mapping[Kind, str] = {"volumes": "volumes", "slices": "images"}
# Ways to score an image. Of volumes there is one, the mask at probability 0.5.
MASK = "mask"
PROTOCOLS: Mapping[Kind, tuple[str, ...]] = {"volumes": (MASK,), "slices": (HARD, SOFT, ALIKE)}

# The protocol and the measure.
Score = tuple[str, str]
# One evaluation: the fold (None: the published split), and the name of the slice or volume.
Place = tuple[int | None, str]


@dataclass(frozen=True)
class RunScores:
    """The scores of one finished run on images of a kind.

    values: score -> image -> value, NaN where there was nothing to find and nothing found.
    failed: volumes that could not be scored.
    inference: how they were predicted and chosen.
    named: the settings that its results name.
    """

    run: Path
    config: Config
    kind: Kind
    values: Mapping[Score, Mapping[str, float]]
    failed: tuple[str, ...] = ()
    inference: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, Any] = field(default_factory=dict)


def run_scores(run: Path, config: Config, kind: Kind, content: Mapping[str, Any]) -> RunScores:
    """The scores in `content`, a run's metrics.json; InputError if it is damaged or another run's."""
    for name in ("dataset", "method", "fold", "seed"):
        if content.get(name) != getattr(config, name):
            raise InputError(
                f"{run}: metrics.json is of {name} {content.get(name)}, config.json of {getattr(config, name)}; write "
                f"it anew with evaluate.py {run}"
            )
    try:
        images = {str(image["name"]): _values(image, kind) for image in content[LISTED[kind]]}
        failed = tuple(str(item["name"]) for item in content.get("failed", ()))
        inference = {"by_patient": content["by_patient"], **content["inference"]} if kind == "volumes" else {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run / 'metrics.json'} is damaged ({type(error).__name__}: {error}); write it anew with evaluate.py {run}"
        ) from None
    if not images:
        raise InputError(f"{run} has no scored images; see what evaluate.py {run} says of them")
    if kind == "slices":
        inference = {"flips": content.get("flips", False)}
    # Another device computes in another precision; that is no other protocol.
    inference.pop("precision", None)
    scores = [(protocol, measure) for protocol in PROTOCOLS[kind] for measure in MEASURES[kind]]
    return RunScores(
        run=run,
        config=config,
        kind=kind,
        values={score: {name: found[score] for name, found in images.items()} for score in scores},
        failed=failed,
        inference=inference,
        named={name: value for name, value in content.items() if name != "data" and hasattr(config, name)},
    )


def _values(image: Mapping[str, Any], kind: Kind) -> dict[Score, float]:
    if kind == "volumes":
        return {(MASK, measure): _number(image[measure]) for measure in MEASURES[kind]}
    return {
        (protocol, measure): _number(image[protocol][measure])
        for protocol in PROTOCOLS[kind]
        for measure in MEASURES[kind]
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


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
