"""Gram matrices: of a batch's mean map, or of every stack of rows."""

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from relcons._operations.precision import accumulation_dtype
from relcons._operations.signatures import with_signature

# Columns that are summed, or cast from half precision, at once.
CHUNK = 65536


def gram_of_mean(features: Tensor, center: bool = False) -> Tensor:
    """(C, C) of the batch mean of ``features``, ``(B, C, *spatial)``, less its means over positions with ``center``."""
    product = _MeanGram if torch.compiler.is_compiling() else _MeanGramWithTangent
    gram: Tensor = product.apply(features, center)[0]
    return gram


def gram_of_each(maps: Tensor) -> Tensor:
    """Products of all pairs of rows: (..., M, N) to (..., M, M)."""
    product = _Gram if torch.compiler.is_compiling() else _GramWithTangent
    gram: Tensor = product.apply(maps)
    return gram


def centered(maps: Tensor) -> Tensor:
    """``maps`` (..., N) less their means over N; rows of which only rounding is left are 0 and keep their gradient."""
    offsets = maps.mean(-1, keepdim=True)
    result = maps - offsets
    with torch.no_grad():
        noise: Tensor = torch.where(_is_noise(result, offsets), result, 0.0)
    return result - noise


def _is_noise(spread: Tensor, offsets: Tensor) -> Tensor:
    """Rows of ``spread`` that taking off ``offsets`` left no more of than rounding does."""
    limit = 16 * torch.finfo(spread.dtype).eps * math.sqrt(spread.shape[-1])
    noise: Tensor = torch.linalg.vector_norm(spread, dim=-1, keepdim=True) <= limit * offsets.abs()
    return noise


def _square(maps: Tensor) -> Tensor:
    """``maps @ maps.mT`` in float32 at least, by parts: of few rows a product in one go may sum millions one by one."""
    dtype = accumulation_dtype(maps)
    total: Tensor
    whole = maps.shape[-1] // CHUNK
    if maps.ndim == 2 and maps.dtype == dtype and whole > 1:
        # All whole parts in one call, which costs less than a call each.
        parts, rest = maps[:, : whole * CHUNK].unflatten(1, (whole, CHUNK)).movedim(1, 0), maps[:, whole * CHUNK :]
        total = (parts @ parts.mT).sum(0) + rest @ rest.mT
    else:
        columns = (part.to(dtype) for part in maps.split(CHUNK, -1))
        total = reduce(torch.add, (part @ part.mT for part in columns))
    return total


class _Gram(torch.autograd.Function):
    """Products of rows; the backward pass is one product, where plain operations take two that are transposed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(maps: Tensor) -> Tensor:
        return _square(maps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        with torch.autocast(maps.device.type, enabled=False):
            factor = grads[0] + grads[0].mT
            if maps.dtype == factor.dtype:
                product: Tensor = factor @ maps
                return product
            return torch.cat([(factor @ part.to(factor.dtype)).to(maps.dtype) for part in maps.split(CHUNK, -1)], -1)


class _GramWithTangent(_Gram):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        _Gram.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        dtype = accumulation_dtype(maps)
        half: Tensor = tangents[0].to(dtype) @ maps.to(dtype).mT
        return half + half.mT


class _MeanGram(torch.autograd.Function):
    """Gram matrix of the batch mean, keeping one mean map and writing the gradient once.

    Plain operations would keep three such maps and multiply twice in the backward pass, although
    the two products are each other's transpose. The mean is an output so that a second derivative
    sees it as a function of the features. Of a centred mean the product with it is centred by itself.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(features: Tensor, center: bool) -> tuple[Tensor, Tensor]:
        mean = _batch_mean(features)
        if center:
            offsets = mean.mean(-1, keepdim=True)
            mean.sub_(offsets)
            mean.masked_fill_(_is_noise(mean, offsets), 0.0)
        return _square(mean), mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.center = inputs[0].shape, inputs[0].dtype, inputs[1]
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        grad_gram, grad_mean = grads
        (mean,) = ctx.saved_tensors
        if grad_mean is not None and ctx.center:
            grad_mean = grad_mean - grad_mean.mean(-1, keepdim=True)
        with torch.autocast(mean.device.type, enabled=False):
            if grad_gram is None:
                return None if grad_mean is None else _spread(grad_mean / ctx.shape[0], ctx.shape, ctx.dtype), None
            factor = (grad_gram + grad_gram.mT) / ctx.shape[0]
            if grad_mean is not None or torch.is_grad_enabled() or torch.compiler.is_compiling():
                grad = factor @ mean
                if grad_mean is not None:
                    grad = grad + grad_mean / ctx.shape[0]
                return _spread(grad, ctx.shape, ctx.dtype), None
            return _write_gradient(factor, mean, ctx.shape, ctx.dtype), None


class _MeanGramWithTangent(_MeanGram):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
        _MeanGram.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        mean_tangent = _batch_mean(tangents[0])
        if ctx.center:
            mean_tangent = mean_tangent - mean_tangent.mean(-1, keepdim=True)
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
        for start in range(0, mean.shape[1], CHUNK):
            columns = slice(start, start + CHUNK)
            first[:, columns] = factor @ mean[:, columns]
    grad[1:] = grad[:1]
    return grad
