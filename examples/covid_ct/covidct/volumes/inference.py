"""From a volume of any size to lesion probabilities on its own grid, by windows over the body alone."""

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from covidct.run.precision import autocast_dtype
from covidct.run.prediction import evaluating, probabilities

Box = tuple[slice, slice, slice]
Volume3 = NDArray[np.float32]

# Every set of axes of (batch, channel, z, y, x) that is mirrored in a pass of `flips`.
MIRRORINGS: tuple[tuple[int, ...], ...] = tuple(chain.from_iterable(combinations((2, 3, 4), n) for n in range(4)))
# The coarse grid has at least this many cells along every axis that has as many voxels: 6 to 8 mm in a chest CT.
CELLS = 64
# In-plane neighbours: the opening takes away what is thinner than three cells, as tables, tubes and blankets are.
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)[None]


def predict_volume(
    model: nn.Module,
    image: Volume3,
    *,
    patch_size: tuple[int, int, int],
    overlap: float = 0.5,
    flips: bool = False,
    precision: str = "32",
    region: NDArray[np.bool_] | None = None,
    body: bool = True,
    tissue: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Volume3:
    """Probability of lesion for every voxel; 0 outside of the box that holds the body, or `region`.

    Windows of `patch_size` slide over the box and are blended with Gaussian weights (MONAI). They are those windows of
    the whole grid that cover the box, in their places: away from the rim of the box the result is that of the whole
    grid. A volume smaller than a window is padded with 0, the mean of normalised images.

    Memory, beyond the image and the network's own: two float32 arrays as large as the windows' span while they run,
    then it and the result. On a CUDA device the arrays lie there where they fit.

    Args:
        model: one output channel of logits; of a list (deep supervision) the first counts. It runs where its
            parameters are, in eval mode, and is given back in the mode it came in.
        image: (z, y, x), normalised as in training.
        patch_size: (z, y, x) of a window, in voxels.
        overlap: of neighbouring windows, as a share of their length.
        flips: mean of the probabilities over the eight mirrorings of each window.
        precision: "32", or "bf16" or "16" for autocast.
        region: (z, y, x), where lesions may lie (the lungs); replaces the body.
        body: False: no box, the whole grid.
        tissue: value of `image` above which a voxel is the body's; see `body_box`.
        progress: called as progress(done, total) after every window.

    Returns:
        (z, y, x), float32, in [0, 1]; NaN where the network's output is.
    """
    _check(image, patch_size, overlap, region)
    dtype = autocast_dtype(precision)
    if region is not None:
        box = region_box(region)
    elif body:
        box = body_box(image, tissue)
    else:
        box = _whole(image)
    result = np.zeros(image.shape, dtype=np.float32)
    if box is None:
        return result
    place = window_span(box, image.shape, patch_size, overlap)
    with evaluating(model), torch.inference_mode():
        inside = _slide(model, image[place], patch_size, overlap, flips, dtype, progress)
    # Gaussian blending may leave [0, 1] by a rounding error.
    within = tuple(slice(b.start - p.start, b.stop - p.start) for b, p in zip(box, place, strict=True))
    np.clip(inside[within], 0, 1, out=result[box])
    return result


def body_box(image: Volume3, tissue: float | None = None) -> Box:
    """The box of the body: the largest piece of tissue on a coarse grid, without the table, a cell wider all around.

    Lungs lie in it because the chest wall surrounds them; in a volume cut out of a chest, without the wall, they may
    not. Where nothing is found, the box is the whole grid.

    Args:
        image: (z, y, x), HU or any increasing function of it.
        tissue: mean value above which a cell of the coarse grid is tissue; by default midway between the 1st and 99th
            percentile of the cells, which is between lung and muscle if the volume holds air.
    """
    steps = tuple(max(1, length // CELLS) for length in image.shape)
    cells = _means(image, steps)
    if tissue is None:
        tissue = float(np.percentile(cells, (1, 99)).mean())
    pieces, count = ndimage.label(ndimage.binary_opening(cells > tissue, CROSS))
    if count == 0:
        return _whole(image)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    found = ndimage.find_objects(pieces)[int(sizes.argmax()) - 1]
    return _fitted([((at.start - 1) * s, (at.stop + 1) * s) for at, s in zip(found, steps, strict=True)], image.shape)


def region_box(region: NDArray[np.bool_], margin: float = 0.05) -> Box | None:
    """The box of a mask, `margin` of its length (and a voxel) wider at each end; None if the mask is empty."""
    found = ndimage.find_objects(region.view(np.uint8))
    if not found:
        return None
    rims = [1 + round(margin * (at.stop - at.start)) for at in found[0]]
    return _fitted([(at.start - rim, at.stop + rim) for at, rim in zip(found[0], rims, strict=True)], region.shape)


def window_span(box: Box, shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> Box:
    """What the fewest neighbouring windows of the whole grid's lattice cover that hold `box`.

    Laid over this span alone, windows stand where they stand on the whole grid.
    """
    spans = []
    for at, length, patch in zip(box, shape, patch_size, strict=True):
        starts = window_starts(length, patch, overlap)
        first = max(start for start in starts if start <= at.start)
        last = min(start for start in starts if min(start + patch, length) >= at.stop)
        if last < first:  # each of the two holds the whole box: the one with the box nearer to its middle
            first = last = min(last, first, key=lambda start: abs(2 * start + patch - at.start - at.stop))
        spans.append(slice(first, min(last + patch, length)))
    return spans[0], spans[1], spans[2]


def window_starts(length: int, patch: int, overlap: float) -> list[int]:
    """Where windows begin along an axis, as MONAI lays them: equal steps, the last moved back to end with the axis."""
    if length <= patch:
        return [0]
    step = max(1, int(patch * (1 - overlap)))
    count = -(-(length - patch) // step) + 1
    return [min(number * step, length - patch) for number in range(count)]


def _slide(
    model: nn.Module,
    image: Volume3,
    patch_size: tuple[int, int, int],
    overlap: float,
    flips: bool,
    dtype: torch.dtype | None,
    progress: Callable[[int, int], None] | None,
) -> Volume3:
    # Here and not above: MONAI takes seconds to import.
    from monai.inferers.utils import sliding_window_inference

    device = next(model.parameters()).device
    done = 0
    total = int(np.prod([len(window_starts(n, p, overlap)) for n, p in zip(image.shape, patch_size, strict=True)]))

    def predictor(windows: Tensor) -> Tensor:
        nonlocal done
        if device.type == "cuda":
            windows = windows.contiguous(memory_format=torch.channels_last_3d)
        found = probabilities(model, windows, MIRRORINGS if flips else MIRRORINGS[:1], dtype)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    home = device if _fits(image, device) else torch.device("cpu")
    values = torch.from_numpy(image)[None, None]
    if home.type == "cuda":
        values = values.contiguous().pin_memory().to(home, non_blocking=True)
    found = sliding_window_inference(
        values, patch_size, 1, predictor, overlap=overlap, mode="gaussian", sw_device=device, device=home
    )
    # Of a predictor that gives one tensor; of several MONAI gives several.
    return cast(Tensor, found)[0, 0].cpu().numpy()


def _whole(image: Volume3) -> Box:
    z, y, x = (slice(0, length) for length in image.shape)
    return z, y, x


def _fits(image: Volume3, device: torch.device) -> bool:
    """Whether image, sums and weights take at most half of what is free on a CUDA device."""
    return device.type == "cuda" and 3 * image.nbytes <= torch.cuda.mem_get_info(device)[0] / 2


def _means(image: Volume3, steps: Sequence[int]) -> Volume3:
    """Means over cells of `steps` voxels, an axis at a time to save memory; the last cell may be smaller."""
    cells = image
    for axis in reversed(range(image.ndim)):
        edges = np.arange(0, image.shape[axis], steps[axis])
        counts = np.diff(edges, append=image.shape[axis]).astype(np.float32)
        cells = np.add.reduceat(cells, edges, axis=axis)
        cells /= np.expand_dims(counts, tuple(other for other in range(image.ndim) if other != axis))
    return cells


def _fitted(spans: Sequence[tuple[int, int]], shape: Sequence[int]) -> Box:
    """The spans as slices, cut to the grid."""
    box = [slice(max(0, start), min(length, stop)) for (start, stop), length in zip(spans, shape, strict=True)]
    return box[0], box[1], box[2]


def _check(
    image: Volume3,
    patch_size: Sequence[int],
    overlap: float,
    region: NDArray[np.bool_] | None,
) -> None:
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must be one volume (z, y, x), got shape {image.shape}")
    if image.dtype != np.float32:
        raise ValueError(f"image must be float32, got {image.dtype}; convert it with astype(np.float32)")
    if len(patch_size) != 3 or min(patch_size) < 1:
        raise ValueError(f"patch_size must be three lengths of 1 or more, got {tuple(patch_size)}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and less than 1, got {overlap}")
    if region is not None and (region.shape != image.shape or region.dtype != np.bool_):
        raise ValueError(
            f"region must be boolean on the image's grid {image.shape}, got {region.dtype} of {region.shape}"
        )
