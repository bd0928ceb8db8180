"""A dual model whose general encoder also learns the source's lesions, through a light decoder of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relcons import DualEncoderUNet


class LightDecoder(nn.Module):
    """Logits from the maps of an encoder: each to `width` channels by a 1x1 convolution, resized, summed, a 1x1 head.

    channels: of the maps, finest first.
    """

    def __init__(self, channels: Sequence[int], *, axes: int = 2, width: int = 16) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[axes - 2]
        self.mode = ("bilinear", "trilinear")[axes - 2]
        self.laterals = nn.ModuleList(convolution(each, width, 1) for each in channels)
        self.act = nn.LeakyReLU(0.01)
        self.head = convolution(width, 1, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        each = [
            interpolate(lateral(features), size, mode=self.mode)
            for lateral, features in zip(self.laterals, maps, strict=True)
        ]
        logits: Tensor = self.head(self.act(torch.stack(each).sum(0)))
        return logits


class SupervisedGeneral(nn.Module):
    """`model` beside a `LightDecoder` of its general encoder's maps.

    Called with images alone it is the model. With `source`, (B, 1, *size), it returns (logits of the images, logits of
    the source). The segmentation loss of the images does not reach the general encoder; that of the source does.
    """

    def __init__(self, model: DualEncoderUNet, channels: Sequence[int], *, axes: int = 2) -> None:
        super().__init__()
        self.model = model
        self.source_decoder = LightDecoder(channels, axes=axes)

    def forward(self, image: Tensor, source: Tensor | None = None) -> Any:
        logits = self.model(image)
        return logits if source is None else (logits, self.source_decoder(self.model.general_encoder(source)))
