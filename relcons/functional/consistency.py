"""Distances of relation matrices, and the consistency terms that are made of them."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from relcons._operations import accumulation_dtype
from relcons.checks import check_choice, check_features, check_same_channels, check_same_relations
from relcons.functional.matrices import relation_matrix

__all__ = [
    "anchored_consistency",
    "general_consistency",
    "relation_consistency",
    "relation_distance",
    "target_consistency",
]

Reduction = Literal["sum", "row_mean", "mean"]
Relation = Callable[[Tensor], Tensor]
# Read here, since torch.compile of torch 2.6 cannot trace get_args.
REDUCTIONS = get_args(Reduction)


def relation_distance(a: Tensor, b: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    r"""Squared distance of two relation matrices.

    $$d(a, b) = w \sum_{m,n} (a_{mn} - b_{mn})^2, \qquad w = 1,\ 1/C \text{ or } 1/C^2$$

    The plain sum, as printed, grows with the number of channels, so a lambda that suits one network
    is too strong for a wider one. ``"row_mean"`` is the mean squared distance of rows, in [0, 2] for
    the Gram relations of non-negative features whatever C is: take it where one lambda must serve
    several networks. Stacks of matrices are compared pair by pair and averaged.

    $C$ is the number of rows, of whatever they relate: channels, samples (with $B$ rows ``"row_mean"``
    is the loss of SRC-MT, ``"mean"`` that of Tung & Mori) or positions (with $P$ rows ``"mean"`` is the
    pairwise loss of Liu et al. 2019).

    Args:
        a: ``(C, C)`` or ``(B, C, C)``.
        b: the same shape.
        reduction: ``"sum"`` (w = 1), ``"row_mean"`` (1/C) or ``"mean"`` (1/C²).

    Returns:
        A scalar.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the shapes differ or are not those above, or ``reduction`` is unknown.

    Source: Zhang et al. 2021, the squared norm in Eq. 4 and 5.

    Examples:
        >>> relation_distance(torch.eye(2), torch.zeros(2, 2), reduction="row_mean")
        tensor(1.)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_same_relations("a", a, "b", b)
    dtype = torch.promote_types(accumulation_dtype(a), accumulation_dtype(b))
    squares = (a.to(dtype) - b.to(dtype)).square().sum((-2, -1)).mean()
    rows = a.shape[-1]
    return squares / {"sum": 1, "row_mean": rows, "mean": rows * rows}[reduction]


def relation_consistency(
    a: Tensor, b: Tensor, *, relation: Relation | None = None, reduction: Reduction = "sum"
) -> Tensor:
    r"""Relation consistency of any two feature maps: of a student and its teacher, two views, two layers.

    $$d\big(R(a), R(b)\big)$$

    with $d$ of [`relation_distance`][relcons.functional.relation_distance]. Gradients reach both arguments;
    ``detach()`` the one that shall stay. What may differ between the maps is what the relation does not
    keep: channels need as many channels in both (batch and positions may differ), samples as many
    samples, positions as many samples and, after pooling, positions.

    Args:
        a: ``(B, C, *spatial)``, one, two or three spatial axes.
        b: the other map.
        relation: $R$, from features to square matrices, one or a stack; None is
            [`relation_matrix`][relcons.functional.relation_matrix].
        reduction: see [`relation_distance`][relcons.functional.relation_distance].

    Returns:
        A scalar, at least 0.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: an argument is not ``(B, C, *spatial)``, or the relations differ in shape.

    Source: Zhang et al. 2021, Eq. 4; Liu et al. 2020 for relations of samples.

    Examples:
        >>> student, teacher = torch.rand(4, 8, 7, 6), torch.rand(4, 32, 14, 12)
        >>> relation_consistency(student, teacher.detach(), relation=functional.sample_relation).shape
        torch.Size([])
    """
    check_features(a, "a")
    check_features(b, "b")
    relate = relation_matrix if relation is None else relation
    first, second = relate(a), relate(b)
    check_same_relations("relations of a", first, "b", second)
    return relation_distance(first, second, reduction=reduction)


def general_consistency(
    source: Tensor, general: Tensor, *, relation: Relation | None = None, reduction: Reduction = "sum"
) -> Tensor:
    r"""General relation consistency: the general encoder should relate its channels alike on both domains.

    $$L_G = d\big(R_G(X^n), R_G(X^c)\big)$$

    [`relation_consistency`][relcons.functional.relation_consistency] with the paper's names.
    The weight $\lambda_G$ is the caller's.

    Args:
        source: $F_G(X^n)$, the general encoder's features of the source batch, ``(B, C, *spatial)``.
        general: $F_G(X^c)$, its features of the target batch. Batch size and positions may differ.
        relation: see [`relation_consistency`][relcons.functional.relation_consistency].
        reduction: see [`relation_distance`][relcons.functional.relation_distance].

    Returns:
        A scalar, at least 0.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: an argument is not ``(B, C, *spatial)``, or the channels differ.

    Source: Zhang et al. 2021, Eq. 4 without lambda.

    Examples:
        >>> features = torch.rand(2, 8, 7, 6)
        >>> general_consistency(features, 3 * features).item() < 1e-9
        True
    """
    check_same_channels("source", source, "general", general)
    return relation_consistency(source, general, relation=relation, reduction=reduction)


