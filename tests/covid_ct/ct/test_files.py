"""Opening volume files: what their headers claim, what lies at the path, and what kind of file it is."""

import bz2
import gzip
import os
import socket
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from covidct.ct import nifti
from covidct.ct.files import files_of, open_volume
from covidct.ct.names import volumes_by_name
from covidct.ct.volume import VolumeCase, load_volume, scan_case
from covidct.errors import InputError

SHAPE = (6, 5, 4)
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 6 5 4
space directions: (2,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 2 2 3
DimSize = 6 5 4
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(np.int16)


@pytest.fixture
def voxels(values) -> bytes:
    return values.tobytes(order="F")


def read(path: Path) -> np.ndarray:
    """The values along the file's own axes."""
    return np.concatenate([slab for _, slab in open_volume(path).slabs()], axis=2)


def save_nifti(path: Path, values, affine=None) -> Path:
    nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def case_of(path: Path, mask: Path | None = None) -> VolumeCase:
    return VolumeCase("a", path, mask, None, None, (), "hu", "a")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("place", "field", "message"),
    [
        (
            42,
            struct.pack("<3h", 32767, 32767, 32767),
            "declares 32767 x 32767 x 32767 voxels, 70,362,301,923,678 bytes",
        ),
        (42, struct.pack("<h", 7), r"declares 7 x 5 x 4 voxels, 632 bytes, and the file has 592"),
        (42, struct.pack("<h", -6), r"has shape -6 x 5 x 4, no voxel"),
        (46, struct.pack("<h", 0), r"has shape 6 x 5 x 0, no voxel"),
        (40, struct.pack("<h", 99), r"cannot be read"),
        (108, struct.pack("<f", np.inf), r"cannot be read \(.*infinity"),
        (108, struct.pack("<f", np.nan), r"cannot be read \(.*NaN"),
        (108, struct.pack("<f", 1e30), r"cannot be read|declares .* and the file has 592"),
        (108, struct.pack("<f", -352), r"cannot be read"),
        (70, struct.pack("<h", 128), r"has colours or vectors"),
        (280, struct.pack("<f", np.nan), r"the affine in its header holds values that are not finite"),
    ],
)
def test_nifti_that_claims_too_much(tmp_path, values, packed, place, field, message):
    path = save_nifti(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    content[place : place + len(field)] = field
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_slope_that_says_nothing_is_none(tmp_path, values, slope):
    path = save_nifti(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    content[112:116] = struct.pack("<f", slope)
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(read(path), values)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64, np.uint8, np.int32])
def test_nifti_of_any_type(tmp_path, values, dtype):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.abs(values).astype(dtype), np.eye(4), dtype=dtype), path)
    np.testing.assert_array_equal(read(path), np.abs(values).astype(dtype))


def test_second_version_of_nifti(tmp_path, values):
    nib.save(nib.Nifti2Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz"), values)


def test_checksum_of_packed_nifti_is_compared(tmp_path, values):
    path = save_nifti(tmp_path / "a.nii.gz", values)
    content = bytearray(path.read_bytes())
    # The checksum stands before the length that ends the file.
    content[-8] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.nii\.gz cannot be read \(CRC check failed"):
        read(path)


def test_packed_nifti_in_several_parts(tmp_path, values):
    content = gzip.decompress(save_nifti(tmp_path / "a.nii.gz", values).read_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz"), values)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:-1]))
    with pytest.raises(InputError, match=r"declares 6 x 5 x 4 voxels, 592 bytes, and the file has 591 unpacked"):
        read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), ": not enough memory to read it; free some"),
        (RecursionError(), r" cannot be read \(RecursionError\); it is damaged"),
        (OverflowError("one line\nand more"), r" cannot be read \(and more\); it is damaged"),
        (struct.error("odd" * 100), r" cannot be read \((odd){53}o\.\.\.\); it is damaged"),
    ],
)
def test_whatever_a_reader_raises_is_the_files_error(tmp_path, values, monkeypatch, error, message):
    def fail(*args):
        raise error

    path = save_nifti(tmp_path / "a.nii", values)
    monkeypatch.setattr(nifti.nib.Nifti1Image, "from_file_map", fail)
    with pytest.raises(InputError, match=rf"a\.nii{message}"):
        open_volume(path)


