"""Scores of trained runs on their own test slices or volumes: metrics.json of each, and a table."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from covidct.errors import InputError, exit_on_input_error, print_error
from covidct.files import remove_leftovers
from covidct.progress import stages_shown
from covidct.results import wing_of
from covidct.run.checkpoint import WEIGHTS, load_run
from covidct.run.claims import given
from covidct.run.config import Config, read_config
from covidct.run.groups import check_folds
from covidct.run.page import try_page
from covidct.run.requests import Evaluation
from covidct.run.results import check_writable
from covidct.training.wing import Wing
from rich.console import Console

FILE_WIDTH = 120


def main() -> None:
    asked = tyro.cli(Evaluation, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    runs = list({given(run): run for run in asked.runs}.values())
    if not runs:
        raise InputError("no RUN was given; name the run folders to evaluate")
    configs, refused = _usable(runs)
    wing = _wing_of_all(configs)
    if asked.data is None:
        with stages_shown(Console(stderr=True)) as stages:
            for config in configs.values():
                wing.make_phantoms(config, stages, training=False)
    if asked.folds:
        check_folds(list(configs.items()))
    failures = wing.evaluate(configs, asked, console)
    for run, config in configs.items():
        console.print(try_page(run, config), soft_wrap=True, markup=False)
    if refused:
        console.print(f"{len(configs)} of {len(runs)} runs evaluated, {refused} not: see above", soft_wrap=True)
    if failures or refused:
        sys.exit(2)


def _usable(runs: Sequence[Path]) -> tuple[dict[Path, Config], int]:
    """The configs of the runs that can be scored, and how many cannot; these get a line. InputError if all cannot."""
    found: dict[Path, Config] = {}
    faults: list[InputError] = []
    for run in runs:
        try:
            config = read_config(run / "config.json")
            _check_run(run)
        except InputError as error:
            faults.append(error)
        else:
            found[run] = config
    if not found:
        raise faults[0]
    for fault in faults:
        print_error(fault)
    return found, len(faults)


def _wing_of_all(configs: Mapping[Path, Config]) -> Wing[Any]:
    """The wing of all runs; InputError if they are on images of several kinds."""
    (first, wing), *others = ((run, wing_of(config.dataset)) for run, config in configs.items())
    for run, other in others:
        if other is not wing:
            raise InputError(f"{first} is a run on {wing.IMAGES} and {run} one on {other.IMAGES}; evaluate them apart")
    return wing


def _check_run(run: Path) -> None:
    check_writable(run)
    remove_leftovers(run)
    if not (run / WEIGHTS).is_file():
        load_run(run)


if __name__ == "__main__":
    exit_on_input_error(main)
