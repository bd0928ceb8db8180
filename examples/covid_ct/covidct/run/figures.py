"""A run's pictures: training curves, relation matrices (Figs. 5 and 6 of the paper), and what others are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from covidct.errors import InputError
from covidct.files import replacing, writing
from covidct.run.checkpoint import LogLine, log_lines
from relcons.plot import plot_relations

PURPLE = "#cc79a7"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
GREY = "#7f7f7f"
COLOURS = {"general": BLUE, "target": ORANGE, "decoder": GREEN, "R_G": BLUE, "R_T": ORANGE}
COLOURS |= {"L_G": BLUE, "L_T": ORANGE, "λ L_G": BLUE, "λ L_T": ORANGE}


@dataclass(frozen=True)
class Panel:
    """Of curves.png: its curves by legend, as keys of metrics.jsonl, and its axis.

    beside: curves that are drawn only where one of the others is there.
    scale: linear, log, or symlog: logarithmic on both sides of 0, and linear up to LINEAR.
    """

    title: str
    curves: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=dict)
    scale: Literal["linear", "log", "symlog"] = "linear"


PANELS = (
    Panel("segmentation loss", {"": "segmentation"}),
    Panel(
        "terms of the loss, as they are added",
        {"λ L_G": "weighted_general", "λ L_T": "weighted_target"},
        beside={"L_seg": "segmentation"},
        scale="symlog",
    ),
    Panel("relation terms, unweighted", {"L_G": "general", "L_T": "target"}),
    Panel(
        "gradient norm before clipping",
        {"general": "grad_norm_general", "target": "grad_norm_target", "decoder": "grad_norm_decoder"},
        scale="log",
    ),
    Panel("effective rank of R (target images)", {"R_G": "rank_general", "R_T": "rank_target"}),
    Panel("general encoder: ‖w - w₀‖ / ‖w₀‖", {"": "moved_general"}),
    Panel("λ", {"": "lambda"}),
)
LINEAR = 0.01
MOMENTS = 5
OUTCOMES = {"found (true positive)": GREEN, "false alarm (false positive)": ORANGE, "missed (false negative)": BLUE}
OPACITY = 0.55


def draw_curves(run: Path) -> Path:
    """Draw `run`/curves.png from `run`/metrics.jsonl; panels without values are left out. Returns its path."""
    log = _read_log(run / "metrics.jsonl")
    panels = [panel for panel in PANELS if any(_series(log, key) is not None for key in panel.curves.values())]
    columns = min(2 if len(panels) <= 4 else 3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4 * columns, 2.7 * rows)
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), log, panel)
    return save_figure(figure, run / "curves.png")


def draw_relations(run: Path) -> Path:
    """Draw `run`/relations.png from at most five of `run`/relations/step_*.npz, evenly spread over training."""
    files = relation_files(run)
    if not files:
        raise InputError(f"{run / 'relations'} holds no step_*.npz; only methods with a general encoder write them")
    chosen = [files[index] for index in sorted(set(np.linspace(0, len(files) - 1, MOMENTS).round().astype(int)))]
    moments = [read_matrices(path) for path in chosen]
    figure = plot_relations(
        [m["general_source"] for m in moments] if all("general_source" in m for m in moments) else None,
        [m["general_target"] for m in moments],
        [m["target"] for m in moments],
        labels=[f"step {relation_step(path)}" for path in chosen],
    )
    return save_figure(figure, run / "relations.png")


def relation_files(run: Path) -> list[Path]:
    """The files of a run's relation matrices, by step."""
    return sorted((run / "relations").glob("step_*.npz"), key=relation_step)


