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
    """Target images with their masks, source images, and unlabelled images of the target, where there are any."""

    x: Tensor
    y: Tensor
    source: Tensor
    unlabelled: Tensor | None = None

    def to(self, device: str) -> "Batch":
        """The batch on `device`."""
        more = None if self.unlabelled is None else self.unlabelled.to(device)
        return Batch(self.x.to(device), self.y.to(device), self.source.to(device), more)


def random_batch(size: Sequence[int], samples: int, seed: int, *, unlabelled: bool = False) -> Batch:
    """Noise for images and masks: no step here depends on what they show."""
    generator = torch.Generator().manual_seed(seed)
    x, y, source, more = (torch.randn(samples, 1, *size, generator=generator) for _ in range(4))
    return Batch(x, (y > 0).float(), source, more if unlabelled else None)
