"""Relation matrices of feature maps and the distances between them: pure tensor maths, the home of every formula."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from relcons.checks import check_choice, check_eps, check_features, check_floating, check_same_channels

__all__ = ["general_consistency", "gram_matrix", "relation_distance", "relation_matrix", "target_consistency"]

Batch = Literal["mean", "none"]
Reduction = Literal["sum", "row_mean", "mean"]
Relation = Callable[[Tensor], Tensor]
# Read here, since torch.compile of torch 2.6 cannot trace get_args.
BATCHES, REDUCTIONS = get_args(Batch), get_args(Reduction)


def gram_matrix(features: Tensor, *, batch: Batch = "mean") -> Tensor:
    r"""Channel-wise Gram matrix of a batch of feature maps.

    $$G = A A^\top, \qquad A = \frac{1}{B} \sum_{b=1}^{B} F_b \in \mathbb{R}^{C \times N}$$

    $F_b$ is sample $b$ with its $N$ positions flattened; there is no $1/N$. Computed in float32 at
    least (float64 stays), also under autocast. On CUDA that needs
    ``torch.set_float32_matmul_precision`` at its default, ``"highest"``.

    Args:
        features: ``(B, C, *spatial)``, one, two or three spatial axes.
        batch: ``"mean"`` averages over the batch first, as the paper does; ``"none"`` keeps one
            matrix per sample.

    Returns:
        ``(C, C)``, or ``(B, C, C)`` with ``batch="none"``.

    Raises:
        TypeError: ``features`` is not a floating-point tensor.
        ValueError: ``features`` has another number of axes or is empty, or ``batch`` is unknown.

    Source: Zhang et al. 2021 (doi 10.1109/JBHI.2021.3106341), Eq. 1 and the sentence before it.

    Examples:
        >>> gram_matrix(torch.tensor([[[1.0, 2.0], [0.0, 3.0]]]))
        tensor([[5., 6.],
                [6., 9.]])
    """
    check_features(features)
    check_choice("batch", batch, BATCHES)
    with torch.autocast(features.device.type, enabled=False):
        if batch == "mean":
            mean_gram = _MeanGram if torch.compiler.is_compiling() else _MeanGramWithTangent
            gram: Tensor = mean_gram.apply(features)[0]
            return gram
        sample_gram = _SampleGram if torch.compiler.is_compiling() else _SampleGramWithTangent
        grams: Tensor = sample_gram.apply(features.flatten(2).to(accumulation_dtype(features)))
        return grams


def relation_matrix(features: Tensor, *, batch: Batch = "mean", eps: float = 1e-6) -> Tensor:
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
    gram = gram_matrix(features, batch=batch)
    with torch.autocast(gram.device.type, enabled=False):
        # A Gram matrix has its largest entry on the diagonal (Cauchy-Schwarz). Dividing by it changes
        # nothing in R and keeps the squares below from leaving float32's range.
        largest = gram.detach().diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
        # Below this the inverse of the largest entry leaves the type's range in the backward pass.
        limits = torch.finfo(gram.dtype)
        lost = largest < limits.tiny / limits.eps
        gram = torch.where(lost, 0.0, gram / torch.where(lost, 1.0, largest))
        squares = gram.square().sum(-1, keepdim=True)
        norms = squares.detach().sqrt()
        # "<=" and not its negation: NaN then counts as live and is seen instead of turned into 0.
        dead = norms <= eps * norms.amax(-2, keepdim=True)
        return torch.where(dead, 0.0, gram / torch.where(dead, 1.0, squares).sqrt())


def relation_distance(a: Tensor, b: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    r"""Squared distance of two relation matrices.

    $$d(a, b) = w \sum_{m,n} (a_{mn} - b_{mn})^2, \qquad w = 1,\ 1/C \text{ or } 1/C^2$$

    The plain sum, as printed, grows with the number of channels, so a lambda that suits one network
    is too strong for a wider one. ``"row_mean"`` is the mean squared distance of rows, in [0, 2] for
    the Gram relations of non-negative features whatever C is: take it where one lambda must serve
    several networks. Stacks of matrices are compared pair by pair and averaged.

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
    for name, matrix in (("a", a), ("b", b)):
        check_floating(name, matrix)
        if matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2]:
            raise ValueError(
                f"{name} must be relation matrices of shape (C, C) or (B, C, C), got {tuple(matrix.shape)}"
            )
    if a.shape != b.shape:
        raise ValueError(
            f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}; "
            'with batch="none" sample i is compared with sample i, so give equal batches or use batch="mean"'
        )
    dtype = torch.promote_types(accumulation_dtype(a), accumulation_dtype(b))
    squares = (a.to(dtype) - b.to(dtype)).square().sum((-2, -1)).mean()
    channels = a.shape[-1]
    return squares / {"sum": 1, "row_mean": channels, "mean": channels * channels}[reduction]


