"""How Inf-Net is trained and what becomes of its logits."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

RATES = (0.75, 1.0, 1.25)
# The release counts epochs 1 to 99.
EPOCHS = 99


def training_sizes(size: int = 352, rates: tuple[float, ...] = RATES, divisor: int = 32) -> list[int]:
    """The sides that each batch is trained at, one step each: `size` times each rate, to the nearest `divisor`."""
    return [round(size * rate / divisor) * divisor for rate in rates]


def scaled(batch: Tensor, size: Sequence[int]) -> Tensor:
    """Images, masks or edges (B, C, H, W) at `size`, bilinear with aligned corners; masks become soft."""
    if list(batch.shape[2:]) == list(size):
        return batch
    return interpolate(batch, list(size), mode="bilinear", align_corners=True)


def learning_rate(
    epoch: int,
    initial: float = 1e-4,
    *,
    decay: float = 0.1,
    every: int = 50,
    rule: Literal["as_released", "as_described"] = "as_released",
) -> float:
    """The learning rate of epoch 1, 2, ...

    rule: "as_described" (by the options' help), times `decay` every `every` epochs; "as_released", from epoch `every`
        on times `decay` in each epoch (from 2 x `every` on its square, and so on): the release multiplies the present
        rate where the initial one was meant. So training all but ends at epoch 50 of 99.
    """
    if rule == "as_described":
        return initial * decay ** (epoch // every)
    return initial * decay ** sum(past // every for past in range(1, epoch + 1))


def prediction(logits: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Probabilities of logits (B, 1, H, W) resized to `size`, stretched to 0..1 in each image; a constant map is 0."""
    if size is not None:
        logits = interpolate(logits, size, mode="bilinear")
    probability = logits.sigmoid()
    low, high = probability.amin((1, 2, 3), keepdim=True), probability.amax((1, 2, 3), keepdim=True)
    return (probability - low) / (high - low + 1e-8)


def eight_bits(probability: Tensor) -> Tensor:
    """A `prediction` as 0 to 255: the soft mask that a pseudo label is."""
    return (probability * 255 + 0.5).to(torch.uint8)
