"""Networks of dynamic-network-architectures, which nnU-Net builds."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from relcons.models.nested import shallow_copy
from relcons.models.parts import Extra, UNetParts, reset_parameters, wider

__all__ = ["DnaParts", "split"]

# What a decoder reads of an encoder.
_ENCODER_FACTS = (
    "conv_bias",
    "conv_op",
    "dropout_op",
    "dropout_op_kwargs",
    "kernel_sizes",
    "nonlin",
    "nonlin_kwargs",
    "norm_op",
    "norm_op_kwargs",
    "output_channels",
    "strides",
)


@dataclass(frozen=True, eq=False)
class DnaParts(UNetParts):
    """Parts of a dynamic-network-architectures network, which is kept for its initialiser."""

    net: Any = field(kw_only=True)

    @property
    def training(self) -> bool:
        """Mode of the network."""
        return bool(self.net.training)

    @property
    def divisors(self) -> tuple[int, ...] | None:
        """Product of the strides, per axis."""
        return tuple(math.prod(strides) for strides in zip(*self.net.encoder.strides, strict=True))

    def examples(self) -> Iterator[Tensor]:
        """The smallest input whose bottleneck has two positions: instance norm refuses a single one."""
        sizes = list(self.divisors or ())
        sizes[0] *= 2
        first = next(layer for layer in self.encoder.modules() if isinstance(layer, nn.modules.conv._ConvNd))
        yield torch.zeros(1, first.in_channels, *sizes)

    def fresh_encoder(self) -> nn.Module:
        """Encoder with weights drawn anew by the network's own initialiser."""
        encoder = copy.deepcopy(self.encoder)
        reset_parameters(encoder)
        return encoder.apply(self.net.initialize)


def split(net: nn.Module) -> UNetParts:
    """Parts of ``net``: an encoder that returns its skips, and a decoder of the library.

    Residual encoders become picklable on the way; nothing else of ``net`` changes.
    """
    encoder: Any = getattr(net, "encoder", None)
    decoder: Any = getattr(net, "decoder", None)
    if not isinstance(decoder, UNetDecoder) or not getattr(encoder, "return_skips", False):
        raise TypeError(
            f"cannot split {type(net).__name__}: supported of dynamic-network-architectures are networks with an "
            "encoder that returns its skips and a UNetDecoder (PlainConvUNet, ResidualEncoderUNet)"
        )
    for layer in encoder.modules():
        # Residual blocks without a projection hold a lambda here, which cannot be pickled.
        if getattr(getattr(layer, "skip", None), "__name__", "") == "<lambda>":
            layer.skip = _identity
    return DnaParts(
        encoder=encoder,
        decoder=_without_encoder(decoder),
        channels=tuple(encoder.output_channels),
        widen=_widener(net, decoder),
        net=net,
    )


def _identity(x: Tensor) -> Tensor:
    return x


def _without_encoder(decoder: UNetDecoder) -> UNetDecoder:
    """The same decoder, sharing its layers, but not holding the encoder as a submodule of its own."""
    alone: UNetDecoder = shallow_copy(decoder)
    del alone._modules["encoder"]
    alone.encoder = _facts(decoder.encoder)
    return alone


def _facts(encoder: nn.Module | SimpleNamespace, extra: Extra = 0) -> SimpleNamespace:
    facts = {name: getattr(encoder, name) for name in _ENCODER_FACTS}
    facts["output_channels"] = wider(facts["output_channels"], extra)
    return SimpleNamespace(**facts)


def _widener(net: Any, decoder: Any) -> Callable[[Extra], nn.Module]:
    def build(extra: Extra) -> UNetDecoder:
        return UNetDecoder(
            _facts(decoder.encoder, extra),
            decoder.num_classes,
            [len(stage.convs) for stage in decoder.stages],
            decoder.deep_supervision,
            nonlin_first=_nonlin_first(decoder),
        )

    def widen(extra: Extra) -> nn.Module:
        rebuilt = build(0)
        if any(
            repr(getattr(rebuilt, part)) != repr(getattr(decoder, part))
            for part in ("stages", "transpconvs", "seg_layers")
        ):
            raise ValueError(
                f'fusion="concat": the decoder of this {type(net).__name__} is not the one that the library builds '
                'for its encoder; use fusion="project"'
            )
        wider: nn.Module = build(extra)
        return wider.apply(net.initialize)

    return widen


def _nonlin_first(decoder: UNetDecoder) -> bool:
    block = decoder.stages[0].convs[0]
    if not hasattr(block, "norm") or not hasattr(block, "nonlin"):
        return False
    return next(layer for layer in block.all_modules if layer in (block.norm, block.nonlin)) is block.nonlin
