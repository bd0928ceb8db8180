"""Relation losses as modules, with a weight that ramps up."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from relcons.anchoring import Batches, RelationAnchor, TargetBatches, check_anchor
from relcons.checks import check_finite, check_same_channels, check_same_relations
from relcons.functional import (
    Reduction,
    general_consistency,
    relation_consistency,
    relation_difference,
    relation_distance,
    target_consistency,
)
from relcons.losses.outputs import RelationOutput, maps_per_encoder
from relcons.losses.weighted import WeightedLoss
from relcons.schedules import Schedule

__all__ = [
    "GeneralConsistencyLoss",
    "RelationConsistencyLoss",
    "RelationLoss",
    "RelationTerms",
    "TargetConsistencyLoss",
]


class RelationTerms(NamedTuple):
    """Terms of [`RelationLoss`][relcons.RelationLoss]: ``total`` is weighted, the others are not."""

    total: Tensor
    general: Tensor | None
    target: Tensor | None
    weight: Tensor


class RelationConsistencyLoss(WeightedLoss):
    r"""$\lambda$ times [`relation_consistency`][relcons.functional.relation_consistency] of any two feature maps.

    For a student and its teacher, two views of the same images, or two layers. Gradients reach both;
    ``detach()`` the one that shall stay.

    Args:
        weight: $\lambda$, a number or a schedule, as of [`RelationLoss`][relcons.RelationLoss].
        relation: module from features ``(B, C, *spatial)`` to ``(C, C)``, ``(B, C, C)``, ``(B, B)`` or
            ``(B, P, P)``; None is [`GramRelation()`][relcons.GramRelation].
        reduction: see [`relation_distance`][relcons.functional.relation_distance].

    Raises:
        TypeError: ``relation`` is not a module.
        ValueError: ``reduction`` is unknown or ``weight`` is not finite; when called, the relations of
            both maps differ in shape.

    Examples:
        >>> loss = RelationConsistencyLoss(weight=1.0, relation=SampleRelation(), reduction="row_mean")
        >>> student, teacher = torch.rand(4, 8, 7, 6), torch.rand(4, 8, 7, 6)
        >>> loss(student, teacher.detach()).shape
        torch.Size([])
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Weighted loss of two maps ``(B, C, *spatial)``."""
        return self._weighted(relation_consistency, a, b)


class GeneralConsistencyLoss(RelationConsistencyLoss):
    r"""$\lambda_G$ times [`general_consistency`][relcons.functional.general_consistency].

    [`RelationConsistencyLoss`][relcons.RelationConsistencyLoss] with the paper's names.

    Source: Zhang et al. 2021, Eq. 4.

    Examples:
        >>> loss = GeneralConsistencyLoss(weight=0.1)
        >>> loss(torch.rand(2, 8, 7, 6), torch.rand(2, 8, 7, 6)).shape
        torch.Size([])
    """

    def forward(self, source: Tensor, general: Tensor) -> Tensor:
        """Weighted loss of F_G(X^n) and F_G(X^c)."""
        return self._weighted(general_consistency, source, general)


class TargetConsistencyLoss(WeightedLoss):
    r"""$\lambda_T$ times [`target_consistency`][relcons.functional.target_consistency], minus sign included.

    Weight ($\lambda_T$), relation and reduction are those of [`RelationLoss`][relcons.RelationLoss].

    Source: Zhang et al. 2021, Eq. 5.

    Examples:
        >>> loss = TargetConsistencyLoss(weight=0.1)
        >>> loss(torch.rand(2, 8, 7, 6), torch.rand(2, 8, 7, 6)).item() <= 0
        True
    """

    def forward(self, general: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of F_G(X^c), which gets no gradient, and F_T(X^c)."""
        return self._weighted(target_consistency, general, target)


