"""Pictures of the user's own: grey values of any depth, and masks of any labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covidct.ct.picture import Slice, check_shown, check_size, read_pixels
from covidct.errors import InputError

# Compressed masks have no other values than about 0 and about 255.
JPEG, HALF = (".jpg", ".jpeg"), 127


@dataclass(frozen=True)
class OwnReading:
    """How a slice of the user's own is read: see `Slice.read`.

    labels: mask values that are lesion; empty: all above 0.
    """

    labels: tuple[int, ...] = ()

    def __call__(self, item: Slice) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        image = read_any_depth(item.path)
        if item.mask_path is None:
            return image, None
        values = read_mask_values(item.mask_path)
        check_size(item.mask_path, values.shape, item.path, image.shape)
        return image, lesion_of(values, self.labels, item.mask_path)


def read_any_depth(path: Path) -> NDArray[np.float32]:
    """The picture at `path`, float32 (H, W) in 0..255: of 8 bits as it is, deeper ones stretched to that range.

    Slices are z-scored one by one before a network sees them, so the range itself says nothing. Raises InputError,
    naming the file, if it cannot be read, holds NaN, or shows nothing (one value everywhere).
    """
    return grey_of(read_pixels(path), path)


def grey_of(pixels: NDArray[np.generic], path: Path) -> NDArray[np.float32]:
    """See `read_any_depth`: the picture at `path` by its `pixels`."""
    if pixels.dtype == np.uint8:
        image = pixels.astype(np.float32)
        check_shown(image, path)
        return image
    values = pixels.astype(np.float64)
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(f"{path} has {bad} pixels that are NaN or infinite; replace the file")
    check_shown(values, path)
    low, high = values.min(), values.max()
    stretched: NDArray[np.float32] = ((values - low) * (255 / (high - low))).astype(np.float32)
    return stretched


def read_mask_values(path: Path) -> NDArray[np.generic]:
    """The labels (H, W) of the mask at `path`, of any type; of a picture with a palette of colours their numbers."""
    values = read_pixels(path, labels=True)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}, a mask, holds NaN or infinite pixels; replace the file")
    return values


def lesion_of(values: NDArray[np.generic], labels: tuple[int, ...], path: Path) -> NDArray[np.bool_]:
    """Where the mask `values` of the file `path` is lesion: one of `labels`, or above 0 if there are none.

    JPEG changes values near edges: there, lesion is what is above 127, and InputError is raised for label maps.
    """
    if path.suffix.lower() in JPEG:
        if labels or 0 < values.max() <= HALF:
            raise InputError(
                f"{path} is a JPEG with values up to {values.max()}: compression changes labels, so that only masks of "
                "0 and 255 can be read from it, without --labels; save the masks as PNG"
            )
        above: NDArray[np.bool_] = np.greater(values, HALF)
        return above
    lesion: NDArray[np.bool_] = np.isin(values, labels) if labels else np.greater(values, 0)
    return lesion
