"""Resampling is what scikit-image's and SciPy's is, on less memory; placements find back."""

from types import SimpleNamespace

import numpy as np
import pytest
from covidct.errors import InputError
from covidct.store import preprocess as module
from covidct.store.preprocess import (
    Placement,
    Plan,
    check_spacing,
    nonzero_box,
    preprocess,
    resample_image,
    resample_mask,
    resampled_shape,
    separate_axis,
)
from scipy import ndimage
from skimage.transform import resize


def image(shape, seed=0):
    return (np.random.default_rng(seed).random(shape) * 255).astype(np.float32)


def blob(shape):
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 2)
    return smooth > np.percentile(smooth, 80)


def nnunet(values, shape, order):
    return resize(values, shape, order=order, mode="edge", anti_aliasing=False, preserve_range=True)


@pytest.mark.parametrize("shape", [(20, 30, 40), (1, 30, 17), (7, 1, 1), (2, 3, 300)])
@pytest.mark.parametrize("target", [(0.8, 0.7, 1.3), (1.0, 2.0, 0.9), (1.7, 1.0, 1.0)])
def test_image_as_scikit_image(shape, target):
    given = image(shape)
    result = resample_image(given, (1, 1, 1), target)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, nnunet(given, result.shape, 3), atol=1e-3)


def test_mask_as_scikit_image():
    given = blob((20, 30, 40))
    result = resample_mask(given, (1, 1, 1), (0.8, 0.7, 1.3))
    assert result.dtype == bool
    expected = nnunet(given.astype(np.float64), result.shape, 1)
    clear = abs(expected - 0.5) > 1e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(result[clear], expected[clear] >= 0.5)


@pytest.mark.parametrize(("have", "want"), [((5, 1, 1), (2.3, 0.8, 1.2)), ((2, 1, 1), (7.0, 0.8, 1.2))])
def test_long_voxels_are_not_interpolated_along(have, want):
    """As nnU-Net: the sections one by one, then the nearest of them."""
    given, mask = image((6, 20, 24)), blob((6, 20, 24))
    result, there = resample_image(given, have, want), resample_mask(mask, have, want)
    sections = [nnunet(section, result.shape[1:], 3) for section in given]
    masks = [nnunet(section.astype(float), result.shape[1:], 1) >= 0.5 for section in mask]
    step = len(given) / len(result)
    places = np.clip(np.arange(len(result)) * step + step / 2 - 0.5, 0, len(given) - 1)
    for number, place in enumerate(places):
        nearest = int(np.floor(place + 0.5))
        # scikit-image keeps each section in its own range, this the volume.
        np.testing.assert_allclose(np.clip(result[number], *_range(given[nearest])), sections[nearest], atol=1e-3)
        assert (there[number] == masks[nearest]).mean() > 0.99


def _range(values):
    return values.min(), values.max()


def test_the_separate_axis():
    assert separate_axis((3, 1, 1), (1, 1, 1)) is None
    assert separate_axis((3.1, 1, 1), (1, 1, 1)) == 0
    assert separate_axis((1, 1, 1), (1, 4, 1)) == 1
    assert separate_axis((4, 4, 1), (1, 1, 1)) is None


def test_resampling_keeps_the_range():
    given = np.where(blob((9, 20, 20)), np.float32(255), np.float32(3))
    result = resample_image(given, (1, 1, 1), (0.6, 0.6, 0.6))
    assert _range(result) == (3, 255)


def test_nothing_to_resample_is_not_copied():
    given, mask = image((4, 5, 6)), blob((4, 5, 6))
    assert resample_image(given, (1, 1, 1), (1.01, 1, 1)) is given
    assert resample_mask(mask, (1, 1, 1), (1, 1, 1)) is mask


def test_blocks_change_nothing(monkeypatch):
    given = image((10, 20, 30))
    expected = resample_image(given, (1, 1, 1), (0.8, 0.9, 1.1))
    monkeypatch.setattr(module, "COLUMNS", 7)
    np.testing.assert_allclose(resample_image(given, (1, 1, 1), (0.8, 0.9, 1.1)), expected, atol=1e-4)


def test_resampled_shape():
    assert resampled_shape((10, 100, 1), (5, 0.7, 1), (2.5, 0.8, 30)) == (20, 88, 1)


def test_nonzero_box():
    given = np.zeros((6, 7, 8), dtype=np.float32)
    assert nonzero_box(given) == ((0, 0, 0), (6, 7, 8))
    given[2, 3, 4] = given[3, 5, 1] = 0.5
    assert nonzero_box(given) == ((2, 3, 1), (4, 6, 5))


@pytest.mark.parametrize("spacing", [(5.0, 0.8, 0.8), (1.5, 1.0, 0.9)])
def test_a_mask_finds_back(spacing):
    given, lesion = np.zeros((14, 60, 50), dtype=np.float32), np.zeros((14, 60, 50), dtype=bool)
    given[2:12, 5:55, 3:] = 90
    lesion[4:8, 20:40, 10:30] = True
    result = preprocess(SimpleNamespace(image=given, mask=lesion, spacing=spacing), (1.25, 0.9, 0.9))
    placement = result.placement
    assert (placement.start, placement.stop) == ((2, 5, 3), (12, 55, 50))
    assert result.image.shape == result.mask.shape == placement.resampled
    np.testing.assert_array_equal(result.mask, placement.forth(lesion))
    back = placement.back(result.mask.astype(np.float32))
    assert back.shape == given.shape
    assert back.dtype == np.float32
    assert not back[:2].any()
    assert not back[:, :, :3].any()
    both = 2 * ((back >= 0.5) & lesion).sum() / ((back >= 0.5).sum() + lesion.sum())
    assert both > 0.97


def test_back_refuses_another_shape():
    placement = Placement((4, 5, 6), (0, 0, 0), (4, 5, 6), (1, 1, 1), (2, 1, 1), (2, 5, 6))
    with pytest.raises(ValueError, match=r"probability has shape \(4, 5, 6\), expected \(2, 5, 6\)"):
        placement.back(np.zeros((4, 5, 6), dtype=np.float32))


def test_without_mask():
    assert preprocess(SimpleNamespace(image=image((3, 4, 5)), mask=None, spacing=(1, 1, 1)), (1, 1, 1)).mask is None


def test_normalise():
    plan = Plan((1, 1, 1), (8, 8, 8), low=10, high=200, mean=100, std=50)
    given = np.array([0, 10, 100, 150, 255], dtype=np.float32)
    assert plan.normalise(given).tolist() == pytest.approx([-1.8, -1.8, 0, 1, 2])
    assert given[0] == 0
    assert Plan((1, 1, 1), (8, 8, 8), 7, 7, 7, 0).normalise(given).tolist() == [0] * 5


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (-1, 1, 1), (1, float("nan"), 1), (1, 1, 1000)])
def test_wrong_spacing(spacing):
    with pytest.raises(InputError, match=r"^--spacing must be three lengths z y x of 0\.01 to 100 mm, got "):
        check_spacing(spacing, "--spacing")
