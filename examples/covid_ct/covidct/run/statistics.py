"""Statistics of scores: mean and spread, and paired comparisons of two systems. Arrays in, dataclasses out.

The paper's own test is the paired t test; Wilcoxon's signed rank test stands beside it, since scores of segmentations
are skewed. `holm` corrects for the number of comparisons in a table. `Paired.detectable` says what a comparison could
have shown at all.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

LEVEL, POWER = 0.05, 0.8
CONFIDENCE = 1 - LEVEL
RESAMPLES = 9999
# Scores lie in [0, 1]; a spread below this is rounding.
NO_SPREAD, ROUNDED = 1e-12, 12


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (NaN for fewer than two) over `count` values; `empty` were left out."""

    mean: float
    deviation: float
    count: int
    empty: int


@dataclass(frozen=True)
class Paired:
    """First minus second over `count` pairs. What does not exist (a test of one pair, of equal differences) is NaN.

    `low` and `high`: bootstrap interval of the mean difference, bias-corrected and accelerated, 95 %. `detectable`: the
    smallest true difference that a two-sided t test at 5 % finds with probability 0.8, for as many pairs whose
    differences deviate as these do.
    """

    count: int
    difference: float
    deviation: float
    low: float
    high: float
    t: float
    t_p: float
    wilcoxon: float
    wilcoxon_p: float
    detectable: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation of the values that are not NaN."""
    known = np.array([value for value in values if not np.isnan(value)], dtype=float)
    return Summary(
        mean=float(known.mean()) if known.size else float("nan"),
        deviation=float(known.std(ddof=1)) if known.size > 1 else float("nan"),
        count=known.size,
        empty=len(values) - known.size,
    )


def over_cases(values: Sequence[tuple[str, float]]) -> Summary:
    """`summarise` over cases: the evaluations (case, value) of one case in several folds are averaged first."""
    return summarise(list(case_means(values).values()))


def case_means(values: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The mean of every case over its evaluations (case, value) that are not NaN."""
    cases: dict[str, list[float]] = {}
    for name, value in values:
        cases.setdefault(name, []).append(value)
    return {name: summarise(found).mean for name, found in cases.items()}


def number(value: float) -> str:
    """Three decimals; - for a score that does not exist."""
    return f"{value:.3f}" if value == value else "-"


def spread(found: Summary) -> str:
    """mean±deviation."""
    return f"{number(found.mean)}±{number(found.deviation)}"


def counted(found: Summary) -> str:
    """How many values there are, and how many were left out because there was nothing to find and nothing found."""
    return f"{found.count} (+{found.empty} empty)" if found.empty else str(found.count)


def compare(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Paired:
    """Compare two systems on the same images; pairs with a NaN are left out.

    Args:
        first: (n,), a score of every image.
        second: (n,), the other system's, in the same order.
        seed: of the bootstrap.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"first and second must be one score for each of the same images, got {a.shape} and {b.shape}")
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    found = summarise((a - b).tolist())
    nan = float("nan")
    if not found.deviation > NO_SPREAD:
        return Paired(found.count, found.mean, found.deviation, *(nan,) * 7)
    low, high = _interval(a, b, seed)
    # Rounded, or differences that are equal, or none, would be ranked by the last bit of a float.
    t, signed = stats.ttest_rel(a, b), stats.wilcoxon(np.round(a - b, ROUNDED))
    return Paired(
        count=found.count,
        difference=found.mean,
        deviation=found.deviation,
        low=low,
        high=high,
        t=float(t.statistic),
        t_p=float(t.pvalue),
        wilcoxon=float(signed.statistic),
        wilcoxon_p=float(signed.pvalue),
        detectable=detectable(found.deviation, found.count),
    )


def detectable(deviation: float, count: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest mean difference that a two-sided paired t test finds with probability `power`.

    Args:
        deviation: sample standard deviation of the paired differences.
        count: pairs, 2 or more.
        power: probability of finding it.
        level: of the test.
    """
    if count < 2:
        raise ValueError(f"count must be 2 or more, got {count}")
    bound = stats.t.ppf(1 - level / 2, count - 1)
    # Of a t test's statistic under a true difference, noncentral t; that it is found with the wrong sign adds less than
    # 1e-4 to the power.
    shift = special.nctdtrinc(count - 1, 1 - power, bound)
    return float(shift) * deviation / float(np.sqrt(count))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p values, in their order; a NaN is no comparison and stays.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    p = np.asarray(values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    times = len(known) - np.arange(len(known))
    p[order] = np.minimum(np.maximum.accumulate(times * p[order]), 1)
    return [float(value) for value in p]


def _interval(a: NDArray[np.float64], b: NDArray[np.float64], seed: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        # Of a few pairs the interval may not exist: it is NaN then.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (a, b),
            _mean_difference,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _mean_difference(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = np.mean(a - b, axis=axis)
    return difference
