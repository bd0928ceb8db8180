"""The edge maps that Inf-Net learns from."""

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 128
# tan(22.5 degrees) in OpenCV's fixed point of 15 bits.
TANGENT, SHIFT = 13573, 15


def edge_map(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The edges of a mask (H, W) in 0 to 255, 0 or 255: OpenCV's Canny(10, 150) of `mask` above 128, bit for bit.

    Canny by Sobel's 3x3 derivatives, |dx| + |dy| as the strength, and the maxima along the gradient. On a mask of 0
    and 255 every strength is 0 or at least 255, above both thresholds, so that no hysteresis is left to do: a page of
    numpy stands for a dependency of 60 MB. scikit-image's Canny is another one (it smooths, and interpolates between
    neighbours).
    """
    padded = np.pad(np.where(mask > THRESHOLD, 255, 0).astype(np.int64), 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    dx = rows[:, 2:] - rows[:, :-2]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dy = columns[2:] - columns[:-2]
    strength = np.abs(dx) + np.abs(dy)

    around = np.pad(strength, 1)
    height, width = strength.shape

    def neighbour(down: int, right: int) -> NDArray[np.int64]:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    across = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    upright = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    diagonal = np.where((dx < 0) != (dy < 0), rising, falling)
    steep = np.abs(dy) << SHIFT
    flat_below = np.abs(dx) * TANGENT
    steep_above = flat_below + (np.abs(dx) << (SHIFT + 1))
    maximum = np.select([steep < flat_below, steep > steep_above], [across, upright], diagonal)
    return np.where(maximum & (strength > 0), 255, 0).astype(np.uint8)
