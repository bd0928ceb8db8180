"""Unlabelled slices that show what a test slice shows are refused, with their names."""

import numpy as np
import pytest
from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.overlap import check_no_overlap
from covidct.slices.splits import split
from PIL import Image
from scipy.ndimage import gaussian_filter


def save(folder, name, image):
    folder.mkdir(exist_ok=True)
    path = folder / name
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image.round().astype(np.uint8))
    picture.save(path, quality=60)
    return Slice(path.stem, path, None, path.stem)


def blobs(seed, sigma=6):
    image = gaussian_filter(np.random.default_rng(seed).normal(size=(120, 100)), sigma)
    return (image - image.min()) / (image.max() - image.min()) * 255


@pytest.fixture
def test_slices(tmp_path):
    return [save(tmp_path / "test", f"{n}.png", blobs(n)) for n in range(5)]


def changed(image, how):
    if how == "resaved":
        # Half the size, JPEG of quality 60 (see `save`), brighter and of less contrast.
        return Image.fromarray((image * 0.7 + 40).astype(np.uint8)).resize((50, 60))
    if how == "cropped":
        return image[1:-1, 1:-1]
    return {"same": image, "mirrored": image[:, ::-1], "turned": np.rot90(image), "upside down": image[::-1]}[how]


@pytest.mark.parametrize("how", ["same", "mirrored", "turned", "upside down", "resaved", "cropped"])
def test_a_copy_is_found(tmp_path, test_slices, how):
    others = [save(tmp_path / "un", f"other_{n}.png", blobs(100 + n)) for n in range(6)]
    copy = save(tmp_path / "un", "copy.jpg", changed(blobs(3), how))
    with pytest.raises(
        InputError,
        match=r"^1 of 7 unlabelled slices show what a test slice shows \(\S+copy\.jpg is 3\); remove them from",
    ):
        check_no_overlap([*others, copy], test_slices)


def test_others_are_none(tmp_path, test_slices):
    others = [save(tmp_path / "un", f"{n}.png", blobs(100 + n)) for n in range(30)]
    check_no_overlap(others, test_slices)
    check_no_overlap([], test_slices)
    check_no_overlap(others, [])


def test_one_file_in_both(test_slices):
    with pytest.raises(InputError, match=r"^5 of 5 unlabelled slices .* is 0, .* is 4\); remove them"):
        check_no_overlap(test_slices, test_slices)


def test_many_are_counted(tmp_path):
    test = [save(tmp_path / "test", f"{n}.png", blobs(n)) for n in range(8)]
    copies = [save(tmp_path / "un", f"c{n}.png", blobs(n)) for n in range(8)]
    with pytest.raises(InputError, match=r"^8 of 8 .*c4\.png is 4 and 3 more\)"):
        check_no_overlap(copies, test)


def test_what_is_read_is_compared(tmp_path, test_slices):
    """A copy that is stored otherwise and converted when it is read."""
    stored = save(tmp_path / "un", "u.png", 255 - blobs(2))
    check_no_overlap([stored], test_slices)
    converted = Slice("u", stored.path, None, "u", convert=_negative)
    with pytest.raises(InputError, match=r"u\.png is 2"):
        check_no_overlap([converted], test_slices)


def _negative(image):
    return 255 - image


def test_the_same_name_needs_less(tmp_path, test_slices):
    """Nearly the same picture: refused under the same name, not under another."""
    near = blobs(1) + 0.37 * (blobs(50) - 128)
    small = [np.asarray(Image.fromarray(a).resize((32, 32), Image.BOX), float).ravel() for a in (near, blobs(1))]
    assert 0.91 < np.corrcoef(*small)[0, 1] < 0.94
    near = np.clip(near, 0, 255)
    check_no_overlap([save(tmp_path / "un", "9.png", near)], test_slices)
    with pytest.raises(InputError, match=r"1\.png is 1"):
        check_no_overlap([save(tmp_path / "un", "1.png", near)], test_slices)


def test_real_slices_of_a_fold(real_data, tmp_path):
    """The published unlabelled slices are none of the labelled ones; copies of those held out are found."""
    data = read_covid_semiseg(real_data / "covid_semiseg")
    held_out = split(data, 0, 0).test
    check_no_overlap(data.unlabelled[::16], held_out)
    copy = save(tmp_path / "un", "copy.jpg", load_slice(held_out[4])[0])
    with pytest.raises(InputError, match=rf"^1 of 2 .*copy\.jpg is {held_out[4].name}\)"):
        check_no_overlap([data.unlabelled[0], copy], held_out)
