"""Ramp-up schedules: pure functions of the training step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

__all__ = ["ConstantWeight", "CosineRampUp", "GaussianRampUp", "LinearRampUp", "Schedule"]

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class GaussianRampUp:
    r"""Gaussian ramp-up.

    $$\lambda(t) = \text{peak} \cdot e^{-\text{rate} \, (1 - t/T)^{\text{power}}}$$

    The paper prints power 1; power 2 is the original of Laine & Aila (2017). After ``total_steps``
    the weight stays at ``peak``.

    Args:
        total_steps: $T$, the number of optimiser steps (not epochs) until the peak.
        peak: weight at the end.
        power: exponent of the remaining share of training.
        rate: how small the start is: ``peak * exp(-rate)``.

    Returns:
        ``schedule(step)`` gives the weight as a float.

    Raises:
        ValueError: ``total_steps`` is not a positive whole number, ``power`` is not positive, or
            another argument is not finite; when called, a negative step.

    Source: Zhang et al. 2021, Section IV-C; Laine & Aila, "Temporal ensembling", ICLR 2017.

    Examples:
        >>> schedule = GaussianRampUp(total_steps=1000)
        >>> round(schedule(0), 6), round(schedule(500), 4), schedule(1000)
        (0.000674, 0.0082, 0.1)
    """

    total_steps: int
    peak: float = 0.1
    power: float = 1
    rate: float = 5.0

    def __post_init__(self) -> None:
        _check_total(self.total_steps)
        check_finite(peak=self.peak, power=self.power, rate=self.rate)
        if self.power <= 0:
            raise ValueError(f"power must be positive, got {self.power}; the paper's is 1, Laine & Aila's 2")

    def __call__(self, step: int) -> float:
        """Weight at ``step``."""
        return self.peak * math.exp(-self.rate * (1 - _share(step, self.total_steps)) ** self.power)


@dataclass(frozen=True)
class LinearRampUp:
    r"""Linear ramp-up: $\lambda(t) = \text{peak} \cdot t/T$, then ``peak``.

    Args:
        total_steps: $T$, the number of optimiser steps until the peak.
        peak: weight at the end.

    Raises:
        ValueError: ``total_steps`` is not a positive whole number or ``peak`` is not finite; when
            called, a negative step.

    Examples:
        >>> LinearRampUp(total_steps=10, peak=1.0)(5)
        0.5
    """

    total_steps: int
    peak: float = 0.1

    def __post_init__(self) -> None:
        _check_total(self.total_steps)
        check_finite(peak=self.peak)

    def __call__(self, step: int) -> float:
        """Weight at ``step``."""
        return self.peak * _share(step, self.total_steps)


@dataclass(frozen=True)
class CosineRampUp:
    r"""Cosine ramp-up: $\lambda(t) = \tfrac{1}{2}\,\text{peak}\,(1 - \cos \pi t/T)$, then ``peak``.

    Args:
        total_steps: $T$, the number of optimiser steps until the peak.
        peak: weight at the end.

    Raises:
        ValueError: ``total_steps`` is not a positive whole number or ``peak`` is not finite; when
            called, a negative step.

    Examples:
        >>> CosineRampUp(total_steps=10, peak=1.0)(10)
        1.0
    """

    total_steps: int
    peak: float = 0.1

    def __post_init__(self) -> None:
        _check_total(self.total_steps)
        check_finite(peak=self.peak)

    def __call__(self, step: int) -> float:
        """Weight at ``step``."""
        return 0.5 * self.peak * (1 - math.cos(math.pi * _share(step, self.total_steps)))


@dataclass(frozen=True)
class ConstantWeight:
    """The same weight at every step.

    Args:
        value: the weight.

    Raises:
        ValueError: ``value`` is not finite; when called, a negative step.

    Examples:
        >>> ConstantWeight(0.1)(500)
        0.1
    """

    value: float = 0.1

    def __post_init__(self) -> None:
        check_finite(value=self.value)

    def __call__(self, step: int) -> float:
        """Weight at ``step``."""
        _share(step, 1)
        return self.value


def _share(step: int, total_steps: int) -> float:
    if step < 0:
        raise ValueError(f"step must be 0 or more, got {step}")
    return min(step / total_steps, 1.0)


def _check_total(total_steps: int) -> None:
    if isinstance(total_steps, bool) or not isinstance(total_steps, Integral) or total_steps < 1:
        raise ValueError(f"total_steps must be a positive number of optimiser steps, got {total_steps!r}")


def check_finite(**numbers: float) -> None:
    """Raise ValueError, naming the argument, unless each is a finite number."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
            raise ValueError(f"{name} must be a finite number, got {number!r}")
