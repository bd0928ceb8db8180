"""Rows of matrices over their norms."""

from typing import Any

import torch
from torch import Tensor

from relcons._operations.signatures import with_signature


def unit_rows(rows: Tensor, eps: float) -> Tensor:
    """Rows of (..., M, N) over their L2 norms; 0 where that is at most ``eps`` times the largest of the matrix."""
    scale = _UnitRows if torch.compiler.is_compiling() else _UnitRowsWithTangent
    result: Tensor = scale.apply(rows, eps)[0]
    return result


class _UnitRows(torch.autograd.Function):
    """Rows over their norms, in a fraction of the small operations that autograd would record.

    The inverse norms are an output so that a second derivative sees them as a function of the rows.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        # Dividing by the largest entry changes nothing in the result and keeps the squares of the norms from
        # leaving float32's range.
        largest = torch.linalg.vector_norm(rows, torch.inf, (-2, -1), keepdim=True)
        # Below this the inverse of the largest entry leaves the type's range in the backward pass.
        limits = torch.finfo(rows.dtype)
        scale = largest.reciprocal().masked_fill_(largest < limits.tiny / limits.eps, 0.0)
        scaled = rows * scale
        norms = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
        dead = norms <= eps * norms.amax(-2, keepdim=True)
        inverse = norms.reciprocal().masked_fill_(dead, 0.0)
        # Times 0, not replaced by it: NaN is seen.
        return scaled * inverse, inverse * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        grad_unit, grad_inverse = grads
        unit, inverse = ctx.saved_tensors
        grad = None if grad_unit is None else _turn(grad_unit, unit, inverse)
        if grad_inverse is not None:
            further = -grad_inverse * inverse * inverse * unit
            grad = further if grad is None else grad + further
        return grad, None


class _UnitRowsWithTangent(_UnitRows):
    """The same with forward-mode derivatives, which torch.compile does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        _UnitRows.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        unit, inverse = ctx.saved_tensors
        along = (unit * tangents[0]).sum(-1, keepdim=True)
        return _turn(tangents[0], unit, inverse), -inverse * inverse * along


def _turn(change: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """What a change of a row does to its direction; of gradients the same, since it is symmetric."""
    return (change - unit * (unit * change).sum(-1, keepdim=True)) * inverse
