"""The U-Net of Table V."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from covidct.networks.contract import contracting_path, doubled, encoded, prepared, two_convolutions


class UNet(nn.Module):
    """U-Net of two 3x3 convolutions with batch norm a level, max-pooling down and bilinear interpolation up.

    7,852,545 parameters with three input channels. Torch's own initial weights.

    Source: Ronneberger et al. 2015, as in the repository 4uiiurz1/pytorch-nested-unet; Table V's figures are those of
    Fan et al. 2020 (Inf-Net).
    """

    divisor: ClassVar[int] = 16

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = contracting_path(in_channels, widths)
        # Finest first, as the encoder's.
        self.decoder = nn.ModuleList(two_convolutions(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = encoded(self.encoder, prepared(image, self.in_channels, self.divisor))
        for block, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = block(torch.cat([skip, doubled(x)], 1))
        logits: Tensor = self.head(x)
        return logits
