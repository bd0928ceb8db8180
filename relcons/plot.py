"""Pictures of relation matrices. Needs matplotlib: ``pip install matplotlib``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from relcons.gap import RelationGaps

    Values: TypeAlias = NDArray[np.float64]
    Matrix: TypeAlias = Tensor | NDArray[np.floating[Any]]
    Matrices: TypeAlias = Matrix | Sequence[Matrix]

__all__ = ["plot_relation", "plot_relations", "relation_gaps"]

RELATION_COLOURS, DIFFERENCE_COLOURS = "viridis", "Reds"
# Entries above this share of all saturate: the diagonal is far above the rest and would leave it black.
# Below zero, where a leaky activation puts a few entries, the same share of the other end does.
SHOWN = 0.995
PANEL = 1.75  # side of one matrix in inches


def plot_relation(
    matrix: Matrix,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
    difference: bool = False,
    colorbar: bool = True,
) -> Figure:
    """Picture of one relation matrix, channel by channel.

    Args:
        matrix: ``(C, C)``, a tensor on any device or an array.
        ax: matplotlib axes to draw in; by default a figure of its own, which pyplot does not know.
        title: text above the matrix.
        limits: values of the first and last colour; by default 0 (or the 0.5th percentile, if that is
            negative) and the 99.5th percentile, so that the strong diagonal does not hide the rest.
        difference: draw in the colours of differences, white to red, and write the mean below.
        colorbar: draw one beside the matrix.

    Returns:
        The figure that holds the picture: ``.savefig("relation.png")`` writes it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: ``matrix`` is not square, is empty or holds NaN or infinity.

    Source: Figs. 5 and 6 of Zhang et al. 2021 (doi 10.1109/JBHI.2021.3106341).

    Examples:
        >>> figure = plot_relation(torch.eye(8), title="R", limits=(0, 1))
        >>> figure.axes[0].get_title()
        'R'
    """
    _require_matplotlib()
    values = _as_array("matrix", matrix)
    if ax is None:
        ax = _new_figure(figsize=(4, 3.4)).add_subplot()
    limits = _scale([values], limits)
    picture = _draw(ax, values, limits, difference)
    if title:
        ax.set_title(title)
    figure: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    if colorbar:
        figure.colorbar(picture, ax=ax, extend=_extend([values], limits))
    return figure


def plot_relations(
    general_source: Matrices | None,
    general_target: Matrices,
    target: Matrices,
    *,
    labels: Sequence[str] | None = None,
) -> Figure:
    r"""Both pairs of relation matrices with their absolute differences, one row per moment of training.

    Columns: $R_G(X^n)$, $R_G(X^c)$ and their difference, which $L_G$ makes smaller; then $R_G(X^c)$,
    $R_T(X^c)$ and theirs, which $L_T$ makes larger. All relations share one colour scale, all
    differences another (see the bars; the outermost 0.5 % of entries saturate). Under every difference
    stands its mean over the entries.

    Args:
        general_source: $R_G(X^n)$: ``(C, C)``, or one for each row as ``(rows, C, C)`` or a sequence;
            None without source images: the first three columns are then left out.
        general_target: $R_G(X^c)$, as many.
        target: $R_T(X^c)$, as many.
        labels: text at the left of each row, such as ``"step 100"``.

    Returns:
        The figure; pyplot does not know it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the numbers of matrices or labels, or the shapes, differ; or a matrix is not square,
            is empty or holds NaN or infinity.

    Source: Figs. 5 and 6 of Zhang et al. 2021 (doi 10.1109/JBHI.2021.3106341).

    Examples:
        >>> r = torch.eye(8).repeat(2, 1, 1)
        >>> figure = plot_relations(r, r, 0.5 * r, labels=["step 0", "step 100"])
    """
    _require_matplotlib()
    named = {"general_source": general_source, "general_target": general_target, "target": target}
    columns = {name: _as_arrays(name, matrices) for name, matrices in named.items() if matrices is not None}
    rows = list(zip(*_check_columns(columns, labels), strict=True))
    pairs = [list(pairwise(row)) for row in rows]
    relations = [matrix for row in rows for matrix in row]
    differences = [abs(a - b) for row in pairs for a, b in row]
    scales = _scale(relations, None), _scale(differences, None)

    count = len(pairs[0])
    figure = _new_figure(figsize=(3 * count * PANEL + 2.2, len(rows) * (PANEL + 0.25) + 0.7))
    grid = figure.add_gridspec(len(rows), 4 * count, width_ratios=[1, 1, 1, 0.08] * count)
    panels: list[Axes] = []
    for index, row in enumerate(pairs):
        for place, pair in enumerate(row):
            axes = [figure.add_subplot(grid[index, 4 * place + column]) for column in range(3)]
            pictures = _draw_pair(axes, pair, scales)
            panels += axes
            if index == 0:
                _write_titles(axes, general=place < count - 1)
        if labels is not None:
            panels[-3 * count].set_ylabel(labels[index])
    # The bar added first stands outermost.
    bar: dict[str, Any] = {"ax": panels, "fraction": 0.03, "pad": 0.015, "shrink": 0.9}
    figure.colorbar(pictures[1], label="|difference|", extend=_extend(differences, scales[1]), **bar)
    figure.colorbar(pictures[0], label="relation", extend=_extend(relations, scales[0]), **bar)
    return figure


def relation_gaps(gaps: RelationGaps, ax: Axes | None = None) -> Figure:
    """Picture of the gaps between several data sets, each written with its interval; within each on the diagonal.

    Args:
        gaps: what [`relcons.relation_gaps`][relcons.relation_gaps] returned.
        ax: matplotlib axes to draw in; by default a figure of its own, which pyplot does not know.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Examples:
        >>> nothing, between = None, (0.1, 0.3)
        >>> intervals = ((nothing, between), (between, nothing))
        >>> gaps = RelationGaps(("a", "b"), ((0.0, 0.2), (0.2, 0.0)), intervals, (0.5, 0.4))
        >>> figure = relation_gaps(gaps)
    """
    _require_matplotlib()
    import numpy as np

    count = len(gaps.names)
    if ax is None:
        ax = _new_figure(figsize=(1.3 * count + 1.6, 1.1 * count + 1.0)).add_subplot()
    values = np.array(gaps.gap, dtype=np.float64)
    top = max(float(values.max()), 1e-12)
    ax.imshow(values, cmap=DIFFERENCE_COLOURS, vmin=0, vmax=top, interpolation="nearest")
    for row, column in np.ndindex(values.shape):
        interval = gaps.interval[row][column]
        text = f"within\n{gaps.within[row]:.2f}" if row == column else f"{values[row, column]:.3f}"
        if interval is not None:
            text += f"\n{interval[0]:.3f} to {interval[1]:.3f}"
        dark = values[row, column] > 0.6 * top
        ax.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    ax.set_xticks(range(count), gaps.names, rotation=30, ha="right")
    ax.set_yticks(range(count), gaps.names)
    figure: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    return figure


def _draw_pair(
    axes: Sequence[Axes], pair: tuple[Values, Values], scales: tuple[tuple[float, float], tuple[float, float]]
) -> tuple[ScalarMappable, ScalarMappable]:
    left, right = pair
    picture = _draw(axes[0], left, scales[0], difference=False)
    _draw(axes[1], right, scales[0], difference=False)
    return picture, _draw(axes[2], abs(left - right), scales[1], difference=True)


def _write_titles(axes: Sequence[Axes], *, general: bool) -> None:
    if general:
        titles = (r"$R_G(X^n)$", "general encoder, source and target images\n$R_G(X^c)$")
    else:
        titles = (r"$R_G(X^c)$", "general and target encoder, target images\n$R_T(X^c)$")
    for ax, title in zip(axes, (*titles, "|difference|"), strict=True):
        ax.set_title(title, fontsize="medium")


def _require_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("relcons.plot needs matplotlib: pip install matplotlib") from error


def _new_figure(figsize: tuple[float, float]) -> Figure:
    """A figure without pyplot: no global state, no window, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(ax: Axes, matrix: Values, limits: tuple[float, float], difference: bool) -> ScalarMappable:
    colours = DIFFERENCE_COLOURS if difference else RELATION_COLOURS
    picture = ax.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    if difference:
        ax.set_xlabel(f"mean {matrix.mean():#.2g}")
    return picture


