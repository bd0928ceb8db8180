"""Scores of volumes as files and tables: metrics.json and metrics.csv of a run, and the row over its folds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from covidct.files import read_json
from covidct.run.config import Config
from covidct.run.results import CSV, JSON, Failed, heading, without_nan, write_tables
from covidct.run.statistics import Summary, over_cases, summarise
from covidct.volumes.evaluation import ScoredVolume
from covidct.volumes.metrics import MEASURES
from covidct.volumes.segmentation import Settings


@dataclass(frozen=True)
class KeptSummary:
    """`Summary` in metrics.json: JSON has None for NaN."""

    mean: float | None
    deviation: float | None
    empty: int


def _complete(summary: dict[str, KeptSummary]) -> dict[str, KeptSummary]:
    if absent := [name for name in MEASURES if name not in summary]:
        raise ValueError(f"lacks {', '.join(absent)}")
    return summary


@dataclass(frozen=True)
class KeptVolume:
    """A volume in metrics.json; `dsc` is None where neither truth nor prediction has a lesion."""

    name: str
    dsc: float | None


@dataclass(frozen=True)
class VolumeMetrics:
    """Of metrics.json, what is read again."""

    count: int
    volumes: list[KeptVolume]
    summary: Annotated[dict[str, KeptSummary], AfterValidator(_complete)]
    failed: tuple[Failed, ...] = ()


def read_volume_metrics(run: Path) -> VolumeMetrics:
    """What metrics.json of a run says; InputError if it is missing or damaged."""
    return read_json(run / JSON, VolumeMetrics, fix=f"write it with evaluate.py {run}")


def write_volume_metrics(
    output: Path,
    scored: Sequence[ScoredVolume],
    failed: Sequence[Failed],
    config: Config,
    settings: Settings,
    *,
    data: Path | None = None,
    by_patient: bool = False,
) -> None:
    """Write metrics.json and metrics.csv, each whole or not at all; InputError if that is impossible."""
    content = heading(config, data) | {
        "by_patient": by_patient,
        "inference": asdict(settings),
        "count": len(scored),
        "empty_truths": sum(item.scores.truth_ml == 0 for item in scored),
        "empty_predictions": sum(item.scores.predicted_ml == 0 for item in scored),
        "summary": as_json(summaries(scored)),
        "volumes": [_facts(item) for item in scored],
        "failed": [asdict(item) for item in failed],
    }
    rows = [_facts(item) | protocol(settings, by_patient=by_patient) for item in scored]
    write_tables(output / JSON, content, output / CSV, rows)


def protocol(settings: Settings, *, by_patient: bool) -> dict[str, Any]:
    """Cells of a row that tell how its scores came about: not all are of the published protocol."""
    return {"by_patient": by_patient, "region": settings.region, "flips": settings.flips}


def summaries(scored: Sequence[ScoredVolume]) -> dict[str, Summary]:
    """Mean and deviation of every measure over volumes."""
    return {name: summarise([getattr(item.scores, name) for item in scored]) for name in MEASURES}


@dataclass(frozen=True)
class FoldTable:
    """A row of Tables III and IV: by measure, the mean of every fold, and over all (fold, case) evaluations.

    `cases`: over cases, whose evaluations in several folds are averaged first.
    """

    folds: dict[int, dict[str, Summary]]
    all: dict[str, Summary]
    cases: dict[str, Summary]


def join_folds(folds: dict[int, Sequence[ScoredVolume]]) -> FoldTable:
    """The five-fold row of runs that differ in their fold alone, fold -> its scored test volumes."""
    everything = [item for fold in sorted(folds) for item in folds[fold]]
    return FoldTable(
        folds={fold: summaries(folds[fold]) for fold in sorted(folds)},
        all=summaries(everything),
        cases={name: over_cases([(item.name, getattr(item.scores, name)) for item in everything]) for name in MEASURES},
    )


def as_json(found: dict[str, Summary]) -> dict[str, dict[str, Any]]:
    """Summaries by measure for JSON."""
    return {name: without_nan(asdict(summary)) for name, summary in found.items()}


def _facts(item: ScoredVolume) -> dict[str, Any]:
    z, y, x = item.spacing
    return {
        "name": item.name,
        "patient": item.patient,
        "spacing_z": z,
        "spacing_y": y,
        "spacing_x": x,
    } | without_nan(asdict(item.scores))
