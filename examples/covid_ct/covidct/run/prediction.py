"""From a trained model to masks: what slices and volumes share."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from covidct.errors import InputError

Map = NDArray[np.float32] | NDArray[np.float64]
Mask = NDArray[np.bool_]


def best_device() -> torch.device:
    """CUDA where PyTorch finds it, the CPU elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of `model` are."""
    return next(model.parameters()).device


def binarise(probability: Map, threshold: float = 0.5) -> Mask:
    """The mask of a probability map: strictly above the threshold."""
    mask: Mask = np.greater(probability, threshold)
    return mask


def probabilities(
    model: nn.Module, windows: Tensor, mirrorings: tuple[tuple[int, ...], ...], dtype: torch.dtype | None
) -> Tensor:
    """Mean over `mirrorings` of the model's probabilities of windows (B, 1, *spatial); autocast to `dtype` if given."""
    total = torch.zeros_like(windows)
    for axes in mirrorings:
        with torch.autocast(windows.device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(windows.flip(axes))
        if isinstance(logits, list | tuple):
            logits = logits[0]
        total += logits.float().sigmoid().flip(axes)
    return total / len(mirrorings)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it was in, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])
        for module, training in modes:
            module.training = training


@contextmanager
def in_memory(name: object) -> Iterator[None]:
    """InputError, naming the image, where the memory of the machine or the GPU runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch's own class is the GPU's alone; on the CPU its allocator says so in words.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError(
                f"{name}: not enough memory to compute its mask; free some, or cut the image to what is of interest"
            ) from None
        raise


def check_finite(probability: Map, name: object, precision: str) -> None:
    """InputError, naming the image, if the output of a network trained in `precision` is not finite."""
    if not np.isfinite(probability).all():
        raise InputError(
            f"{name}: the network's output is NaN; the training has diverged "
            f"(precision {precision}): train again with --precision 32 or another --seed"
        )
