"""Scores of trained runs on their own test slices: metrics.json of each, and a table."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from covidct.checkpoint import WEIGHTS, load_run
from covidct.config import FOLDS, Config, read_config
from covidct.data.slices import Slice
from covidct.data.splits import split
from covidct.datasets import READERS, check_dataset, read_target
from covidct.errors import InputError, exit_on_input_error
from covidct.evaluation import ScoredSlice, best_device, check_writable, score_slices, write_metrics
from covidct.metrics import MEASURES, PER_IMAGE, Scores, summarise
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

FILE_WIDTH = 120
VARIANTS = (*PER_IMAGE, "max")
# What may differ between runs of one group: whose mean is taken, and what does not change a result.
FREE = {"seed", "fold", "data", "workers", "log_every", "relations_every", "checkpoint_every"}


@dataclass(frozen=True)
class Arguments:
    """Score runs on the test slices of their fold (or of the published split) and print a table.

    Scores: at_0.5 is the mask at probability 0.5; table_v_hard and table_v_soft are the mean over 256 thresholds of
    the paper's Table V, of that mask (as the paper fed it for the nnU-Net family) and of the probabilities; max is the
    best threshold of the mean soft curve.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders written by train.py; each gets a new metrics.json and metrics.csv."""
    data: Path | None = None
    """Where the data set lies now, if it is not where the run was trained."""
    folds: bool = False
    """Pool the slices of runs that differ in nothing but their fold: every slice counts once, whatever its fold."""
    flips: bool = False
    """Average over the four mirrorings (runs of presets cpu and paper always do)."""


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


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    jobs = _check(arguments)
    evaluated = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(len(slices) for _, _, slices in jobs))
        for run, config, slices in jobs:
            progress.update(task, description=escape(run.name))
            flips = arguments.flips or config.flips
            scored = _score(run, slices, flips, lambda *_: progress.advance(task))
            write_metrics(run, scored, config, flips=flips, data=arguments.data and str(arguments.data))
            evaluated.append(Evaluated(run, config, scored))
    rows, meaning = pooled_rows(evaluated) if arguments.folds else run_rows(evaluated)
    console.print(_table(rows))
    if meaning:
        console.print(meaning, soft_wrap=True)


def _check(arguments: Arguments) -> list[tuple[Path, Config, tuple[Slice, ...]]]:
    """Everything that can be found wrong before the first slice is computed."""
    runs = list({run.resolve(): run for run in arguments.runs}.values())
    if not runs:
        raise InputError("no RUN was given; name the run folders to evaluate")
    jobs = []
    for run in runs:
        config = read_config(run / "config.json")
        check_writable(run)
        if not (run / WEIGHTS).is_file():
            load_run(run)
        check_dataset(config.dataset)
        data = READERS[config.dataset](arguments.data) if arguments.data else read_target(config)
        jobs.append((run, config, split(data, config.fold, config.split_seed).test))
    if arguments.folds:
        _check_folds([(run, config) for run, config, _ in jobs])
    return jobs


def _check_folds(runs: Sequence[tuple[Path, Config]]) -> None:
    taken: dict[str, Path] = {}
    for run, config in runs:
        if config.fold is None:
            raise InputError(f"{run} was trained on the published split; --folds takes runs of --fold 0 to {FOLDS - 1}")
        place = f"{_key(config)} {config.seed} {config.fold}"
        if place in taken:
            raise InputError(
                f"{taken[place]} and {run} are both fold {config.fold} of one method and seed; leave one out"
            )
        taken[place] = run


def _score(run: Path, slices: Sequence[Slice], flips: bool, progress: Callable[[int, int], None]) -> list[ScoredSlice]:
    config, model = load_run(run)
    return score_slices(model.to(best_device()), slices, config, flips=flips, progress=progress)


def run_rows(evaluated: Sequence[Evaluated]) -> tuple[list[Row], str]:
    """A row for every run; after runs that differ in seed or fold alone, their mean and standard deviation."""
    rows, repeated = [], False
    names = _names([one.run for one in evaluated])
    for group in _groups(evaluated):
        summaries = [summarise([item.result for item in one.slices]) for one in group]
        rows += [
            Row(names[one.run], str(len(one.slices)), _plain(summary))
            for one, summary in zip(group, summaries, strict=True)
        ]
        if len(group) > 1:
            repeated = True
            rows.append(Row(f"{_label(group[0], evaluated)}: mean of {len(group)} runs", "", _spread(summaries)))
    return rows, "± is the sample standard deviation over runs." if repeated else ""


def pooled_rows(evaluated: Sequence[Evaluated]) -> tuple[list[Row], str]:
    """A row for every method and seed over the slices of all its folds; then the mean over the seeds."""
    rows = []
    for group in _groups(evaluated):
        label, summaries = _label(group[0], evaluated), []
        for seed in sorted({one.config.seed for one in group}):
            runs = sorted((one for one in group if one.config.seed == seed), key=lambda one: one.config.fold or 0)
            pooled = _pool(runs)
            folds = " ".join(str(one.config.fold) for one in runs)
            summaries.append(summarise([item.result for item in pooled]))
            rows.append(Row(f"{label}, seed {seed}, folds {folds}", str(len(pooled)), _over_slices(pooled)))
        if len(summaries) > 1:
            rows.append(Row(f"{label}: mean of {len(summaries)} seeds", "", _spread(summaries)))
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


def _groups(evaluated: Sequence[Evaluated]) -> list[list[Evaluated]]:
    groups: dict[str, list[Evaluated]] = {}
    for one in evaluated:
        groups.setdefault(_key(one.config), []).append(one)
    return list(groups.values())


def _key(config: Config) -> str:
    return repr({name: value for name, value in asdict(config).items() if name not in FREE})


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """The runs' folder names, or whole paths where those repeat."""
    short = {run: run.resolve().name for run in runs}
    return short if len(set(short.values())) == len(runs) else {run: str(run) for run in runs}


def _label(one: Evaluated, evaluated: Sequence[Evaluated]) -> str:
    """The method and whatever else sets its group apart from the method's others on screen."""
    all_values = [asdict(other.config) for other in evaluated if other.config.method == one.config.method]
    apart = [
        f"{name} {value}"
        for name, value in asdict(one.config).items()
        if name not in FREE and name != "method" and any(other[name] != value for other in all_values)
    ]
    return ", ".join([one.config.method, *apart])


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


def _table(rows: Sequence[Row]) -> Table:
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


if __name__ == "__main__":
    exit_on_input_error(main)