def _scale(matrices: list[Values], limits: tuple[float, float] | None) -> tuple[float, float]:
    import numpy as np

    if limits is not None:
        return limits
    values = np.concatenate([matrix.ravel() for matrix in matrices])
    low, high = min(0.0, float(np.quantile(values, 1 - SHOWN))), float(np.quantile(values, SHOWN))
    # Equal ends would make matplotlib invent a scale around them.
    return (low, high) if high > low else (low, low + 1)


def _extend(matrices: list[Values], limits: tuple[float, float]) -> str:
    """At which ends entries lie beyond the scale, as a colour bar's `extend` says it."""
    below = min(float(matrix.min()) for matrix in matrices) < limits[0]
    above = max(float(matrix.max()) for matrix in matrices) > limits[1]
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


def _as_array(name: str, matrix: Matrix) -> Values:
    import numpy as np

    if isinstance(matrix, Tensor):
        matrix = matrix.detach().to("cpu", torch.float64).numpy()
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
        raise ValueError(f"{name} must be square, (C, C), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return values


def _as_arrays(name: str, matrices: Matrices) -> list[Values]:
    single = getattr(matrices, "ndim", None) == 2
    return [_as_array(name, matrix) for matrix in ([matrices] if single else matrices)]  # type: ignore[arg-type]


def _check_columns(columns: dict[str, list[Values]], labels: Sequence[str] | None) -> list[list[Values]]:
    counts = {name: len(matrices) for name, matrices in columns.items()}
    if labels is not None:
        counts["labels"] = len(labels)
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"one matrix (and label) per row is needed, got {counts}")
    for row in zip(*columns.values(), strict=True):
        if len({matrix.shape for matrix in row}) > 1:
            shapes = ", ".join(f"{name} {matrix.shape}" for name, matrix in zip(columns, row, strict=True))
            raise ValueError(f"the matrices of a row must have the same shape, got {shapes}")
    return list(columns.values())
