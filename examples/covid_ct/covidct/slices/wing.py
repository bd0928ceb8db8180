"""Slices as a kind of image that runs train on: see `covidct.training.wing.Wing`."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from covidct.ct.picture import check_slices
from covidct.errors import InputError, print_error
from covidct.phantoms.slice_set import phantom_root
from covidct.progress import Stages, work_shown
from covidct.run.config import Config
from covidct.run.results import settings_line
from covidct.run.systems import system
from covidct.sets import names
from covidct.slices.comparison import compare as compare
from covidct.slices.data import SliceData, read_run_data, read_target
from covidct.slices.evaluation import read_metrics, score_slices, write_metrics
from covidct.slices.figures import draw_predictions
from covidct.slices.metrics import MEASURES
from covidct.slices.prediction import predict as predict
from covidct.slices.presets import PRESETS as PRESETS
from covidct.slices.report import evaluate as evaluate

IMAGES = "slices"
PHANTOM = names.PHANTOM
DATASETS: tuple[str, ...] = (PHANTOM, names.COVID_SEMISEG)
PREPARED: tuple[str, ...] = ()
AXES = 2
read = read_run_data


def make_phantoms(config: Config, stages: Stages, *, training: bool = True) -> None:
    """See `Wing.make_phantoms`."""
    if config.dataset == PHANTOM:
        phantom_root(progress=stages("generating phantoms"))


def default_fold(config: Config) -> str | None:
    """See `Wing.default_fold`; phantoms have the slices of the published split, a pre-training takes none of them."""
    if config.dataset == PHANTOM or not system(config.method).tested or read_target(config).test:
        return None
    return "no test slices in the data set: cross-validation, fold 0"


def check(run: Path, config: Config, data: SliceData, console: Console) -> None:
    """Load every slice once; InputError for the first that cannot be used."""
    with console.status("looking at the slices"):
        check_slices((*data.train, *data.test, *data.source, *data.unlabelled))


def score(run: Path, config: Config, model: nn.Module, data: SliceData, console: Console) -> None:
    """See `Wing.score`."""
    with work_shown(console, "evaluating") as show_share:
        scored, failed = score_slices(model, data.test, config, flips=config.flips, progress=show_share)
    for item in failed:
        print_error(item.message, console)
    if not scored:
        raise InputError(f"none of the {len(failed)} test slices could be scored; see the errors above")
    write_metrics(run, scored, failed, config, flips=config.flips)


def draw(run: Path, config: Config, model: nn.Module, data: SliceData) -> None:
    """See `Wing.draw`."""
    draw_predictions(run, model, data.test, config, flips=config.flips)


def show(run: Path, config: Config, console: Console) -> int:
    """See `Wing.show`; names the slices that could not be scored."""
    metrics = read_metrics(run)
    table = Table(
        title=f"{config.method} on {config.dataset}: means over {len(metrics.images)} test slices",
        caption=settings_line(config),
    )
    table.add_column("protocol")
    for measure in MEASURES:
        table.add_column(measure, justify="right")
    for protocol, values in metrics.summary.items():
        table.add_row(protocol, *(f"{values[measure]:.4f}" if measure in values else "" for measure in MEASURES))
    console.print(table)
    for item in metrics.failed:
        console.print(f"not scored: {item.name}: {item.message}", soft_wrap=True, markup=False)
    return len(metrics.failed)


def is_whole(run: Path) -> bool:
    """See `Wing.is_whole`: nothing is kept."""
    return True
