"""Relations as modules: anything that turns feature maps into square matrices, one or a stack."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relcons._products import accumulation_dtype
from relcons.checks import check_choice, check_eps, check_features, check_positions
from relcons.functional import BATCHES, Batch, relation_matrix, sample_relation, spatial_relation

__all__ = ["GramRelation", "SampleRelation", "SpatialRelation"]


class GramRelation(nn.Module):
    """Channel-wise Gram relation of the batch mean, [`relation_matrix`][relcons.functional.relation_matrix].

    The paper's, for source against target: it asks which channels go together, wherever in which image.
    With ``center=True`` it asks so of their deviations from the mean alone, as the second-order part of
    Deep CORAL does (Sun & Saenko 2016): a brighter domain is then no difference.

    A relation of your own is any module from features ``(B, C, *spatial)`` to ``(C, C)`` or
    ``(B, C, C)``; the losses take it as ``relation=``.

    Args:
        batch: ``"mean"``: one matrix per batch, as in the paper. ``"none"``: one per sample.
        center: take every channel's mean over positions off first.
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

    def __init__(self, batch: Batch = "mean", center: bool = False, sync: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        check_choice("batch", batch, BATCHES)
        check_eps(eps)
        if sync and batch == "none":
            raise ValueError('sync=True needs batch="mean": with batch="none" no sample needs another process')
        self.batch: Batch = batch
        self.center = center
        self.sync = sync
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Relation matrix of ``features``, ``(B, C, *spatial)``."""
        if self.sync and self.training and _is_one_of_several():
            check_features(features)
            features = _global_mean(features)
        return relation_matrix(features, batch=self.batch, center=self.center, eps=self.eps)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"batch={self.batch!r}, center={self.center}, sync={self.sync}, eps={self.eps}"


class SampleRelation(nn.Module):
    """Relation of the samples of a batch, [`sample_relation`][relcons.functional.sample_relation].

    For two maps of the same images: two views, a student and its teacher, two layers, or the target
    encoder and the general one (``RelationLoss(general=False, relation=SampleRelation())``). Source and
    target images are not the same: give them [`GramRelation`][relcons.GramRelation].

    Args:
        sync: in training mode and with ``torch.distributed`` initialised, relate the samples of all
            processes, differentiably: gradients averaged by DistributedDataParallel then equal those
            of one process on the joined batch. Samples must have the same size in every process, and
            every process holds all of them in float32, which travel each way. Without it every
            process relates its own samples.
        eps: share of the largest row norm below which a sample counts as dead.

    Raises:
        ValueError: ``eps`` is not in [0, 1).

    Source: Liu et al. 2020 (SRC-MT), whose loss is that of two such relations with ``reduction="row_mean"``.

    Examples:
        >>> SampleRelation()(torch.rand(4, 8, 7, 6)).shape
        torch.Size([4, 4])
    """

    def __init__(self, sync: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        check_eps(eps)
        self.sync = sync
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Relation ``(B, B)`` of ``features``, ``(B, C, *spatial)``; ``B`` counts the samples of all processes."""
        if self.sync and self.training and _is_one_of_several():
            check_features(features)
            features = _all_samples(features)
        return sample_relation(features, eps=self.eps)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"sync={self.sync}, eps={self.eps}"


class SpatialRelation(nn.Module):
    """Relation of the positions of every sample, [`spatial_relation`][relcons.functional.spatial_relation].

    For two maps of the same images, of which it asks which places look alike: a student and its teacher,
    or two views that were not moved against each other. Channels may differ, and maps of several sizes
    are pooled to one.

    Args:
        size: positions per axis after pooling, one number or one per axis; an axis that has no more
            keeps its own.

    Raises:
        TypeError: ``size`` is no whole number of positions, or one per axis.
        ValueError: ``size`` is below 1; when called, it has not one number per axis.

    Source: Liu et al. 2019 (structured knowledge distillation), whose pair-wise loss is that of two such
    relations with ``reduction="mean"``.

    Examples:
        >>> SpatialRelation(size=(4, 3))(torch.rand(2, 8, 14, 12)).shape
        torch.Size([2, 12, 12])
    """

    def __init__(self, size: int | Sequence[int] = 16) -> None:
        super().__init__()
        check_positions(size)
        self.size = tuple(size) if isinstance(size, Sequence) else size

    def forward(self, features: Tensor) -> Tensor:
        """Relation ``(B, P, P)`` of ``features``, ``(B, C, *spatial)``."""
        return spatial_relation(features, size=self.size)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"size={self.size}"


def _is_one_of_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _global_mean(features: Tensor) -> Tensor:
    """Mean over the samples of all processes, ``(1, C, *spatial)``."""
    with torch.autocast(features.device.type, enabled=False):
        samples = features.new_tensor([features.shape[0]], dtype=torch.float32)
        torch.distributed.all_reduce(samples)
        total = features.sum(0, keepdim=True, dtype=accumulation_dtype(features))
        return _AllReduceSum.apply(total) / samples.to(total.dtype)  # type: ignore[no-any-return]


def _all_samples(features: Tensor) -> Tensor:
    """Samples of all processes, in the order of their ranks."""
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    counts = torch.zeros(processes, dtype=torch.long, device=features.device)
    counts[rank] = features.shape[0]
    torch.distributed.all_reduce(counts)
    before, after = int(counts[:rank].sum()), int(counts[rank + 1 :].sum())
    own = features.to(accumulation_dtype(features))
    # A sum in which every process fills its own rows: unlike a gathering it takes batches of several sizes.
    padded = torch.cat([own.new_zeros(before, *own.shape[1:]), own, own.new_zeros(after, *own.shape[1:])])
    return _AllReduceSum.apply(padded)  # type: ignore[no-any-return]


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
