"""Which wing a run belongs to, asked here alone; and what follows training: weights, scores, pictures, a table."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from covidct.errors import InputError
from covidct.run.checkpoint import save_weights
from covidct.run.config import Config
from covidct.run.figures import draw_curves, draw_relations
from covidct.run.folder import result_files
from covidct.run.lock import OWNER, locked
from covidct.run.page import PAGE, try_page
from covidct.run.systems import system
from covidct.slices import wing as slices
from covidct.training.wing import RunData, Wing
from covidct.volumes import wing as volumes

WINGS: tuple[Wing[Any], ...] = (slices, volumes)


def wing_of(dataset: str) -> Wing[Any]:
    """The wing that trains on `dataset`, a config's; InputError if there is none."""
    for wing in WINGS:
        if dataset in wing.DATASETS:
            return wing
    known = ", ".join(name for wing in WINGS for name in wing.DATASETS)
    raise InputError(f"--dataset {dataset!r} is unknown; take one of {known}")


def is_finished(run: Path, config: Config) -> bool:
    """Whether every result is there."""
    whole = all(path.is_file() for path in result_files(run, config))
    return whole and wing_of(config.dataset).is_whole(run)


def finish(run: Path, config: Config, model: nn.Module, data: RunData, console: Console) -> int:
    """Write the weights, score the model on the test images, draw the pictures; shows and returns as `show_result`."""
    save_weights(run, model)
    draw_curves(run)
    chosen, wing = system(config.method), wing_of(config.dataset)
    if chosen.dual:
        draw_relations(run)
    if chosen.tested:
        wing.score(run, config, model, data, console)
        wing.draw(run, config, model, data)
    page = try_page(run, config)
    unscored = show_result(run, config, console)
    console.print(page, soft_wrap=True, highlight=False, markup=False)
    return unscored


def end(run: Path, config: Config) -> None:
    """What a call that was killed behind its last result has left undone: the page, and its name at the lock.

    Where another process holds the lock, or the folder cannot be written, all stays as it is.
    """
    if (run / PAGE).is_file() and not (run / OWNER).exists():
        return
    with suppress(InputError), locked(run):
        if not (run / PAGE).is_file():
            try_page(run, config)


def show_result(run: Path, config: Config, console: Console) -> int:
    """Print the means of metrics.json and where everything lies; returns how many images could not be scored."""
    unscored, where = 0, f"Everything is in {run}"
    if not system(config.method).tested:
        where = f"It is for others to start from (--init), so nothing is tested. {where}"
    else:
        unscored = wing_of(config.dataset).show(run, config, console)
    console.print(where, soft_wrap=True, highlight=False)
    return unscored
