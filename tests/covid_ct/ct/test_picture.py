"""Reading one slice, and the message of every fault."""

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from covidct.ct import picture
from covidct.ct.picture import Slice, check_slices, image_files, load_slice, natural_key, read_grey
from covidct.errors import InputError
from PIL import Image, ImageFile


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


# What a viewer does to the stored pixels, by the number of the orientation (EXIF 2.32, 4.6.4).
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a.T[:, ::-1],
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[::-1],
}


def save_turned(path: Path, values: np.ndarray, orientation: int, **how) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = Image.fromarray(values)
    if path.suffix == ".tif":
        picture.save(path, tiffinfo={0x112: orientation}, **how)
    else:
        picture.save(path, exif=exif, **how)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "how"),
    [("a.png", {}), ("a.tif", {}), ("a.tif", {"compression": "tiff_lzw"}), ("a.jpg", {"quality": 100})],
)
def test_picture_is_turned_as_viewers_show_it(tmp_path, orientation, name, how):
    values = np.random.default_rng(0).integers(0, 255, (8, 16), dtype=np.uint8)
    if name == "a.jpg":
        values = np.repeat(np.repeat(values[:1, :2], 8, axis=0), 8, axis=1)
    save_turned(tmp_path / name, values, orientation, **how)
    np.testing.assert_allclose(read_grey(tmp_path / name), SHOWN[orientation](values), atol=1)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_picture_is_turned(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 255, (8, 16)).astype(np.uint16)
    save_turned(tmp_path / name, values, 6)
    np.testing.assert_array_equal(read_grey(tmp_path / name), SHOWN[6](values))


def test_mask_is_turned_by_its_own_orientation(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (8, 16), dtype=np.uint8)
    mask = np.zeros((16, 8), dtype=np.uint8)
    mask[2:5, 1:4] = 255
    save_turned(tmp_path / "a.png", image, 8)
    Image.fromarray(mask).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_slice(item(tmp_path / "a.png", tmp_path / "m.png"))[1], mask > 0)
    save_turned(tmp_path / "m.png", mask, 6)
    with pytest.raises(InputError, match=r"m\.png is 16 x 8 pixels .* its image .*a\.png is 8 x 16"):
        load_slice(item(tmp_path / "a.png", tmp_path / "m.png"))


@pytest.mark.parametrize(("kind", "name"), [("TIFF", "a.tif"), ("PNG", "a.png"), ("GIF", "a.png"), ("MPO", "a.jpg")])
def test_several_frames_are_refused_with_their_number(tmp_path, kind, name, write_pair):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (40, 36), np.uint8)) for _ in range(5)]
    frames[0].save(tmp_path / name, format=kind, save_all=True, append_images=frames[1:])
    message = rf"{name} holds 5 frames, and a picture is one slice; save every frame as a picture of its own"
    with pytest.raises(InputError, match=message):
        load_slice(item(tmp_path / name))
    with pytest.raises(InputError, match=message):
        load_slice(item(write_pair(tmp_path, "b")[0], tmp_path / name))


def test_one_frame_of_a_kind_that_has_several_is_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (8, 16), dtype=np.uint8)
    for kind, name in (("GIF", "a.png"), ("WEBP", "b.png")):
        Image.fromarray(values).save(tmp_path / name, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(read_grey(tmp_path / name), values)


def test_more_pixels_than_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "MOST_PIXELS", 100)
    Image.fromarray(np.eye(10, dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_grey(tmp_path / "a.png").shape == (10, 10)
    Image.fromarray(np.eye(10, 11, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png has 11 x 10 pixels, and at most 100 .* are read; .* scale it down"):
        read_grey(tmp_path / "a.png")


@pytest.mark.parametrize("most", [60, 30])
def test_pillows_own_limits_stay_inside(tmp_path, monkeypatch, most):
    # Above its limit Pillow warns, above twice the limit it raises; one error of ours for both.
    monkeypatch.setattr(picture, "MOST_PIXELS", 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    Image.fromarray(np.eye(10, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png has (10 x 10|more than 60) pixels, and at most 50"):
        read_grey(tmp_path / "a.png")


def test_nothing_is_unpacked_of_a_picture_that_is_too_large(tmp_path, monkeypatch):
    def load(self):
        raise AssertionError("its pixels are unpacked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    Image.fromarray(np.eye(10, dtype=np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    header = b"IHDR" + struct.pack(">2I", 13_000, 13_000) + content[24:29]
    (tmp_path / "a.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    with pytest.raises(InputError, match=r"a\.png has 13000 x 13000 pixels, and at most 36,000,000 \(6000 x 6000\)"):
        read_grey(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.* `git lfs pull`"),
        (b"<html></html>", "is a web page, not the file that was asked for; download the file again"),
        (bytes(128) + b"DICM", "is a DICOM file; export the slice as a picture, with the lung window"),
        (b"NRRD0004\n", r"is a NRRD file by its content, not what its name says; rename it to a\.nrrd"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", r"cannot be read as a picture \(no pict"),
    ],
)
def test_another_kind_of_file_than_its_name_says(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.png {message}"):
        load_slice(item(tmp_path / "a.png"))


def test_what_is_no_file_is_refused_by_name(tmp_path, write_pair):
    good = write_pair(tmp_path, "good")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("pipe", "is a named pipe, not a file"),
        ("loop", "is a link that leads back to itself"),
        ("gone", "is a link to nowhere, which is missing"),
        ("folder", "is a folder; give a picture"),
    ):
        path = tmp_path / f"{name}.png"
        for slice_ in (item(path), item(good[0], path)):
            with pytest.raises(InputError, match=rf"{name}\.png {message}"):
                load_slice(slice_)
    assert list(image_files(tmp_path)) == ["gone", "loop", "pipe"]


def test_whatever_a_reader_raises_is_the_files_error(tmp_path, write_pair, monkeypatch):
    def fail(*args, **keywords):
        raise RecursionError("too deep")

    path, _ = write_pair(tmp_path, "a")
    monkeypatch.setattr(picture.ImageOps, "exif_transpose", fail)
    with pytest.raises(InputError, match=r"a\.png cannot be read as a picture \(too deep\); replace the file"):
        read_grey(path)