def anchored_consistency(
    source: Tensor,
    general: Tensor,
    source_start: Tensor,
    general_start: Tensor,
    shift: Tensor,
    *,
    keep: float = 0.05,
    relation: Relation | None = None,
    each: Relation | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    r"""General consistency that cannot be had by making all images alike.

    $$d\big(R(X^n), R_0(X^n) + \tfrac{1}{2} D\big) + d\big(R(X^c), R_0(X^c) - \tfrac{1}{2} D\big)
    + k \big(V(X^n) + V(X^c)\big)$$

    $R_0$ are the relations of a frozen copy of the encoder, $D$ is the mean of $R_0(X^c) - R_0(X^n)$ over
    training: either domain goes half-way to the other, from where the encoder started. $V$ is the variance
    of the change over the images of a batch, $\frac{1}{B - 1} \sum_i d(\delta_i, \bar\delta)$ with
    $\delta_i = R_i - R_{0,i}$ of every image by itself: what is taken from one is taken from all. It is at
    least 0, with $D = 0$ exactly 0 at the start, and at features that relate alike for all images large.
    [`RelationAnchor`][relcons.RelationAnchor] keeps the copy and $D$.

    Args:
        source: $F_G(X^n)$, ``(B, C, *spatial)``.
        general: $F_G(X^c)$, likewise.
        source_start: the copy's map of the images of ``source``.
        general_start: the copy's map of the images of ``general``.
        shift: $D$, ``(C, C)``.
        keep: $k$; one image has no variance.
        relation: of a batch, None for [`relation_matrix`][relcons.functional.relation_matrix].
        each: of every image of a batch, ``(B, C, C)``; None for ``relation_matrix`` with ``batch="none"``.
        reduction: see [`relation_distance`][relcons.functional.relation_distance].

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: maps of an image differ in shape from the copy's, or the channels differ.

    Source: this library; not in the paper.

    Examples:
        >>> source, general = torch.rand(2, 8, 7, 6), torch.rand(2, 8, 7, 6)
        >>> anchored_consistency(source, general, source, general, torch.zeros(8, 8)).item()
        0.0
    """
    check_same_channels("source", source, "general", general)
    related = relation_matrix if relation is None else relation
    each = partial(relation_matrix, batch="none") if each is None else each
    total: Tensor | float = 0.0
    for name, now, start, half in (("source", source, source_start, 0.5), ("general", general, general_start, -0.5)):
        if now.shape != start.shape:
            raise ValueError(
                f"{name} has shape {tuple(now.shape)} and {name}_start {tuple(start.shape)}; they must be of the "
                "same images and level"
            )
        moved_to = related(start).detach() + half * shift
        total = total + relation_distance(related(now), moved_to, reduction=reduction)
        samples = now.shape[0]
        if samples > 1:
            change = each(now) - each(start).detach()
            variance = relation_distance(change, change.mean(0, keepdim=True).expand_as(change), reduction=reduction)
            total = total + keep * samples / (samples - 1) * variance
    return torch.as_tensor(total)


def target_consistency(
    general: Tensor, target: Tensor, *, relation: Relation | None = None, reduction: Reduction = "sum"
) -> Tensor:
    r"""Target relation consistency: the target encoder should relate its channels unlike the general one.

    $$L_T = -d\big(\operatorname{stopgrad} R_G(X^c), R_T(X^c)\big)$$

    The minus sign is the paper's: the distance grows as the loss falls, and is bounded because rows
    have norm 1. The weight $\lambda_T$ is the caller's.

    Args:
        general: $F_G(X^c)$, the general encoder's features of the target batch, ``(B, C, *spatial)``;
            no gradient reaches it.
        target: $F_T(X^c)$, the target encoder's features of the same batch.
        relation: see [`relation_consistency`][relcons.functional.relation_consistency].
        reduction: see [`relation_distance`][relcons.functional.relation_distance].

    Returns:
        A scalar, at most 0.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: an argument is not ``(B, C, *spatial)``, or the channels differ.

    Source: Zhang et al. 2021, Eq. 5 without lambda; the stop is Algorithm 1, lines 9 and 10.

    Examples:
        >>> target_consistency(torch.rand(2, 8, 7, 6), torch.rand(2, 8, 7, 6)).item() <= 0
        True
    """
    check_same_channels("general", general, "target", target)
    relate = relation_matrix if relation is None else relation
    return relation_difference(relate(general), relate(target), reduction=reduction)


def relation_difference(general: Tensor, target: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    """Eq. 5 of matrices that are there already: its minus sign, and the stop of Algorithm 1 on R_G."""
    return -relation_distance(general.detach(), target, reduction=reduction)
