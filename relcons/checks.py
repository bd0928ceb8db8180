"""Checks at the boundary: what the caller gave, what was expected, and the fix."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real

from torch import Tensor

__all__ = [
    "check_choice",
    "check_count",
    "check_eps",
    "check_features",
    "check_finite",
    "check_floating",
    "check_positions",
    "check_relations",
    "check_same_channels",
    "check_same_relations",
    "check_size",
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


def check_relations(name: str, relations: Tensor) -> None:
    """Raise unless ``relations`` is a floating-point square matrix or a stack of them."""
    check_floating(name, relations)
    if relations.ndim not in (2, 3) or relations.shape[-1] != relations.shape[-2]:
        raise ValueError(f"{name} must be relation matrices of shape (C, C) or (B, C, C), got {tuple(relations.shape)}")


def check_same_relations(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Raise unless both are relation matrices of the same shape."""
    check_relations(name_a, a)
    check_relations(name_b, b)
    if a.shape == b.shape:
        return
    if a.ndim != b.ndim:
        fix = "take one relation for both"
    elif a.shape[-1] == b.shape[-1]:
        fix = (
            "with a matrix per sample, sample i is compared with sample i: give batches of one size, or relate their "
            'means by GramRelation(batch="mean")'
        )
    else:
        fix = (
            "SampleRelation needs batches of one size (for batches of different images take GramRelation), "
            "GramRelation as many channels in both, SpatialRelation as many positions (or a size that both maps have)"
        )
    raise ValueError(
        f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}; {fix}"
    )


def check_size(size: int | Sequence[int], spatial: Sequence[int]) -> tuple[int, ...]:
    """``size`` as one number per axis of ``spatial``, at most that axis'; raises where it is none."""
    check_positions(size)
    sizes = list(size) if isinstance(size, Sequence) else [size] * len(spatial)
    if len(sizes) != len(spatial):
        raise ValueError(
            f"size must be one number, or one for each of the {len(spatial)} spatial axes of features, got {size!r}"
        )
    return tuple(min(int(wanted), there) for wanted, there in zip(sizes, spatial, strict=True))


def check_positions(size: int | Sequence[int]) -> None:
    """Raise unless ``size`` is a number of positions, or one per axis."""
    sizes = size if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    for one in sizes:
        if isinstance(one, bool) or not isinstance(one, Integral):
            raise TypeError(f"size must be a whole number of positions, or one per axis, got {size!r}")
        if one < 1:
            raise ValueError(f"size must be 1 or more, got {size!r}")


def check_count(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")


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
