"""The Attention U-Net of Table V."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from covidct.networks.contract import contracting_path, encoded, prepared, two_convolutions


class AttentionUNet(nn.Module):
    """U-Net whose skips pass an additive gate, steered by the decoder's map of the same resolution.

    The gate is MONAI's `AttentionBlock`: x * sigmoid(BN(psi(relu(BN(W_g g) + BN(W_x x))))), with half of the level's
    channels inside. MONAI's `AttentionUnet` around it is another network (strided convolutions, transposed ones, one
    convolution after a gate: 7,940,321 parameters), so the rest stands here: 8,726,077 parameters with three input
    channels. Torch's own initial weights.

    Source: Oktay et al. 2018, as AttU_Net in the repository LeeJunHyun/Image_Segmentation, at half of its widths.
    """

    divisor: ClassVar[int] = 16

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256, 512)) -> None:
        # Here, since MONAI takes five seconds to import, which no other method should wait for.
        from monai.networks.nets.attentionunet import AttentionBlock

        super().__init__()
        self.in_channels = in_channels
        self.encoder = contracting_path(in_channels, widths)
        pairs = list(pairwise(widths))
        self.up = nn.ModuleList(_up(coarse, fine) for fine, coarse in pairs)
        self.gates = nn.ModuleList(AttentionBlock(2, f_int=fine // 2, f_g=fine, f_l=fine) for fine, _ in pairs)
        self.decoder = nn.ModuleList(two_convolutions(2 * fine, fine) for fine, _ in pairs)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = encoded(self.encoder, prepared(image, self.in_channels, self.divisor))
        for up, gate, block, skip in reversed(list(zip(self.up, self.gates, self.decoder, skips, strict=True))):
            x = up(x)
            x = block(torch.cat([gate(g=x, x=skip), x], 1))
        logits: Tensor = self.head(x)
        return logits


def _up(coarse: int, fine: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(coarse, fine, 3, padding=1),
        nn.BatchNorm2d(fine),
        nn.ReLU(inplace=True),
    )
