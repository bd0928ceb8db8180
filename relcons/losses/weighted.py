"""A loss with a weight that follows a schedule."""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor, nn

from relcons.checks import check_choice, check_finite
from relcons.functional import REDUCTIONS, Reduction
from relcons.relations import GramRelation
from relcons.schedules import ConstantWeight, Schedule

__all__ = ["WeightedLoss"]

# Of a weight, which lives in a float32 buffer.
LARGEST = torch.finfo(torch.float32).max


class WeightedLoss(nn.Module):
    """A loss with a weight that follows a schedule."""

    current_weight: Tensor

    def __init__(
        self, weight: float | Schedule = 0.1, relation: nn.Module | None = None, reduction: Reduction = "sum"
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        if relation is not None and not isinstance(relation, nn.Module):
            raise TypeError(f"relation must be a module from features to (C, C), got {type(relation).__name__}")
        if isinstance(weight, type):
            raise TypeError(f"weight must be a number or a schedule, got the class {weight.__name__}; make one of it")
        if not callable(weight):
            check_finite(weight=weight)
        self.schedule: Schedule = weight if callable(weight) else ConstantWeight(weight)
        self.relation = GramRelation() if relation is None else relation
        self.reduction: Reduction = reduction
        self._step = 0
        # A tensor, since torch.compile would compile anew for every value of a Python number.
        self.register_buffer("current_weight", torch.tensor(self._scheduled(0)), persistent=False)

    def reset_parameters(self) -> None:
        """Back to the schedule's start, as torch's layers go back to fresh weights."""
        self.step(0)

    def step(self, to: int | None = None) -> None:
        """Advance the schedule by one step, or set it to step ``to``; call it after the optimiser's step.

        Raises:
            TypeError: ``to`` is not a whole number.
            ValueError: ``to`` is negative, or the schedule gives no finite weight there.
        """
        if to is not None and (isinstance(to, bool) or not isinstance(to, Integral)):
            raise TypeError(f"to must be a whole number of optimiser steps, got {to!r}")
        step = self._step + 1 if to is None else int(to)
        self.current_weight.fill_(self._scheduled(step))
        self._step = step

    def get_extra_state(self) -> Tensor:
        """Current step, kept in ``state_dict``."""
        return torch.tensor(self._step)

    def set_extra_state(self, state: Tensor) -> None:
        """Go to the step that ``state_dict`` carries."""
        self.step(int(state))

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"schedule={self.schedule}, reduction={self.reduction!r}"

    def _scheduled(self, step: int) -> float:
        weight = float(self.schedule(step))
        if not abs(weight) <= LARGEST:
            raise ValueError(
                f"weight must be finite in float32, the schedule {self.schedule} gives {weight} at step {step}"
            )
        return weight

    def _weight(self) -> Tensor:
        """The present weight as a tensor that later calls of ``step`` leave alone."""
        return self.current_weight.clone()

    def _weighted(self, consistency: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
        return self._weight() * consistency(a, b, relation=self.relation, reduction=self.reduction)
