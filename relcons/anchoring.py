"""A frozen copy of the general encoder's start, which keeps the general term from making all images alike."""

import copy
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from relcons.checks import check_finite
from relcons.functional import Reduction, anchored_consistency
from relcons.relations import GramRelation

__all__ = ["RelationAnchor"]


Batches = Tensor | Sequence[Tensor | None] | None
TargetBatches = Tensor | Sequence[Tensor] | None
# Of each general encoder the maps of source and target images, by level; None without a source batch.
Starts = list[tuple[list[Tensor], list[Tensor]] | None]


class HasGenerals(Protocol):
    """What [`RelationAnchor`][relcons.RelationAnchor] reads of a model."""

    general_encoders: nn.ModuleList
    levels: tuple[int, ...]
    channels: tuple[int, ...]


class RelationAnchor(nn.Module):
    r"""Holds the general term to what the general encoder told at its start.

    $L_G$ alone has a trivial minimum: features that relate alike for every image. With
    ``RelationLoss(anchor=RelationAnchor(model))`` the term is
    [`anchored_consistency`][relcons.functional.anchored_consistency] instead: either domain's relation goes
    half-way to the other's, as a frozen copy of the encoder tells both, and images keep their
    differences. Call the loss with the images then: ``relation(output, x_target, x_source)``.

    Make it when the general encoders have the weights and modes that they start from. The copies follow the
    loss's mode (``relation.train()``, the default): under batch norm they see the batch as the encoders do.
    Layers that you had set to evaluation in an encoder in training, such as batch norm that keeps its
    statistics, stay so in its copy. The copies' weights, and the running mean of what lies between the
    domains, are in the ``state_dict`` of the loss; every call in training mode counts its batch in that
    mean, calls under ``torch.no_grad()`` look and change nothing of it.
    The copies cost a forward pass of the general encoder over both batches, and its memory once more.

    Measured on real slices only, where the printed term made all images alike: see the page *What can go wrong*.
    With two convolutions a stage, AdamW needed a learning rate of 2e-4 for the general encoder there.

    Args:
        model: with ``general_encoders``, ``levels`` and ``channels``: a
            [`DualEncoderUNet`][relcons.DualEncoderUNet] or [`MultiEncoderUNet`][relcons.MultiEncoderUNet].
        keep: weight of the images' differences beside the domains' means, 0 or more.

    Raises:
        TypeError: ``model`` is no such model.
        ValueError: ``keep`` is negative or not finite, or the model is on the meta device, without weights.

    Examples:
        >>> net = UNetParts(nn.ModuleList([nn.Conv2d(1, 4, 3)]), nn.Identity(), channels=(4,))
        >>> net.channels
        (4,)
    """

    steps: Tensor

    def __init__(self, model: HasGenerals, keep: float = 0.05) -> None:
        super().__init__()
        missing = [name for name in ("general_encoders", "levels", "channels") if not hasattr(model, name)]
        if missing:
            raise TypeError(
                f"model must be a DualEncoderUNet or MultiEncoderUNet, got {type(model).__name__} without {missing[0]}"
            )
        check_finite(keep=keep)
        if keep < 0:
            raise ValueError(f"keep must be 0 or more, got {keep}")
        if any(parameter.is_meta for parameter in model.general_encoders.parameters()):
            raise ValueError("model is on the meta device, without weights to hold to; make the anchor of the real one")
        self.keep = float(keep)
        self.levels = tuple(model.levels)
        self.encoders = nn.ModuleList(
            copy.deepcopy(encoder).requires_grad_(False) for encoder in model.general_encoders
        )
        self._resting = [
            layer for encoder in self.encoders if encoder.training for layer in encoder.modules() if not layer.training
        ]
        self.train()
        device = next((p.device for p in model.general_encoders.parameters()), None)
        self.register_buffer("steps", torch.zeros((), device=device))
        for encoder in range(len(self.encoders)):
            for level, channels in enumerate(model.channels):
                self.register_buffer(f"shift_{encoder}_{level}", torch.zeros(channels, channels, device=device))

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; layers that rested in an encoder's training rest in its copy."""
        super().train(mode)
        for layer in self._resting:
            layer.training = False
        return self

    def reset_parameters(self) -> None:
        """Forget what was seen of the domains; the copies of the encoders stay."""
        for buffer in (self.steps, *self._shifts()):
            buffer.zero_()

    def starts(self, images: TargetBatches, source: Batches) -> Starts:
        """The copies' maps of the images that the model was called with; counts them where they are learned from.

        images: of the target, or a sequence of them and the unlabelled ones, which pass apart, as in the model.
        source: a batch, or one (or None) for each general encoder.
        """
        batches = [source] if source is None or isinstance(source, Tensor) else list(source)
        count = len(self.encoders)
        if images is None or len(batches) != count or all(batch is None for batch in batches):
            several = f", one source batch (or None) for each of {count} general encoders" if count > 1 else ""
            raise ValueError(
                f"anchor needs the images that the model was called with: relation(output, x_target, x_source){several}"
            )
        if self._learns():
            self.steps += 1
        apart = [images] if isinstance(images, Tensor) else list(images)
        return [
            None if batch is None else (self._maps(encoder, [batch]), self._maps(encoder, apart))
            for encoder, batch in zip(self.encoders, batches, strict=True)
        ]

    def term(
        self,
        encoder: int,
        level: int,
        source: Tensor,
        general: Tensor,
        starts: Starts,
        relation: nn.Module,
        reduction: Reduction,
    ) -> Tensor:
        """`anchored_consistency` of the maps of one general encoder at one level."""
        started = starts[encoder]
        if started is None:
            raise ValueError(f"output.source has maps of general encoder {encoder}, and the source given has no batch")
        pair = started[0][level], started[1][level]
        between = self.get_buffer(f"shift_{encoder}_{level}")
        if self._learns():
            with torch.no_grad():
                between += (relation(pair[1]) - relation(pair[0]) - between) / self.steps
        return anchored_consistency(
            source,
            general,
            *pair,
            between.clone(),
            keep=self.keep,
            relation=relation,
            each=of_each(relation),
            reduction=reduction,
        )

    @torch.no_grad()
    def _maps(self, encoder: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
        maps = [encoder(batch) for batch in batches]
        return [torch.cat([each[level] for each in maps]) for level in self.levels]

    def _learns(self) -> bool:
        """Whether a call is a step of training: one without gradients is a look at the terms."""
        return self.training and torch.is_grad_enabled()

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"keep={self.keep}, levels={self.levels}"

    def _shifts(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers(recurse=False) if name.startswith("shift_")]


def check_anchor(anchor: RelationAnchor, relation: nn.Module) -> None:
    """Raise unless ``anchor`` is one, and ``relation`` one that it can take apart image by image."""
    if not isinstance(anchor, RelationAnchor):
        raise TypeError(f"anchor must be a RelationAnchor, got {type(anchor).__name__}: write RelationAnchor(model)")
    if not isinstance(relation, GramRelation) or relation.batch != "mean":
        raise ValueError(f"anchor needs a GramRelation of batches as the relation, got {relation}")


def of_each(relation: nn.Module) -> GramRelation:
    """The relation of every image by itself, for one of batches."""
    if not isinstance(relation, GramRelation):
        raise TypeError(f"relation must be a GramRelation, got {type(relation).__name__}")
    return GramRelation("none", relation.center, eps=relation.eps)