def test_more_voxels_than_memory(tmp_path, values, monkeypatch):
    monkeypatch.setattr("covidct.ct.grid.total_memory", lambda: 479)
    with pytest.raises(InputError, match=r"a\.nii has 6 x 5 x 4 voxels, which take .* GB .* has .* GB of memory; crop"):
        load_volume(case_of(save_nifti(tmp_path / "a.nii", values)))
    monkeypatch.setattr("covidct.ct.grid.total_memory", lambda: 480)
    load_volume(case_of(tmp_path / "a.nii"))


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, float]
)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_and_metaimage_are_read_as_itk_does(tmp_path, kind, suffix, packed):
    path = tmp_path / f"a{suffix}"
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 120, (4, 5, 6)).astype(kind))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-30.5, 20, 7))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), useCompression=packed)
    np.testing.assert_array_equal(read(path), sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
    file = open_volume(path)
    assert file.dtype == kind
    assert file.grid.spacing == pytest.approx((2.5, 0.7, 0.8))
    np.testing.assert_allclose(file.grid.affine[:3, 3], (30.5, -20, 7))


def test_big_endian_and_skipped_bytes(tmp_path, values):
    swapped = values.astype(">i2").tobytes(order="F")
    header = NRRD.replace("endian: little", "endian: big\nline skip: 1\nbyte skip: 3")
    (tmp_path / "a.nrrd").write_bytes(header.encode() + b"\na line\nabc" + swapped)
    header = META.replace("MSB = False", "MSB = True\nHeaderSize = -1")
    (tmp_path / "a.mha").write_bytes(header.encode() + b"anything" + swapped)
    for name in ("a.nrrd", "a.mha"):
        np.testing.assert_array_equal(read(tmp_path / name), values)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("ascii", lambda voxels: " ".join(map(str, np.frombuffer(voxels, np.int16))).encode()),
        ("hex", lambda voxels: voxels.hex().encode()),
    ],
)
def test_encodings_of_nrrd(tmp_path, values, voxels, encoding, pack):
    header = NRRD.replace("raw", encoding).encode() + b"\n"
    (tmp_path / "a.nrrd").write_bytes(header + pack(voxels))
    np.testing.assert_array_equal(read(tmp_path / "a.nrrd"), values)
    (tmp_path / "a.nrrd").write_bytes(header + pack(voxels[:-40]))
    with pytest.raises(
        InputError, match=r"a\.nrrd cannot be read \((its header declares 6 x 5 x 4 voxels|\d+ of 120 v)"
    ):
        read(tmp_path / "a.nrrd")


def test_packed_metaimage_that_does_not_say_its_length(tmp_path, values, voxels):
    # MetaIO reads noise here, and says that all is well.
    header = META.replace("CompressedData = False", "CompressedData = True").encode()
    (tmp_path / "a.mha").write_bytes(header + zlib.compress(voxels))
    np.testing.assert_array_equal(read(tmp_path / "a.mha"), values)
    content = bytearray(zlib.compress(voxels))
    content[40] ^= 16
    (tmp_path / "a.mha").write_bytes(header + bytes(content))
    with pytest.raises(InputError, match=r"a\.mha cannot be read \("):
        read(tmp_path / "a.mha")


