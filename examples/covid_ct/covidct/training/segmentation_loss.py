"""Dice and cross entropy at every output of a network under deep supervision."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

# Own lines instead of MONAI's DiceCELoss, which costs five seconds of import; a test holds the two together.


def segmentation_loss(outputs: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
    """Weighted sum of `dice_cross_entropy` over `outputs` (logits (B, 1, H, W), finest first), in float32.

    `target` is (B, 1, H, W) of 0 and 1 at the finest resolution and is reduced to the others by nearest neighbour.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    terms = [
        weight * dice_cross_entropy(logits.float(), _resized(target.float(), logits.shape[2:]))
        for weight, logits in zip(deep_supervision_weights(len(outputs)), outputs, strict=True)
    ]
    return torch.stack(terms).sum()


def dice_cross_entropy(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice over the whole batch ("batch Dice", nnU-Net's choice in 2D), plus binary cross entropy."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    dice = (2 * overlap + smooth) / (probability.sum() + target.sum() + smooth)
    return 1 - dice + binary_cross_entropy_with_logits(logits, target)


def deep_supervision_weights(outputs: int) -> list[float]:
    """1, 1/2, 1/4, ... with the last (the coarsest) 0, divided by their sum; [1] for a single output.

    The coarsest output stays in the sum with weight 0, so that its head has a gradient (DistributedDataParallel
    waits for one from every parameter).
    """
    weights = [0.5**level for level in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def _resized(target: Tensor, size: torch.Size) -> Tensor:
    return target if target.shape[2:] == size else interpolate(target, size, mode="nearest-exact")
