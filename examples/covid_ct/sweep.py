"""All runs of a table of the paper, or of a study, by one command. `python sweep.py --help` lists the arguments."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from covidct.errors import exit_on_input_error, print_error
from covidct.files import writing
from covidct.progress import stages_shown
from covidct.results import wing_of
from covidct.run.lock import locked
from covidct.run.plan import PRETRAIN, Training
from covidct.run.study import read_study
from covidct.run.study_scores import SCORES, collect, write_scores
from covidct.store.preparation import usable_processors
from covidct.sweep.arguments import Arguments, make_plan
from covidct.sweep.display import Display
from covidct.sweep.schedule import State, carry_out
from covidct.sweep.workers import DebugWorkers, LocalWorkers, Place, SlurmWorkers, Workers
from rich.console import Console

FILE_WIDTH = 120
TRAIN = Path(__file__).with_name("train.py")


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    with stages_shown(console) as stages:
        made, notes = make_plan(arguments, stages)
    place = Place(arguments.root, TRAIN)
    with writing(f"--output {arguments.root}"):
        place.own.mkdir(parents=True, exist_ok=True)
    with locked(place.own, busy="is used"):
        workers, at_once = _workers(arguments, place, len(made.trainings))
        for note in (*notes, f"{arguments.title}: {len(made.trainings)} runs in {arguments.root}"):
            console.print(note, soft_wrap=True)
        state = _carry_out(made.trainings, place, workers, at_once, console)
    _conclude(arguments, state, made.trainings, console)
    if state.failed:
        sys.exit(2)


def _workers(arguments: Arguments, place: Place, count: int) -> tuple[Workers, int]:
    """Who carries the runs out, and how many at a time."""
    if arguments.cluster == "debug":
        return DebugWorkers(place), 1
    if arguments.cluster == "slurm":
        return SlurmWorkers(place, _asked(arguments)), arguments.at_once or count
    devices = _devices()
    return LocalWorkers(place, devices), arguments.at_once or len(devices) or usable_processors()


def _asked(arguments: Arguments) -> dict[str, Any]:
    """What every job asks Slurm for, as submitit names it."""
    asked: dict[str, Any] = {"nodes": 1, "ntasks_per_node": 1, "time": round(60 * arguments.hours)}
    asked |= {"gpus_per_node": arguments.gpus, "cpus_per_task": arguments.cpus}
    return asked if arguments.partition is None else asked | {"partition": arguments.partition}


def _devices() -> Sequence[str]:
    """CUDA's devices, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _carry_out(trainings: Sequence[Training], place: Place, workers: Workers, at_once: int, console: Console) -> State:
    display = Display(console, place.root, len(trainings))
    try:
        with display:
            return carry_out(trainings, place.root, workers, at_once, display.show)
    except KeyboardInterrupt:
        console.print("Interrupted; stopping what runs ...")
        workers.stop()
        command = shlex.join(["python", *sys.argv])
        console.print(
            f"What is finished, and every run's last checkpoint, is kept. To go on: {command}", soft_wrap=True
        )
        sys.exit(130)


def _conclude(arguments: Arguments, state: State, trainings: Sequence[Training], console: Console) -> None:
    console.print(f"{len(state.finished)} of {len(trainings)} runs are finished.")
    for run, why in state.failed.items():
        print_error(f"{run}: {why}")
    if state.failed:
        console.print("What failed goes on with the same command, once its fault is mended.")
    if arguments.study is not None:
        _conclude_study(arguments, arguments.study, console)
        return
    tested = [one.run for one in trainings if one.run in state.finished and f"-{PRETRAIN}-" not in one.run]
    if tested:
        report = ["python", str(Path(sys.argv[0]).with_name("report.py"))]
        runs = [str(arguments.root / run) for run in tested] if state.failed else [f"{arguments.root}/*"]
        console.print(f"The table: {' '.join([*report, *runs])} --table {arguments.table}", soft_wrap=True)


def _conclude_study(arguments: Arguments, path: Path, console: Console) -> None:
    """Write the scores of all runs that are finished, those of earlier calls among them, to one file."""
    scores = collect(arguments.root, read_study(path), lambda dataset: wing_of(dataset).IMAGES)
    table = arguments.root / SCORES
    write_scores(table, scores)
    report = f"python {Path(sys.argv[0]).with_name('report.py')} {table} --study {path}"
    console.print(f"Every slice's score: {table}. The table: {report}", soft_wrap=True)


if __name__ == "__main__":
    exit_on_input_error(main)