def test_checksums_of_packed_nrrd_and_metaimage_are_compared(tmp_path, voxels):
    packed = bytearray(gzip.compress(voxels))
    packed[-8] ^= 1
    (tmp_path / "a.nrrd").write_bytes(NRRD.replace("raw", "gzip").encode() + b"\n" + packed)
    packed = bytearray(zlib.compress(voxels))
    packed[-1] ^= 1
    header = META.replace("CompressedData = False", "CompressedData = True").encode()
    (tmp_path / "a.mha").write_bytes(header + packed)
    for name, message in (("a.nrrd", "CRC check failed"), ("a.mha", "incorrect data check")):
        with pytest.raises(InputError, match=rf"{name} cannot be read \(.*{message}"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dimension: 3", "dimension: 100", "declares 100 axes"),
        ("dimension: 3", "dimension: 0", "declares 0 axes"),
        ("dimension: 3", "dimension: 4", "declares 4 axes and the sizes 6 5 4"),
        ("dimension: 3", "dimension: 1e30", "its header says dimension 1e30"),
        (
            "sizes: 6 5 4",
            "sizes: 600000 500000 400000",
            "declares 600000 x 500000 x 400000 voxels, .* the file has 240",
        ),
        ("sizes: 6 5 4", "sizes: -6 5 4", "has shape -6 x 5 x 4, no voxel"),
        ("sizes: 6 5 4", "sizes: 6 5 inf", "declares 3 axes and the sizes 6 5 inf"),
        ("type: short", "type: block", "its header says type: block"),
        ("encoding: raw", "encoding: zip", "its header says encoding: zip"),
        ("encoding: raw", "encoding: gzip", "Not a gzipped file"),
        ("endian: little", "endian: little\nbyte skip: -9", "its header says byte skip: -9"),
        ("endian: little", "data file: gone.raw", "its voxels should lie in gone.raw: .*gone.raw is missing"),
        ("endian: little", "data file: a.nrrd", "its voxels should lie in a.nrrd, which is no file of voxels"),
        ("space origin: (0,0,0)", "data file: LIST", r"its voxels lie in several files \(LIST\)"),
        ("endian: little", "data file: a%03d.raw 1 4 1", r"its voxels lie in several files \(a%03d.raw 1 4 1\)"),
        ("endian: little", "data file: short.raw", "240 bytes, and short.raw has 100"),
        ("endian: little", "data file: pipe.raw", "pipe.raw is a named pipe, not a file"),
    ],
)
def test_nrrd_header_that_cannot_be(tmp_path, voxels, old, new, message):
    (tmp_path / "short.raw").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "a.nrrd").write_bytes(NRRD.replace(old, new).encode() + b"\n" + voxels)
    with pytest.raises(InputError, match=rf"a\.nrrd.*{message}"):
        read(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NDims = 3", "NDims = 100", "declares 100 axes"),
        ("NDims = 3", "NDims = 0", "declares 0 axes"),
        ("NDims = 3", "NDims = 3\nNDims = 100", "its header says 'NDims = 100', twice"),
        ("NDims = 3", "NDims = 4", "declares 4 axes and the sizes 6 5 4"),
        ("DimSize = 6 5 4", "DimSize = 600000 500000 400000", "600000 x 500000 x 400000 voxels, .* the file has 240"),
        ("DimSize = 6 5 4", "DimSize = 6 -5 4", "has shape 6 x -5 x 4, no voxel"),
        ("DimSize = 6 5 4\n", "", "declares 3 axes and the sizes none"),
        ("MET_SHORT", "MET_NONE", "its header says ElementType = MET_NONE"),
        ("ElementSpacing = 2 2 3", "ElementSpacing = 2 2", "says ElementSpacing = 2 2, expected 3 numbers"),
        ("Offset = 0 0 0", "Offset = 0 nan 0", "says Offset = 0 nan 0, expected 3 numbers"),
        ("NDims = 3", "NDims = 3\nElementNumberOfChannels = 3", "has colours or vectors"),
        ("NDims = 3", "NDims = 3\nHeaderSize = -7", "its header says HeaderSize = -7"),
        ("LOCAL", "gone.raw", "its voxels should lie in gone.raw: .*gone.raw is missing"),
        ("LOCAL", "short.raw", "240 bytes, and short.raw has 100"),
        ("LOCAL", "LIST", r"its voxels lie in several files \(LIST\)"),
        ("LOCAL", "pipe.raw", "pipe.raw is a named pipe, not a file"),
        ("ElementDataFile = LOCAL\n", "", "its voxels lie in several files|its header is no text"),
    ],
)
def test_metaimage_header_that_cannot_be(tmp_path, voxels, old, new, message):
    (tmp_path / "short.raw").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe.raw")
    (tmp_path / "a.mha").write_bytes(META.replace(old, new).encode() + voxels)
    with pytest.raises(InputError, match=rf"a\.mha.*({message})"):
        read(tmp_path / "a.mha")


def test_files_of_a_volume(tmp_path, voxels, values):
    (tmp_path / "a.mha").write_bytes(META.encode() + voxels)
    (tmp_path / "a.raw").write_bytes(voxels)
    (tmp_path / "b.mhd").write_text(META.replace("LOCAL", "a.raw"))
    (tmp_path / "c.nhdr").write_text(f"{NRRD}data file: a.raw\n")
    save_nifti(tmp_path / "d.nii", values)
    assert files_of(tmp_path / "a.mha") == (tmp_path / "a.mha",)
    assert files_of(tmp_path / "b.mhd") == (tmp_path / "b.mhd", tmp_path / "a.raw")
    assert files_of(tmp_path / "c.nhdr") == (tmp_path / "c.nhdr", tmp_path / "a.raw")
    assert files_of(tmp_path / "d.nii") == (tmp_path / "d.nii",)
    np.testing.assert_array_equal(read(tmp_path / "c.nhdr"), values)


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def loop(path):
    path.symlink_to(path.name)


