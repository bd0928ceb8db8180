"""After training: weights, evaluation, pictures, and what the screen says about them."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from covidct.progress import work_shown
from covidct.run.checkpoint import save_weights
from covidct.run.config import Config
from covidct.run.figures import draw_curves, draw_predictions, draw_relations
from covidct.run.systems import system
from covidct.slices.data import RunData
from covidct.slices.evaluation import evaluate, read_metrics
from covidct.slices.metrics import MEASURES
from covidct.volumes.data import VolumeData
from covidct.volumes.results import score_and_draw, show_volume_result


def finish(run: Path, config: Config, model: nn.Module, data: RunData, console: Console) -> None:
    """Write the weights, score the model on the test images, draw the pictures, and show the result."""
    save_weights(run, model)
    draw_curves(run)
    if system(config.method).dual:
        draw_relations(run)
    if isinstance(data, VolumeData):
        if data.test:
            score_and_draw(run, config, model, data, console)
    else:
        _score_slices(run, config, model, data, console)
        draw_predictions(run, model, data.test, config, flips=config.flips)
    show_result(run, config, console)


def _score_slices(run: Path, config: Config, model: nn.Module, data: RunData, console: Console) -> None:
    with work_shown(console, "evaluating") as show:
        evaluate(model, data.test, config, run, flips=config.flips, progress=lambda done, total: show(done / total))


def show_result(run: Path, config: Config, console: Console) -> None:
    """Print the means of metrics.json and where everything lies."""
    if system(config.method).on_source:
        console.print(
            f"Trained on the source alone, so nothing is tested. Everything is in {run}",
            soft_wrap=True,
            highlight=False,
        )
        return
    if config.axes == 3:
        show_volume_result(run, config, console)
        return
    metrics = read_metrics(run)
    table = Table(
        title=f"{config.method} on {config.dataset}: means over {len(metrics.images)} test slices",
        caption=f"preset {config.preset}, {config.steps} steps, seed {config.seed}, "
        f"relation reduction {config.relation_reduction}",
    )
    table.add_column("protocol")
    for measure in MEASURES:
        table.add_column(measure, justify="right")
    for protocol, values in metrics.summary.items():
        table.add_row(protocol, *(f"{values[measure]:.4f}" if measure in values else "" for measure in MEASURES))
    console.print(table)
    console.print(f"Everything is in {run}", soft_wrap=True, highlight=False)
