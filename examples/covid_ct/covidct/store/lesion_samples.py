"""What a store keeps of a case's lesions: places to lay patches around, and grey values to normalise by."""

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from covidct.store.preprocess import Shape

# nnU-Net keeps as many lesion positions of a case, or a hundredth of them if that is more.
KEPT_POSITIONS = 10_000
# A case's lesion values are kept as so many evenly spaced quantiles: every case counts alike, as in nnU-Net.
KEPT_LEVELS = 10_000


def kept_positions(voxels: NDArray[np.int64], shape: Shape, name: str) -> NDArray[np.int32]:
    """(n, 3): lesion voxels, given by their numbers in a volume of `shape`; too many are drawn from, by `name`."""
    count = min(len(voxels), max(KEPT_POSITIONS, len(voxels) // 100))
    if count < len(voxels):
        voxels = np.sort(np.random.default_rng(crc32(name.encode())).choice(voxels, count, replace=False))
    return np.stack(np.unravel_index(voxels, shape), axis=1).astype(np.int32)


def kept_values(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evenly spaced quantiles of `values`, which are sorted in place; none of none."""
    if not len(values):
        return values.astype(np.float32)
    values.sort()
    places = (np.arange(KEPT_LEVELS) + 0.5) / KEPT_LEVELS * len(values) - 0.5
    return np.interp(places, np.arange(len(values)), values).astype(np.float32)
