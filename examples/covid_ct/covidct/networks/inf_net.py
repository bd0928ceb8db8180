"""Inf-Net."""

from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from covidct.networks.backbone import backbone, imagenet_input
from covidct.networks.contract import doubled, prepared

EDGE_CHANNELS = 64


class InfNetOutput(NamedTuple):
    """Logits (B, 1, H, W) at full resolution: the global map `s5`, its refinements down to `s2`, and `edge`.

    `s2` is the prediction.
    """

    s5: Tensor
    s4: Tensor
    s3: Tensor
    s2: Tensor
    edge: Tensor


class InfNet(nn.Module):
    """Inf-Net: a coarse map of the infection, refined level by level by what it leaves out, guided by edges.

    Encoder: timm's `res2net50d`, which is Res2Net-50 v1b (26w x 4s). Receptive field blocks bring the maps at 1/8,
    1/16 and 1/32 to `channels`; the partial decoder makes the global map of them; three reverse attention stages
    refine it. In training it returns an `InfNetOutput`, in evaluation `s2`. See `inf_net_loss` and `inf_net_training`
    for what it is trained with.

    As released, no convolution here is followed by a ReLU but where the parts below say so: the release's block of
    convolution and norm owns one and never calls it.

    pretrained: ImageNet weights of the encoder (`backbone`), which the release starts from.
    imagenet_scale: images come in 0 to 1 and are brought to ImageNet's mean and deviation here, as the release does.

    Source: Fan et al. 2020, the repository DengPingFan/Inf-Net.
    """

    divisor: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 32,
        *,
        pretrained: bool | Path = False,
        imagenet_scale: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.imagenet_scale = in_channels, imagenet_scale
        self.encoder = backbone("res2net50d", (1, 2, 3, 4), in_channels=in_channels, pretrained=pretrained)
        self.receptive = nn.ModuleList(ReceptiveField(width, channels) for width in (512, 1024, 2048))
        self.partial_decoder = PartialDecoder(channels)
        self.edge_guide = nn.Sequential(
            conv_norm(256, EDGE_CHANNELS, 1),
            conv_norm(EDGE_CHANNELS, EDGE_CHANNELS, 3),
            conv_norm(EDGE_CHANNELS, EDGE_CHANNELS, 3),
        )
        self.edge_head = conv_norm(EDGE_CHANNELS, 1, 3)
        self.refine4 = ReverseAttention(2048, 256, convolutions=3, kernel=5, last_kernel=1)
        self.refine3 = ReverseAttention(1024, 64, convolutions=2, kernel=3, last_kernel=3)
        self.refine2 = ReverseAttention(512, 64, convolutions=2, kernel=3, last_kernel=3)

    def forward(self, image: Tensor) -> Tensor | InfNetOutput:
        x = prepared(image, self.in_channels, self.divisor)
        x1, x2, x3, x4 = self.encoder(imagenet_input(x) if self.imagenet_scale else x)
        edge = self.edge_guide(x1)
        s5 = self.partial_decoder(*(field(x) for field, x in zip(self.receptive, (x2, x3, x4), strict=True)))
        s4 = self.refine4(x4, s5, edge)
        s3 = self.refine3(x3, s4, edge)
        s2 = self.refine2(x2, s3, edge)
        if not self.training:
            return resized(s2, image)
        return InfNetOutput(*(resized(logits, image) for logits in (s5, s4, s3, s2, self.edge_head(edge))))


class ReceptiveField(nn.Module):
    """Four branches, side by side: 1x1 alone, or 1x1, 1xk, kx1 and 3x3 dilated by k for k of 3, 5, 7.

    Their maps are joined by a 3x3 convolution; a 1x1 convolution of the input is added; then ReLU.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(conv_norm(in_channels, channels, 1))])
        for k in (3, 5, 7):
            self.branches.append(
                nn.Sequential(
                    conv_norm(in_channels, channels, 1),
                    conv_norm(channels, channels, (1, k)),
                    conv_norm(channels, channels, (k, 1)),
                    conv_norm(channels, channels, 3, dilation=k),
                )
            )
        self.join = conv_norm(4 * channels, channels, 3)
        self.residual = conv_norm(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.join(torch.cat([branch(x) for branch in self.branches], 1)) + self.residual(x))


class PartialDecoder(nn.Module):
    """The global map of three maps, each half as large as the one before: products of neighbours, then joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        once, twice, thrice = channels, 2 * channels, 3 * channels
        self.coarse_times_middle = conv_norm(once, once, 3)
        self.coarse_times_fine = conv_norm(once, once, 3)
        self.middle_times_fine = conv_norm(once, once, 3)
        self.coarse_beside_middle = conv_norm(once, once, 3)
        self.join_middle = conv_norm(twice, twice, 3)
        self.middle_beside_fine = conv_norm(twice, twice, 3)
        self.join_fine = conv_norm(thrice, thrice, 3)
        self.last = conv_norm(thrice, thrice, 3)
        self.head = nn.Conv2d(thrice, 1, 1)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        coarse_up = doubled(coarse)
        middle_product = self.coarse_times_middle(coarse_up) * middle
        fine_product = self.coarse_times_fine(doubled(coarse_up)) * self.middle_times_fine(doubled(middle)) * fine
        x = self.join_middle(torch.cat([middle_product, self.coarse_beside_middle(coarse_up)], 1))
        x = self.join_fine(torch.cat([fine_product, self.middle_beside_fine(doubled(x))], 1))
        logits: Tensor = self.head(self.last(x))
        return logits


class ReverseAttention(nn.Module):
    """A level's correction of the map above: looks where that map says "not infected", beside the edges' maps."""

    def __init__(self, in_channels: int, channels: int, *, convolutions: int, kernel: int, last_kernel: int) -> None:
        super().__init__()
        self.squeeze = conv_norm(in_channels, channels, 1)
        inputs = (channels + EDGE_CHANNELS, *[channels] * (convolutions - 1))
        self.convolutions = nn.ModuleList(conv_norm(before, channels, kernel) for before in inputs)
        self.last = conv_norm(channels, 1, last_kernel)

    def forward(self, features: Tensor, guide: Tensor, edge: Tensor) -> Tensor:
        guide = resized(guide, features)
        x = torch.cat([self.squeeze(reversed_by(guide, features)), resized(edge, features)], 1)
        for convolution in self.convolutions:
            x = relu(convolution(x))
        logits: Tensor = self.last(x) + guide
        return logits


def reversed_by(guide: Tensor, features: Tensor) -> Tensor:
    """(1 - sigmoid(guide)) * features: what the map of logits `guide` (B, 1, H, W) leaves out."""
    return (1 - guide.sigmoid()) * features


def resized(features: Tensor, like: Tensor) -> Tensor:
    """`features` at the resolution of `like`, bilinear without aligned corners."""
    return interpolate(features, like.shape[2:], mode="bilinear")


def conv_norm(in_channels: int, channels: int, kernel: int | tuple[int, int], dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the resolution, and batch norm."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (dilation * (height // 2), dilation * (width // 2))
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, (height, width), padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
    )
