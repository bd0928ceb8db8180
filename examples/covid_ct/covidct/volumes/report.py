"""Tables over runs on volumes: one row a run, or the five-fold rows of Tables III and IV."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError, print_error
from covidct.progress import work_shown
from covidct.run.checkpoint import load_run
from covidct.run.claims import given
from covidct.run.config import Config
from covidct.run.groups import groups, label, names
from covidct.run.prediction import best_device
from covidct.run.requests import Evaluation, unused_output
from covidct.run.results import Failed, each_run, make_output, write_tables
from covidct.run.statistics import counted, number, spread
from covidct.sets.splits import FOLDS
from covidct.store.preprocess import Plan
from covidct.volumes.evaluation import ScoredVolume, score_volumes, volume_test_cases
from covidct.volumes.metrics import MEASURES
from covidct.volumes.plan import check_plans, read_plan
from covidct.volumes.segmentation import Settings, settings_of
from covidct.volumes.tables import FoldTable, as_json, join_folds, protocol, summaries, write_volume_metrics

TITLES = {"dsc": "DSC", "nsd": "NSD at 3 mm"}
FOLD_MEANING = (
    "all: mean ± sample standard deviation over all evaluations; by case: each case's folds are averaged first; "
    "empty: neither lesion nor prediction, left out."
)
BY_PATIENT_MEANING = "without scans of the training patients: not the published protocol"
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


def evaluate(runs: Mapping[Path, Config], asked: Evaluation, console: Console) -> int:
    """See `Wing.evaluate`."""
    if asked.output is not None and not asked.folds:
        raise unused_output(asked.output)
    # Everything that can be found wrong before the first volume is computed.
    jobs, unusable = each_run(
        runs, lambda run, config: (read_plan(run), volume_test_cases(config, asked.data, by_patient=asked.by_patient))
    )
    if asked.folds:
        check_plans([(run, runs[run], plan) for run, (plan, _) in jobs.items()])
    if asked.output is not None:
        make_output(asked.output)
    evaluated = [_evaluated(run, runs[run], plan, cases, asked) for run, (plan, cases) in jobs.items()]
    if asked.folds:
        rows = fold_rows(evaluated)
        folder = asked.output or given(evaluated[0].run).parent
        write_folds(folder, rows, by_patient=asked.by_patient)
        console.print(show_folds(rows))
        console.print(f"{FOLD_MEANING} Written to {folder / 'folds.csv'} and folds.json.", soft_wrap=True)
    else:
        console.print(show_runs(evaluated))
        console.print("± is the sample standard deviation over volumes.", soft_wrap=True)
    if asked.by_patient:
        console.print(BY_PATIENT_MEANING, soft_wrap=True)
    return unusable + sum(len(one.failed) for one in evaluated)


def _evaluated(
    run: Path, config: Config, plan: Plan, cases: Sequence[VolumeCase], asked: Evaluation
) -> EvaluatedVolumes:
    """A run, scored; its metrics.json and metrics.csv are written."""
    device, errors = best_device(), Console(stderr=True)
    settings = settings_of(config, device, flips=asked.flips, region=asked.region)
    model = load_run(run)[1].to(device)
    with work_shown(errors, f"evaluating {run.name}") as show_share:
        scored, failed = score_volumes(run, model, plan, cases, settings, progress=show_share)
    for item in failed:
        print_error(item.message, errors)
    write_volume_metrics(run, scored, failed, config, settings, data=asked.data, by_patient=asked.by_patient)
    return EvaluatedVolumes(run, config, settings, scored, failed)


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
            "folds": {str(fold): as_json(found) for fold, found in row.table.folds.items()},
            "all": as_json(row.table.all),
            "by_case": as_json(row.table.cases),
        }
        for row in rows
    ]
    cells = [_csv(row) | protocol(row.settings, by_patient=by_patient) for row in rows]
    write_tables(folder / FOLDS_JSON, content, folder / FOLDS_CSV, cells)


def _csv(row: FoldRow) -> dict[str, Any]:
    cells: dict[str, Any] = {"method": row.method, "seed": row.seed, "label": row.label}
    for name in MEASURES:
        for fold in range(FOLDS):
            cells[f"{name}_fold{fold}"] = (
                as_json(row.table.folds[fold])[name]["mean"] if fold in row.table.folds else None
            )
        for where, found in (("all", row.table.all), ("by_case", row.table.cases)):
            cells |= {f"{name}_{where}_{part}": value for part, value in as_json(found)[name].items()}
    return cells
