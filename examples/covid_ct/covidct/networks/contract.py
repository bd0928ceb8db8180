"""What the networks of Table V have in common.

Each takes images (B, 1, H, W), or (B, in_channels, H, W), whose height and width are multiples of its `divisor`, and
returns logits (B, 1, H, W): in evaluation a tensor, in training a tensor, a list of them under deep supervision
(finest first) or, Inf-Net alone, an `InfNetOutput`. `encoder` holds its contracting path, everything else decodes.
Weights are drawn from torch's generator alone, so that `torch.manual_seed` repeats them.
"""

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d


def prepared(image: Tensor, channels: int, divisor: int) -> Tensor:
    """`image` with `channels` channels; ValueError if its shape is none that a network with `divisor` takes.

    A grey image is repeated, as the published networks are fed; weights from ImageNet take three channels.
    """
    if image.ndim != 4 or image.shape[1] not in (1, channels):
        expected = f"(B, 1, H, W) or (B, {channels}, H, W)" if channels > 1 else "(B, 1, H, W)"
        raise ValueError(f"image has shape {tuple(image.shape)}; expected {expected}")
    height, width = image.shape[2:]
    if height % divisor or width % divisor:
        nearest = tuple(max(round(side / divisor), 1) * divisor for side in (height, width))
        raise ValueError(
            f"image has {height} x {width} pixels; this network takes multiples of {divisor}, "
            f"such as {nearest[0]} x {nearest[1]}"
        )
    return image.expand(-1, channels, -1, -1)


def two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice a 3x3 convolution with bias, batch norm and ReLU: the block of the U-Nets of Table V."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def contracting_path(in_channels: int, widths: tuple[int, ...]) -> nn.ModuleList:
    """One `two_convolutions` a level; the maps between them are halved by max-pooling (`encoded`)."""
    inputs = (in_channels, *widths[:-1])
    return nn.ModuleList(two_convolutions(before, width) for before, width in zip(inputs, widths, strict=True))


def encoded(levels: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """The map of every level of a `contracting_path`, finest first."""
    maps: list[Tensor] = []
    for level in levels:
        maps.append(level(max_pool2d(maps[-1], 2) if maps else image))
    return maps


def doubled(features: Tensor) -> Tensor:
    """`features` at twice the resolution, bilinear with aligned corners."""
    return interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
