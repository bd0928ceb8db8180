"""DICOM series: where their slices lie, and what a folder holds instead of one."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from covidct.ct.files import open_volume
from covidct.ct.volume import VolumeCase, load_volume
from covidct.errors import InputError

CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
TILT = float(np.tan(np.radians(30)))


@pytest.fixture
def hu() -> np.ndarray:
    """(x, y, z)."""
    values = np.full((16, 12, 8), -1000, np.int16)
    values[4:12, 3:9, 2:] = 40
    return values


def write_file(
    path: Path, values: np.ndarray, number: int, tags: dict[str, str], storage: str = CT, packed: bool = False
) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing((2, 2, 3))
    own = {
        "0008|0016": storage,
        "0008|0018": f"1.2.3.4.{number}",
        "0008|0060": "CT",
        "0020|000d": "1.2.3",
        "0020|000e": "1.2.3.4",
        "0020|0013": str(number),
    }
    for tag, value in (own | tags).items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(packed)
    writer.SetFileName(str(path))
    writer.Execute(image)


def write_series(folder: Path, hu: np.ndarray, positions, rows="1\\0\\0\\0\\1\\0", packed=False) -> Path:
    folder.mkdir()
    for k, (x, y, z) in enumerate(positions):
        turn = rows if isinstance(rows, str) else rows[k]
        tags = {"0020|0032": f"{x:g}\\{y:.6g}\\{z:g}", "0020|0037": turn}
        write_file(folder / f"{k}.dcm", hu[:, :, k : k + 1], k, tags, packed=packed)
    return folder


# Packed slices have explicit representations, and pixels of undefined length.
@pytest.mark.parametrize("packed", [False, True])
def test_upright_series(tmp_path, hu, packed):
    folder = write_series(tmp_path / "a", hu, [(5, 6, 3 * k) for k in range(8)], packed=packed)
    volume = load_volume(VolumeCase("a", folder, None, None, None, (), "hu", "a"))
    assert volume.spacing == (3, 2, 2)
    assert volume.notes == ()
    np.testing.assert_allclose(volume.grid.affine, [[-2, 0, 0, -5], [0, -2, 0, -6], [0, 0, 3, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(volume.image > 200, hu.T[:, ::-1, ::-1] > 0)


def test_tilted_gantry(tmp_path, hu):
    folder = write_series(tmp_path / "a", hu, [(0, TILT * 3 * k, 3 * k) for k in range(8)])
    volume = load_volume(VolumeCase("a", folder, None, None, None, (), "hu", "a"))
    assert volume.spacing == pytest.approx((3, 2, 2), rel=1e-4)
    # The last slice starts where its file says.
    np.testing.assert_allclose(volume.grid.affine @ [0, 0, 7, 1], [0, -TILT * 21, 21, 1], atol=1e-3)
    (note,) = volume.notes
    assert "its axes are up to 30.0 degrees off right angles" in note


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (
            [(0, 0, z) for z in (0, 3, 6, 9, 15, 18, 21, 24)],
            "its slices are 3 to 6 mm apart, usually 3; some are missing",
        ),
        (
            [(0, 5 * (k > 3), 3 * k) for k in range(8)],
            "do not follow a straight line at even distances, but lie up to 2",
        ),
        ([(0, 0, 3 * k + 1.4 * max(0, k - 4)) for k in range(8)], "do not follow a straight line at even distances"),
        ([(0, 0, 0)] * 8, "its slices all have one position, or none"),
    ],
)
def test_slices_that_are_no_stack(tmp_path, hu, positions, message):
    with pytest.raises(InputError, match=message):
        open_volume(write_series(tmp_path / "a", hu, positions))


def test_slices_in_different_planes(tmp_path, hu):
    rows = ["1\\0\\0\\0\\1\\0"] * 7 + ["1\\0\\0\\0\\0.995\\0.0998"]
    with pytest.raises(InputError, match="its slices lie in different planes"):
        open_volume(write_series(tmp_path / "a", hu, [(0, 0, 3 * k) for k in range(8)], rows))


def test_slices_of_several_sizes(tmp_path, hu):
    folder = write_series(tmp_path / "a", hu, [(0, 0, 3 * k) for k in range(8)])
    write_file(folder / "3.dcm", hu[:8, :, 3:4], 3, {"0020|0032": "0\\0\\9", "0020|0037": "1\\0\\0\\0\\1\\0"})
    with pytest.raises(InputError, match=r"its slices have 2 sizes \(16 x 12, 8 x 12\)"):
        open_volume(folder)


def test_file_of_many_frames_is_named_for_what_it_is(tmp_path, hu):
    (tmp_path / "a").mkdir()
    write_file(tmp_path / "a" / "e.dcm", hu, 1, {}, ENHANCED)
    message = r"e\.dcm is one DICOM file of many frames \(Enhanced CT Image Storage\), which is not read; convert it to"
    for path in (tmp_path / "a", tmp_path / "a" / "e.dcm"):
        with pytest.raises(InputError, match=message):
            open_volume(path)
    write_file(tmp_path / "a" / "f.dcm", hu, 2, {}, ENHANCED)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "a")


def test_frames_in_files_that_are_called_single_slices(tmp_path, hu):
    (tmp_path / "a").mkdir()
    for number in range(2):
        path = tmp_path / "a" / f"{number}.dcm"
        write_file(path, hu, number, {}, ENHANCED)
        path.write_bytes(path.read_bytes().replace(ENHANCED.encode(), CT.encode() + b"\0\0"))
    with pytest.raises(InputError, match=r"\.dcm is one DICOM file of many frames \(8 frames\)"):
        open_volume(tmp_path / "a")


def test_one_slice_of_a_series(tmp_path, hu):
    folder = write_series(tmp_path / "a", hu, [(0, 0, 0)])
    with pytest.raises(InputError, match="a holds no DICOM series of more than one file, but 1 of a single one; give"):
        open_volume(folder)
    with pytest.raises(InputError, match=r"0\.dcm is one file of a DICOM series by its content; give the folder"):
        open_volume(folder / "0.dcm")


def test_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        InputError, match="holds no DICOM series; give a folder with the files of exactly one CT series"
    ):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"7\.dcm cannot be read \(it is called or marked as a slice, and no series is found in it\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"7\.dcm is a Git LFS pointer"),
    ],
)
def test_slice_that_would_be_left_out(tmp_path, hu, content, message):
    folder = write_series(tmp_path / "a", hu, [(0, 0, 3 * k) for k in range(8)])
    (folder / "7.dcm").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_volume(folder)


def test_cut_short_and_claims(tmp_path, hu):
    folder = write_series(tmp_path / "a", hu, [(0, 0, 3 * k) for k in range(8)])
    content = (folder / "7.dcm").read_bytes()
    (folder / "7.dcm").write_bytes(content[:-100])
    with pytest.raises(
        InputError, match=r"7\.dcm cannot be read \(its element at byte \d+ claims 384 bytes, and the fi"
    ):
        open_volume(folder)
    # The length of the element with the modality, in implicit or explicit form.
    place = content.index(b"CT", content.index(b"\x08\x00\x60\x00"))
    (folder / "7.dcm").write_bytes(content[: place - 4] + b"\xff\xff\xff\x7f" + content[place:])
    with pytest.raises(InputError, match=r"7\.dcm cannot be read \(its element at byte \d+ claims 2,147,483,647 bytes"):
        open_volume(folder)


def test_representation_that_is_none(tmp_path, hu):
    folder = write_series(tmp_path / "a", hu, [(0, 0, 3 * k) for k in range(8)])
    content = bytearray((folder / "7.dcm").read_bytes())
    # Of the storage class: GDCM then takes these two letters for a part of a length.
    place = content.index(b"\x02\x00\x02\x00UI")
    content[place + 4] = ord("W")
    (folder / "7.dcm").write_bytes(content)
    with pytest.raises(
        InputError, match=rf"7\.dcm cannot be read \(its element at byte {place} claims [\d,]+ bytes, and t"
    ):
        open_volume(folder)


def test_uneven_series_are_read_in_silence(tmp_path, hu, capfd):
    """ITK would say so without the name of the folder, in the middle of a batch."""
    folder = write_series(tmp_path / "a", hu, [(0, 0, 3 * k + 0.2 * (k == 3)) for k in range(8)])
    open_volume(folder)
    assert capfd.readouterr() == ("", "")
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