class RelationLoss(WeightedLoss):
    r"""Both relation losses of a model's output, ready to add to the segmentation loss.

    $$\lambda(t) \, (g \, L_G + h \, L_T)$$

    with $L_G$ of [`general_consistency`][relcons.functional.general_consistency] and $L_T$ of
    [`target_consistency`][relcons.functional.target_consistency], each the mean over levels and
    general encoders. The relation matrix that both share is computed once.

    Args:
        weight: $\lambda$, a number or a schedule ``step -> float`` such as
            [`GaussianRampUp`][relcons.GaussianRampUp]; call ``step()`` after every optimiser step. The
            general term has a trivial minimum, features that relate alike for every image, and a
            weight or a learning rate of the general encoder that is too large leads there, soonest with
            AdamW: watch what [`relation_gap`][relcons.relation_gap] says within a domain, freeze the
            general encoder, lower its learning rate, or give an ``anchor``.
        general: multiplier $g$; False: not computed, and no source batch is needed.
        target: multiplier $h$; False: not computed.
        relation: module from features ``(B, C, *spatial)`` to ``(C, C)``, ``(B, C, C)``, ``(B, B)`` or
            ``(B, P, P)``; None is [`GramRelation()`][relcons.GramRelation]. All but ``(C, C)`` relate
            sample $i$ of one batch to sample $i$ of the other, so that source and target batches
            must be of one size; they suit the target term, whose two maps are of the same images.
        reduction: see [`relation_distance`][relcons.functional.relation_distance].
        anchor: a [`RelationAnchor`][relcons.RelationAnchor] of the model, which puts
            [`anchored_consistency`][relcons.functional.anchored_consistency] in the general term's place;
            ``relation`` must be a ``GramRelation`` of batches. None: the paper's.

    Raises:
        TypeError: ``relation`` is not a module, or ``anchor`` no ``RelationAnchor``.
        ValueError: both terms are off, ``reduction`` is unknown, ``weight`` is not finite, or ``anchor`` is
            given with ``general=False`` or another relation; when called, the general term is asked for
            and the output has no source, relations differ in shape, or ``anchor`` lacks the images.

    Source: Zhang et al. 2021, Eq. 4 and 5 and Algorithm 1.

    Examples:
        >>> maps = [torch.rand(2, 8, 7, 6) for _ in range(3)]
        >>> output = DualEncoderOutput(logits=None, target=maps[:1], general=maps[1:2], source=maps[2:])
        >>> relation = RelationLoss(weight=GaussianRampUp(total_steps=1000))
        >>> relation(output).shape
        torch.Size([])
    """

    def __init__(
        self,
        weight: float | Schedule = 0.1,
        general: bool | float = True,
        target: bool | float = True,
        relation: nn.Module | None = None,
        reduction: Reduction = "sum",
        anchor: RelationAnchor | None = None,
    ) -> None:
        super().__init__(weight, relation, reduction)
        if general is False and target is False:
            raise ValueError("general and target are both False, so nothing is left; leave the loss out instead")
        # The bool itself is kept: a multiplier of 0.0 is a term that is computed and weighs nothing.
        check_finite(general=float(general), target=float(target))
        self.general = None if general is False else float(general)
        self.target = None if target is False else float(target)
        if anchor is not None:
            check_anchor(anchor, self.relation)
            if self.general is None:
                raise ValueError("anchor holds the general term, and general is False; leave one of the two out")
        self.anchor = anchor

    def reset_parameters(self) -> None:
        """Back to the schedule's start; an anchor forgets what it has seen of the domains and keeps its encoders."""
        super().reset_parameters()
        if self.anchor is not None:
            self.anchor.reset_parameters()

    def forward(self, output: RelationOutput, images: TargetBatches = None, source: Batches = None) -> Tensor:
        """Weighted sum of the terms; see [`terms`][relcons.losses.RelationLoss.terms]."""
        return self.terms(output, images, source).total

    def terms(self, output: RelationOutput, images: TargetBatches = None, source: Batches = None) -> RelationTerms:
        """Terms of the model's ``output``: ``total`` weighted, ``general`` and ``target`` not (None if off).

        images, source: what the model was called with, for the ``anchor`` alone: the images of the target
        (where it had unlabelled ones, both in a sequence), and the source batch, or one for each general encoder.
        """
        starts = None if self.anchor is None else self.anchor.starts(images, source)
        encoders = maps_per_encoder(output, general=self.general is not None, target=self.target is not None)
        targets = [self.relation(maps) for maps in output.target] if self.target is not None else []
        consistencies, differences = [], []
        for number, (maps_general, maps_source) in enumerate(encoders):
            for level, features in enumerate(maps_general):
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.general is not None and starts is None):
                    related = self.relation(features)
                if maps_source is not None:
                    check_same_channels("output.source", maps_source[level], "output.general", features)
                    if self.anchor is not None and starts is not None:
                        pair = maps_source[level], features
                        term = self.anchor.term(number, level, *pair, starts, self.relation, self.reduction)
                        consistencies.append(term)
                    else:
                        of_source = self.relation(maps_source[level])
                        check_same_relations("relations of output.source", of_source, "output.general", related)
                        consistencies.append(relation_distance(of_source, related, reduction=self.reduction))
                if self.target is not None:
                    check_same_channels("output.general", features, "output.target", output.target[level])
                    check_same_relations("relations of output.general", related, "output.target", targets[level])
                    differences.append(relation_difference(related, targets[level], reduction=self.reduction))
        general = torch.stack(consistencies).mean() if self.general is not None else None
        target = torch.stack(differences).mean() if self.target is not None else None
        weighted = [
            multiplier * term
            for multiplier, term in ((self.general, general), (self.target, target))
            if multiplier is not None and term is not None
        ]
        weight = self._weight()
        return RelationTerms(weight * sum(weighted), general, target, weight)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"{super().extra_repr()}, general={self.general}, target={self.target}"
