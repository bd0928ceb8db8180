"""Images with blocks hidden, which a network learns to fill in: what unlabelled images teach without a label."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from covidct.training.batches import NumberedSamples, Sample, seeded


class MaskedSamples(NumberedSamples):
    """The images of other samples with random blocks hidden.

    Each is a dict with `image`, the image with its hidden part at 0 (the mean, since images are normalised), `whole`,
    the image itself, and `hidden`, float32 0/1 of the same shape. What is hidden depends on (seed, stream, step, index)
    alone, as the image itself, and is drawn apart from it: the images are those that `samples` gives.

    Args:
        samples: what is hidden from; masks of lesions, where they have them, are left out.
        block, ratio: see `hidden_blocks`.
    """

    def __init__(self, samples: NumberedSamples, *, block: int, ratio: float) -> None:
        super().__init__(
            stream=samples.stream, joined_batch=samples.joined_batch, seed=samples.seed, oversample_foreground=0
        )
        _check(block, ratio)
        self.samples, self.block, self.ratio = samples, block, ratio

    def __getitem__(self, number: int) -> Sample:
        step, index = divmod(number, self.joined_batch)
        whole = self.samples[number]["image"]
        with seeded(self.seed, crc32(f"{self.stream}, hidden".encode()), step, index) as rng:
            hidden = hidden_blocks(whole.shape[1:], block=self.block, ratio=self.ratio, rng=rng)
        return {"image": hide(whole, hidden), "whole": whole, "hidden": hidden.expand_as(whole).float()}


def hidden_blocks(size: Sequence[int], *, block: int, ratio: float, rng: np.random.Generator) -> Tensor:
    """Which pixels are hidden: bool, `size`, (H, W) or (D, H, W).

    The image is laid out in squares (cubes) of `block` pixels from a random place on, so that their seams lie
    everywhere; of these `ratio` are hidden, rounded, and at least one is hidden and one shown.

    block: 1 or more. ratio: above 0 and below 1.
    """
    _check(block, ratio)
    starts = [int(rng.integers(block)) for _ in size]
    # Squares at the border are cut off by it, and those that are not in the image at all do not count.
    squares = [-(-(length + start) // block) for length, start in zip(size, starts, strict=True)]
    count = int(np.prod(squares))
    if count < 2:
        raise ValueError(f"an image of {tuple(size)} has one block of {block}; take smaller blocks")
    chosen = np.zeros(count, dtype=bool)
    chosen[rng.permutation(count)[: min(max(round(ratio * count), 1), count - 1)]] = True
    grid = torch.from_numpy(chosen.reshape(squares))
    for axis, (length, start) in enumerate(zip(size, starts, strict=True)):
        grid = grid.repeat_interleave(block, axis).narrow(axis, start, length)
    return grid.contiguous()


def hide(image: Tensor, hidden: Tensor) -> Tensor:
    """`image` (C, *size) or (B, C, *size) with 0 where `hidden`, bool or 0/1 and broadcast against it, is true."""
    return image.masked_fill(hidden.bool(), 0)


def reconstruction_loss(prediction: Tensor, whole: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden pixels, in float32; what is shown counts for nothing.

    prediction, whole, hidden: (B, C, *size); hidden 0/1.
    """
    hidden = hidden.float()
    return ((prediction.float() - whole.float()).square() * hidden).sum() / hidden.sum().clamp_min(1)


def _check(block: int, ratio: float) -> None:
    if block < 1:
        raise ValueError(f"block must be 1 or more, got {block}")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