def broken(path):
    path.symlink_to("gone")


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "series/a.dcm"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "is a named pipe, not a file; give a regular file"),
        (unix_socket, "is a socket, not a file"),
        (device, "is a device, not a file"),
        (loop, "is a link that leads back to itself"),
        (broken, "is a link to gone, which is missing; fetch the content"),
    ],
)
def test_what_is_no_file_is_refused_by_name(tmp_path, monkeypatch, values, name, make, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    given = path.parent if name.startswith("series") else path
    with pytest.raises(InputError, match=rf"{name} {message}"):
        open_volume(given)
    ct = save_nifti(tmp_path / "ct.nii", values)
    with pytest.raises(InputError, match=rf"{name} {message}"):
        scan_case(case_of(ct, mask=given))


def test_listing_names_what_is_no_file(tmp_path, values):
    save_nifti(tmp_path / "b.nii", values)
    pipe(tmp_path / "a.nii")
    broken(tmp_path / "c.nii")
    (tmp_path / "folder.nii").mkdir()
    assert list(volumes_by_name(tmp_path)) == ["a", "b", "c"]


def test_link_to_a_volume_is_read(tmp_path, values):
    save_nifti(tmp_path / "b.nii", values)
    (tmp_path / "a.nii").symlink_to("b.nii")
    np.testing.assert_array_equal(read(tmp_path / "a.nii"), values)


def test_name_that_is_not_utf_8(tmp_path, values):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.nii"))
    os.rename(save_nifti(tmp_path / "b.nii", values), path)
    with pytest.raises(InputError, match=r"a\\udcff\.nii: the name is not UTF-8.*; rename it") as caught:
        open_volume(path)
    str(caught.value).encode()


@pytest.mark.parametrize("name", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_suffix_alone_is_no_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(InputError, match=rf"/{name} has no name before its suffix.*; rename it to NAME{name}"):
        open_volume(tmp_path / name)


def test_packing_is_told_by_the_content(tmp_path, values):
    save_nifti(tmp_path / "a.nii.gz", values).rename(tmp_path / "packed.nii")
    save_nifti(tmp_path / "a.nii", values).rename(tmp_path / "plain.nii.gz")
    for name in ("packed.nii", "plain.nii.gz"):
        np.testing.assert_array_equal(read(tmp_path / name), values)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfs.nii.gz", "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
        ("lfs.nrrd", "is a Git LFS pointer"),
        ("lfs.mha", "is a Git LFS pointer"),
        ("annex.nii", "is a git-annex pointer, not the file itself; fetch the file with `git annex get`"),
        ("page.nii.gz", "is a web page, not the file that was asked for; download the file again"),
        ("nrrd.nii.gz", r"is a NRRD file by its content, not what its name says; rename it to nrrd\.nrrd"),
        ("nifti.mha", r"is a NIfTI file by its content, not what its name says; rename it to nifti\.nii"),
        ("meta.nrrd", r"is a MetaImage file by its content, not what its name says; rename it to meta\.mha"),
        ("twice.nii.gz", "is packed by gzip; unpack it with gunzip"),
        ("packed.nrrd", "is packed by gzip; unpack it with gunzip"),
        ("zip.nii.gz", "is a ZIP archive; unpack it"),
    ],
)
def test_another_kind_of_file_than_its_name_says(tmp_path, values, voxels, name, message):
    plain = save_nifti(tmp_path / "a.nii", values).read_bytes()
    contents = {
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "annex": b"/annex/objects/MD5E-s9--0\n",
        "page": b"<!DOCTYPE html><html></html>",
        "nrrd": gzip.compress(NRRD.encode() + b"\n" + voxels),
        "nifti": plain,
        "meta": META.encode() + voxels,
        "twice": gzip.compress(gzip.compress(plain)),
        "packed": gzip.compress(NRRD.encode() + b"\n" + voxels),
        "zip": b"PK\x03\x04anything",
    }
    (tmp_path / name).write_bytes(contents[name.split(".")[0]])
    with pytest.raises(InputError, match=rf"{name} {message}"):
        open_volume(tmp_path / name)


