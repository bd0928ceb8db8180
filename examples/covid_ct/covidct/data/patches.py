"""Where patches of a slice lie, and cutting them out, with what lies outside of the slice filled in."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def corner(
    shape: tuple[int, ...],
    extent: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    around: NDArray[np.bool_] | None = None,
) -> tuple[int, int]:
    """The upper left corner (row, column) of a random patch, possibly outside of the slice: nnU-Net's `get_bbox`.

    The slice is thought padded by what `extent` exceeds `size`, so that the patch's centre, which is what remains
    after the augmentation, reaches the slice's border; and to `extent`, where it is smaller.

    shape: of the slice.
    extent, size: of the patch, and of its centre that is used.
    around: where it has pixels, the patch has one of them, drawn uniformly, at its centre or nearer to the border.
    """
    padding = [max(e - s, e - n) for e, s, n in zip(extent, size, shape, strict=True)]
    lowest = [-(p // 2) - p % 2 for p in padding]
    highest = [n + p // 2 + p % 2 - e for n, p, e in zip(shape, padding, extent, strict=True)]
    if around is not None and around.any():
        places = np.flatnonzero(around)
        pixel = np.unravel_index(int(places[rng.integers(len(places))]), around.shape)
        row, column = (max(low, int(p) - e // 2) for low, p, e in zip(lowest, pixel, extent, strict=True))
    else:
        row, column = (int(rng.integers(low, high + 1)) for low, high in zip(lowest, highest, strict=True))
    return row, column


def cut(values: Tensor, place: tuple[int, int], extent: tuple[int, int], outside: int) -> Tensor:
    """The patch of `values` (1, H, W) whose corner is `place`, (1, *extent), with `outside` where there are none."""
    patch = values.new_full((1, *extent), outside)
    rows, columns = (
        (max(c, 0), max(0, min(c + e, n))) for c, e, n in zip(place, extent, values.shape[1:], strict=True)
    )
    target = patch[:, rows[0] - place[0] : rows[1] - place[0], columns[0] - place[1] : columns[1] - place[1]]
    target.copy_(values[:, rows[0] : rows[1], columns[0] : columns[1]])
    return patch
