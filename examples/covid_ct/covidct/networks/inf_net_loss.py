"""Inf-Net's loss."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from covidct.networks.inf_net import InfNetOutput

BceWeighting = Literal["as_released", "as_described"]


class InfNetTerms(NamedTuple):
    """The loss and its terms, which add up to it."""

    total: Tensor
    edge: Tensor
    s5: Tensor
    s4: Tensor
    s3: Tensor
    s2: Tensor


def inf_net_loss(
    output: InfNetOutput, mask: Tensor, edge: Tensor, *, bce_weighting: BceWeighting = "as_released"
) -> InfNetTerms:
    """Cross entropy of the edges plus `joint_loss` of the four maps, in float32.

    mask, edge: (B, 1, H, W) in 0 to 1; `inf_net_edges` has the edges of a mask.
    """
    mask, edge = mask.float(), edge.float()
    edges = binary_cross_entropy_with_logits(output.edge.float(), edge)
    maps = [joint_loss(logits, mask, bce_weighting=bce_weighting) for logits in output[:4]]
    return InfNetTerms(torch.stack([edges, *maps]).sum(), edges, *maps)


def joint_loss(logits: Tensor, mask: Tensor, *, bce_weighting: BceWeighting = "as_released") -> Tensor:
    """Weighted IoU loss plus binary cross entropy, the mean over images, in float32.

    A pixel's weight is 1 + 5 |m - mean of m over the 31 x 31 pixels around it| (outside the image m is 0): larger near
    the border of the infection.

    bce_weighting: "as_described", the cross entropy is weighted so as well; "as_released", it is the plain mean: the
        release passes `reduce='none'`, which torch reads as true, so that what its weights meet is a mean already.
    """
    logits, mask = logits.float(), mask.float()
    weight = 1 + 5 * (avg_pool2d(mask, 31, stride=1, padding=15) - mask).abs()
    image = (1, 2, 3)
    if bce_weighting == "as_released":
        cross_entropy = binary_cross_entropy_with_logits(logits, mask)
    else:
        pixels = binary_cross_entropy_with_logits(logits, mask, reduction="none")
        cross_entropy = ((weight * pixels).sum(image) / weight.sum(image)).mean()
    probability = logits.sigmoid()
    both = (weight * probability * mask).sum(image)
    either = (weight * (probability + mask)).sum(image) - both
    return cross_entropy + (1 - (both + 1) / (either + 1)).mean()
