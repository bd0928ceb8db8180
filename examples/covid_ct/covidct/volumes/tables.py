"""Scores of volumes as files and tables: metrics.json and metrics.csv of a run, and the row over its folds."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covidct.errors import InputError
from covidct.files import write_text
from covidct.run.config import Config
from covidct.run.statistics import Summary, over_cases, summarise
from covidct.slices.evaluation import CSV, JSON, NAMED
from covidct.volumes.evaluation import Failed, ScoredVolume
from covidct.volumes.metrics import MEASURES
from covidct.volumes.records import without_nan
from covidct.volumes.segmentation import Settings


def write_volume_metrics(
    output: Path,
    scored: Sequence[ScoredVolume],
    failed: Sequence[Failed],
    config: Config,
    settings: Settings,
    *,
    data: str | None = None,
    by_patient: bool = False,
) -> None:
    """Write metrics.json and metrics.csv, each whole or not at all; InputError if that is impossible."""
    content: dict[str, Any] = {name: getattr(config, name) for name in NAMED}
    content |= {
        "data": config.data if data is None else data,
        "by_patient": by_patient,
        "inference": asdict(settings),
        "count": len(scored),
        "empty_truths": sum(item.scores.truth_ml == 0 for item in scored),
        "empty_predictions": sum(item.scores.predicted_ml == 0 for item in scored),
        "summary": {name: without_nan(asdict(summary)) for name, summary in summaries(scored).items()},
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


def write_tables(json_path: Path, content: Any, csv_path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `content` as JSON and `rows` (dicts of the same keys) as CSV; InputError if that is impossible."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _cell(value) for name, value in row.items()} for row in rows])
    try:
        write_text(json_path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_text(csv_path, text.getvalue())
    except OSError as error:
        raise InputError(
            f"{json_path.parent}: the results cannot be written ({error.strerror}); free space there"
        ) from None


def summary_json(summary: Summary) -> dict[str, Any]:
    """A summary for JSON, which knows no NaN."""
    return without_nan(asdict(summary))


def _facts(item: ScoredVolume) -> dict[str, Any]:
    z, y, x = item.spacing
    return {
        "name": item.name,
        "patient": item.patient,
        "spacing_z": z,
        "spacing_y": y,
        "spacing_x": x,
    } | without_nan(asdict(item.scores))


def _cell(value: Any) -> Any:
    """Numbers with six decimals; empty where a score does not exist."""
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
