"""A picture of a segmented volume: the slices with most lesion."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import NDArray

from covidct.run.figures import OUTCOMES, PURPLE, new_figure, overlay, save_figure

SLICES = 4
# Neighbouring slices show the same lesion: those of the picture are at least this far apart.
APART_MM = 10.0
LESION = {"lesion": PURPLE}


def draw_lesions(
    path: Path,
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    *,
    truth: NDArray[np.bool_] | None = None,
    title: str = "",
) -> Path:
    """Draw the axial slices with most lesion, plain and with the lesion painted in; returns `path`.

    As radiologists look at them: from the feet, the patient's right on the left, the front at the top, with the
    proportions of the voxels. Slices are counted from 0, from the feet. Without lesion it is the middle slice.

    Args:
        path: of the PNG.
        image: (z, y, x) from the feet, the back and the left, grey values 0..255.
        mask: the prediction, likewise.
        spacing: (z, y, x) in mm.
        truth: where it is known: hits, false alarms and misses are told apart, and it counts as lesion, too.
        title: of the whole picture.
    """
    area = (mask if truth is None else mask | truth).sum((1, 2)) * spacing[1] * spacing[2] / 100
    chosen = most_lesion(area, spacing[0])
    figure = new_figure(3.1 * len(chosen) + 0.2, 6.6)
    axes = figure.subplots(2, len(chosen), squeeze=False)
    found, false, missed = OUTCOMES.values()
    for (plain, painted), z in zip(axes.T, chosen, strict=True):
        here = mask[z]
        if truth is None:
            masks = {PURPLE: here}
        else:
            masks = {found: here & truth[z], false: here & ~truth[z], missed: truth[z] & ~here}
        _show(plain, overlay(image[z], {}), spacing)
        _show(painted, overlay(image[z], masks), spacing)
        plain.set_title(f"slice {z}: {area[z]:.1f} cm²" if area[z] else f"slice {z}: no lesion", fontsize="medium")
    patches = [Patch(color=colour, label=name) for name, colour in (LESION if truth is None else OUTCOMES).items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(3, len(chosen)), frameon=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    return save_figure(figure, path)


def most_lesion(area: NDArray[np.floating], step: float, count: int = SLICES) -> list[int]:
    """The slices of largest area, no two closer than 10 mm, from the feet up; the middle one where there is none.

    area: of every slice; step: distance of slices in mm.
    """
    chosen: list[int] = []
    for z in np.argsort(-area, kind="stable"):
        if area[z] == 0 or len(chosen) == count:
            break
        if all(abs(z - other) * step >= APART_MM for other in chosen):
            chosen.append(int(z))
    return sorted(chosen) or [len(area) // 2]


def _show(ax: Axes, picture: NDArray[np.float64], spacing: tuple[float, float, float]) -> None:
    # Rows run from back to front and columns from left to right: both are turned.
    ax.imshow(picture[::-1, ::-1], aspect=spacing[1] / spacing[2], interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for side, x in (("R", 0.02), ("L", 0.98)):
        ax.text(x, 0.5, side, color="white", transform=ax.transAxes, ha="left" if side == "R" else "right", va="center")
