"""Networks and batches of the training-step benchmark."""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

with warnings.catch_warnings():
    # timm, which both libraries import, uses what torch has deprecated; every process would say so.
    warnings.filterwarnings("ignore", message=".*torch.jit.interface.*", category=FutureWarning)
    import segmentation_models_pytorch as smp
    from covidct.networks.plain_unet import plain_unet
    from covidct.training.segmentation_loss import segmentation_loss

__all__ = ["NETWORKS", "Batch", "random_batch", "segmentation_loss"]


def resnet_unet(widths: Sequence[int]) -> nn.Module:
    """Unet with a resnet18 encoder, whose widths are its own."""
    net: nn.Module = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
    return net


NETWORKS: dict[str, Callable[[Sequence[int]], nn.Module]] = {"plain": plain_unet, "resnet18": resnet_unet}


class Batch(NamedTuple):
    """Target images with their masks, and source images."""

    x: Tensor
    y: Tensor
    source: Tensor


def random_batch(size: Sequence[int], samples: int, seed: int) -> Batch:
    """Noise for images and masks: no step here depends on what they show."""
    generator = torch.Generator().manual_seed(seed)
    x, y, source = (torch.randn(samples, 1, *size, generator=generator) for _ in range(3))
    return Batch(x, (y > 0).float(), source)
