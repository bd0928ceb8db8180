"""From a volume on its own grid to the grid of the network, and back: nnU-Net's scheme, in bounded memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, FiniteFloat, with_config
from scipy import ndimage

from covidct.errors import InputError

if TYPE_CHECKING:  # only named here: what reads files (nibabel, SimpleITK) is not needed to resample
    from covidct.ct.volume import Volume

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
# Millimetres that a voxel may measure along an axis.
SHORTEST, LONGEST = 0.01, 100.0
Length = Annotated[float, Field(ge=SHORTEST, le=LONGEST)]
Spacing = tuple[Length, Length, Length]
Shape = tuple[Count, Count, Count]
Floats = NDArray[np.float32]

# Where voxels are more than this many times longer along one axis, nothing is interpolated along it.
ANISOTROPY = 3.0
# Columns that are resampled at once along z; bounds the scratch memory.
COLUMNS = 2**16


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Plan:
    """The network's grid, and how grey values are normalised on it: nnU-Net's CT scheme.

    spacing: (z, y, x) in mm. patch_size: (z, y, x) in voxels. low, high: 0.5 and 99.5 percentile of the lesion voxels
    of a fold's training cases; mean, std: theirs, too. All four are values of the window, 0 to 255.
    """

    spacing: Spacing
    patch_size: Shape
    low: FiniteFloat
    high: FiniteFloat
    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(ge=0)]

    def normalise(self, image: Floats) -> Floats:
        """`image` (values of the window, any shape) clipped to [low, high], less the mean, over std; a new array."""
        result: Floats = np.clip(image, np.float32(self.low), np.float32(self.high))
        result -= np.float32(self.mean)
        result /= np.float32(max(self.std, 1e-8))
        return result


@dataclass(frozen=True)
class Placement:
    """Where a preprocessed volume lies in its own: what was cut out, and both grids.

    shape: of the volume. start, stop: the box that was cut out of it. spacing, target: of the volume and of the
    preprocessed one, mm. resampled: shape of the preprocessed one. All are (z, y, x).
    """

    shape: Shape
    start: tuple[Index, Index, Index]
    stop: Shape
    spacing: Spacing
    target: Spacing
    resampled: Shape

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The box as slices of an array of the volume's shape."""
        z, y, x = (slice(low, high) for low, high in zip(self.start, self.stop, strict=True))
        return z, y, x

    def forth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the volume's shape on the preprocessed grid."""
        return resample_mask(mask[self.box], self.spacing, self.target)

    def back(self, probability: Floats) -> Floats:
        """A probability map of the preprocessed grid on the volume's own; 0 outside of the box.

        Linear, as nnU-Net does it; along an axis with much longer voxels the nearest value. ValueError if the map is
        not of shape `resampled`.
        """
        if probability.shape != self.resampled:
            raise ValueError(f"probability has shape {probability.shape}, expected {self.resampled}")
        result = np.zeros(self.shape, dtype=np.float32)
        cut = tuple(high - low for low, high in zip(self.start, self.stop, strict=True))
        orders = _orders(1, self.target, self.spacing)
        np.clip(_resample(probability, cut, orders), 0, 1, out=result[self.box])
        return result


@dataclass(frozen=True)
class Preprocessed:
    """A volume on the network's grid: image float32 in 0..255 (not normalised), mask where the case has one."""

    image: Floats
    mask: NDArray[np.bool_] | None
    placement: Placement


def preprocess(volume: "Volume", spacing: Spacing) -> Preprocessed:
    """Cut `volume` to the box of its values above 0 and bring it to `spacing` (z, y, x) in mm.

    Above 0 is above the window's lower end, -1250 HU: what a scanner fills corners with is cut off. Memory beyond the
    volume: two float32 arrays, of which none is larger than the volume or the result.

    Source: nnU-Net (Isensee et al., Nature Methods 18, 2021).
    """
    image, mask, placement = volume.image, volume.mask, place(volume.image, volume.spacing, spacing)
    return Preprocessed(
        image=resample_image(image[placement.box], volume.spacing, spacing),
        mask=None if mask is None else placement.forth(mask),
        placement=placement,
    )


def place(image: Floats, spacing: Spacing, target: Spacing) -> Placement:
    """Where the preprocessed volume will lie: the box of the values above 0 (everything, if there are none)."""
    start, stop = nonzero_box(image)
    cut = tuple(high - low for low, high in zip(start, stop, strict=True))
    return Placement(
        shape=_three(image.shape),
        start=start,
        stop=stop,
        spacing=spacing,
        target=target,
        resampled=resampled_shape(cut, spacing, target),
    )


