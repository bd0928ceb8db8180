"""Where patches lie and what is cut out."""

import numpy as np
import pytest
import torch
from covidct.training.patches import corner, cut


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (-3, -1), (5, 6), (-20, 0), (30, 30), (-2, 7), (-8, -9)])
def test_cut_is_padding_then_slicing(place):
    values = torch.arange(1, 1 + 9 * 11).reshape(1, 9, 11)
    padded = np.pad(values[0].numpy(), 40, constant_values=-1)
    expected = padded[place[0] + 40 :][:6, place[1] + 40 :][:, :8]
    result = cut(values, place, (6, 8), -1)
    assert result.dtype == values.dtype
    np.testing.assert_array_equal(result[0], expected)


def corners(shape, extent, size, around=None):
    rng = np.random.default_rng(0)
    return np.array([corner(shape, extent, size, rng, around=around) for _ in range(3000)])


def test_patches_of_the_used_size_stay_inside():
    found = corners((20, 30), (16, 10), (16, 10))
    assert found.min(0).tolist() == [0, 0]
    assert found.max(0).tolist() == [4, 20]


def test_larger_patches_bring_their_centre_to_the_border():
    # 24 is cut and the middle 16 is used: the patch starts from 4 outside, its centre from 0.
    found = corners((40, 40), (24, 24), (16, 16))
    assert found.min(0).tolist() == [-4, -4]
    assert found.max(0).tolist() == [20, 20]


def test_smaller_slices_are_inside_of_the_patch():
    found = corners((10, 30), (16, 16), (16, 16))
    assert set(found[:, 0]) == {-3}
    assert found[:, 1].max() == 14
    # An odd remainder goes to either side.
    assert set(corners((10, 30), (17, 16), (17, 16))[:, 0]) == {-4, -3}


def test_around_a_lesion():
    lesion = np.zeros((100, 100), dtype=bool)
    lesion[2, 50] = lesion[60, 99] = True
    found = corners((100, 100), (21, 21), (21, 21), around=lesion)
    # A pixel near the border is not brought to the centre; as in nnU-Net the far border may be crossed.
    assert {tuple(each) for each in found.tolist()} == {(0, 40), (50, 89)}
    assert 0.45 < (found[:, 0] == 0).mean() < 0.55


def test_no_lesion_is_anywhere():
    found = corners((20, 30), (16, 10), (16, 10), around=np.zeros((20, 30), dtype=bool))
    assert len(np.unique(found, axis=0)) == 5 * 21
