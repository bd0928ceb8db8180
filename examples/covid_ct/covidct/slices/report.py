"""Tables over runs on slices: one row a run, or one a method and seed over the slices of all folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from covidct.ct.picture import Slice
from covidct.errors import InputError, print_error
from covidct.progress import work_shown
from covidct.run.checkpoint import load_run
from covidct.run.config import Config
from covidct.run.groups import groups, label, names
from covidct.run.prediction import best_device
from covidct.run.requests import Evaluation, unused_output
from covidct.run.results import Failed, each_run
from covidct.slices.data import slices_to_test
from covidct.slices.evaluation import ScoredSlice, score_slices, write_metrics
from covidct.slices.metrics import MEASURES, PER_IMAGE, Scores, summarise

VARIANTS = (*PER_IMAGE, "max")


@dataclass(frozen=True)
class Evaluated:
    """One run and its scores."""

    run: Path
    config: Config
    slices: list[ScoredSlice]


@dataclass(frozen=True)
class Row:
    """One row of each section of the table; `cells`: variant -> texts in the order of MEASURES."""

    label: str
    count: str
    cells: dict[str, list[str]]


def evaluate(runs: Mapping[Path, Config], asked: Evaluation, console: Console) -> int:
    """See `Wing.evaluate`."""
    if asked.output is not None:
        raise unused_output(asked.output)
    # Everything that can be found wrong before the first slice is computed.
    jobs, failures = each_run(runs, lambda _, config: slices_to_test(config, asked.data))
    evaluated: list[Evaluated] = []
    for run, slices in jobs.items():
        scored, failed = _scored(run, runs[run], slices, asked)
        failures += len(failed)
        if scored:
            evaluated.append(Evaluated(run, runs[run], scored))
    if not evaluated:
        raise InputError("no slice could be scored; see above")
    rows, meaning = pooled_rows(evaluated) if asked.folds else run_rows(evaluated)
    console.print(show(rows))
    if meaning:
        console.print(meaning, soft_wrap=True)
    return failures


def _scored(
    run: Path, config: Config, slices: Sequence[Slice], asked: Evaluation
) -> tuple[list[ScoredSlice], list[Failed]]:
    """The scores of a run's slices; metrics.json and metrics.csv are written unless there are none."""
    flips, errors = asked.flips or config.flips, Console(stderr=True)
    model = load_run(run)[1].to(best_device())
    with work_shown(errors, f"evaluating {run.name}") as show_share:
        scored, failed = score_slices(model, slices, config, flips=flips, progress=show_share)
    for item in failed:
        print_error(item.message, errors)
    if scored:
        write_metrics(run, scored, failed, config, flips=flips, data=asked.data)
    return scored, failed


def run_rows(evaluated: Sequence[Evaluated]) -> tuple[list[Row], str]:
    """A row for every run; after runs that differ in seed or fold alone, their mean and standard deviation."""
    rows, repeated = [], False
    titles = names([one.run for one in evaluated])
    for group in groups(evaluated):
        summaries = [summarise([item.result for item in one.slices]) for one in group]
        rows += [
            Row(titles[one.run], str(len(one.slices)), _plain(summary))
            for one, summary in zip(group, summaries, strict=True)
        ]
        if len(group) > 1:
            repeated = True
            rows.append(Row(f"{label(group[0], evaluated)}: mean of {len(group)} runs", "", _spread(summaries)))
    return rows, "± is the sample standard deviation over runs." if repeated else ""


def pooled_rows(evaluated: Sequence[Evaluated]) -> tuple[list[Row], str]:
    """A row for every method and seed over the slices of all its folds; then the mean over the seeds."""
    rows = []
    for group in groups(evaluated):
        title, summaries = label(group[0], evaluated), []
        for seed in sorted({one.config.seed for one in group}):
            runs = sorted((one for one in group if one.config.seed == seed), key=lambda one: one.config.fold or 0)
            pooled = _pool(runs)
            folds = " ".join(str(one.config.fold) for one in runs)
            summaries.append(summarise([item.result for item in pooled]))
            rows.append(Row(f"{title}, seed {seed}, folds {folds}", str(len(pooled)), _over_slices(pooled)))
        if len(summaries) > 1:
            rows.append(Row(f"{title}: mean of {len(summaries)} seeds", "", _spread(summaries)))
    return rows, "± is the sample standard deviation over slices; in rows of means, over seeds."


def _pool(runs: Sequence[Evaluated]) -> list[ScoredSlice]:
    owners: dict[str, Path] = {}
    for one in runs:
        for item in one.slices:
            if item.name in owners:
                raise InputError(
                    f"slice {item.name} is tested by both {owners[item.name]} and {one.run}; "
                    "folds of one data set do not overlap: give all runs the same --data"
                )
            owners[item.name] = one.run
    return [item for one in runs for item in one.slices]


def _plain(summary: dict[str, Scores]) -> dict[str, list[str]]:
    return {variant: [f"{summary[variant][measure]:.3f}" for measure in MEASURES] for variant in VARIANTS}


def _spread(summaries: Sequence[dict[str, Scores]]) -> dict[str, list[str]]:
    return {
        variant: [_mean_sd([summary[variant][measure] for summary in summaries]) for measure in MEASURES]
        for variant in VARIANTS
    }


def _over_slices(pooled: Sequence[ScoredSlice]) -> dict[str, list[str]]:
    cells = _plain(summarise([item.result for item in pooled]))
    if len(pooled) > 1:
        for variant in PER_IMAGE:
            cells[variant] = [_mean_sd([item.result.scores[variant][m] for item in pooled]) for m in MEASURES]
    return cells


def _mean_sd(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}±{np.std(values, ddof=1):.3f}"


def show(rows: Sequence[Row]) -> Table:
    """One section for each variant of the scores."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("n", justify="right")
    for title in ("Dice", "sensitivity", "specificity", "MAE"):
        table.add_column(title, justify="right", no_wrap=True)
    for variant in VARIANTS:
        table.add_row(Text(variant, style="bold"))
        for row in rows:
            table.add_row(Text(f" {row.label}"), row.count, *row.cells[variant])
        table.add_section()
    return table
