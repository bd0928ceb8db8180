"""After a training on volumes: weights, evaluation, pictures, and what the screen says about them."""

from collections.abc import Sequence
from math import isnan
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from covidct.ct.volume import VolumeCase, load_mask, load_volume
from covidct.errors import InputError, print_error
from covidct.progress import work_shown
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.volumes.data import VolumeData
from covidct.volumes.evaluation import Failed, ScoredVolume, predicted_mask, score_volumes, unusable
from covidct.volumes.figures import draw_lesions
from covidct.volumes.report import TITLES
from covidct.volumes.segmentation import Settings, settings_of, with_lungs
from covidct.volumes.tables import read_volume_metrics, write_volume_metrics


def check_test_volumes(cases: Sequence[VolumeCase], console: Console) -> None:
    """Say which test volumes have faulty files, before a training of days; InputError if all of them have."""
    with console.status("looking at the test volumes"):
        failed = unusable(cases)
    _show_errors(failed, console)
    if failed and len(failed) == len(cases):
        raise InputError(f"none of the {len(failed)} test volumes can be used; see the errors above")
    if failed:
        console.print(f"{len(failed)} of {len(cases)} test volumes will not be scored, unless they are mended by then")


def score_and_draw(run: Path, config: Config, model: nn.Module, data: VolumeData, console: Console) -> None:
    """Score the model on the fold's test volumes, and draw one of them."""
    settings = settings_of(config, on_cpu=next(model.parameters()).device.type == "cpu")
    with work_shown(console, "evaluating") as show:
        scored, failed = score_volumes(run, model, data.plan, data.test, settings, progress=show)
    _show_errors(failed, console)
    if not scored:
        raise InputError(f"none of the {len(failed)} test volumes could be scored; see the errors above")
    _draw_typical(run, data, scored, settings)
    write_volume_metrics(run, scored, failed, config, settings)


def show_volume_result(run: Path, config: Config, console: Console) -> None:
    """Print the means of metrics.json and where everything lies."""
    metrics = read_volume_metrics(run)
    table = Table(
        title=f"{config.method} on {config.dataset}, fold {config.fold}: {metrics.count} test volumes",
        caption=f"preset {config.preset}, {config.steps} steps, seed {config.seed}, "
        f"relation reduction {config.relation_reduction}",
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
    console.print(f"Everything is in {run}", soft_wrap=True, highlight=False)


def failed_volumes(run: Path, config: Config) -> list[str]:
    """Names of the test volumes that a finished run could not score; none for slices or where nothing is tested."""
    if config.axes == 2 or system(config.method).on_source:
        return []
    return [item.name for item in read_volume_metrics(run).failed]


def _show_errors(failed: Sequence[Failed], console: Console) -> None:
    for item in failed:
        print_error(f"{item.name}: {item.message}", console)


def _draw_typical(run: Path, data: VolumeData, scored: list[ScoredVolume], settings: Settings) -> None:
    """The volume of median Dice, neither the best nor the worst; empty ones, which have none, come first."""
    ordered = sorted(scored, key=lambda item: (-1.0 if isnan(item.scores.dsc) else item.scores.dsc, item.name))
    typical = ordered[len(ordered) // 2]
    case = next(case for case in data.test if case.name == typical.name)
    volume = load_volume(with_lungs(case, settings))
    mask = load_mask(predicted_mask(run, case), volume)
    title = f"{typical.name}: DSC {typical.scores.dsc:.3f}, the median of {len(scored)} test volumes"
    draw_lesions(run / "predictions.png", volume.image, mask, volume.spacing, truth=volume.mask, title=title)
