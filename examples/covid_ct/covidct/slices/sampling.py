"""Training batches whose content depends on (seed, stream, step, index) alone."""

from collections import OrderedDict
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from covidct.ct.labels import OUTSIDE
from covidct.ct.picture import Slice, load_slice, load_soft_slice
from covidct.errors import InputError
from covidct.networks.inf_net_edges import canny_edges, gradient_edges
from covidct.training.augment import Kind, augmentation, larger_patch
from covidct.training.batches import NumberedSamples, Sample, augmented, seeded
from covidct.training.patches import corner, cut

# Slices that a worker keeps decoded: about 0.4 MB each with the mask, so 200 MB at most; of more than 8 bits three
# times as much.
KEPT = 512


# Of a probability in 8 bits: what is above it is lesion, where masks are not taken as soft ones.
HALF = 127
# Whether a pixel is lesion, or how probably, in 0 to 255.
Label = NDArray[np.bool_] | NDArray[np.uint8]
Grey = NDArray[np.uint8] | NDArray[np.float32]


class SliceSamples(NumberedSamples):
    """Slices cut and augmented for training.

    Each is a dict with `image`, float32 (1, H, W), and, where the slices have masks, `mask`, float32 0/1 of the same
    shape; of soft masks what is above one half.

    Args:
        slices: drawn from uniformly, with replacement; all with masks or all without.
        stream: what the samples are for ("target", "source"): streams draw independently.
        size: (H, W) of the samples.
        resize: the whole slice brought to `size`, with nothing to choose, or a padded patch of it.
        joined_batch: samples a step over all processes.
        seed: 0 or more.
        oversample_foreground: share of every batch, at its end, whose patch has lesion in it.
        augment: see `augmentation`.
        unit_input: slices in 0 to 1 instead of z-scored.
        edges: also `edge`, the edges of the masks (of soft ones Canny's), float32 in 0 to 1, and `mask` in 0 to 1 as
            resizing leaves it; for whole slices that are not augmented.

    Raises InputError: no slices, masks for a part of them, negative seed; and, while it is read, what `load_slice`
    finds.
    """

    def __init__(
        self,
        slices: Sequence[Slice],
        *,
        stream: str,
        size: tuple[int, int],
        resize: bool,
        joined_batch: int,
        seed: int,
        oversample_foreground: float = 0.33,
        augment: Kind = "nnunet",
        unit_input: bool = False,
        edges: bool = False,
    ) -> None:
        super().__init__(
            stream=stream, joined_batch=joined_batch, seed=seed, oversample_foreground=oversample_foreground
        )
        labelled = sum(item.mask_path is not None for item in slices)
        if not slices:
            raise InputError(f"no slices for the {stream} stream; give a data set that has some")
        if labelled not in (0, len(slices)):
            raise InputError(f"{labelled} of {len(slices)} slices of the {stream} stream have a mask; all or none must")
        self.slices = tuple(slices)
        self.size, self.resize = size, resize
        if edges and (augment != "none" or not resize):
            raise ValueError("edges are of whole slices without augmentation; take resize=True and augment='none'")
        self.augmentation = augmentation(size, augment)
        self.unit_input, self.edges = unit_input, edges
        self._kept: OrderedDict[int, tuple[Grey, Label | None]] = OrderedDict()

    def __getitem__(self, number: int) -> Sample:
        step, index = divmod(number, self.joined_batch)
        with seeded(self.seed, crc32(self.stream.encode()), step, index) as rng:
            grey, mask = self._load(int(rng.integers(len(self.slices))))
            image = torch.from_numpy((unit if self.unit_input else normalise)(grey))[None]
            if self.edges and mask is not None:
                return _with_edges(resize_image(image[None], self.size)[0], mask)
            if mask is not None and mask.dtype != np.bool_:
                mask = mask > HALF
            label = None if mask is None else torch.from_numpy(mask)[None]
            if self.resize:
                image, label = _whole(image, label, self.size)
            else:
                extent = larger_patch(self.size) if self.augmentation else self.size
                lesion = mask.astype(np.bool_) if mask is not None and index >= self.first_forced else None
                place = corner(grey.shape, extent, self.size, rng, around=lesion)
                image = cut(image, place, extent, 0)
                label = None if label is None else cut(label.to(torch.int16), place, extent, OUTSIDE)
            return augmented(image, label, self.augmentation)

    def _load(self, position: int) -> tuple[Grey, Label | None]:
        if position not in self._kept:
            item = self.slices[position]
            image, mask = load_soft_slice(item) if item.soft else load_slice(item)
            whole = image.round()
            # Pictures of more than 8 bits keep what is between.
            exact = item.read is None or np.array_equal(whole, image)
            self._kept[position] = whole.astype(np.uint8) if exact else image, mask
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[position]


def normalise(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """nnU-Net's z-score: `image` (any shape) minus its mean, over its standard deviation; constant images become 0."""
    values = np.asarray(image, dtype=np.float32)
    result: NDArray[np.float32] = (values - values.mean()) / max(float(values.std()), 1e-8)
    return result


def unit(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """`image` (any shape) of grey values 0..255 in 0 to 1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`image` (N, C, H, W) brought to (N, C, *size): bilinear, averaging where it shrinks."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return interpolate(image, size, mode="bilinear", antialias=True)


def _with_edges(image: Tensor, mask: Label) -> Sample:
    """A sample of `image` (1, *size), the mask, soft at its border as Inf-Net's are, and the mask's edges."""
    soft = mask.dtype != np.bool_
    values: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(1 if soft else 255)
    edges = (canny_edges if soft else gradient_edges)(values)
    size = (image.shape[1], image.shape[2])
    whole = (torch.from_numpy(each).float()[None, None] / 255 for each in (values, edges))
    mask_, edge = (resize_image(each, size)[0] for each in whole)
    return {"image": image, "mask": mask_, "edge": edge}


def _whole(image: Tensor, label: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    resized = resize_image(image[None], size)[0]
    if label is None:
        return resized, None
    return resized, (resize_image(label[None].float(), size)[0] > 0.5).to(torch.int16)
