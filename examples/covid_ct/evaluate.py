"""Scores of trained runs on their own test slices or volumes: metrics.json of each, and a table."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from covidct.ct.picture import Slice
from covidct.ct.volume import VolumeCase
from covidct.errors import InputError, exit_on_input_error, print_error
from covidct.progress import stages_shown, work_shown
from covidct.run.checkpoint import WEIGHTS, load_run
from covidct.run.config import Config, read_config
from covidct.run.groups import check_folds, check_plans
from covidct.sets.splits import split
from covidct.slices.data import READERS, check_dataset, read_target
from covidct.slices.evaluation import ScoredSlice, best_device, check_writable, make_output, score_slices, write_metrics
from covidct.slices.report import Evaluated, pooled_rows, run_rows, show
from covidct.store.phantoms import make_phantoms
from covidct.store.preprocess import Plan
from covidct.volumes.evaluation import score_volumes, volume_test_cases
from covidct.volumes.plan import read_plan
from covidct.volumes.report import EvaluatedVolumes, fold_rows, show_folds, show_runs, write_folds
from covidct.volumes.segmentation import Region, settings_of
from covidct.volumes.tables import write_volume_metrics
from rich.console import Console

FILE_WIDTH = 120
FOLD_MEANING = (
    "all: mean ± sample standard deviation over all evaluations; by case: each case's folds are averaged first; "
    "empty: neither lesion nor prediction, left out."
)

BY_PATIENT_MEANING = "without scans of the training patients: not the published protocol"


@dataclass(frozen=True)
class Arguments:
    """Score runs on the test images of their fold (or of the published split) and print a table.

    Scores of slices: at_0.5 is the mask at probability 0.5; table_v_hard and table_v_soft are the mean over 256
    thresholds of the paper's Table V, of that mask (as the paper fed it for the nnU-Net family) and of the
    probabilities; max is the best threshold of the mean soft curve.

    Scores of volumes: DSC, and NSD at 3 mm, of the mask at probability 0.5 on the file's own grid. What a run has
    scored already, from the same weights, settings and files, is not computed again. A volume that cannot be used is
    reported, the others are still done, and the exit code is then 2.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders written by train.py; each gets a new metrics.json and metrics.csv."""
    data: Path | None = None
    """Where the data set lies now, if it is not where the run was trained."""
    folds: bool = False
    """Pool the images of runs that differ in nothing but their fold: every evaluation counts once, whatever its fold.
    For volumes this is the five-fold table; folds.json and folds.csv are written, too."""
    flips: bool = False
    """Average over the mirrorings of all axes (runs of presets cpu and paper always do)."""
    region: Region = "body"
    """Volumes only: where windows are laid. body: its box; lungs: the lung masks' box; all: everywhere."""
    by_patient: bool = False
    """Volumes only: leave out the test scan whose patient the run was trained on (folds 2 and 4 have one each)."""
    output: Path | None = None
    """Volumes only: folder of folds.json and folds.csv; the one that holds the first run by default."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    runs = list({run.resolve(): run for run in arguments.runs}.values())
    if not runs:
        raise InputError("no RUN was given; name the run folders to evaluate")
    configs = {run: read_config(run / "config.json") for run in runs}
    if arguments.data is None:
        with stages_shown(Console(stderr=True)) as stages:
            for config in configs.values():
                make_phantoms(config, stages, stores=False)
    volumetric = [run for run, config in configs.items() if config.axes == 3]
    if arguments.output is not None and not (volumetric and arguments.folds):
        raise InputError(f"--output {arguments.output} is for the table of --folds of volumes; leave it out")
    if not volumetric:
        _evaluate_slices(arguments, configs, console)
    elif len(volumetric) == len(runs):
        if _evaluate_volumes(arguments, configs, console):
            sys.exit(2)
    else:
        other = next(run for run in runs if run not in volumetric)
        raise InputError(f"{volumetric[0]} is a run on volumes and {other} one on slices; evaluate them apart")


def _evaluate_slices(arguments: Arguments, configs: Mapping[Path, Config], console: Console) -> None:
    jobs = _check(arguments, configs)
    evaluated = []
    for run, config, slices in jobs:
        flips = arguments.flips or config.flips
        with work_shown(Console(stderr=True), f"evaluating {run.name}") as advance:
            scored = _score(run, slices, flips, advance)
        write_metrics(run, scored, config, flips=flips, data=arguments.data and str(arguments.data))
        evaluated.append(Evaluated(run, config, scored))
    rows, meaning = pooled_rows(evaluated) if arguments.folds else run_rows(evaluated)
    console.print(show(rows))
    if meaning:
        console.print(meaning, soft_wrap=True)


def _evaluate_volumes(arguments: Arguments, configs: Mapping[Path, Config], console: Console) -> int:
    """Scores, table and files of runs on volumes; returns how many volumes could not be scored."""
    if arguments.folds:
        check_folds(list(configs.items()))
    jobs = []
    for run, config in configs.items():
        _check_run(run)
        jobs.append(
            (run, config, read_plan(run), volume_test_cases(config, arguments.data, by_patient=arguments.by_patient))
        )
    if arguments.folds:
        check_plans([(run, config, plan) for run, config, plan, _ in jobs])
    if arguments.output is not None:
        make_output(arguments.output)
    evaluated, failures = [], 0
    for run, config, plan, cases in jobs:
        one = _score_volumes(arguments, run, config, plan, cases)
        failures += len(one.failed)
        evaluated.append(one)
    if arguments.folds:
        rows = fold_rows(evaluated)
        folder = arguments.output or evaluated[0].run.resolve().parent
        write_folds(folder, rows, by_patient=arguments.by_patient)
        console.print(show_folds(rows))
        console.print(f"{FOLD_MEANING} Written to {folder / 'folds.csv'} and folds.json.", soft_wrap=True)
    else:
        console.print(show_runs(evaluated))
        console.print("± is the sample standard deviation over volumes.", soft_wrap=True)
    if arguments.by_patient:
        console.print(BY_PATIENT_MEANING, soft_wrap=True)
    return failures


def _score_volumes(
    arguments: Arguments, run: Path, config: Config, plan: Plan, cases: Sequence[VolumeCase]
) -> EvaluatedVolumes:
    device = best_device()
    settings = settings_of(config, on_cpu=device.type == "cpu", flips=arguments.flips, region=arguments.region)
    model = load_run(run)[1].to(device)
    errors = Console(stderr=True)
    with work_shown(errors, f"evaluating {run.name}") as advance:
        scored, failed = score_volumes(run, model, plan, cases, settings, progress=advance)
    for item in failed:
        print_error(item.message, errors)
    write_volume_metrics(
        run,
        scored,
        failed,
        config,
        settings,
        data=arguments.data and str(arguments.data),
        by_patient=arguments.by_patient,
    )
    return EvaluatedVolumes(run, config, settings, scored, failed)


def _check_run(run: Path) -> None:
    check_writable(run)
    if not (run / WEIGHTS).is_file():
        load_run(run)


def _check(arguments: Arguments, configs: Mapping[Path, Config]) -> list[tuple[Path, Config, tuple[Slice, ...]]]:
    """Everything that can be found wrong before the first slice is computed."""
    jobs = []
    for run, config in configs.items():
        _check_run(run)
        check_dataset(config.dataset)
        data = READERS[config.dataset](arguments.data) if arguments.data else read_target(config)
        jobs.append((run, config, split(data, config.fold, config.split_seed).test))
    if arguments.folds:
        check_folds([(run, config) for run, config, _ in jobs])
    return jobs


def _score(run: Path, slices: Sequence[Slice], flips: bool, advance: Callable[[float], None]) -> list[ScoredSlice]:
    config, model = load_run(run)
    return score_slices(
        *(model.to(best_device()), slices, config), flips=flips, progress=lambda done, total: advance(done / total)
    )


if __name__ == "__main__":
    exit_on_input_error(main)
