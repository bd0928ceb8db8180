"""What the runs of a study scored, slice by slice, as a CSV file that outlives the runs."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from covidct.errors import InputError
from covidct.files import read_json, write_text, writing
from covidct.run.checkpoint import METRICS, log_lines
from covidct.run.config import read_config
from covidct.run.paper import ALIKE, Kind
from covidct.run.results import JSON
from covidct.run.scores import MASK, read_scores
from covidct.run.study import Study

# What a sweep writes beside the runs.
SCORES = "scores.csv"
NAME = re.compile(r"(?P<system>.+)-labels(?P<labels>\d+|all)-fold(?P<fold>\d+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Scored:
    """One slice as one run segments it. labels: as run names have it; milliseconds: of a training step."""

    system: str
    labels: str
    fold: int
    seed: int
    image: str
    dice: float
    parameters: int
    milliseconds: float


@dataclass(frozen=True)
class _Sized:
    """Of metrics.json, how large the network is."""

    parameters: int


def collect(root: Path, study: Study, kind: Callable[[str], Kind]) -> list[Scored]:
    """The scores of every run of `study` in `root` that is finished; damaged ones raise InputError.

    kind: tells the kind of images by the name of their set. Of volumes the score is their DSC.
    """
    found = []
    for run in sorted(path.parent for path in root.glob(f"*/{JSON}")):
        match = NAME.fullmatch(run.name)
        if match is None or match["system"] not in study.systems:
            continue
        config = read_config(run / "config.json")
        of = kind(config.dataset)
        scores = read_scores(run, config, of).values[(MASK, "dsc") if of == "volumes" else (ALIKE, "dice")]
        sized = read_json(run / JSON, _Sized, fix=f"write it anew with evaluate.py {run}")
        lines = [line for line in log_lines(run / METRICS) if line is not None]
        seconds = float(lines[-1]["seconds"] or 0) if lines else float("nan")
        place: dict[str, Any] = {"system": match["system"], "labels": match["labels"]}
        place |= {"fold": int(match["fold"]), "seed": int(match["seed"]), "parameters": sized.parameters}
        place["milliseconds"] = round(1000 * seconds / config.steps, 1)
        found += [Scored(image=name, dice=round(dice, 6), **place) for name, dice in scores.items()]
    return found


def joined(known: Iterable[Scored], new: Iterable[Scored]) -> list[Scored]:
    """Both, those of `new` in the place of older ones of the same run; in one order, whatever theirs was."""
    fresh = list(new)
    runs = {_run(one) for one in fresh}
    return sorted((*(one for one in known if _run(one) not in runs), *fresh), key=lambda one: (*_run(one), one.image))


def write_scores(path: Path, scores: Sequence[Scored]) -> None:
    """Write `scores` as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Scored)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, scores))
    with writing(path):
        write_text(path, text.getvalue())


def read_csv(path: Path) -> list[Scored]:
    """What `write_scores` has written; InputError if `path` is missing or no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_scored(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a study's scores") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} holds no scores of a study ({error}); give the CSV that sweep.py --study wrote"
        ) from None


def _scored(row: Mapping[str, str]) -> Scored:
    numbers: dict[str, Any] = {name: int(row[name]) for name in ("fold", "seed", "parameters")}
    numbers |= {name: float(row[name]) for name in ("dice", "milliseconds")}
    return Scored(system=row["system"], labels=row["labels"], image=row["image"], **numbers)


def _run(one: Scored) -> tuple[str, str, int, int]:
    return one.system, one.labels, one.seed, one.fold
