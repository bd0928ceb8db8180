"""The Gated U-Net of Table V."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from covidct.networks.contract import contracting_path, encoded, prepared, two_convolutions


class GatedUNet(nn.Module):
    """U-Net whose skips, but for the finest, pass a grid attention gate that the bottleneck's map steers.

    One gating signal (1x1 convolution, batch norm, ReLU on the bottleneck) serves all gates; up goes a transposed 4x4
    convolution. The published network is for volumes, but its kernels and pools have size 1 along the third axis, so
    in two dimensions it is the same one, its gates (2x2x2 there) excepted.

    Source: Schlemper et al. 2019, as unet_grid_attention_3D in the repository ozan-oktay/Attention-Gated-Networks
    (widths 64 to 1024 over a feature scale of 4; He's initial weights, batch norm weights from N(1, 0.02)).
    """

    divisor: ClassVar[int] = 16

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = contracting_path(in_channels, widths)
        steering = widths[-2]
        self.gating = nn.Sequential(nn.Conv2d(widths[-1], steering, 1), nn.BatchNorm2d(steering), nn.ReLU(inplace=True))
        self.gates = nn.ModuleList(GridAttention(width, steering) for width in widths[1:-1])
        pairs = list(pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(two_convolutions(2 * fine, fine) for fine, _ in pairs)
        self.head = nn.Conv2d(widths[0], 1, 1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        finest, *skips, x = encoded(self.encoder, prepared(image, self.in_channels, self.divisor))
        signal = self.gating(x)
        gated = [finest, *(gate(skip, signal) for gate, skip in zip(self.gates, skips, strict=True))]
        for up, block, skip in reversed(list(zip(self.up, self.decoder, gated, strict=True))):
            x = block(torch.cat([skip, up(x)], 1))
        logits: Tensor = self.head(x)
        return logits


class GridAttention(nn.Module):
    """Additive gate at half of the skip's resolution: BN(W(a * x)), a = up(sigmoid(psi(relu(theta x + up(phi g)))))."""

    def __init__(self, channels: int, gating_channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, channels, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating_channels, channels, 1)
        self.psi = nn.Conv2d(channels, 1, 1)
        self.out = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        theta = self.theta(x)
        phi = interpolate(self.phi(signal), theta.shape[2:], mode="bilinear")
        attention = self.psi(relu(theta + phi)).sigmoid()
        gated: Tensor = self.out(interpolate(attention, x.shape[2:], mode="bilinear") * x)
        return gated


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
