"""Checks at the boundary: what the caller gave, what was expected, and the fix."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

from torch import Tensor

__all__ = [
    "check_choice",
    "check_eps",
    "check_features",
    "check_finite",
    "check_floating",
    "check_same_channels",
    "needing",
]


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise TypeError unless ``tensor`` is a floating-point tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:  # of the 8-bit types torch only stores numbers
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}; convert it with .float()")
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on the meta device, which holds no numbers; compute it on a real device")


def check_features(features: Tensor, name: str = "features") -> None:
    """Raise unless ``features`` is a non-empty floating-point tensor ``(B, C, *spatial)``."""
    check_floating(name, features)
    if not 3 <= features.ndim <= 5:
        raise ValueError(
            f"{name} must be (B, C, *spatial) with one, two or three spatial axes, got {tuple(features.shape)}"
            + ("; add a batch axis with [None]" if features.ndim == 2 else "")
        )
    if features.numel() == 0:
        raise ValueError(f"{name} must not be empty, got {tuple(features.shape)}")


def check_same_channels(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless both are feature maps with the same number of channels."""
    check_features(a, name_a)
    check_features(b, name_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{name_a} and {name_b} must have the same number of channels, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}; take the same level of encoders of one architecture"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_finite(**numbers: float) -> None:
    """Raise ValueError, naming the argument, unless each is a finite number."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, got {number!r}")


def check_eps(eps: float) -> None:
    """Raise ValueError unless ``eps`` is a share below which a channel can count as dead."""
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be in [0, 1), got {eps!r}; the default is 1e-6")


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Around imports of what ``extra`` brings: an ImportError in it becomes one that names the extra's command."""
    try:
        yield
    except ImportError as error:
        library = (error.name or "a library").partition(".")[0]
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
        raise kind(f'{what} needs {library} ({error}); pip install "relcons[{extra}]"', name=error.name) from error
