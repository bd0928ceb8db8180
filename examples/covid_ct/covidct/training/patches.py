"""Where patches of a slice or volume lie, and cutting them out, with what lies outside filled in."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def corner(
    shape: Sequence[int],
    extent: Sequence[int],
    size: Sequence[int],
    rng: np.random.Generator,
    *,
    around: NDArray[np.bool_] | None = None,
) -> tuple[int, ...]:
    """The first corner of a random patch, possibly outside of the image: nnU-Net's `get_bbox`.

    The image is thought padded by what `extent` exceeds `size`, so that the patch's centre, which is what remains
    after the augmentation, reaches the image's border; and to `extent`, where it is smaller.

    shape: of the image, slice or volume.
    extent, size: of the patch, and of its centre that is used.
    around: where it has pixels, the patch has one of them, drawn uniformly, at its centre or nearer to the border.
    """
    if around is not None and around.any():
        places = np.flatnonzero(around)
        pixel = np.unravel_index(int(places[rng.integers(len(places))]), around.shape)
        return corner_around([int(place) for place in pixel], shape, extent, size)
    bounds = zip(*_bounds(shape, extent, size), strict=True)
    return tuple(int(rng.integers(low, high + 1)) for low, high in bounds)


def corner_around(
    pixel: Sequence[int], shape: Sequence[int], extent: Sequence[int], size: Sequence[int]
) -> tuple[int, ...]:
    """The first corner of the patch that has `pixel` at its centre, or nearer to the border; see `corner`."""
    lowest, _ = _bounds(shape, extent, size)
    return tuple(max(low, place - length // 2) for low, place, length in zip(lowest, pixel, extent, strict=True))


def _bounds(shape: Sequence[int], extent: Sequence[int], size: Sequence[int]) -> tuple[list[int], list[int]]:
    padding = [max(e - s, e - n) for e, s, n in zip(extent, size, shape, strict=True)]
    lowest = [-(p // 2) - p % 2 for p in padding]
    highest = [n + p // 2 + p % 2 - e for n, p, e in zip(shape, padding, extent, strict=True)]
    return lowest, highest


def cut(values: Tensor, place: Sequence[int], extent: Sequence[int], outside: int) -> Tensor:
    """The patch of `values` (1, H, W) whose corner is `place`, (1, *extent), with `outside` where there are none."""
    patch = values.new_full((1, *extent), outside)
    rows, columns = (
        (max(c, 0), max(0, min(c + e, n))) for c, e, n in zip(place, extent, values.shape[1:], strict=True)
    )
    target = patch[:, rows[0] - place[0] : rows[1] - place[0], columns[0] - place[1] : columns[1] - place[1]]
    target.copy_(values[:, rows[0] : rows[1], columns[0] : columns[1]])
    return patch
