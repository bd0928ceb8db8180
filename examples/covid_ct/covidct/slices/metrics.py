"""Scores of one probability map against one mask, and the 256-threshold protocol of the paper's Table V.

All functions are numpy alone and know neither files nor networks. `score_image` gives one image's
scores, `summarise` the means over images. Four variants, named as in metrics.json:

- ``at_0.5``: the mask ``probability > 0.5`` against the truth. A ratio 0/0 counts as 1: nothing was
  there to be missed. So an empty mask for an empty truth has Dice 1, and sensitivity is 1 where the
  truth is empty. MAE is the share of wrong pixels.
- ``table_v_hard``: the protocol of Table V on that mask, as the paper fed it for the systems of the
  nnU-Net family.
- ``table_v_soft``: the same on the probabilities, as Table V's other systems were fed.
- ``max``: the largest value of the mean soft Dice curve, with the mean sensitivity and specificity at
  that threshold. It exists over a set of images only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covidct.run.prediction import Map, Mask, binarise

Scores = dict[str, float]

THRESHOLDS = np.arange(255, -1, -1) / 255
MEASURES = ("dice", "sensitivity", "specificity", "mae")
PER_IMAGE = ("at_0.5", "table_v_hard", "table_v_soft")


@dataclass(frozen=True)
class Curves:
    """One image, or the mean of several, at `THRESHOLDS` (1, 254/255, ..., 0): arrays of 256."""

    dice: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]
    mae: float


@dataclass(frozen=True)
class ImageScores:
    """All scores of one image: `PER_IMAGE` -> measure -> value, and the soft curves that ``max`` needs."""

    scores: dict[str, Scores]
    soft: Curves


def at_threshold(probability: Map, truth: Mask, threshold: float = 0.5) -> Scores:
    """Dice, sensitivity, specificity and MAE of the mask ``probability > threshold``; 0/0 counts as 1.

    Args:
        probability: (H, W), values in [0, 1].
        truth: (H, W), boolean.
        threshold: of the mask.
    """
    _check(probability, truth)
    mask = binarise(probability, threshold)
    hit, missed = int((mask & truth).sum()), int((~mask & truth).sum())
    false, right = int((mask & ~truth).sum()), int((~mask & ~truth).sum())
    return {
        "dice": _ratio(2 * hit, 2 * hit + missed + false),
        "sensitivity": _ratio(hit, hit + missed),
        "specificity": _ratio(right, right + false),
        "mae": (missed + false) / truth.size,
    }


def threshold_protocol(values: Map, truth: Mask) -> Curves:
    """One image in the protocol of Table V, that of the Inf-Net toolbox.

    The map is scaled to [0, 1] by its own minimum and maximum (a constant map counts as zeros) and cut
    at 256 thresholds, ``map >= t``. Where a cut hits no pixel of the truth, Dice, sensitivity *and*
    specificity are 0, as in the toolbox: an empty truth scores 0 whatever is predicted. MAE is the
    mean distance of the scaled map to the truth.

    Args:
        values: (H, W), any finite values.
        truth: (H, W), boolean.

    Source: Fan et al. 2020 (Inf-Net, doi 10.1109/TMI.2020.2996645), evaluation toolbox; Table V of
    Zhang et al. 2021 copies its numbers.
    """
    _check(values, truth)
    scaled = _min_max(values)
    # The number of thresholds 1/255, ..., 1 that a pixel reaches. searchsorted compares with the same
    # numbers as a loop over `map >= t` would, so that ties fall alike.
    reached = np.searchsorted(THRESHOLDS[::-1], scaled.ravel(), side="right") - 1
    inside = truth.ravel()
    hits = _at_least(reached[inside])
    cut = hits + _at_least(reached[~inside])
    positives, size = hits[-1], cut[-1]
    counted = hits > 0
    negatives = max(size - positives, 1)
    # With no background at all TN/(TN+FP) is 0/0, MATLAB's NaN; 0 keeps it out of the means.
    specificity = (size - positives - (cut - hits)) / negatives
    return Curves(
        dice=np.where(counted, 2 * hits / np.maximum(cut + positives, 1), 0.0),
        sensitivity=np.where(counted, hits / max(positives, 1), 0.0),
        specificity=np.where(counted, specificity, 0.0),
        mae=float(np.abs(scaled - truth).mean()),
    )


def mean_over_thresholds(curves: Curves) -> Scores:
    """The protocol's numbers: means over the 256 thresholds."""
    return {
        "dice": float(curves.dice.mean()),
        "sensitivity": float(curves.sensitivity.mean()),
        "specificity": float(curves.specificity.mean()),
        "mae": curves.mae,
    }


def best_threshold(curves: Curves) -> Scores:
    """The largest Dice of a (mean) curve, the other measures there, and the threshold itself."""
    index = int(curves.dice.argmax())
    return {
        "dice": float(curves.dice[index]),
        "sensitivity": float(curves.sensitivity[index]),
        "specificity": float(curves.specificity[index]),
        "mae": curves.mae,
        "threshold": float(THRESHOLDS[index]),
    }


def mean_curves(curves: Sequence[Curves]) -> Curves:
    """The mean over images of their curves and MAEs."""
    if not curves:
        raise ValueError("mean_curves needs at least one image's curves, got none")
    return Curves(
        dice=np.mean([c.dice for c in curves], axis=0),
        sensitivity=np.mean([c.sensitivity for c in curves], axis=0),
        specificity=np.mean([c.specificity for c in curves], axis=0),
        mae=float(np.mean([c.mae for c in curves])),
    )


def score_image(probability: Map, truth: Mask) -> ImageScores:
    """All scores of one image: probabilities in [0, 1] and the boolean truth, both (H, W)."""
    soft = threshold_protocol(probability, truth)
    hard = threshold_protocol(binarise(probability).astype(np.float32), truth)
    return ImageScores(
        scores={
            "at_0.5": at_threshold(probability, truth),
            "table_v_hard": mean_over_thresholds(hard),
            "table_v_soft": mean_over_thresholds(soft),
        },
        soft=soft,
    )


def summarise(images: Sequence[ImageScores]) -> dict[str, Scores]:
    """Means over images of every variant, and ``max``."""
    if not images:
        raise ValueError("summarise needs at least one image's scores, got none")
    summary: dict[str, Scores] = {
        variant: {m: float(np.mean([image.scores[variant][m] for image in images])) for m in MEASURES}
        for variant in PER_IMAGE
    }
    summary["max"] = best_threshold(mean_curves([image.soft for image in images]))
    return summary


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 1.0


def _min_max(values: Map) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _at_least(reached: NDArray[np.intp]) -> NDArray[np.int64]:
    """How many pixels reach each of `THRESHOLDS`, from pixels' highest reached threshold."""
    return np.bincount(reached, minlength=256)[::-1].cumsum()


def _check(values: Map, truth: Mask) -> None:
    if values.shape != truth.shape:
        raise ValueError(f"map and truth must have the same shape, got {values.shape} and {truth.shape}")
    if truth.dtype != np.bool_:
        raise ValueError(f"truth must be boolean, got {truth.dtype}; compare it with a threshold first")
    if truth.size == 0:
        raise ValueError(f"map and truth must not be empty, got {truth.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinity; the network's weights may have diverged")
