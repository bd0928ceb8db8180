"""Encoders and decoders of MONAI's networks as modules, made of the networks' own layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relcons.checks import needing

with needing("monai", "relcons.networks.monai"):
    from monai.networks.nets.dynunet import DynUNet
    from monai.networks.nets.segresnet import SegResNet
    from monai.networks.nets.swin_unetr import SwinUNETR

__all__ = ["DownPath", "DynUNetDecoder", "SegResNetDecoder", "SegResNetEncoder", "SwinUNETREncoder", "UpPath"]


class DownPath(nn.Module):
    """Stages of an encoder, each running on the map of the one before.

    Args:
        stages: by their names in the network; a list of stages is run in its order.
    """

    def __init__(self, **stages: nn.Module) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map of every stage."""
        return [x := stage(x) for child in self.children() for stage in _listed(child)]


class UpPath(nn.Module):
    """Blocks of a decoder, each taking the map of the one before and a skip connection.

    Args:
        blocks: by their names in the network, from the bottleneck on; a list of blocks is run in its order.
    """

    def __init__(self, **blocks: nn.Module) -> None:
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Features at full resolution."""
        x, skips = maps[-1], [*maps[-2::-1], None]  # None for the last of FlexibleUNet's blocks
        blocks = [block for child in self.children() for block in _listed(child)]
        for block, skip in zip(blocks, skips, strict=False):
            x = block(x, skip)
        return x


class SegResNetEncoder(nn.Module):
    """Layers of `SegResNet.encode`."""

    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.convInit, self.down_layers = net.convInit, net.down_layers
        self.dropout = net.dropout if net.dropout_prob is not None else nn.Identity()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map of every level."""
        x = self.dropout(self.convInit(x))
        return [x := down(x) for down in self.down_layers]


class SegResNetDecoder(nn.Module):
    """Layers of `SegResNet.decode` up to the final convolution."""

    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.up_layers, self.up_samples = net.up_layers, net.up_samples

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Features at full resolution."""
        x = maps[-1]
        for up_sample, up_layer, skip in zip(self.up_samples, self.up_layers, maps[-2::-1], strict=True):
            x = up_layer(up_sample(x) + skip)
        return x


class DynUNetDecoder(nn.Module):
    """Expanding path of a DynUNet with its outputs, stacked in training under deep supervision."""

    def __init__(self, net: DynUNet) -> None:
        super().__init__()
        self.upsamples, self.output_block = net.upsamples, net.output_block
        self.deep_supervision_heads = net.deep_supervision_heads if net.deep_supervision else nn.ModuleList()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, C, *spatial)``, or of every output ``(B, outputs, C, *spatial)``, finest first."""
        x, levels = maps[-1], []
        for up, skip in zip(self.upsamples, maps[-2::-1], strict=True):
            levels.append(x := up(x, skip))
        logits: Tensor = self.output_block(x)
        if not (self.training and self.deep_supervision_heads):
            return logits
        finer = levels[-2::-1][: len(self.deep_supervision_heads)]
        others = [head(level) for head, level in zip(self.deep_supervision_heads, finer, strict=True)]
        size = logits.shape[2:]
        return torch.stack([logits, *(nn.functional.interpolate(other, size) for other in others)], dim=1)


class SwinUNETREncoder(nn.Module):
    """Transformer of a SwinUNETR with the blocks on the way to its decoder."""

    def __init__(self, net: SwinUNETR) -> None:
        super().__init__()
        self.swinViT, self.normalize = net.swinViT, net.normalize
        self.encoder1, self.encoder2, self.encoder3 = net.encoder1, net.encoder2, net.encoder3
        self.encoder4, self.encoder10 = net.encoder4, net.encoder10

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map of every level."""
        hidden = self.swinViT(x, self.normalize)
        skips = [self.encoder2(hidden[0]), self.encoder3(hidden[1]), self.encoder4(hidden[2]), hidden[3]]
        return [self.encoder1(x), *skips, self.encoder10(hidden[4])]


def _listed(child: nn.Module) -> list[nn.Module]:
    return list(child) if isinstance(child, nn.ModuleList) else [child]
