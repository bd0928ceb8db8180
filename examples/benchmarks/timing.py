"""Times of competing calls, measured in turn so that all of them meet the same machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of neighbouring runs, with their lower and upper quartile."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"

    def against(self, largest: float | None) -> str:
        """The target and whether it is met, for a table; nothing where there is no target."""
        return "" if largest is None else f"{largest} ({'met' if self.median <= largest else 'missed'})"


def interleaved(calls: Mapping[str, Callable[[], float]], repeats: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of every call in `repeats` rounds after `warmup` rounds that are not counted.

    A round runs every call once. Every second round runs them in reverse, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warmup + repeats):
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            elapsed = calls[name]()
            if number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(
    call: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one run; by ``time.process_time`` those that the process had a core, whatever else runs."""
    wait(device)
    start = clock()
    result = call()
    wait(device)
    elapsed = clock() - start
    del result  # kept until here, so that giving its memory back is in nobody's time
    return elapsed


def ratio(numerator: list[float], denominator: list[float]) -> Ratio:
    """Ratios of the runs of each round."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    quarter = len(ratios) // 4
    return Ratio(median(ratios), ratios[quarter], ratios[-1 - quarter])


def milliseconds(seconds: list[float]) -> str:
    """Median, for a table."""
    return f"{1000 * median(seconds):.1f}"


def wait(device: str) -> None:
    """Return when the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