def _draw_panel(ax: Axes, log: list[LogLine], panel: Panel) -> None:
    steps = np.array([line["step"] for line in log], dtype=float)
    curves = {**panel.beside, **panel.curves}
    for name, key in curves.items():
        values = _series(log, key)
        if values is None:
            continue
        colour = COLOURS.get(name, GREY)
        noisy = len(values) >= 20 and key != "lambda"
        ax.plot(steps, values, color=colour, linewidth=0.7 if noisy else 1.4, alpha=0.35 if noisy else 1)
        if noisy:
            ax.plot(steps, _smooth(values), color=colour, linewidth=1.6)
        ax.plot([], [], color=colour, linewidth=1.6, label=name or "_nolegend_")
    ax.set_title(panel.title, fontsize="medium", loc="left")
    ax.set_xlabel("step")
    if panel.scale == "log":
        ax.set_yscale("log", nonpositive="mask")
    elif panel.scale == "symlog":
        ax.set_yscale("symlog", linthresh=LINEAR)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize="small")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _series(log: list[LogLine], key: str) -> NDArray[np.float64] | None:
    """One value for each logged step, NaN where absent; None if it is absent everywhere."""
    values = np.array([np.nan if line.get(key) is None else line[key] for line in log], dtype=float)
    return values if np.isfinite(values).any() else None


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over about a twentieth of the run; the ends take what is there."""
    width = max(3, len(values) // 20) | 1
    window = np.ones(width)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0), window, mode="same")
    count = np.convolve(known.astype(float), window, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _read_log(path: Path) -> list[LogLine]:
    try:
        lines = log_lines(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); is it a run folder of train.py?") from None
    # A killed process can leave its last line half written.
    if None in lines[:-1]:
        raise InputError(f"{path}, line {lines.index(None) + 1}, is no JSON of a step; remove the line")
    log = [line for line in lines if line is not None]
    if not log:
        raise InputError(f"{path} is empty; the training has not logged a step yet")
    return log


def relation_step(path: Path) -> int:
    """The step of a file of relation matrices."""
    return int(path.stem.removeprefix("step_"))


def read_matrices(path: Path) -> dict[str, NDArray[np.float32]]:
    """The relation matrices of one step, by name."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it") from None


@dataclass(frozen=True)
class Compared:
    """An image and what several runs predict of it, by row of a table.

    image: (H, W), grey values 0..255, as it is looked at. truth, predictions: of its shape. aspect: height of a pixel
    over its width.
    """

    title: str
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.bool_]]
    aspect: float = 1.0


def best_median_worst(scores: Mapping[str, Mapping[str, float]], image: str) -> list[tuple[str, str]]:
    """Of the images that all runs have scored, by run and name, the first run's best, median and worst, in words.

    InputError if they have no `image` in common.
    """
    first, *others = scores.values()
    known = [name for name in first if all(name in each for each in others)]
    if not known:
        raise InputError(f"the runs have no test {image} in common")
    ranked = sorted(known, key=lambda name: -first[name])
    last = len(ranked) - 1
    places = {0: "best", round(last / 2): "median", last: "worst"}
    return [(label, ranked[place]) for place, label in sorted(places.items())]


def draw_comparison(path: Path, cases: Sequence[Compared]) -> Path:
    """A row an image: the image, the truth, and every run's prediction, found, false and missed told apart.

    As Figs. 3 and 4 of the paper.
    """
    names = list(cases[0].predictions)
    figure = new_figure(2.1 * (2 + len(names)) + 0.3, 2.2 * len(cases) + 0.6)
    axes = figure.subplots(len(cases), 2 + len(names), squeeze=False)
    found, false, missed = OUTCOMES.values()
    for line, case in zip(axes, cases, strict=True):
        painted: list[dict[str, NDArray[np.bool_]]] = [{}, {PURPLE: case.truth}]
        for name in names:
            mask = case.predictions[name]
            painted.append({found: mask & case.truth, false: mask & ~case.truth, missed: case.truth & ~mask})
        for ax, masks in zip(line, painted, strict=True):
            ax.imshow(overlay(case.image, masks), aspect=case.aspect, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(case.title)
    for ax, name in zip(axes[0], ("image", "truth", *names), strict=True):
        ax.set_title(fill(name, 20), fontsize="medium")
    patches = [Patch(color=colour, label=name) for name, colour in OUTCOMES.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    return save_figure(figure, path)


def overlay(image: NDArray[np.float32], masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.float64]:
    """An image of grey values 0..255 in colour (H, W, 3), 0..1, painted where the masks of colours are."""
    picture = np.repeat(image[..., None] / 255, 3, axis=2).astype(float).clip(0, 1)
    for colour, mask in masks.items():
        paint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        picture[mask] = (1 - OPACITY) * picture[mask] + OPACITY * paint
    return picture


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches that belongs to no window."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all; InputError if that is impossible. Returns `path`."""
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
