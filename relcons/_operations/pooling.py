"""Adaptive average pooling in float32 at least."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relcons._operations.precision import accumulation_dtype
from relcons._operations.signatures import with_signature


def pooled(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Adaptive average pooling of ``features`` to ``sizes`` positions per axis, deterministic on every device."""
    pool = _Pool if torch.compiler.is_compiling() else _PoolWithTangent
    result: Tensor = pool.apply(features, tuple(sizes))
    return result


class _Pool(torch.autograd.Function):
    """Adaptive average pooling, one axis after the other, as products with matrices of window weights.

    torch's own keeps the maps, cast where they are of half precision, and on CUDA its gradient is not deterministic.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(features: Tensor, sizes: tuple[int, ...]) -> Tensor:
        # The last axis goes first, where it lies together in memory, and what is left is small.
        maps = features.to(accumulation_dtype(features))
        for axis in reversed(range(len(sizes))):
            maps = (maps @ _windows(features.shape[axis + 2], sizes[axis], maps).mT).movedim(-1, 2)
        return maps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: Tensor) -> None:
        ctx.shape, ctx.dtype, ctx.sizes = inputs[0].shape, inputs[0].dtype, inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        with torch.autocast(grad.device.type, enabled=False):
            for axis, size in enumerate(ctx.sizes):
                grad = grad.movedim(2, -1) @ _windows(ctx.shape[axis + 2], size, grad)
            return grad.to(ctx.dtype), None


class _PoolWithTangent(_Pool):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Pool.forward(tangents[0], ctx.sizes)


def _windows(positions: int, size: int, like: Tensor) -> Tensor:
    """(size, positions): row p averages over the window from floor(p n / size) to ceil((p + 1) n / size)."""
    position = torch.arange(positions, device=like.device)
    part = torch.arange(size, device=like.device)[:, None]
    inside = (position >= part * positions // size) & (position < -(-(part + 1) * positions // size))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)
