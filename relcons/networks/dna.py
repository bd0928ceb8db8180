"""Networks of dynamic-network-architectures, which nnU-Net builds."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import needing
from relcons.parts.layers import first_convolution, reset_parameters, take_channels
from relcons.parts.nested import shallow_copy
from relcons.parts.parts import Extra, UNetParts, wider

with needing("dna", "relcons.networks.dna"):
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
    from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder

__all__ = ["DnaParts", "build", "describe", "split"]

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

# What a configuration may name: networks, and for every argument that is a class the classes that it may be.
NETWORKS: dict[str, Any] = {kind.__name__: kind for kind in (PlainConvUNet, ResidualEncoderUNet)}
CLASSES: dict[str, tuple[Any, ...]] = {
    "conv_op": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    "norm_op": (
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    ),
    "dropout_op": (nn.AlphaDropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    "nonlin": (nn.ELU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.Mish, nn.PReLU, nn.ReLU, nn.SELU, nn.SiLU),
    "block": (BasicBlockD, BottleneckD),
}


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
        yield torch.zeros(1, first_convolution(self.encoder).in_channels, *sizes)

    def describe(self) -> dict[str, Any] | None:
        """Arguments read back from the network."""
        return describe(self.net)

    def fresh_encoder(self) -> nn.Module:
        """Encoder with weights drawn anew by the network's own initialiser."""
        encoder = self.copied_encoder()
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
            "encoder that returns its skips and a UNetDecoder (PlainConvUNet, ResidualEncoderUNet); others are "
            "passed as relcons.UNetParts(encoder, decoder, head, channels=...), or as relcons.UNetParts.at(net, name "
            "of its bottleneck, example=shape of a batch)"
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


def describe(net: Any) -> dict[str, Any] | None:
    """Class and arguments of ``net``, read back from its layers.

    None for classes that are not in the tables, the library's own ``pydoc.locate`` being no option: it
    imports whatever a file names.
    """
    if NETWORKS.get(type(net).__name__) is not type(net):
        return None
    try:
        arguments = _read_back(net)
    except (AttributeError, IndexError, StopIteration):  # layers were replaced after it was built
        return None
    for argument, known in CLASSES.items():
        kind = arguments.get(argument)
        if kind is None:
            continue
        if kind not in known:
            return None
        arguments[argument] = kind.__name__
    return {"family": "dynamic_network_architectures", "class": type(net).__name__, "arguments": arguments}


def _read_back(net: Any) -> dict[str, Any]:
    encoder, decoder = net.encoder, net.decoder
    facts = {name: copy.deepcopy(getattr(encoder, name)) for name in _ENCODER_FACTS if name != "output_channels"}
    arguments = {
        "input_channels": first_convolution(encoder).in_channels,
        "num_classes": decoder.num_classes,
        "n_stages": len(encoder.stages),
        "features_per_stage": list(encoder.output_channels),
        "n_conv_per_stage_decoder": [len(stage.convs) for stage in decoder.stages],
        "deep_supervision": bool(decoder.deep_supervision),
        **facts,
    }
    if isinstance(net, PlainConvUNet):
        arguments["n_conv_per_stage"] = [len(stage[-1].convs) for stage in encoder.stages]
        arguments["nonlin_first"] = _nonlin_first(decoder)
        return arguments
    blocks = [stage.blocks for stage in encoder.stages]
    arguments["n_blocks_per_stage"] = [len(stage) for stage in blocks]
    arguments["block"] = type(blocks[0][0])
    arguments["stem_channels"] = encoder.stem.convs[0].output_channels
    if isinstance(blocks[0][0], BottleneckD):
        arguments["bottleneck_channels"] = [stage[0].conv1.output_channels for stage in blocks]
    return arguments


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Network of a configuration; classes come from the tables alone."""
    if name not in NETWORKS:
        raise ValueError(f"network {name!r}; known of dynamic-network-architectures are {', '.join(NETWORKS)}")
    arguments = dict(arguments)
    for argument, known in CLASSES.items():
        if arguments.get(argument) is None:
            continue
        kinds = {kind.__name__: kind for kind in known}
        if arguments[argument] not in kinds:
            raise ValueError(f"{argument} {arguments[argument]!r}; known are {', '.join(kinds)}")
        arguments[argument] = kinds[arguments[argument]]
    net: nn.Module = NETWORKS[name](**arguments)
    return net


def _identity(x: Tensor) -> Tensor:
    return x


def _without_encoder(decoder: UNetDecoder) -> UNetDecoder:
    """The same decoder, sharing its layers, but not holding the encoder as a submodule of its own."""
    alone: UNetDecoder = shallow_copy(decoder)
    del alone._modules["encoder"]
    alone.encoder = _facts(decoder.encoder)
    return alone


def _facts(encoder: nn.Module | SimpleNamespace, extra: int = 0) -> SimpleNamespace:
    facts = {name: getattr(encoder, name) for name in _ENCODER_FACTS}
    facts["output_channels"] = wider(facts["output_channels"], extra)
    return SimpleNamespace(**facts)


def _widener(net: Any, decoder: Any) -> Callable[[Extra], nn.Module]:
    def build(extra: int) -> UNetDecoder:
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
        skips, bottleneck = ([], extra) if isinstance(extra, int) else (extra[:-1], extra[-1])
        fresh: Any = build(bottleneck)
        # Wider skips are taken in by the first convolution of their stage; what a stage gives stays as it is.
        for stage, more in zip(fresh.stages, reversed(skips), strict=False):
            take_channels(stage.convs[0].conv, stage.convs[0].conv.in_channels + more)
        applied: nn.Module = fresh.apply(net.initialize)
        return applied

    return widen


def _nonlin_first(decoder: UNetDecoder) -> bool:
    block = decoder.stages[0].convs[0]
    if not hasattr(block, "norm") or not hasattr(block, "nonlin"):
        return False
    return next(layer for layer in block.all_modules if layer in (block.norm, block.nonlin)) is block.nonlin
