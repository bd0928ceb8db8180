"""The family of unlabelled slices that are stored mirrored and without a window."""

import pickle

import numpy as np
import pytest
from covidct.ct.picture import Slice, load_slice
from covidct.ct.volume import to_window
from covidct.sets.coronacases import as_labelled
from covidct.sets.covid_semiseg import read_covid_semiseg
from PIL import Image

NAME = "Data-1_coronacases_org_001_17"


def section(shape=(60, 48)):
    """A chest in HU, oriented as the labelled slices are: anterior to the left, the larger lung on top."""
    hu = np.full(shape, 45.0)
    hu[4:30, 4:40] = -870
    hu[36:56, 6:38] = -870
    hu[26:40, 38:47] = 400
    hu[28, 45] = 1300
    hu[30:33, 20:23] = -1024
    return hu


def stored(hu):
    """As the family is published: mirrored, and stretched from its own smallest to its own largest HU."""
    grey = (hu - hu.min()) / (hu.max() - hu.min()) * 255
    return np.ascontiguousarray(grey[:, ::-1]).round().astype(np.float32)


def test_orientation_and_window_come_back():
    hu = section()
    found = as_labelled(stored(hu))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    # A grey value of the stored picture is about 9 HU, 1.6 grey values of the window.
    np.testing.assert_allclose(found, to_window(hu), atol=1.6)


@pytest.mark.parametrize("densest", [1100, 1600, 2500])
def test_the_densest_bone_changes_nothing(densest):
    hu = section()
    hu[28, 45] = densest
    hu[28, 44] = 300
    soft = as_labelled(stored(hu))[2, 2]
    assert soft == pytest.approx(220, abs=0.5)


def test_a_second_time_nothing_changes():
    once = as_labelled(stored(section()))
    np.testing.assert_array_equal(as_labelled(once), once)


def test_orientation_and_window_are_asked_apart():
    hu = section()
    window = to_window(hu)
    np.testing.assert_array_equal(as_labelled(np.ascontiguousarray(window[:, ::-1])), window)
    upright = np.ascontiguousarray(stored(hu)[:, ::-1])
    np.testing.assert_allclose(as_labelled(upright), window, atol=1.6)


def test_the_name_decides(tmp_path, write_covid):
    other = "Data-1_radiopaedia_org_covid-19-pneumonia-4_85506_1-dcm_9"
    write_covid(tmp_path, ["1"], ["2"], [NAME, other, "mine_3"])
    data = read_covid_semiseg(tmp_path)
    grey = stored(section()).astype(np.uint8)
    for item in data.unlabelled:
        Image.fromarray(grey).save(item.path)
    found = {item.name: load_slice(item)[0] for item in data.unlabelled}
    np.testing.assert_array_equal(found[NAME], as_labelled(grey.astype(np.float32)))
    for name in (other, "mine_3"):
        np.testing.assert_array_equal(found[name], grey)
    assert all(item.convert is None for item in (*data.train, *data.test))


def test_slices_can_be_sent_to_workers(tmp_path):
    item = Slice(NAME, tmp_path / "a.png", None, "a", convert=as_labelled)
    assert pickle.loads(pickle.dumps(item)) == item


def test_a_converted_slice_has_no_mask(tmp_path):
    with pytest.raises(ValueError, match=r"slice x has a mask, which would not be converted"):
        Slice("x", tmp_path / "x.png", tmp_path / "m.png", "x", convert=as_labelled)


def test_real_slices(real_data):
    """Every fortieth of the 1,119: the spine goes to the right, soft tissue to that of the window."""
    data = read_covid_semiseg(real_data / "covid_semiseg")
    family = [item for item in data.unlabelled if item.convert]
    assert len(family) == 1119
    for item in family[::40]:
        raw = load_slice(Slice(item.name, item.path, None, item.scan))[0]
        image = load_slice(item)[0]
        assert raw.mean() < 85 < 115 < image.mean() < 200
        np.testing.assert_array_equal(as_labelled(image), image)
        middle = image[int(0.3 * len(image)) : int(0.7 * len(image))] > 250
        half = image.shape[1] // 2
        assert middle[:, -half:].sum() > 2 * middle[:, :half].sum()
        counts = np.bincount(image.round().astype(int).ravel(), minlength=256)
        assert 215 <= 150 + counts[150:250].argmax() <= 225