def test_voxels_that_are_not_fetched_are_told_with_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "a.mhd").write_text(META.replace("LOCAL", "b.raw"))
    (tmp_path / "b.raw").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        InputError, match=r"/b\.raw, the voxels of .*/a\.mhd, is a Git LFS pointer, not the file itself"
    ):
        open_volume(tmp_path / "a.mhd")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_slices_that_are_shifted_within_their_plane(tmp_path, suffix):
    # A gantry tilted by 30 degrees: voxels of 2 x 2 x 3 mm, each slice tan(30) * 3 mm further along y.
    hu = np.full((16, 16, 8), -1000, np.int16)
    hu[4:12, 4:12] = 40
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(30))
    for name, array in (("ct", hu), ("lesion", (hu == 40).astype(np.uint8))):
        if suffix == ".nii.gz":
            save_nifti(tmp_path / f"{name}{suffix}", array, affine)
            continue
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        turned = np.diag([-1, -1, 1]) @ affine[:3, :3]
        lengths = np.linalg.norm(turned, axis=0)
        image.SetSpacing(lengths.tolist())
        image.SetDirection((turned / lengths).ravel().tolist())
        sitk.WriteImage(image, str(tmp_path / f"{name}{suffix}"))
    facts = scan_case(case_of(tmp_path / f"ct{suffix}", tmp_path / f"lesion{suffix}"))
    assert facts.spacing == pytest.approx((3, 2, 2))
    assert facts.lesion_ml == pytest.approx(8 * 8 * 8 * 12 / 1000)
    (note,) = facts.notes
    assert (
        "its axes are up to 30.0 degrees off right angles, as by a gantry's tilt; taken as they lie, slices 3 mm"
        in note
    )


def test_spacing_of_a_turned_and_tilted_grid(tmp_path):
    # Slices 2.5 mm apart, shifted by 1 mm along their rows, in a body that lies turned by 10 and 15 degrees.
    affine = np.diag([0.7, 0.9, 2.5, 1.0])
    affine[0, 2] = 1
    for axes, degrees in (((0, 1), 10), ((1, 2), 15)):
        turn, (c, s) = np.eye(4), (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
        turn[np.ix_(axes, axes)] = [[c, -s], [s, c]]
        affine = turn @ affine
    grid = open_volume(save_nifti(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), affine)).grid
    assert grid.spacing == pytest.approx((2.5, 0.9, 0.7), rel=1e-5)
    assert grid.skew == pytest.approx(np.degrees(np.arctan(1 / 2.5)), rel=1e-4)


def test_spacing_of_axes_in_another_order(tmp_path):
    # The same shear, stored with the slices along the first axis and rows along the last.
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 0] = 0, 3 * np.tan(np.radians(20)), 3
    affine[0, 1] = -0.7
    affine[1, 2] = 0.9
    grid = open_volume(save_nifti(tmp_path / "a.nii", np.zeros((4, 6, 5), np.int16), affine)).grid
    assert grid.spacing == pytest.approx((3, 0.9, 0.7))
    assert grid.volume_shape == (4, 5, 6)
    assert np.prod(grid.spacing) == pytest.approx(abs(np.linalg.det(affine)))
    assert grid.skew == pytest.approx(20)


def test_odd_headers_are_read_in_silence(tmp_path, values, capfd):
    """nibabel would say so without the name of the file, in the middle of a batch."""
    path = save_nifti(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    struct.pack_into("<h", content, 252, -7)  # qform_code
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), values)
    assert capfd.readouterr() == ("", "")
    assert not nib.imageglobals.logger.disabled


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NDims = 3\n", "", "says TransformMatrix before NDims"),
        # No end of a line to ITK, which goes on without NDims.
        ("Image\nNDims", "Image\x0bNDims", "says TransformMatrix before NDims"),
        ("NDims = 3\n", "\x85NDims = 3\n", "says TransformMatrix before NDims"),
        ("CompressedData =", "CompressedDataSize = \nCompressedData =", "says CompressedDataSize"),
        ("Offset = 0 0 0\n", "Offset\n", "says 'Offset', which is no field"),
    ],
)
def test_lines_of_a_metaimage_are_those_of_itk(tmp_path, voxels, capfd, old, new, message):
    assert old in META
    (tmp_path / "a.mha").write_bytes(META.replace(old, new).encode() + voxels)
    with pytest.raises(InputError, match=message):
        open_volume(tmp_path / "a.mha")
    assert capfd.readouterr() == ("", "")


def test_one_volume_twice_among_others(tmp_path, values):
    for name in ("a.nii", "a.nii.gz", "b.nii"):
        save_nifti(tmp_path / name, values)
    faults: list[str] = []
    assert volumes_by_name(tmp_path, faults=faults) == {"b": tmp_path / "b.nii"}
    assert faults == [f"{tmp_path / 'a.nii.gz'} and a.nii are the same volume twice; remove one of them"]