def nonzero_box(image: Floats) -> tuple[Shape, Shape]:
    """First and one past the last index along each axis of the values above 0; the whole grid if there are none."""
    filled = [np.zeros(length, dtype=bool) for length in image.shape]
    for number, section in enumerate(image):
        above = section > 0
        filled[0][number] = above.any()
        filled[1] |= above.any(axis=1)
        filled[2] |= above.any(axis=0)
    if not filled[0].any():
        return (0, 0, 0), _three(image.shape)
    ends = [np.flatnonzero(axis)[[0, -1]] for axis in filled]
    return _three([low for low, _ in ends]), _three([high + 1 for _, high in ends])


def resampled_shape(shape: Sequence[int], spacing: Spacing, target: Spacing) -> Shape:
    """Voxels of `target` along each axis that fill what `shape` voxels of `spacing` do, at least one."""
    return _three([max(1, round(n * have / want)) for n, have, want in zip(shape, spacing, target, strict=True)])


def resample_image(image: Floats, spacing: Spacing, target: Spacing) -> Floats:
    """`image` (z, y, x) by cubic splines, kept within its own range; a new array unless nothing changes.

    Along an axis whose voxels are more than three times longer than the others', in either grid, the nearest value.
    """
    shape = resampled_shape(image.shape, spacing, target)
    if shape == image.shape:
        return image
    result = _resample(image, shape, _orders(3, spacing, target))
    result.clip(image.min(), image.max(), out=result)
    return result


def resample_mask(mask: NDArray[np.bool_], spacing: Spacing, target: Spacing) -> NDArray[np.bool_]:
    """`mask` (z, y, x) interpolated linearly and cut at one half; along a much longer axis the nearest value."""
    shape = resampled_shape(mask.shape, spacing, target)
    if shape == mask.shape:
        return mask
    return _resample(mask, shape, _orders(1, spacing, target), lambda values: values >= 0.5)


def separate_axis(spacing: Spacing, target: Spacing) -> int | None:
    """The axis along which nothing is interpolated, or None: nnU-Net's rule."""
    for each in (spacing, target):
        if max(each) / min(each) > ANISOTROPY:
            longest = [axis for axis in range(3) if each[axis] == max(each)]
            # Long along two axes: a stack of thin columns, which nnU-Net interpolates as a whole.
            return longest[0] if len(longest) == 1 else None
    return None


def check_spacing(spacing: Sequence[float], name: str) -> Spacing:
    """`spacing` as three numbers of mm, named `name` in the InputError if it is not."""
    if len(spacing) != 3 or not all(SHORTEST <= value <= LONGEST for value in spacing):
        came = " ".join(map(str, spacing))
        raise InputError(f"{name} must be three lengths z y x of {SHORTEST:g} to {LONGEST:g} mm, got {came}")
    z, y, x = map(float, spacing)
    return z, y, x


def _orders(order: int, spacing: Spacing, target: Spacing) -> tuple[int, int, int]:
    separate = separate_axis(spacing, target)
    z, y, x = (0 if axis == separate else order for axis in range(3))
    return z, y, x


def _resample(
    values: NDArray[np.generic],
    shape: Sequence[int],
    orders: tuple[int, int, int],
    finish: Callable[[Floats], NDArray[Any]] = lambda values: values,
) -> NDArray[Any]:
    """Sections first, then along z in blocks of columns; `finish` is applied to each block of the result."""
    along_z, along_y, along_x = (_weights(n, m, k) for n, m, k in zip(values.shape, shape, orders, strict=True))
    between = np.empty((values.shape[0], *shape[1:]), dtype=np.float32)
    for section, into in zip(values, between, strict=True):
        np.matmul(along_y @ section.astype(np.float32), along_x.T, out=into)
    columns = between.reshape(len(between), -1)
    blocks = range(0, columns.shape[1], COLUMNS)
    dtype = finish(columns[:1, :1]).dtype
    result = np.empty((shape[0], columns.shape[1]), dtype=dtype)
    for first in blocks:
        result[:, first : first + COLUMNS] = finish(along_z @ columns[:, first : first + COLUMNS])
    return result.reshape(shape)


@lru_cache(maxsize=32)
def _weights(length: int, wanted: int, order: int) -> Floats:
    """(wanted, length): resampling along an axis as a matrix, since it is linear and separable.

    Its columns are what SciPy makes of the unit vectors. A product with it is many times faster than SciPy's general
    interpolation of the whole volume, and takes no float64 copy.
    """
    if order == 0:
        # The voxel in which the new voxel's centre lies; in whole numbers, so that no centre is rounded away.
        nearest = (2 * np.arange(wanted) + 1) * length // (2 * wanted)
        return np.eye(length, dtype=np.float32)[nearest]
    if length == wanted:
        return np.eye(length, dtype=np.float32)
    units = np.eye(length)
    columns = [ndimage.zoom(unit, wanted / length, order=order, mode="nearest", grid_mode=True) for unit in units]
    return np.stack(columns, axis=1).astype(np.float32)


def _three(values: Sequence[int]) -> Shape:
    z, y, x = map(int, values)
    return z, y, x