def general_consistency(
    source: Tensor, general: Tensor, *, relation: Relation | None = None, reduction: Reduction = "sum"
) -> Tensor:
    r"""General relation consistency: the general encoder should relate its channels alike on both domains.

    $$L_G = d\big(R_G(X^n), R_G(X^c)\big)$$

    with $d$ of [`relation_distance`][relcons.functional.relation_distance]. Gradients reach both arguments.
    The weight $\lambda_G$ is the caller's.

    Args:
        source: $F_G(X^n)$, the general encoder's features of the source batch, ``(B, C, *spatial)``.
        general: $F_G(X^c)$, its features of the target batch. Batch size and positions may differ.
        relation: $R$, from features to ``(C, C)`` or ``(B, C, C)``; None is
            [`relation_matrix`][relcons.functional.relation_matrix].
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
    relate = relation_matrix if relation is None else relation
    return relation_distance(relate(source), relate(general), reduction=reduction)


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
        relation: see [`general_consistency`][relcons.functional.general_consistency].
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


class _SampleGram(torch.autograd.Function):
    """Gram matrix of every sample; its backward is one product, in full precision also inside autocast."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        return maps @ maps.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        with torch.autocast(maps.device.type, enabled=False):
            product: Tensor = (grads[0] + grads[0].mT) @ maps
            return product


class _SampleGramWithTangent(_SampleGram):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        _SampleGram.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        half: Tensor = tangents[0] @ ctx.saved_tensors[0].mT
        return half + half.mT


class _MeanGram(torch.autograd.Function):
    """Gram matrix of the batch mean, keeping one mean map and writing the gradient once.

    Plain operations would keep three such maps and multiply twice in the backward pass, although
    the two products are each other's transpose. The mean is an output so that a second derivative
    sees it as a function of the features.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> tuple[Tensor, Tensor]:
        mean = _batch_mean(features)
        return mean @ mean.mT, mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        grad_gram, grad_mean = grads
        (mean,) = ctx.saved_tensors
        with torch.autocast(mean.device.type, enabled=False):
            if grad_gram is None:
                return None if grad_mean is None else _spread(grad_mean / ctx.shape[0], ctx.shape, ctx.dtype)
            factor = (grad_gram + grad_gram.mT) / ctx.shape[0]
            if grad_mean is not None or torch.is_grad_enabled() or torch.compiler.is_compiling():
                grad = factor @ mean
                if grad_mean is not None:
                    grad = grad + grad_mean / ctx.shape[0]
                return _spread(grad, ctx.shape, ctx.dtype)
            return _write_gradient(factor, mean, ctx.shape, ctx.dtype)


class _MeanGramWithTangent(_MeanGram):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        _MeanGram.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        mean_tangent = _batch_mean(tangents[0])
        half = mean_tangent @ ctx.saved_tensors[0].mT
        return half + half.mT, mean_tangent


def _batch_mean(features: Tensor) -> Tensor:
    return features.mean(0, dtype=accumulation_dtype(features)).flatten(1)


def _spread(grad: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return grad.to(dtype).reshape(shape[1:]).expand(shape)


def _write_gradient(factor: Tensor, mean: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Every sample's gradient, ``factor @ mean``, without a second map beside the gradient itself."""
    grad = torch.empty(shape, dtype=dtype, device=mean.device)
    first = grad[0].flatten(1)
    if dtype == mean.dtype:
        torch.mm(factor, mean, out=first)
    else:
        for start in range(0, mean.shape[1], 65536):
            columns = slice(start, start + 65536)
            first[:, columns] = factor @ mean[:, columns]
    grad[1:] = grad[:1]
    return grad


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Type in which relations are computed: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)
