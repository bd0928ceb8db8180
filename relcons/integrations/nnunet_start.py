"""Start of a training from the checkpoint of a stock nnU-Net."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["START", "load_start", "read_weights"]

START = "RELCONS_START"
# What NumPy's own numbers and arrays are unpickled by; __reduce__ gives it in every version of NumPy.
_BUILDERS: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
# nnU-Net keeps NumPy numbers in the log of a checkpoint; nothing else beyond tensors is let in.
_ALLOWED: list[Any] = [
    np.dtype,
    np.ndarray,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool")),
    *(
        (builder, f"{module}.multiarray.{name}")
        for name, builder in _BUILDERS.items()
        for module in ("numpy.core", "numpy._core")
    ),
]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights of a stock nnU-Net checkpoint; no code of the file is run.

    Raises:
        ValueError: there is no such file, it is damaged, holds something else than a checkpoint of
            nnU-Net, or asks for objects beyond tensors, plain Python and NumPy numbers.
    """
    wanted = f"{START} must be a checkpoint_*.pth that nnU-Net v2 wrote"
    if not Path(path).is_file():
        raise ValueError(f"{wanted}, got {path}, which is not a file")
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files torch.load raises whatever its unpickler comes across
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{wanted}; {path} cannot be read, is it complete? ({reason[0]:.120})") from None
    weights = checkpoint.get("network_weights") if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{wanted}; {path} holds no network_weights")
    return {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}


def load_start(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Start target encoder and decoder of ``model`` at a stock network's weights.

    What has the same name and shape is loaded. The decoder's first layer takes twice the channels:
    those of the target encoder are loaded and those of the general encoder are 0, so that the
    model's output at first is exactly the stock network's.

    Args:
        model: ``DualEncoderUNet(net, fusion="concat")`` of a network that nnU-Net plans.
        weights: of [`read_weights`][relcons.integrations.nnunet_start.read_weights].

    Returns:
        Names in ``model`` of target encoder and decoder that stay as they were.

    Raises:
        ValueError: no weight of the target encoder fits: the checkpoint is of another architecture.
    """
    own = {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(("target_encoder.", "decoder."))
    }
    left = []
    for name, tensor in own.items():
        given = weights.get(name.replace("target_encoder.", "encoder.", 1))
        if given is not None and given.shape == tensor.shape:
            tensor.copy_(given)
        elif name == "decoder.transpconvs.0.weight" and given is not None and _is_half(given, tensor):
            tensor.zero_()
            tensor[: given.shape[0]].copy_(given)
        else:
            left.append(name)
    if all(name in left for name in own if name.startswith("target_encoder.")):
        raise ValueError(
            f"{START}: no weight of the checkpoint fits the target encoder; give one that was trained with the plans "
            "and the configuration of this training"
        )
    return left


def _is_half(given: Tensor, tensor: Tensor) -> bool:
    return given.shape[1:] == tensor.shape[1:] and 2 * given.shape[0] == tensor.shape[0]
