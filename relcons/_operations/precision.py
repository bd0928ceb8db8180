"""Types in which relations are computed."""

import torch
from torch import Tensor


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Type in which relations are computed: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)
