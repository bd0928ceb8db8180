"""Several batches through one encoder: together only where that changes nothing and pays."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

__all__ = ["encode", "may_share_a_pass"]


def may_share_a_pass(encoders: Iterable[nn.Module]) -> bool:
    """Whether no layer would mix the statistics of batches, in its present mode."""
    return not any(_uses_batch(layer) for encoder in encoders for layer in encoder.modules())


def encode(encoder: nn.Module, batches: list[Tensor], *, may_share: bool) -> list[Sequence[Tensor]]:
    """Maps of each batch, in one pass where that is allowed, possible and pays."""
    if (
        len(batches) > 1
        and may_share
        and _one_pass_pays(batches[0])
        and all(batch.shape[1:] == batches[0].shape[1:] for batch in batches)
    ):
        sizes = [batch.shape[0] for batch in batches]
        return list(zip(*(maps.split(sizes) for maps in encoder(torch.cat(batches))), strict=True))
    return [encoder(batch) for batch in batches]


def _one_pass_pays(x: Tensor) -> bool:
    """On a CPU a joined batch saves no launch and leaves the cache sooner: measured 2 to 6 % slower."""
    return x.device.type != "cpu"


def _uses_batch(layer: nn.Module) -> bool:
    """Whether ``layer`` computes or keeps statistics over the batch in its present mode."""
    if isinstance(layer, _BatchNorm):
        return layer.training or layer.running_mean is None
    return isinstance(layer, _NormBase) and layer.training and layer.track_running_stats
