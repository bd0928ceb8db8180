"""What the four loops share: discs to find, a model with two encoders, its losses and its optimiser."""

from collections.abc import Iterator
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from relcons import DualEncoderUNet, GaussianRampUp, RelationLoss

# --8<-- [start:build]
STEPS = 10
SIZE = 48


class Discs(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Large discs with their masks (the target), small ones without (the source); the same at every reading."""

    def __len__(self) -> int:
        return 4 * STEPS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        image, mask = _disc(10, generator)
        source, _ = _disc(4, generator)
        return {"image": image, "mask": mask, "source": source}


def batches() -> torch.utils.data.DataLoader[dict[str, Tensor]]:
    """One epoch: `STEPS` batches of four."""
    return torch.utils.data.DataLoader(Discs(), batch_size=4)


def build(seed: int = 0) -> tuple[DualEncoderUNet, torch.nn.Module, RelationLoss]:
    """Model, segmentation loss and relation loss; the weights depend on `seed` alone."""
    torch.manual_seed(seed)
    net = smp.Unet("resnet18", encoder_weights=None, in_channels=1, encoder_depth=3, decoder_channels=(32, 16, 8))
    model = DualEncoderUNet(net, general="reset")
    return model, smp.losses.DiceLoss("binary"), RelationLoss(GaussianRampUp(STEPS), reduction="row_mean")


def make_optimizer(parameters: Iterator[torch.nn.Parameter] | list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


# --8<-- [end:build]


def show(losses: list[float]) -> None:
    """The loss of every step, on the screen."""
    for step, loss in enumerate(losses, start=1):
        print(f"step {step:2}: loss {loss:.4f}")


def _disc(radius: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    row, column = torch.randint(12, SIZE - 12, (2,), generator=generator)
    mask = ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).float()[None]
    return mask + 0.3 * torch.randn(mask.shape, generator=generator), mask
