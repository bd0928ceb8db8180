"""Ramp-up schedules: pure functions of the training step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

from relcons.checks import check_finite

__all__ = ["ConstantWeight", "CosineRampUp", "GaussianRampUp", "LinearRampUp", "RampUp", "Schedule"]

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class RampUp(ABC):
    r"""A weight that rises for ``total_steps`` and then stays at ``peak``: $\lambda(t) = \text{peak} \cdot r(t/T)$.

    A ramp-up of your own is a frozen dataclass with another [`rise`][relcons.schedules.RampUp.rise].

    Args:
        total_steps: $T$, the number of optimiser steps (not epochs) until the peak.
        peak: weight at the end.

    Returns:
        ``schedule(step)`` gives the weight as a float.

    Raises:
        ValueError: ``total_steps`` is not a positive whole number or ``peak`` is not finite; when
            called, a negative step.
    """

    total_steps: int
    peak: float = 0.1

    def __post_init__(self) -> None:
        total = self.total_steps
        if isinstance(total, bool) or not isinstance(total, Integral) or total < 1:
            raise ValueError(f"total_steps must be a positive number of optimiser steps, got {total!r}")
        check_finite(peak=self.peak)

    def __call__(self, step: int) -> float:
        """Weight at ``step``."""
        return self.peak * self.rise(_share(step, self.total_steps))

    @abstractmethod
    def rise(self, share: float) -> float:
        """Share of the peak, $r$, at that share of the steps, from 0 to 1."""


@dataclass(frozen=True)
class GaussianRampUp(RampUp):
    r"""Gaussian ramp-up.

    $$\lambda(t) = \text{peak} \cdot e^{-\text{rate} \, (1 - t/T)^{\text{power}}}$$

    The paper prints power 1; power 2 is the original of Laine & Aila (2017). ``total_steps`` and
    ``peak`` are those of every [`RampUp`][relcons.schedules.RampUp].

    Args:
        power: exponent of the remaining share of training.
        rate: how small the start is: ``peak * exp(-rate)``.

    Raises:
        ValueError: ``power`` is not positive, or ``rate`` is not finite.

    Source: Zhang et al. 2021, Section IV-C; Laine & Aila, "Temporal ensembling", ICLR 2017.

    Examples:
        >>> schedule = GaussianRampUp(total_steps=1000)
        >>> round(schedule(0), 6), round(schedule(500), 4), schedule(1000)
        (0.000674, 0.0082, 0.1)
    """

    power: float = 1
    rate: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(power=self.power, rate=self.rate)
        if self.power <= 0:
            raise ValueError(f"power must be positive, got {self.power}; the paper's is 1, Laine & Aila's 2")

    def rise(self, share: float) -> float:
        """Gaussian share of the peak."""
        return math.exp(-self.rate * (1 - share) ** self.power)


@dataclass(frozen=True)
class LinearRampUp(RampUp):
    r"""Linear [`RampUp`][relcons.schedules.RampUp]: $\lambda(t) = \text{peak} \cdot t/T$, then ``peak``.

    Examples:
        >>> LinearRampUp(total_steps=10, peak=1.0)(5)
        0.5
    """

    def rise(self, share: float) -> float:
        """The same share of the peak."""
        return share


@dataclass(frozen=True)
class CosineRampUp(RampUp):
    r"""Cosine [`RampUp`][relcons.schedules.RampUp]: $\lambda(t) = \tfrac{1}{2}\,\text{peak}\,(1 - \cos \pi t/T)$.

    Examples:
        >>> CosineRampUp(total_steps=10, peak=1.0)(10)
        1.0
    """

    def rise(self, share: float) -> float:
        """Share of the peak along half a cosine."""
        return 0.5 * (1 - math.cos(math.pi * share))


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
