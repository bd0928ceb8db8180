"""Number formats: which one a machine really computes in, and Lightning Fabric's names for them."""

from collections.abc import Mapping
from typing import Literal

import torch

from covidct.errors import InputError

FABRIC_PRECISION: Mapping[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
PRECISIONS = tuple(FABRIC_PRECISION)
AUTOCAST = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


def resolve_precision(asked: str, *, cuda: bool) -> str:
    """`asked`, with "auto" decided: bf16 where the hardware computes in it, 32 elsewhere.

    Raises InputError for 16-bit floats without CUDA.
    """
    if asked == "16" and not cuda:
        raise InputError(
            "16-bit mixed precision (preset paper, or --precision 16) needs a CUDA device and PyTorch finds "
            "none; take --precision 32 or bf16, or --preset cpu"
        )
    if asked != "auto":
        return asked
    native = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else processor_has_bf16()
    return "bf16" if native else "32"


def inference_precision(trained: str, device: torch.device) -> str:
    """What a model trained in `trained` computes in: 32 bits on the CPU, where 16-bit floats are no faster."""
    return "32" if device.type == "cpu" and trained == "16" else trained


def autocast_dtype(precision: str) -> torch.dtype | None:
    """What autocast computes in, None for no autocast; ValueError for a precision that does not exist."""
    if precision not in AUTOCAST:
        raise ValueError(f"precision must be one of {', '.join(AUTOCAST)}, got {precision!r}")
    return AUTOCAST[precision]


def processor_has_bf16() -> bool:
    """Whether the processor multiplies bf16 numbers itself: AVX-512 BF16, AMX, Arm's BF16.

    PyTorch's own `_is_mkldnn_bf16_supported` is also true where bf16 is emulated and slower than 32 bits.
    """
    # Absent before PyTorch 2.10: 32 bits are then the safe choice.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
