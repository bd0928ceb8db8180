"""The edge maps that Inf-Net learns from: of radiologists' masks `gradient_edges`, of its own `canny_edges`."""

import numpy as np
from numpy.typing import NDArray

# Above it a pixel of a mask in 0 to 255 is infected.
THRESHOLD = 128
# tan(22.5 degrees) in OpenCV's fixed point of 15 bits.
TANGENT, SHIFT = 13573, 15


def gradient_edges(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels of a mask (H, W) in 0 to 255 whose neighbours left and right, or above and below, differ; 0 or 255.

    At the image's border the pixel itself stands for the missing neighbour. These are the edge maps that COVID-SemiSeg
    ships with its 50 labelled slices, pixel for pixel: about twice as thick as what Canny finds.
    """
    padded = np.pad(mask > THRESHOLD, 1, mode="edge")
    beside = padded[1:-1, 2:] != padded[1:-1, :-2]
    above = padded[2:, 1:-1] != padded[:-2, 1:-1]
    return np.where(beside | above, 255, 0).astype(np.uint8)


def canny_edges(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's Canny(10, 150) of `mask` (H, W) in 0 to 255 above 128, bit for bit; 0 or 255. For pseudo labels.

    Canny by Sobel's 3x3 derivatives, |dx| + |dy| as the strength, and the maxima along the gradient. On a mask of two
    values every strength is 0 or at least 255, above both thresholds, so that no hysteresis is left to do: a page of
    numpy stands for a dependency of 60 MB. scikit-image's Canny is another one (it interpolates between neighbours).
    """
    padded = np.pad(np.where(mask > THRESHOLD, 255, 0).astype(np.int64), 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    dx = rows[:, 2:] - rows[:, :-2]
    columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    dy = columns[2:] - columns[:-2]
    strength = np.abs(dx) + np.abs(dy)
    return np.where((strength > 0) & _is_maximum(strength, dx, dy), 255, 0).astype(np.uint8)


def _is_maximum(strength: NDArray[np.int64], dx: NDArray[np.int64], dy: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where `strength` exceeds its two neighbours along the gradient, in steps of 45 degrees, as OpenCV breaks ties."""
    height, width = strength.shape
    around = np.pad(strength, 1)

    def neighbour(down: int, right: int) -> NDArray[np.int64]:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    across = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    upright = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    diagonal = np.where((dx < 0) != (dy < 0), rising, falling)
    # |dy| against |dx| tan(22.5) and |dx| tan(67.5) = |dx| (tan(22.5) + 2).
    steep = np.abs(dy) << SHIFT
    flat = np.abs(dx) * TANGENT
    maximum: NDArray[np.bool_] = np.select(
        [steep < flat, steep > flat + (np.abs(dx) << (SHIFT + 1))], [across, upright], diagonal
    )
    return maximum
