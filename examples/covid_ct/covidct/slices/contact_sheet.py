"""Labelled and unlabelled slices side by side, as they are stored and as they are read: a picture and a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.run.figures import new_figure, save_figure
from covidct.sets.covid_semiseg import UNLABELLED, CovidSemiSeg


@dataclass(frozen=True)
class Group:
    """Slices to compare, and what they are called."""

    name: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class GreyValues:
    """Grey values of a group: its name, how many slices, their mean grey, and the distance from the first group's.

    distance: the earth mover's distance of the histograms of all pixels (every slice weighs the same), in grey values
        of 0..255: how far a grey value lies, on average, from where the first group has it.
    """

    name: str
    count: int
    mean: float
    distance: float


def groups_to_compare(data: CovidSemiSeg) -> list[Group]:
    """Labelled slices first; unlabelled ones that are read as stored; the others as stored, then as read.

    Raises InputError if there are no unlabelled slices.
    """
    if not data.unlabelled:
        raise InputError(f"there are no unlabelled slices; give a folder that has {UNLABELLED}/Imgs in Dataset")
    kept = tuple(item for item in data.unlabelled if item.convert is None)
    converted = tuple(item for item in data.unlabelled if item.convert is not None)
    found = [
        Group("labelled", data.train),
        Group("unlabelled, kept", kept),
        Group("unlabelled, as stored", tuple(replace(item, convert=None) for item in converted)),
        Group("unlabelled, as read", converted),
    ]
    return [group for group in found if group.slices]


def grey_values(groups: Sequence[Group]) -> list[GreyValues]:
    """Grey values of every group beside those of the first. Reads every slice."""
    histograms = [_histogram(group.slices) for group in groups]
    return [
        GreyValues(
            group.name,
            len(group.slices),
            float(own @ np.arange(256)),
            float(np.abs(np.cumsum(own - histograms[0])).sum()),
        )
        for group, own in zip(groups, histograms, strict=True)
    ]


def grey_table(values: Sequence[GreyValues]) -> Table:
    """`values` as a table to print with rich."""
    table = Table(title="grey values, 0 to 255", title_justify="left")
    for heading in ("slices", "number", "mean", f"distance from {values[0].name}"):
        table.add_column(heading, justify="left" if heading == "slices" else "right")
    for value in values:
        table.add_row(value.name, str(value.count), f"{value.mean:.1f}", f"{value.distance:.1f}")
    return table


def draw_contact_sheet(path: Path, groups: Sequence[Group], *, columns: int = 10) -> Path:
    """Draw a row of `columns` slices of every group, spread evenly over it, in one grey scale. Returns `path`."""
    figure = new_figure(1.15 * columns, 1.6 * len(groups))
    axes = figure.subplots(len(groups), columns, squeeze=False)
    for row, group in zip(axes, groups, strict=True):
        places = np.linspace(0, len(group.slices) - 1, columns).round().astype(int)
        for ax, place in zip(row, places, strict=True):
            ax.imshow(load_slice(group.slices[place])[0], cmap="gray", vmin=0, vmax=255)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(group.name.replace(", ", ",\n"), fontsize="small")
    return save_figure(figure, path)


def _histogram(slices: Sequence[Slice]) -> NDArray[np.float64]:
    total = np.zeros(256)
    for item in slices:
        grey = load_slice(item)[0].round().astype(np.uint8)
        total += np.bincount(grey.ravel(), minlength=256) / grey.size
    return total / len(slices)
