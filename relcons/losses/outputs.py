"""What the losses read of a model's output."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

__all__ = ["RelationOutput", "maps_per_encoder"]

Maps = Sequence[Tensor] | Sequence[Sequence[Tensor]]


class RelationOutput(Protocol):
    """What [`RelationLoss`][relcons.RelationLoss] reads: maps per level, or those per general encoder."""

    @property
    def target(self) -> Sequence[Tensor]:
        """F_T(X^c), one map per level."""

    @property
    def general(self) -> Maps:
        """F_G(X^c), one map per level, or one such tuple per general encoder."""

    @property
    def source(self) -> Sequence[Tensor] | Sequence[Sequence[Tensor] | None] | None:
        """F_G(X^n) in the same order; None where no source was given."""


def maps_per_encoder(
    output: RelationOutput, *, general: bool, target: bool
) -> list[tuple[Sequence[Tensor], Sequence[Tensor] | None]]:
    """General and source maps of each general encoder, checked against the target's levels.

    general, target: which terms are computed.
    """
    for name in ("target", "general", "source"):
        if not hasattr(output, name):
            raise TypeError(
                f"output must be what a model returns with source= or features=True, got {type(output).__name__} "
                f"without {name}"
            )
        if isinstance(getattr(output, name), Tensor):
            raise TypeError(f"output.{name} must be a tuple of maps, one per level, got a tensor")
        read = {"general": True, "target": target, "source": False}[name]
        if read and not len(getattr(output, name)):
            raise ValueError(f"output.{name} holds no map; build the model with levels=(-1,) or others")
    generals = _per_encoder(output.general)
    sources = [None] * len(generals) if output.source is None else _per_encoder(output.source)
    if len(sources) != len(generals):
        raise ValueError(f"output.source is of {len(sources)} general encoders, output.general of {len(generals)}")
    levels = len(generals[0])
    targets = [output.target] if target else []
    for name, encoders in (("target", targets), ("general", generals), ("source", sources)):
        for maps in encoders:
            if maps is not None and len(maps) != levels:
                raise ValueError(f"output.{name} has {len(maps)} levels, output.general {levels}")
    if general and all(maps is None for maps in sources):
        raise ValueError(
            "the general term needs source features and the output has none; call the model with source=, "
            "or use RelationLoss(general=False)"
        )
    return list(zip(generals, sources if general else [None] * len(generals), strict=True))


def _per_encoder(maps: Any) -> Any:
    """One entry per general encoder, whether the output is of one or of several."""
    return [maps] if isinstance(maps[0], Tensor) else maps
