"""Relation matrices of feature maps and the distances between them: pure tensor maths, the home of every formula."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from relcons._operations import accumulation_dtype, centered, gram_of_each, gram_of_mean, pooled, unit_rows
from relcons.checks import (
    check_choice,
    check_eps,
    check_features,
    check_relations,
    check_same_channels,
    check_same_relations,
    check_size,
)

__all__ = [
    "anchored_consistency",
    "effective_rank",
    "general_consistency",
    "gram_matrix",
    "relation_consistency",
    "relation_distance",
    "relation_matrix",
    "sample_relation",
    "spatial_relation",
    "target_consistency",
]

Batch = Literal["mean", "none"]
Reduction = Literal["sum", "row_mean", "mean"]
Relation = Callable[[Tensor], Tensor]
# Read here, since torch.compile of torch 2.6 cannot trace get_args.
BATCHES, REDUCTIONS = get_args(Batch), get_args(Reduction)


def gram_matrix(features: Tensor, *, batch: Batch = "mean", center: bool = False) -> Tensor:
    r"""Channel-wise Gram matrix of a batch of feature maps.

    $$G = A A^\top, \qquad A = \frac{1}{B} \sum_{b=1}^{B} F_b \in \mathbb{R}^{C \times N}$$

    $F_b$ is sample $b$ with its $N$ positions flattened; there is no $1/N$. Computed in float32 at
    least (float64 stays), also under autocast. On CUDA that needs
    ``torch.set_float32_matmul_precision`` at its default, ``"highest"``.

    Args:
        features: ``(B, C, *spatial)``, one, two or three spatial axes.
        batch: ``"mean"`` averages over the batch first, as the paper does; ``"none"`` keeps one
            matrix per sample.
        center: take the mean over positions off every channel of $A$ first, which makes $G$ the
            covariance matrix of the channels times $N$. A channel of which that leaves no more
            than rounding does is 0.

    Returns:
        ``(C, C)``, or ``(B, C, C)`` with ``batch="none"``.

    Raises:
        TypeError: ``features`` is not a floating-point tensor.
        ValueError: ``features`` has another number of axes or is empty, or ``batch`` is unknown.

    Source: Zhang et al. 2021 (doi 10.1109/JBHI.2021.3106341), Eq. 1 and the sentence before it;
    for ``center`` Sun & Saenko 2016 (Deep CORAL).

    Examples:
        >>> gram_matrix(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    check_features(features)
    check_choice("batch", batch, BATCHES)
    with torch.autocast(features.device.type, enabled=False):
        if batch == "mean":
            return gram_of_mean(features, center)
        maps = features.flatten(2)
        return gram_of_each(centered(maps.to(accumulation_dtype(maps))) if center else maps)


def relation_matrix(features: Tensor, *, batch: Batch = "mean", center: bool = False, eps: float = 1e-6) -> Tensor:
    r"""Feature relation matrix: the Gram matrix with every row scaled to L2 norm 1.

    $$R_m = \frac{G_m}{\lVert G_m \rVert_2}, \qquad R_m = 0 \text{ if }
    \lVert G_m \rVert_2 \le \varepsilon \max_k \lVert G_k \rVert_2$$

    A channel $m$ of the second case is dead: nothing flows back through its own normalisation, while
    its column in the live rows keeps its exact gradient. $R$ does not change when the features are
    multiplied by a number, so its gradient scales with the inverse of that number; likewise the
    gradient of a channel much weaker than the others grows with the inverse of its strength until
    it counts as dead. Features whose largest entry of $G$ is below 1e-31 (float64: 1e-292) are zeros.

    Args:
        features: ``(B, C, *spatial)``, one, two or three spatial axes.
        batch: see [`gram_matrix`][relcons.functional.gram_matrix].
        center: see there; $R$ then does not change when a number is added to a channel.
        eps: $\varepsilon$, below which share of the largest row norm a channel counts as dead.

    Returns:
        ``(C, C)``, or ``(B, C, C)`` with ``batch="none"``.

    Raises:
        TypeError: ``features`` is not a floating-point tensor.
        ValueError: ``features`` has another number of axes or is empty, ``batch`` is unknown, or
            ``eps`` is not in [0, 1).

    Source: Zhang et al. 2021, Eq. 2.

    Examples:
        >>> relation_matrix(torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    check_eps(eps)
    gram = gram_matrix(features, batch=batch, center=center)
    with torch.autocast(gram.device.type, enabled=False):
        return unit_rows(gram, eps)


def sample_relation(features: Tensor, *, eps: float = 1e-6) -> Tensor:
    r"""Relation of the samples of a batch: how much each is like each other one.

    $$G = F F^\top, \qquad R_i = \frac{G_i}{\lVert G_i \rVert_2}, \qquad F \in \mathbb{R}^{B \times CN}$$

    $F$ holds one flattened sample a row; rows that count as dead are as in
    [`relation_matrix`][relcons.functional.relation_matrix], and so are precision and scale. $R$ does not
    change when positions or channels change places. Row $i$ of one batch is that of row $i$ of another:
    compare two views, two encoders or two layers of the same images; channels and positions may differ.
    A single sample has R = 1, whatever it shows.

    Args:
        features: ``(B, C, *spatial)``, one, two or three spatial axes.
        eps: below which share of the largest row norm of $G$ a sample counts as dead.

    Returns:
        ``(B, B)``.

    Raises:
        TypeError: ``features`` is not a floating-point tensor.
        ValueError: ``features`` has another number of axes or is empty, or ``eps`` is not in [0, 1).

    Source: Liu et al. 2020 (SRC-MT, doi 10.1109/TMI.2020.2995518), from which Zhang et al. 2021 take
    their relation; Tung & Mori 2019 (similarity-preserving distillation).

    Examples:
        >>> sample_relation(torch.tensor([[[3.0, 0.0]], [[4.0, 0.0]]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000]])
    """
    check_features(features)
    check_eps(eps)
    with torch.autocast(features.device.type, enabled=False):
        return unit_rows(gram_of_each(features.flatten(1)), eps)


def spatial_relation(features: Tensor, *, size: int | Sequence[int] = 16, eps: float = 1e-6) -> Tensor:
    r"""Relation of the positions of every sample: the cosine similarity of their features.

    $$R_{pq} = \frac{f_p^\top f_q}{\lVert f_p \rVert_2 \lVert f_q \rVert_2}$$

    $f_p \in \mathbb{R}^C$ are the features at position $p$ after adaptive average pooling. Position $p$
    is dead when $\lVert f_p \rVert_2 \le \varepsilon \max_q \lVert f_q \rVert_2$ within its sample: its
    row and column are 0 and nothing flows back through it. Precision and scale are as in
    [`relation_matrix`][relcons.functional.relation_matrix]; $R$ does not change when channels change places.

    Args:
        features: ``(B, C, *spatial)``, one, two or three spatial axes.
        size: positions per axis after pooling, one number for all or one for each; an axis that has
            no more keeps its own. $P$ is their product and a matrix has $P^2$ entries, so that 16 is
            256 positions in 2D and 4096 in 3D: take something like ``(4, 8, 8)`` there.
        eps: $\varepsilon$.

    Returns:
        ``(B, P, P)``.

    Raises:
        TypeError: ``features`` is not a floating-point tensor, or ``size`` is no whole number.
        ValueError: ``features`` has another number of axes or is empty, ``size`` is below 1 or has
            not one number per axis, or ``eps`` is not in [0, 1).

    Source: Liu et al. 2019, Structured Knowledge Distillation for Semantic Segmentation (CVPR), the
    pair-wise distillation.

    Examples:
        >>> spatial_relation(torch.tensor([[[3.0, 0.0, 3.0], [4.0, 2.0, 4.0]]]))
        tensor([[[1.0000, 0.8000, 1.0000],
                 [0.8000, 1.0000, 0.8000],
                 [1.0000, 0.8000, 1.0000]]])
    """
    check_features(features)
    check_eps(eps)
    sizes = check_size(size, features.shape[2:])
    with torch.autocast(features.device.type, enabled=False):
        return gram_of_each(unit_rows(pooled(features, sizes).flatten(2).mT, eps))


def effective_rank(relation: Tensor) -> Tensor:
    r"""Effective rank of relation matrices: how many directions their rows really take.

    $$\exp\Big(-\sum_k p_k \ln p_k\Big), \qquad p_k = \frac{\sigma_k}{\sum_l \sigma_l}$$

    with the singular values $\sigma_k$. It lies between 1, where all rows are alike, and the number of
    rows; a matrix of zeros has 0, one that is not finite NaN. It tells and does not train: no gradient flows back.

    Args:
        relation: ``(C, C)``, or a stack ``(B, C, C)``.

    Returns:
        A scalar, or ``(B,)``.

    Raises:
        TypeError: ``relation`` is not a floating-point tensor.
        ValueError: ``relation`` is not a square matrix or a stack of them.

    Source: Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality (EUSIPCO).

    Examples:
        >>> effective_rank(torch.eye(3))
        tensor(3.)
    """
    check_relations("relation", relation)
    with torch.no_grad(), torch.autocast(relation.device.type, enabled=False):
        matrices = relation.to(accumulation_dtype(relation))
        finite = matrices.isfinite().flatten(-2).all(-1)
        # Of numbers that are not finite the decomposition raises an error.
        values = torch.linalg.svdvals(torch.where(finite[..., None, None], matrices, 0.0))
        total = values.sum(-1, keepdim=True)
        rank = torch.special.entr(values / torch.where(total == 0, 1.0, total)).sum(-1).exp()
        return torch.where(finite, torch.where(total[..., 0] == 0, 0.0, rank), torch.nan)


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
        >>> relation_consistency(student, teacher.detach(), relation=sample_relation).shape
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
