"""Relations as modules: anything that turns feature maps into a (C, C) matrix."""

import torch
from torch import Tensor, nn

from relcons.checks import check_choice, check_eps, check_features
from relcons.functional import BATCHES, Batch, accumulation_dtype, relation_matrix

__all__ = ["GramRelation"]


class GramRelation(nn.Module):
    """Channel-wise Gram relation of the batch mean, [`relation_matrix`][relcons.functional.relation_matrix].

    A relation of your own is any module from features ``(B, C, *spatial)`` to ``(C, C)`` or
    ``(B, C, C)``; the losses take it as ``relation=``.

    Args:
        batch: ``"mean"``: one matrix per batch, as in the paper. ``"none"``: one per sample.
        sync: in training mode and with ``torch.distributed`` initialised, average over the global
            batch, each process weighted by its batch size, differentiably: gradients averaged by
            DistributedDataParallel then equal those of one process on the joined batch. Feature maps
            must have the same size in every process; one map per call travels each way. Without it
            every process relates its own batch, and the averaged gradient is the mean of theirs.
        eps: share of the largest row norm below which a channel counts as dead.

    Raises:
        ValueError: ``batch`` is unknown, ``eps`` is not in [0, 1), or ``sync`` is asked for with
            ``batch="none"`` (samples need no other process).

    Examples:
        >>> GramRelation()(torch.rand(2, 8, 7, 6)).shape
        torch.Size([8, 8])
    """

    def __init__(self, batch: Batch = "mean", sync: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        check_choice("batch", batch, BATCHES)
        check_eps(eps)
        if sync and batch == "none":
            raise ValueError('sync=True needs batch="mean": with batch="none" no sample needs another process')
        self.batch: Batch = batch
        self.sync = sync
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Relation matrix of ``features``, ``(B, C, *spatial)``."""
        if self.sync and self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            check_features(features)
            features = _global_mean(features)
        return relation_matrix(features, batch=self.batch, eps=self.eps)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"batch={self.batch!r}, sync={self.sync}, eps={self.eps}"


def _global_mean(features: Tensor) -> Tensor:
    """Mean over the samples of all processes, ``(1, C, *spatial)``."""
    with torch.autocast(features.device.type, enabled=False):
        samples = features.new_tensor([features.shape[0]], dtype=torch.float32)
        torch.distributed.all_reduce(samples)
        total = features.sum(0, keepdim=True, dtype=accumulation_dtype(features))
        return _AllReduceSum.apply(total) / samples.to(total.dtype)  # type: ignore[no-any-return]


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of every process's gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        total: Tensor = _AllReduceSum.apply(grads[0])  # by itself, so that a second derivative is right too
        return total
