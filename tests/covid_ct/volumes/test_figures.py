import numpy as np
import pytest
from covidct.errors import InputError
from covidct.volumes.figures import draw_lesions, most_lesion
from PIL import Image

GREEN, ORANGE, BLUE, PURPLE = (0, 158, 115), (213, 94, 0), (0, 114, 178), (204, 121, 167)


def coloured(path, colour):
    """Rows and columns of the picture's pixels of a colour painted over black."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    found = np.argwhere(np.abs(pixels - np.array(colour) * 0.55).max(axis=2) < 4)
    return pixels.shape[:2], found


def volume(shape=(9, 40, 60)):
    return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)


def test_patients_right_is_on_the_left_and_the_front_at_the_top(tmp_path):
    # Axes run to the head, the front and the right: a lesion at the end of both is front right, so top left.
    image, mask = volume()
    mask[4, 30:38, 45:57] = True
    path = draw_lesions(tmp_path / "a.png", image, mask, (5.0, 1.0, 1.0))
    (height, width), found = coloured(path, PURPLE)
    assert len(found) > 100
    row, column = found.mean(axis=0)
    # The painted slice is the lower of the two pictures.
    assert height / 2 < row < 0.72 * height
    assert column < width / 2


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (3.0, 2.0, 1.0), (3.0, 1.0, 2.0)])
def test_proportions_are_those_of_the_voxels(tmp_path, spacing):
    image, mask = volume()
    mask[4, 10:30, 20:40] = True
    _, found = coloured(draw_lesions(tmp_path / "a.png", image, mask, spacing), PURPLE)
    height, width = np.ptp(found, axis=0) + 1
    assert height / width == pytest.approx(spacing[1] / spacing[2], rel=0.05)


def test_hits_false_alarms_and_misses_are_told_apart(tmp_path):
    image, mask = volume()
    truth = mask.copy()
    mask[4, 10:30, 10:30] = truth[4, 10:30, 20:40] = True
    path = draw_lesions(tmp_path / "a.png", image, mask, (3.0, 1.0, 1.0), truth=truth)
    middles = [coloured(path, colour)[1][:, 1].mean() for colour in (BLUE, GREEN, ORANGE)]
    # Missed voxels have the highest x, and x runs to the left of the picture.
    assert middles == sorted(middles)


def test_slices_of_most_lesion_apart_and_from_the_feet():
    area = np.array([1, 9, 8, 0, 0, 2, 7, 6.5, 0, 3])
    assert most_lesion(area, 5.0, count=3) == [1, 6, 9]
    assert most_lesion(area, 10.0, count=3) == [1, 2, 6]
    assert most_lesion(area, 1.0, count=3) == [1]
    assert most_lesion(np.zeros(7), 5.0) == [3]
    assert most_lesion(np.zeros(1), 5.0) == [0]


def test_without_lesion_there_is_a_picture_all_the_same(tmp_path):
    image, mask = volume((1, 20, 20))
    path = draw_lesions(tmp_path / "a.png", image, mask, (5.0, 1.0, 1.0), title="case [1]: lesion 0.0 ml")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert len(coloured(path, PURPLE)[1]) == 0


def test_missing_folder_is_named(tmp_path):
    image, mask = volume()
    with pytest.raises(InputError, match=r"a\.png cannot be written"):
        draw_lesions(tmp_path / "gone" / "a.png", image, mask, (1.0, 1.0, 1.0))
