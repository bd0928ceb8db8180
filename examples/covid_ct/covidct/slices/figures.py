"""predictions.png of a run on slices (Fig. 4 of the paper)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import nn

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.run.config import Config
from covidct.run.figures import OUTCOMES, PURPLE, new_figure, overlay, save_figure
from covidct.run.prediction import binarise
from covidct.slices.evaluation import predict_slice, read_metrics

# Where in the slices, sorted from best to worst Dice, the columns of predictions.png are taken. Of two that fall on the
# same slice, because there are few, the later names it.
CASES = {"upper quartile": 0.25, "lower quartile": 0.75, "median": 0.5, "worst": 1.0, "best": 0.0}
TRUTH = {"lesion (truth)": PURPLE}


def draw_predictions(
    run: Path, model: nn.Module, slices: Sequence[Slice], config: Config, *, flips: bool = False
) -> Path:
    """Draw `run`/predictions.png: image, truth and prediction of the best, the worst and three slices between.

    Args:
        run: with the metrics.json of the same slices, whose Dice at 0.5 chooses among them.
        model, slices, config, flips: as `evaluate` had them.
    """
    dice = {image.name: image.at_half.dice for image in read_metrics(run).images}
    known = [item for item in slices if item.name in dice]
    if not known:
        raise InputError(f"{run / 'metrics.json'} scores other slices than these; run evaluate.py {run} first")
    ranked = sorted(known, key=lambda item: -dice[item.name])
    places = {round(share * (len(ranked) - 1)): label for label, share in CASES.items()}
    figure = new_figure(2.3 * len(places) + 0.3, 7.4)
    axes = figure.subplots(3, len(places), squeeze=False)
    for column, (place, label) in zip(axes.T, sorted(places.items()), strict=True):
        item = ranked[place]
        image, truth = load_slice(item)
        if truth is None:
            raise InputError(f"{item.path} has no mask")
        prediction = binarise(predict_slice(model, image, config, flips=flips, name=str(item.path)))
        _draw_case(column, image, truth, prediction)
        column[0].set_title(f"{label}: slice {item.name}\nDice {dice[item.name]:.3f}", fontsize="medium")
    for ax, name in zip(axes[:, 0], ("image", "truth", "prediction"), strict=True):
        ax.set_ylabel(name)
    patches = [Patch(color=colour, label=name) for name, colour in (TRUTH | OUTCOMES).items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(4, len(places)), frameon=False)
    return save_figure(figure, run / "predictions.png")


def _draw_case(
    column: Sequence[Axes], image: NDArray[np.float32], truth: NDArray[np.bool_], prediction: NDArray[np.bool_]
) -> None:
    found, false, missed = OUTCOMES.values()
    shown: tuple[dict[str, NDArray[np.bool_]], ...] = (
        {},
        {PURPLE: truth},
        {found: truth & prediction, false: prediction & ~truth, missed: truth & ~prediction},
    )
    for ax, masks in zip(column, shown, strict=True):
        ax.imshow(overlay(image, masks), interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
