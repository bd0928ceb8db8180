"""The gains of a study, drawn: a point and its interval for every comparison."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from covidct.files import replacing, writing
from covidct.run.figures import BLUE, GREEN, ORANGE, PURPLE
from covidct.run.study import Study
from covidct.run.study_report import StudyRow

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
# Inches, and how far apart the comparisons of one system lie.
WIDTH, LINE, APART, TITLE = 9.0, 0.42, 0.2, 34


def draw_gains(path: Path, study: Study, rows: Sequence[StudyRow]) -> Path:
    """Draw `path`: a panel for each number of labels, a line for each system that is compared; returns it."""
    compared = [row for row in rows if row.gains]
    labels = list(dict.fromkeys(row.labels for row in compared))
    systems = [name for name in study.tested() if any(row.system == name for row in compared)]
    others = list(dict.fromkeys(gain.other for row in compared for gain in row.gains))
    figure = Figure(figsize=(WIDTH, 1.2 + LINE * max(1, len(systems))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(labels)), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, labels, strict=False):
        _panel(axes, [row for row in compared if row.labels == count], systems, others)
        axes.set_title("all labels of a fold" if count == "all" else f"{count} labels")
    panels[0].set_yticks(range(len(systems)), [fill(_plain(study.systems[name].title), TITLE) for name in systems])
    panels[0].invert_yaxis()
    handles = [panels[0].plot([], [], "o", color=COLOURS[number % len(COLOURS)])[0] for number in range(len(others))]
    words = [f"against {_plain(study.systems[name].title)}" for name in others]
    if handles:
        figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def _panel(axes: Axes, rows: Sequence[StudyRow], systems: Sequence[str], others: Sequence[str]) -> None:
    axes.axvline(0, color="grey", linewidth=0.8)
    for row in rows:
        for gain in row.gains:
            number = others.index(gain.other)
            height = systems.index(row.system) + APART * (number - (len(others) - 1) / 2)
            colour, found = COLOURS[number % len(COLOURS)], gain.paired
            axes.plot([100 * found.low, 100 * found.high], [height, height], color=colour, linewidth=1.5)
            axes.plot([100 * found.difference], [height], "o", color=colour, markersize=4)
    axes.set_xlabel("points of Dice gained, 95 % interval")


def _plain(title: str) -> str:
    return title.replace("`", "")
