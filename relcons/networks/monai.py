"""Networks of MONAI."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import needing
from relcons.networks.monai_modules import (
    DownPath,
    DynUNetDecoder,
    SegResNetDecoder,
    SegResNetEncoder,
    SwinUNETREncoder,
    UpPath,
)
from relcons.parts.layers import first_convolution, in_place_of, reset_parameters, small_inputs, take_channels
from relcons.parts.parts import Extra, UNetParts, wider
from relcons.parts.reach import evaluating, probe

with needing("monai", "relcons.networks.monai"):
    from monai.networks.blocks.upsample import SubpixelUpsample
    from monai.networks.layers.simplelayers import SkipConnection
    from monai.networks.nets.attentionunet import AttentionLayer, AttentionUnet
    from monai.networks.nets.basic_unet import BasicUNet
    from monai.networks.nets.dynunet import DynUNet
    from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE, FlexibleUNet
    from monai.networks.nets.segresnet import SegResNet
    from monai.networks.nets.swin_unetr import SwinUNETR, WindowAttention
    from monai.networks.nets.unet import UNet
    from monai.networks.nets.vnet import VNet
    from monai.networks.utils import icnr_init

__all__ = ["MonaiParts", "split"]


@dataclass(frozen=True, eq=False)
class MonaiParts(UNetParts):
    """Parts of a MONAI network, which is kept for its mode and its initialiser."""

    net: Any = field(kw_only=True)
    smallest: Sequence[int] = field(kw_only=True)  # size of an input whose bottleneck has one position
    multiples: Sequence[int] | None = field(kw_only=True, default=None)

    @property
    def training(self) -> bool:
        """Mode of the network."""
        return bool(self.net.training)

    @property
    def stacked(self) -> bool:
        """DynUNet stacks the outputs of deep supervision."""
        return isinstance(self.net, DynUNet) and self.net.deep_supervision

    @property
    def divisors(self) -> tuple[int, ...] | None:
        """What the network insists on."""
        return None if self.multiples is None else tuple(self.multiples)

    def examples(self) -> Iterator[Tensor]:
        """The smallest input whose bottleneck has two positions: instance norm refuses a single one."""
        yield _example(self.encoder, self.smallest)

    def fresh_encoder(self) -> nn.Module:
        """Encoder with weights drawn anew as the network's own constructor draws them."""
        if isinstance(self.net, FlexibleUNet):
            return _rebuilt_backbone(self.net)
        encoder = self.copied_encoder()
        _reset(encoder, self.net)
        return encoder


def split(net: nn.Module) -> UNetParts:
    """Parts of ``net``, sharing its layers.

    UNet, AttentionUnet and VNet nest encoder and decoder: they are cut at their innermost level, see
    [`UNetParts.at`][relcons.parts.parts.UNetParts.at], and take ``fusion="project"`` alone.

    Raises:
        TypeError: ``net`` is another network, or has a forward pass of its own.
    """
    for kind, take_apart in _FAMILIES.items():
        if isinstance(net, kind) and all(
            getattr(type(net), method, None) is getattr(kind, method, None)
            for method in ("forward", "encode", "decode")
        ):
            return take_apart(net)
    raise TypeError(
        f"cannot split {type(net).__name__}: supported of MONAI are {', '.join(kind.__name__ for kind in _FAMILIES)} "
        "and their subclasses with the same forward pass; pass any other as "
        "relcons.UNetParts(encoder, decoder, head, channels=...), or as relcons.UNetParts.at(net, name of its "
        "bottleneck module, example=...)"
    )


def _segresnet(net: SegResNet) -> UNetParts:
    step = (2 ** (len(net.blocks_down) - 1),) * net.spatial_dims
    head = net.conv_final if net.use_conv_final else None
    return _parts(net, SegResNetEncoder(net), SegResNetDecoder(net), head, smallest=step, multiples=step)


def _flexible_unet(net: FlexibleUNet) -> UNetParts:
    step = (2 ** (net.skip_connect + 1),) * net.spatial_dims
    pads = all(block.is_pad for block in net.decoder.blocks)
    multiples = None if pads else step
    return _parts(
        net, net.encoder, UpPath(blocks=net.decoder.blocks), net.segmentation_head, smallest=step, multiples=multiples
    )


def _basic_unet(net: BasicUNet) -> UNetParts:
    smallest = (16,) * (net.final_conv.weight.ndim - 2)
    down = DownPath(conv_0=net.conv_0, down_1=net.down_1, down_2=net.down_2, down_3=net.down_3, down_4=net.down_4)
    up = UpPath(upcat_4=net.upcat_4, upcat_3=net.upcat_3, upcat_2=net.upcat_2, upcat_1=net.upcat_1)
    return _parts(net, down, up, net.final_conv, smallest=smallest)


def _dynunet(net: DynUNet) -> UNetParts:
    strides = [[stride] * net.spatial_dims if isinstance(stride, int) else stride for stride in net.strides]
    step = tuple(math.prod(along) for along in zip(*strides, strict=True))
    down = DownPath(input_block=net.input_block, downsamples=net.downsamples, bottleneck=net.bottleneck)
    return _parts(net, down, DynUNetDecoder(net), None, smallest=step, multiples=step)


