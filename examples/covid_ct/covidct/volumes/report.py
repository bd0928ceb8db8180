"""Tables over runs on volumes: one row a run, or the five-fold rows of Tables III and IV."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from covidct.errors import InputError
from covidct.run.config import FOLDS, Config
from covidct.run.groups import groups, label, names
from covidct.run.statistics import Summary, counted, number, spread
from covidct.volumes.evaluation import Failed, ScoredVolume
from covidct.volumes.metrics import MEASURES
from covidct.volumes.segmentation import Settings
from covidct.volumes.tables import FoldTable, join_folds, protocol, summaries, summary_json, write_tables

TITLES = {"dsc": "DSC", "nsd": "NSD at 3 mm"}
FOLDS_JSON, FOLDS_CSV = "folds.json", "folds.csv"


@dataclass(frozen=True)
class EvaluatedVolumes:
    """One run and its scores by the inference `settings`."""

    run: Path
    config: Config
    settings: Settings
    volumes: list[ScoredVolume]
    failed: list[Failed] = field(default_factory=list)


@dataclass(frozen=True)
class FoldRow:
    """A method and seed over its folds, which have the same inference `settings`."""

    label: str
    method: str
    seed: int
    settings: Settings
    runs: dict[int, Path]
    table: FoldTable
    missing: tuple[str, ...] = ()


def fold_rows(evaluated: Sequence[EvaluatedVolumes]) -> list[FoldRow]:
    """A row for every method and seed; InputError if one of its runs has no scored volume."""
    rows = []
    for group in groups(evaluated):
        for seed in sorted({one.config.seed for one in group}):
            runs = {one.config.fold: one for one in group if one.config.seed == seed and one.config.fold is not None}
            for one in runs.values():
                if not one.volumes:
                    raise InputError(f"{one.run} has no volume that could be scored; see the errors above")
            rows.append(
                FoldRow(
                    label=f"{label(group[0], evaluated)}, seed {seed}",
                    method=group[0].config.method,
                    seed=seed,
                    settings=group[0].settings,
                    runs={fold: runs[fold].run for fold in sorted(runs)},
                    table=join_folds({fold: one.volumes for fold, one in runs.items()}),
                    missing=_missing(runs),
                )
            )
    return rows


def _missing(runs: dict[int, EvaluatedVolumes]) -> tuple[str, ...]:
    """What keeps a row from being over all evaluations of all folds, one text each."""
    folds = [f"fold {fold} is missing" for fold in range(FOLDS) if fold not in runs]
    return (*folds, *(f"fold {fold} lacks {item.name}" for fold in sorted(runs) for item in runs[fold].failed))


def show_folds(rows: Sequence[FoldRow]) -> Table:
    """The five-fold table: by measure, the mean of every fold, then mean±deviation of all evaluations and of cases."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for fold in range(FOLDS):
        table.add_column(f"fold {fold}", justify="right", no_wrap=True)
    for title in ("all", "n", "by case", "n"):
        table.add_column(title, justify="right", no_wrap=True)
    for name in MEASURES:
        table.add_row(TITLES[name], style="bold")
        for row in rows:
            folds = [row.table.folds[fold][name] if fold in row.table.folds else None for fold in range(FOLDS)]
            means = ["-" if found is None else number(found.mean) for found in folds]
            every, cases = row.table.all[name], row.table.cases[name]
            table.add_row(f" {row.label}", *means, spread(every), counted(every), spread(cases), counted(cases))
        table.add_section()
    lines = [f"incomplete: {row.label}: {', '.join(row.missing)}" for row in rows if row.missing]
    if lines:
        table.caption = Text("\n".join(lines))
    return table


def show_runs(evaluated: Sequence[EvaluatedVolumes]) -> Table:
    """A row for every run: mean±deviation over its volumes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for title in ("n", *TITLES.values()):
        table.add_column(title, justify="right", no_wrap=True)
    titles = names([one.run for one in evaluated])
    for one in evaluated:
        found = summaries(one.volumes)
        table.add_row(titles[one.run], counted(found["dsc"]), *(spread(found[name]) for name in MEASURES))
    return table


def write_folds(folder: Path, rows: Sequence[FoldRow], *, by_patient: bool = False) -> None:
    """Write folds.json and folds.csv into `folder`, each whole or not at all."""
    content = [
        {
            "label": row.label,
            "method": row.method,
            "seed": row.seed,
            "by_patient": by_patient,
            "inference": asdict(row.settings),
            "missing": list(row.missing),
            "runs": {str(fold): str(run) for fold, run in row.runs.items()},
            "folds": {str(fold): _json(found) for fold, found in row.table.folds.items()},
            "all": _json(row.table.all),
            "by_case": _json(row.table.cases),
        }
        for row in rows
    ]
    cells = [_csv(row) | protocol(row.settings, by_patient=by_patient) for row in rows]
    write_tables(folder / FOLDS_JSON, content, folder / FOLDS_CSV, cells)


def _json(found: dict[str, Summary]) -> dict[str, Any]:
    return {name: summary_json(summary) for name, summary in found.items()}


def _csv(row: FoldRow) -> dict[str, Any]:
    cells: dict[str, Any] = {"method": row.method, "seed": row.seed, "label": row.label}
    for name in MEASURES:
        for fold in range(FOLDS):
            cells[f"{name}_fold{fold}"] = (
                _json(row.table.folds[fold])[name]["mean"] if fold in row.table.folds else None
            )
        for where, found in (("all", row.table.all), ("by_case", row.table.cases)):
            cells |= {f"{name}_{where}_{part}": value for part, value in summary_json(found[name]).items()}
    return cells
