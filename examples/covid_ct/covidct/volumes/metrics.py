"""Scores of segmented volumes on their own grid: Dice (DSC) and surface Dice (NSD) at 3 mm, as in Tables III and IV.

An empty prediction of a volume with lesion scores 0 in both, and so does a prediction where there is no lesion. With
neither lesion nor prediction the scores are NaN: `statistics.summarise` counts such evaluations and leaves them out.

Mean and standard deviation are over all (fold, case) evaluations, 5 x 16 = 80 for the published folds, the deviation
with ddof 1. A case is tested by four of the five folds, so these evaluations are not independent;
`statistics.over_cases` averages each case's first.

All functions know neither files nor networks. Source: Zhang et al. 2021, Eqs. 6 and 7; empty masks and the deviation as
in JunMa11/COVID-19-CT-Seg-Benchmark, whose printed deviations are those of ddof 1 over the 80.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

TOLERANCE_MM = 3.0
MEASURES = ("dsc", "nsd")


@dataclass(frozen=True)
class VolumeScores:
    """One evaluation: the scores and the lesion's volume in truth and prediction, in millilitres."""

    dsc: float
    nsd: float
    truth_ml: float
    predicted_ml: float


def score_volume(
    truth: Mask, predicted: Mask, spacing: tuple[float, float, float], tolerance: float = TOLERANCE_MM
) -> VolumeScores:
    """All scores of one volume: masks (z, y, x) on its own grid, spacing (z, y, x) and tolerance in mm."""
    return VolumeScores(
        dsc=dice(truth, predicted),
        nsd=surface_dice(truth, predicted, spacing, tolerance),
        truth_ml=millilitres(truth, spacing),
        predicted_ml=millilitres(predicted, spacing),
    )


def dice(truth: Mask, predicted: Mask) -> float:
    """2 |truth and predicted| / (|truth| + |predicted|); NaN if both are empty."""
    _check(truth, predicted)
    total = np.count_nonzero(truth) + np.count_nonzero(predicted)
    return 2 * np.count_nonzero(truth & predicted) / total if total else float("nan")


def surface_dice(
    truth: Mask, predicted: Mask, spacing: tuple[float, float, float], tolerance: float = TOLERANCE_MM
) -> float:
    """Share of both surfaces that lies within `tolerance` of the other one, by area; NaN if both masks are empty.

    The surface runs between the voxels (marching cubes, as in DeepMind's surface-distance); a mask that ends with the
    volume has a surface there.

    Args:
        truth: (z, y, x), boolean.
        predicted: likewise.
        spacing: (z, y, x) of the voxels in mm.
        tolerance: in mm.

    Source: Nikolov et al. 2018, arXiv 1809.04430; computed by MONAI's `compute_surface_dice(use_subvoxels=True)`.
    """
    _check(truth, predicted)
    if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive numbers of mm (z, y, x), got {tuple(spacing)}")
    either = truth | predicted
    if not either.any():
        return float("nan")
    if not truth.any() or not predicted.any():
        return 0.0
    box = tuple(_span(either, axis) for axis in range(3))
    # What is background in both costs time and memory alone: MONAI adds the rim that it needs.
    return _monai_surface_dice(truth[box], predicted[box], spacing, tolerance)


def millilitres(mask: Mask, spacing: tuple[float, float, float]) -> float:
    """Volume of a mask, spacing in mm."""
    return float(np.count_nonzero(mask) * np.prod(spacing) / 1000)


def _monai_surface_dice(truth: Mask, predicted: Mask, spacing: tuple[float, float, float], tolerance: float) -> float:
    # Here and not above: MONAI takes seconds to import.
    import torch
    from monai.metrics.surface_dice import compute_surface_dice

    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 pass themselves an argument that they have deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        found = compute_surface_dice(
            torch.from_numpy(predicted)[None, None],
            torch.from_numpy(truth)[None, None],
            [tolerance],
            include_background=True,
            spacing=[float(length) for length in spacing],
            use_subvoxels=True,
        )
    return float(found[0, 0])


def _span(mask: Mask, axis: int) -> slice:
    others = tuple(other for other in range(mask.ndim) if other != axis)
    places = np.flatnonzero(mask.any(others))
    return slice(int(places[0]), int(places[-1]) + 1)


def _check(truth: Mask, predicted: Mask) -> None:
    if truth.shape != predicted.shape or truth.ndim != 3:
        raise ValueError(
            f"truth and predicted must be masks (z, y, x) of one shape, got {truth.shape} and {predicted.shape}"
        )
    for name, mask in (("truth", truth), ("predicted", predicted)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} must be boolean, got {mask.dtype}; compare it with a threshold first")
