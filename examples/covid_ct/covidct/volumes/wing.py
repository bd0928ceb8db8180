"""Volumes as a kind of image that runs train on: see `covidct.training.wing.Wing`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from covidct.ct.volume import VolumeCase, load_mask, load_volume
from covidct.errors import InputError, print_error
from covidct.progress import Stages, work_shown
from covidct.run.checkpoint import has_begun
from covidct.run.config import Config
from covidct.run.prediction import device_of
from covidct.run.results import Failed, settings_line
from covidct.sets.names import COVID_CT_20, PHANTOM_VOLUMES
from covidct.store.phantoms import make_phantom_volumes
from covidct.volumes.comparison import compare as compare
from covidct.volumes.data import VolumeData, read_volume_data
from covidct.volumes.evaluation import predicted_mask, score_volumes, unusable
from covidct.volumes.figures import draw_lesions
from covidct.volumes.plan import check_start, has_plan
from covidct.volumes.prediction import predict as predict
from covidct.volumes.presets import PRESETS as PRESETS
from covidct.volumes.report import TITLES
from covidct.volumes.report import evaluate as evaluate
from covidct.volumes.segmentation import settings_of
from covidct.volumes.tables import read_volume_metrics, write_volume_metrics

IMAGES = "volumes"
PHANTOM = PHANTOM_VOLUMES
DATASETS: tuple[str, ...] = (COVID_CT_20, PHANTOM_VOLUMES)
PREPARED: tuple[str, ...] = (COVID_CT_20,)
AXES = 3
read = read_volume_data
is_whole = has_plan


def make_phantoms(config: Config, stages: Stages, *, training: bool = True) -> None:
    """See `Wing.make_phantoms`; training takes their stores, too."""
    if config.dataset == PHANTOM_VOLUMES:
        make_phantom_volumes(stages, stores=training)


def default_fold(config: Config) -> str | None:
    """See `Wing.default_fold`."""
    return "fold 0 of the five published ones"


def check(run: Path, config: Config, data: VolumeData, console: Console) -> None:
    """See `Wing.check`; also InputError if the run that `config` starts from does not fit."""
    if config.init and not has_begun(run):
        check_start(config, data.plan)
    check_test_volumes(data.test, console)


def check_test_volumes(cases: Sequence[VolumeCase], console: Console) -> None:
    """Say which test volumes have faulty files, before a training of days; InputError if all of them have."""
    with console.status("looking at the test volumes"):
        failed = unusable(cases)
    _show_errors(failed, console)
    if failed and len(failed) == len(cases):
        raise InputError(f"none of the {len(failed)} test volumes can be used; see the errors above")
    if failed:
        console.print(f"{len(failed)} of {len(cases)} test volumes will not be scored, unless they are mended by then")


def score(run: Path, config: Config, model: nn.Module, data: VolumeData, console: Console) -> None:
    """See `Wing.score`; InputError if no test volume could be scored."""
    settings = settings_of(config, device_of(model))
    with work_shown(console, "evaluating") as show_share:
        scored, failed = score_volumes(run, model, data.plan, data.test, settings, progress=show_share)
    _show_errors(failed, console)
    if not scored:
        raise InputError(f"none of the {len(failed)} test volumes could be scored; see the errors above")
    write_volume_metrics(run, scored, failed, config, settings)


def draw(run: Path, config: Config, model: nn.Module, data: VolumeData) -> None:
    """The volume of median Dice, neither the best nor the worst; empty ones, which have none, come first."""
    scored = read_volume_metrics(run).volumes
    ordered = sorted(scored, key=lambda item: (-1.0 if item.dsc is None else item.dsc, item.name))
    typical = ordered[len(ordered) // 2]
    dice = "nan" if typical.dsc is None else f"{typical.dsc:.3f}"
    case = next(case for case in data.test if case.name == typical.name)
    # A fault in a lung mask spoils nothing here.
    volume = load_volume(replace(case, lungs=()))
    mask = load_mask(predicted_mask(run, case), volume)
    title = f"{typical.name}: DSC {dice}, the median of {len(scored)} test volumes"
    draw_lesions(run / "predictions.png", volume.image, mask, volume.spacing, truth=volume.mask, title=title)


def show(run: Path, config: Config, console: Console) -> int:
    """See `Wing.show`; names the volumes that could not be scored."""
    metrics = read_volume_metrics(run)
    table = Table(
        title=f"{config.method} on {config.dataset}, fold {config.fold}: {metrics.count} test volumes",
        caption=settings_line(config),
    )
    for heading in ("measure", "mean", "standard deviation", "left out as empty"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, title in TITLES.items():
        found = metrics.summary[name]
        values = ("-" if value is None else f"{value:.4f}" for value in (found.mean, found.deviation))
        table.add_row(title, *values, str(found.empty))
    console.print(table)
    for item in metrics.failed:
        console.print(f"not scored: {item.name}: {item.message}", soft_wrap=True, markup=False)
    return len(metrics.failed)


def _show_errors(failed: Sequence[Failed], console: Console) -> None:
    for item in failed:
        print_error(f"{item.name}: {item.message}", console)
