"""Reading one slice, and the message of every fault."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from covidct.ct.picture import Slice, check_slices, image_files, load_slice, natural_key
from covidct.errors import InputError
from PIL import Image


def item(image: Path, mask: Path | None = None) -> Slice:
    return Slice(name=image.stem, path=image, mask_path=mask, scan=image.stem)


def test_image_and_mask(tmp_path, write_pair):
    image_path, mask_path = write_pair(tmp_path, "a", (20, 30))
    image, mask = load_slice(item(image_path, mask_path))
    assert image.dtype == np.float32
    assert image.shape == (20, 30)
    np.testing.assert_array_equal(image, np.asarray(Image.open(image_path)))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.asarray(Image.open(mask_path)) == 255)
    assert load_slice(item(image_path))[1] is None


def test_mask_is_binarised_above_128(tmp_path, write_pair):
    image_path, _ = write_pair(tmp_path, "a", (1, 3))
    Image.fromarray(np.array([[0, 128, 129]], dtype=np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_slice(item(image_path, tmp_path / "m.png"))[1], [[False, False, True]])


def test_colour_becomes_grey(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [7, 7, 7]]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_slice(item(tmp_path / "a.png"))[0], [[76, 150, 7]])


def test_deep_picture_with_8_bit_values_is_taken(tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_slice(item(tmp_path / "a.png"))[0], [[0, 255]])


def test_16_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[3, 4000]], dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png has more than 8 bits \(values 3 to 4000\); save it as an 8-bit"):
        load_slice(item(tmp_path / "a.png"))


def test_nan(tmp_path):
    Image.fromarray(np.array([[1.0, np.nan, np.inf]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif has 2 pixels that are NaN or infinite; replace"):
        load_slice(item(tmp_path / "a.tif"))


def test_missing_image(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg is missing; put it back"):
        load_slice(item(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix} cannot be read as a picture \(.+\); replace the file"):
        load_slice(item(path))


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read as a picture"):
        load_slice(item(tmp_path / "a.png"))


def test_picture_that_shows_nothing(tmp_path):
    Image.fromarray(np.full((4, 4), 9, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: every pixel is 9, the picture shows nothing"):
        load_slice(item(tmp_path / "a.png"))


def test_missing_mask(tmp_path, write_pair):
    image_path, mask_path = write_pair(tmp_path, "a")
    mask_path.unlink()
    with pytest.raises(InputError, match=r"GT/a\.png, the mask of .*Imgs/a\.png, is missing"):
        load_slice(item(image_path, mask_path))


def test_mask_of_another_size(tmp_path, write_pair):
    image_path, _ = write_pair(tmp_path / "one", "a", (20, 30))
    _, mask_path = write_pair(tmp_path / "two", "a", (20, 31))
    with pytest.raises(InputError, match=r"two/GT/a\.png is 31 x 20 pixels .*one/Imgs/a\.png is 30 x 20"):
        load_slice(item(image_path, mask_path))


def test_mask_of_ones(tmp_path, write_pair):
    image_path, _ = write_pair(tmp_path, "a", (2, 2))
    Image.fromarray(np.eye(2, dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(
        InputError, match=r"m\.png holds values 0 to 1; a mask must be 0 .* 255 inside: multiply it by 255"
    ):
        load_slice(item(image_path, tmp_path / "m.png"))


def test_check_slices_names_the_first_bad_one(tmp_path, write_pair):
    good = item(*write_pair(tmp_path, "a"))
    check_slices([good, good])
    with pytest.raises(InputError, match=r"gone\.png is missing"):
        check_slices([good, item(tmp_path / "gone.png"), good])


def test_error_survives_pickling(tmp_path):
    with pytest.raises(InputError) as caught:
        load_slice(item(tmp_path / "gone.png"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is InputError
    assert str(copy) == str(caught.value)


def test_image_files(tmp_path, write_pair):
    for stem in ("10", "9", "x2", "x1"):
        write_pair(tmp_path, stem)
    folder = tmp_path / "Imgs"
    (folder / "._9.png").write_bytes(b"macOS")
    (folder / "notes.txt").write_text("no picture")
    (folder / "inner.png").mkdir()
    assert list(image_files(folder)) == ["9", "10", "x1", "x2"]
    (folder / "9.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"have the same stem"):
        image_files(folder)


def test_natural_key():
    assert sorted(["b10", "b9", "a", "10", "9", "b9c"], key=natural_key) == ["9", "10", "a", "b9", "b9c", "b10"]
