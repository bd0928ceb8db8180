"""The Dense-UNet of Table V."""

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import interpolate

from covidct.networks.backbone import backbone
from covidct.networks.contract import prepared


class DenseUNet(nn.Module):
    """DenseNet-161 with a decoder that adds its skips: nearest-neighbour doubling, sum, 3x3 convolution, BN, ReLU.

    26,472,000 + 23,055,713 parameters with three input channels. The skips are the dense blocks' maps as they are,
    the stem's after norm and ReLU; the deepest one is brought to 2208 channels first. Dropout of 0.3 before the last
    norm. New convolutions start as the source's (standard deviation 0.05, biases 0); batch norms have torch's
    momentum and epsilon where the source has Keras'.

    pretrained: ImageNet weights of the encoder (`backbone`).

    Source: Li et al. 2018 (H-DenseUNet), its 2D network in the repository xmengli/H-DenseUNet.
    """

    divisor: ClassVar[int] = 32

    def __init__(self, in_channels: int = 3, *, pretrained: bool | Path = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = backbone("densenet161", (0, 1, 2, 3, 4), in_channels=in_channels, pretrained=pretrained)
        self.deepest_skip = nn.Conv2d(2112, 2208, 1)
        # Coarsest first: what takes the sum with the encoder's maps at 1/16, 1/8, 1/4, 1/2 of the resolution.
        self.blocks = nn.ModuleList([_block(2208, 768), _block(768, 384), _block(384, 96), _block(96, 96)])
        self.last = _block(96, 64, dropout=0.3)
        self.head = nn.Conv2d(64, 1, 1)
        for module in (self.deepest_skip, self.blocks, self.last, self.head):
            module.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.encoder(prepared(image, self.in_channels, self.divisor))
        skips[-1] = self.deepest_skip(skips[-1])
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(skip + interpolate(x, scale_factor=2))
        logits: Tensor = self.head(self.last(interpolate(x, scale_factor=2)))
        return logits


def _block(in_channels: int, out_channels: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 3, padding=1)]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.05)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
