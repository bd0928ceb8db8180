"""U-Net++."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from covidct.networks.contract import contracting_path, doubled, encoded, prepared, two_convolutions


class NestedUNet(nn.Module):
    """U-Net++: between encoder and decoder every level has a chain of nodes, each fed by all before it.

    Node j of level i takes the j maps of its level before it and, at twice the resolution, node j - 1 of the level
    below. 9,163,329 parameters with three input channels and one head. Torch's own initial weights.

    deep_supervision: a head on each of the finest level's nodes. In training their logits come as a list, the last
        node's first; in evaluation the logit of their mean probability (the paper's accurate mode). The source
        weighs the heads alike in its loss.

    Source: Zhou et al. 2018, as in the repository 4uiiurz1/pytorch-nested-unet (which evaluates the last head alone).
    """

    divisor: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = (32, 64, 128, 256, 512),
        *,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision
        self.encoder = contracting_path(in_channels, widths)
        last = len(widths) - 1
        self.columns = nn.ModuleList(
            nn.ModuleList(
                two_convolutions(column * widths[level] + widths[level + 1], widths[level])
                for level in range(last + 1 - column)
            )
            for column in range(1, last + 1)
        )
        self.heads = nn.ModuleList(nn.Conv2d(widths[0], 1, 1) for _ in range(last if deep_supervision else 1))

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        # chains[i] holds what level i has so far.
        chains = [[x] for x in encoded(self.encoder, prepared(image, self.in_channels, self.divisor))]
        for column in self.columns:
            nodes = list(column.children())
            below = [doubled(chain[-1]) for chain in chains[1 : len(nodes) + 1]]
            for node, chain, x in zip(nodes, chains, below, strict=False):
                chain.append(node(torch.cat([*chain, x], 1)))
        finest = chains[0][-len(self.heads) :]
        logits: list[Tensor] = [head(x) for head, x in zip(self.heads, finest, strict=True)][::-1]
        if len(logits) == 1:
            return logits[0]
        return logits if self.training else logit_of_mean(torch.stack(logits))


def logit_of_mean(logits: Tensor) -> Tensor:
    """The logit of the mean over the first axis of `logits.sigmoid()`, exact for large logits as well."""
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)