def _swin_unetr(net: SwinUNETR) -> UNetParts:
    step = (net.patch_size**5,) * (net.swinViT.patch_embed.proj.weight.ndim - 2)
    up = UpPath(
        decoder5=net.decoder5,
        decoder4=net.decoder4,
        decoder3=net.decoder3,
        decoder2=net.decoder2,
        decoder1=net.decoder1,
    )
    return _parts(net, SwinUNETREncoder(net), up, net.out, smallest=step, multiples=step)


def _innermost(kind: type[nn.Module]) -> Callable[[nn.Module], UNetParts]:
    """Cut at what the innermost module of a kind goes around."""

    def take_apart(net: nn.Module) -> UNetParts:
        names = [name for name, module in net.named_modules() if isinstance(module, kind)]
        return _cut(net, f"{names[-1]}.submodule")  # the order is depth first, and each is inside of the last one

    return take_apart


def _cut(net: nn.Module, name: str) -> UNetParts:
    for outer, module in net.named_modules():
        if type(module).__name__ == "ActivationCheckpointWrapper" and name.startswith(outer):
            raise TypeError(
                f"cannot split {type(net).__name__}: it runs its bottleneck {name!r} again in the backward pass; "
                "build the network without activation checkpointing"
            )
    found = probe([net], lambda x: (x, net(x)), small_inputs(net))
    if found is None:
        raise TypeError(
            f"cannot split {type(net).__name__}: it takes none of the small images tried; pass "
            f"relcons.UNetParts.at(net, {name!r}, example=a batch that it takes)"
        )
    return UNetParts.at(net, name, example=found[0].detach())


_FAMILIES: dict[type[nn.Module], Callable[[Any], UNetParts]] = {
    SegResNet: _segresnet,
    FlexibleUNet: _flexible_unet,
    BasicUNet: _basic_unet,
    DynUNet: _dynunet,
    SwinUNETR: _swin_unetr,
    UNet: _innermost(SkipConnection),
    AttentionUnet: _innermost(AttentionLayer),
    VNet: lambda net: _cut(net, "down_tr256"),
}


def _parts(
    net: nn.Module,
    encoder: nn.Module,
    decoder: nn.Module,
    head: nn.Module | None,
    *,
    smallest: Sequence[int],
    multiples: Sequence[int] | None = None,
) -> UNetParts:
    kept = set(net.modules())
    for layer in (*encoder.modules(), *decoder.modules()):
        if layer not in kept:  # built here
            layer.training = net.training
    maps = probe([encoder], encoder, [_example(encoder, smallest)])
    if maps is None:
        raise TypeError(
            f"cannot split {type(net).__name__}: its encoder does not take an image of "
            f"{tuple(_example(encoder, smallest).shape)}, so it was changed after it was built; pass "
            "relcons.UNetParts(encoder, decoder, head, channels=...)"
        )
    channels = tuple(features.shape[1] for features in maps)

    def widen(extra: Extra) -> nn.Module:
        sizes = [(1, width, *features.shape[2:]) for width, features in zip(wider(channels, extra), maps, strict=True)]
        fresh = _widened(decoder, [features.new_zeros(size) for features, size in zip(maps, sizes, strict=True)], net)
        _reset(fresh, net)
        return fresh.requires_grad_(True)

    return MonaiParts(encoder, decoder, head, channels, widen, net=net, smallest=smallest, multiples=multiples)


def _example(encoder: nn.Module, smallest: Sequence[int]) -> Tensor:
    return torch.zeros(1, first_convolution(encoder).in_channels, 2 * smallest[0], *smallest[1:])


def _reset(module: nn.Module, net: nn.Module) -> None:
    """Draw the weights of a part of ``net`` anew, as MONAI's constructors do."""
    reset_parameters(module, own={WindowAttention: _reset_attention})
    for layer in module.modules():
        if isinstance(layer, SubpixelUpsample) and isinstance(layer.conv_block, nn.modules.conv._ConvNd):
            icnr_init(layer.conv_block, layer.scale_factor)  # type: ignore[no-untyped-call]
    if isinstance(net, DynUNet):
        module.apply(net.initialize_weights)


def _reset_attention(layer: Any) -> None:
    nn.init.trunc_normal_(layer.relative_position_bias_table, std=0.02)


def _widened(decoder: nn.Module, maps: list[Tensor], net: nn.Module) -> nn.Module:
    """Copy of ``decoder`` whose convolutions take ``maps``: each is widened when it meets more channels than it takes.

    Their new weights are not set.
    """
    decoder = copy.deepcopy(decoder)

    def widen(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(layer, nn.modules.conv._ConvNd) and inputs[0].shape[1] != layer.in_channels:
            take_channels(layer, inputs[0].shape[1])

    hooks = [layer.register_forward_pre_hook(widen) for layer in decoder.modules()]
    try:
        with evaluating([decoder]), torch.no_grad():
            decoder(maps)
    except RuntimeError as error:
        raise ValueError(
            f'fusion="concat": the decoder of {type(net).__name__} does not concatenate all of these maps ({error}); '
            'use fusion="project", or leave skip connections out of fuse_levels'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return decoder


def _rebuilt_backbone(net: FlexibleUNet) -> nn.Module:
    """Encoder of a FlexibleUNet built anew, without pretrained weights."""
    backbone = FLEXUNET_BACKBONE.register_dict[net.backbone]
    # The table keeps the arguments of the network built last.
    own = {"spatial_dims": net.spatial_dims, "in_channels": first_convolution(net.encoder).in_channels}
    built = backbone["type"](**{**backbone["parameter"], **own, "pretrained": False})
    return in_place_of(net.encoder, built, f"the backbone {net.backbone!r}")
