import warnings

import numpy as np
import pytest
from covidct.volumes.metrics import (
    dice,
    millilitres,
    score_volume,
    surface_dice,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

NAN = float("nan")


def deepmind(truth, predicted, spacing, tolerance):
    from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

    with warnings.catch_warnings():
        # The package calls scipy.ndimage.filters and morphology, which SciPy has renamed.
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = compute_surface_distances(truth, predicted, spacing)
    return compute_surface_dice_at_tolerance(distances, tolerance)


def blobs(seed, shape=(14, 30, 26)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0.05


def cuboid(shape, *spans):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (3.0, 0.977, 0.977), (2.5, 0.7, 0.9)])
@pytest.mark.parametrize("tolerance", [1.0, 3.0])
def test_surface_dice_equals_deepminds(spacing, tolerance):
    truth, predicted = blobs(0), blobs(1)
    found = surface_dice(truth, predicted, spacing, tolerance)
    assert 0.3 < found < 0.95
    assert found == pytest.approx(deepmind(truth, predicted, spacing, tolerance), abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 6), st.floats(0.5, 2))
def test_surface_dice_equals_deepminds_for_any_spacing(seed, z, x):
    truth, predicted = blobs(seed, (6, 12, 11)), blobs(seed + 1, (6, 12, 11))
    if truth.any() and predicted.any():
        spacing = (z, x, 1.1 * x)
        assert surface_dice(truth, predicted, spacing) == pytest.approx(
            deepmind(truth, predicted, spacing, 3.0), abs=1e-6
        )


def test_axes_of_spacing_belong_to_axes_of_the_mask():
    # Shifted by one voxel of 4 mm along z: farther than 3 mm; by three of 0.9 mm along x: within.
    truth = cuboid((12, 12, 20), (4, 6), (3, 9), (5, 12))
    along_z, along_x = np.roll(truth, 1, axis=0), np.roll(truth, 3, axis=2)
    spacing = (4.0, 0.9, 0.9)
    assert surface_dice(truth, along_x, spacing) == 1
    assert surface_dice(truth, along_z, spacing) < 0.8


def test_surface_dice_by_hand_half_found():
    # Two equal lesions far apart, one of them found: of three equal surfaces two are right.
    one, other = ((3, 7), (4, 10), (4, 10)), ((3, 7), (24, 30), (24, 30))
    truth = cuboid((10, 36, 36), *one) | cuboid((10, 36, 36), *other)
    assert surface_dice(truth, cuboid((10, 36, 36), *one), (1.0, 1.0, 1.0)) == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize(("radius", "expected"), [(12, 1), (16, 0)])
def test_surface_dice_by_hand_concentric_balls(radius, expected):
    # Radii of 10 and 12 mm: 2 mm apart everywhere; 10 and 16 mm: 6 mm apart, nowhere within 3 mm. Voxels 2 x 1 x 1 mm.
    z, y, x = np.ix_(np.arange(-9, 10) * 2, np.arange(-18, 19), np.arange(-18, 19))
    distance = np.sqrt(z**2 + y**2 + x**2)
    assert surface_dice(distance <= 10, distance <= radius, (2.0, 1.0, 1.0)) == expected


def test_one_voxel_shift_is_within_three_millimetres():
    truth = cuboid((10, 20, 20), (3, 7), (5, 15), (5, 15))
    assert surface_dice(truth, np.roll(truth, 1, axis=1), (2.0, 0.8, 0.8)) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lesion_at_the_border_of_the_volume_has_a_surface_there(axis):
    whole = np.ones((6, 6, 6), dtype=bool)
    half = np.zeros_like(whole)
    half[tuple(slice(0, 3) if a == axis else slice(None) for a in range(3))] = True
    spacing = (2.0, 2.0, 2.0)
    assert surface_dice(whole, half, spacing) == pytest.approx(deepmind(whole, half, spacing, 3.0), abs=1e-6)
    assert surface_dice(whole, whole, spacing) == 1


def test_dice_by_hand():
    truth = cuboid((2, 3, 4), (0, 1), (0, 2), (0, 2))
    predicted = cuboid((2, 3, 4), (0, 2), (0, 1), (0, 2))
    assert dice(truth, predicted) == 2 * 2 / (4 + 4)
    assert dice(truth, truth) == 1


def test_empty_masks():
    lesion, empty = cuboid((4, 6, 6), (1, 3), (1, 4), (2, 5)), np.zeros((4, 6, 6), dtype=bool)
    spacing = (3.0, 1.0, 1.0)
    for truth, predicted in ((lesion, empty), (empty, lesion)):
        scores = score_volume(truth, predicted, spacing)
        assert (scores.dsc, scores.nsd) == (0, 0)
    scores = score_volume(empty, empty, spacing)
    assert np.isnan(scores.dsc)
    assert np.isnan(scores.nsd)


def test_volumes_are_millilitres():
    lesion, empty = cuboid((4, 6, 6), (1, 3), (1, 4), (2, 5)), np.zeros((4, 6, 6), dtype=bool)
    scores = score_volume(lesion, empty, (5.0, 0.8, 0.5))
    assert scores.truth_ml == pytest.approx(2 * 3 * 3 * 5 * 0.8 * 0.5 / 1000)
    assert scores.predicted_ml == 0
    assert millilitres(np.ones((10, 10, 10), dtype=bool), (1.0, 1.0, 1.0)) == 1


def test_masks_are_not_changed():
    truth, predicted = blobs(0), blobs(1)
    before = truth.copy(), predicted.copy()
    score_volume(truth, predicted, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal((truth, predicted), before)


@pytest.mark.parametrize("score", [dice, lambda a, b: surface_dice(a, b, (1.0, 1.0, 1.0))])
def test_masks_that_do_not_fit_are_refused(score):
    mask = np.ones((2, 3, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 4\) and \(2, 3, 5\)"):
        score(mask, np.ones((2, 3, 5), dtype=bool))
    with pytest.raises(ValueError, match=r"masks \(z, y, x\) of one shape, got \(3, 4\)"):
        score(mask[0], mask[0])
    with pytest.raises(ValueError, match="predicted must be boolean, got float32; compare it with a threshold"):
        score(mask, mask.astype(np.float32))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, NAN, 1.0)])
def test_impossible_spacing_is_refused(spacing):
    mask = np.ones((2, 3, 4), dtype=bool)
    with pytest.raises(ValueError, match="spacing must be three positive numbers of mm"):
        surface_dice(mask, mask, spacing)
