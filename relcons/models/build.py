"""Checks and construction of the pieces of a multi-encoder model."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from relcons.checks import check_choice
from relcons.models.fusion import Concatenation, Fusion, Projection
from relcons.parts.parts import UNetParts, read_channels

__all__ = [
    "FusionKind",
    "General",
    "build_fusion",
    "build_generals",
    "check_finest_first",
    "check_input",
    "check_levels",
]

FusionKind = Literal["project", "concat"]
General = Literal["copy", "reset"]


def check_levels(levels: Sequence[int], widths: Sequence[int], name: str = "levels") -> tuple[int, ...]:
    """Levels as indices from the front; ValueError for one that does not exist, repeats or has no channels."""
    found: list[int] = []
    for level in levels:
        if isinstance(level, bool) or not isinstance(level, int) or not -len(widths) <= level < len(widths):
            raise ValueError(f"{name} must be indices of the encoder's {len(widths)} maps, got {level!r}")
        index = level % len(widths)
        if widths[index] == 0:
            raise ValueError(f"{name}: map {level} has 0 channels; widths are {tuple(widths)}")
        if index in found:
            raise ValueError(f"{name} names map {index} twice: {tuple(levels)}")
        found.append(index)
    if not found:
        raise ValueError(f"{name} must name at least one of the encoder's maps; (-1,) is the bottleneck")
    return tuple(found)


def check_input(name: str, x: Tensor, divisors: Sequence[int] | None, channels: int | None) -> None:
    """ValueError for images whose channels or spatial sizes the network would not take."""
    if divisors is not None and x.ndim != len(divisors) + 2:
        raise ValueError(f"{name} must be (B, C, *spatial) with {len(divisors)} spatial axes, got {tuple(x.shape)}")
    if channels is not None and x.ndim > 1 and x.shape[1] != channels:
        raise ValueError(
            f"{name} must be (B, C, *spatial) with C = {channels}, as the network was built, got {tuple(x.shape)}; "
            f"convert the images, or build the network for {x.shape[1]} input channels"
        )
    if divisors is None:
        return
    sizes = x.shape[2:]
    if any(size % divisor for size, divisor in zip(sizes, divisors, strict=True)):
        padded = tuple(-(-size // d) * d for size, d in zip(sizes, divisors, strict=True))
        raise ValueError(
            f"{name} must have spatial sizes that are multiples of {tuple(divisors)}, got {tuple(sizes)}; "
            f"pad or crop it, for example to {padded}"
        )


def check_finest_first(outputs: Sequence[Any]) -> None:
    """ValueError where it is not plain that the first of a network's outputs is its result."""
    sizes = [output.shape[2:].numel() for output in outputs if isinstance(output, Tensor) and output.ndim > 2]
    if len(sizes) > 1 and sizes[0] <= max(sizes[1:]):
        raise ValueError(
            f"net returns {len(sizes)} maps and the first is not finer than all others, so that its result cannot be "
            'told from them; build the model with outputs="native" and choose yourself'
        )


def build_fusion(parts: UNetParts, kind: FusionKind, levels: Sequence[int], generals: int) -> tuple[Fusion, nn.Module]:
    """What fuses the maps of ``levels``, and the decoder that takes them: the parts' own, or a wider one."""
    extra = [parts.widths[level] * generals if level in levels else 0 for level in range(len(parts.widths))]
    if kind == "project":
        projections = {level: Projection(parts.widths[level], extra[level]) for level in levels}
        return Fusion(projections), parts.decoder
    if parts.widen is None:
        raise ValueError(
            'fusion="concat" needs a decoder that takes more channels and there is no way to build one here; '
            'use fusion="project", or pass UNetParts(..., widen=function of the extra channels)'
        )
    bottleneck_alone = not any(extra[:-1])
    decoder = parts.widen(extra[-1] if bottleneck_alone else tuple(extra))
    return Fusion({level: Concatenation() for level in levels}), decoder


def build_generals(
    parts: UNetParts, count: int, general: General | nn.Module | Sequence[General | nn.Module]
) -> list[nn.Module]:
    """General encoders that ``general`` asks for, none sharing a parameter with another or with net's."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"generals must be a positive number of general encoders, got {count!r}")
    entries: list[Any]
    if isinstance(general, str | nn.Module) or not isinstance(general, Sequence):
        entries = [general] * count
    else:
        entries = list(general)
    if len(entries) != count:
        raise ValueError(f"general must give one entry for each of {count} general encoders, got {len(entries)}")
    encoders = [_build_general(parts, entry) for entry in entries]
    modules = [parts.encoder, *encoders]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    if len(set(parameters)) != len(parameters):
        raise ValueError(
            'general: encoders must not share parameters with each other or with net\'s; use "copy", "reset", '
            "or build one encoder for each"
        )
    return encoders


def _build_general(parts: UNetParts, entry: General | nn.Module) -> nn.Module:
    if isinstance(entry, nn.Module):
        widths = read_channels(entry)
        if widths is not None and tuple(widths) != parts.widths:
            raise ValueError(
                f"general: the encoder's maps have widths {tuple(widths)}, those of net's encoder {parts.widths}; "
                "relations compare channel with channel, so give an encoder with the same widths"
            )
        return entry.train(parts.training)
    if not isinstance(entry, str):
        raise TypeError(f'general must be "copy", "reset" or a module, got {type(entry).__name__}')
    check_choice("general", entry, get_args(General))
    if entry == "copy":
        return parts.copied_encoder()
    return parts.fresh_encoder().requires_grad_(True)  # a frozen net's fresh weights know nothing worth keeping
