"""Relation matrices of feature maps, and how many directions their rows take."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from relcons._operations import accumulation_dtype, centered, gram_of_each, gram_of_mean, pooled, unit_rows
from relcons.checks import check_choice, check_eps, check_features, check_relations, check_size

__all__ = ["effective_rank", "gram_matrix", "relation_matrix", "sample_relation", "spatial_relation"]

Batch = Literal["mean", "none"]
# Read here, since torch.compile of torch 2.6 cannot trace get_args.
BATCHES = get_args(Batch)


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
