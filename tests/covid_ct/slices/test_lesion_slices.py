"""Lesion slices from volumes: layouts, orientation, window, crop, cache, and the message of every fault."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from covidct.ct.picture import load_slice
from covidct.ct.volume import to_window
from covidct.errors import InputError
from covidct.sets.cases import find_cases
from covidct.slices import lesion_slices
from covidct.slices.lesion_slices import Cut, find_lungs, read_volume_slices


@pytest.fixture
def cases(tmp_path, chest, save_volume):
    """Two cases, one folder each: tmp_path/set/{one,two}/{ct,lesion}.nii.gz."""
    hu, lesion = chest()
    for name in ("one", "two"):
        save_volume(tmp_path / "set" / name / "ct.nii.gz", hu)
        save_volume(tmp_path / "set" / name / "lesion.nii.gz", lesion)
    return tmp_path / "set"


def read(folder, tmp_path, **cut):
    return read_volume_slices([folder], tmp_path / "cache", Cut(**cut))


def test_slices_of_two_cases(cases, tmp_path):
    found = read(cases, tmp_path)
    assert [item.name for item in found] == ["set_one_001", "set_one_002", "set_two_001", "set_two_002"]
    assert [item.scan for item in found] == ["set_one", "set_one", "set_two", "set_two"]
    assert {item.dataset for item in found} == {str(cases)}


def test_window_orientation_and_crop(cases, tmp_path, chest):
    hu, lesion = chest()
    image, mask = load_slice(read(cases, tmp_path, margin=0.0)[0])
    # The lungs' box: the right lung on top, anterior to the left.
    inside = np.s_[7:41, 8:32, 1]
    np.testing.assert_array_equal(image, np.round((np.clip(hu[inside], -1250, 250) + 1250.0) / 1500 * 255))
    np.testing.assert_array_equal(mask, lesion[inside] == 1)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SRA", "ILP", "ASL"])
def test_five_orientations_against_the_chest_itself(tmp_path, chest, save_volume, codes):
    hu, lesion = chest()
    hu[12, 15, 1], hu[30, 12, 2] = -1100, 250
    save_volume(tmp_path / "set" / "one" / "ct.nii.gz", hu, codes)
    save_volume(tmp_path / "set" / "one" / "lesion.nii.gz", lesion, codes)
    found = read(tmp_path / "set", tmp_path, margin=0.0)
    assert [item.name for item in found] == ["set_one_001", "set_one_002"]
    for z, item in zip((1, 2), found, strict=True):
        image, mask = load_slice(item)
        # HU -850, 0, -1100, 250 and the body's 40 in a window of 1500 from -1250.
        expected = np.full((34, 24), 219)
        expected[0:15, 0:24] = expected[21:34, 2:22] = 68
        expected[24:29, 14:20] = 212
        expected[15:21, 21:24] = 255
        if z == 1:
            expected[5, 7] = 26  # 25.5: to the even neighbour
        else:
            expected[23, 4] = 255
        np.testing.assert_array_equal(image, expected)
        shown = np.zeros((34, 24), dtype=bool)
        shown[24:29, 14:20] = True
        np.testing.assert_array_equal(mask, shown)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_nrrd_and_metaimage_give_the_same_slices(cases, tmp_path, suffix):
    for case in ("one", "two"):
        for name in ("ct", "lesion"):
            image = sitk.ReadImage(str(cases / case / f"{name}.nii.gz"))
            (tmp_path / "other" / case).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / "other" / case / f"{name}{suffix}"))
    found = read(tmp_path / "other", tmp_path)
    assert [item.name for item in found] == ["other_one_001", "other_one_002", "other_two_001", "other_two_002"]
    for one, two in zip(read(cases, tmp_path), found, strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()
        assert one.mask_path.read_bytes() == two.mask_path.read_bytes()


def test_a_volume_of_one_slice(cases, tmp_path, chest, save_volume):
    hu, lesion = chest()
    save_volume(cases / "one" / "ct.nii.gz", hu[:, :, 1:2])
    save_volume(cases / "one" / "lesion.nii.gz", lesion[:, :, 1:2])
    one, same = read(cases, tmp_path)[:2]
    assert (one.name, same.name) == ("set_one_000", "set_two_001")
    assert one.path.read_bytes() == same.path.read_bytes()


def test_every_value_above_one_half_is_lesion(cases, tmp_path, chest, save_volume):
    save_volume(cases / "two" / "lesion.nii.gz", chest()[1] * 255)
    first, _, same, _ = read(cases, tmp_path)
    assert first.mask_path.read_bytes() == same.mask_path.read_bytes()


@pytest.mark.parametrize("codes", ["RAS", "LAS", "RPI", "SRA", "ILP", "ASL"])
def test_any_storage_gives_the_same_slices(tmp_path, chest, save_volume, codes):
    hu, lesion = chest()
    for folder, stored in (("lps", "LPS"), ("other", codes)):
        save_volume(tmp_path / folder / "case" / "ct.nii.gz", hu, stored)
        # The mask in yet another order: both are brought to one.
        save_volume(tmp_path / folder / "case" / "mask.nii.gz", lesion, "LPS")
    for one, two in zip(read(tmp_path / "lps", tmp_path), read(tmp_path / "other", tmp_path), strict=True):
        np.testing.assert_array_equal(load_slice(one)[0], load_slice(two)[0])
        np.testing.assert_array_equal(load_slice(one)[1], load_slice(two)[1])


def test_values_outside_of_the_scan_circle(tmp_path, chest, save_volume):
    hu, lesion = chest()
    hu[:3, :3] = -3024
    hu[20, 20] = 3071
    save_volume(tmp_path / "set" / "one" / "ct.nii.gz", hu)
    save_volume(tmp_path / "set" / "one" / "lesion.nii.gz", lesion)
    image, _ = load_slice(read(tmp_path / "set", tmp_path, margin=1.0)[0])
    assert image.min() == 0
    assert image.max() == 255


def test_margin(cases, tmp_path):
    bare = load_slice(read(cases, tmp_path, margin=0.0)[0])[0].shape
    assert bare == (34, 24)
    assert load_slice(read(cases, tmp_path, margin=0.1)[0])[0].shape == (34 + 2 * 3, 24 + 2 * 2)


def test_least_area(cases, tmp_path):
    # 30 pixels of 2 mm x 2 mm.
    assert len(read(cases, tmp_path, least_area=120.0)) == 4
    with pytest.raises(InputError, match=r"lesion\.nii\.gz: no slice has both lesion of 121 mm2 and lung; remove"):
        read(cases, tmp_path, least_area=121.0)


def test_lung_masks_give_the_crop(cases, tmp_path, chest, save_volume):
    hu, _ = chest()
    for name, rows in (("Lung-Left", slice(28, 41)), ("Lung-Right", slice(10, 22))):
        lung = np.zeros(hu.shape, dtype=np.uint8)
        lung[rows, 12:30] = 1
        for case in ("one", "two"):
            save_volume(cases / case / f"{name}.nii.gz", lung)
    assert load_slice(read(cases, tmp_path, margin=0.0)[0])[0].shape == (31, 18)


def test_crop_keeps_the_lesion(tmp_path, chest, save_volume):
    hu, lesion = chest()
    lesion[41:43, 22:28, 1] = 1
    save_volume(tmp_path / "set" / "one" / "ct.nii.gz", hu)
    save_volume(tmp_path / "set" / "one" / "lesion.nii.gz", lesion)
    assert load_slice(read(tmp_path / "set", tmp_path, margin=0.0)[0])[1].sum() == 30 + 12


def test_slices_without_lung_are_left_out_and_listed(tmp_path, chest, save_volume):
    hu, lesion = chest()
    hu[4:44, 4:36, 2] = 40
    save_volume(tmp_path / "set" / "one" / "ct.nii.gz", hu)
    save_volume(tmp_path / "set" / "one" / "lesion.nii.gz", lesion)
    found = read(tmp_path / "set", tmp_path)
    assert [item.name for item in found] == ["set_one_001"]
    index = json.loads((found[0].path.parent / "index.json").read_text())
    assert index["left_out"] == [{"scan": "set_one", "z": 2, "why": "no lung in the slice"}]


def test_find_lungs_ignores_outside_and_small_pieces():
    hu = np.full((100, 100), -1000.0, dtype=np.float32)
    hu[10:90, 10:90] = 30
    hu[91:99, 20:80] = 50  # the table, hollow
    hu[92:98, 21:79] = -1000
    hu[20:50, 15:45] = -850
    hu[20:50, 55:85] = -820
    hu[70:74, 50:54] = -1000  # an airway
    expected = np.zeros(hu.shape, dtype=bool)
    expected[20:50, 15:45] = expected[20:50, 55:85] = True
    np.testing.assert_array_equal(find_lungs(to_window(hu)), expected)
    for value in (30.0, -1000.0):
        assert not find_lungs(to_window(np.full((9, 9), value))).any()


def test_layouts(tmp_path, chest, save_volume):
    hu, lesion = chest()
    files = {
        "cases/c1": ("ct", "nodule"),
        "gtv/c1": ("c1", "GTV-1"),
        "single": ("image", "Mask"),
        "nnunet": ("imagesTr/c1_0000", "labelsTr/c1"),
        "msd": ("imagesTr/c1", "labelsTr/c1"),
        "flat": ("c1", "c1_mask"),
        "flat_ct": ("c1_ct", "c1_seg"),
    }
    for folder, (image, mask) in files.items():
        save_volume(tmp_path / folder / f"{image}.nii.gz", hu)
        save_volume(tmp_path / folder / f"{mask}.nii.gz", lesion)
        (tmp_path / folder / "._ct.nii.gz").write_bytes(b"macOS")
        (tmp_path / folder / "notes.txt").write_text("")
    save_volume(tmp_path / "cases/c1/nodule_votes.nii.gz", lesion)
    save_volume(tmp_path / "gtv/c1/Spinal-Cord.nii.gz", lesion)
    for folder in ("cases", "gtv", "single", "nnunet", "msd", "flat", "flat_ct"):
        (case,) = find_cases(tmp_path / folder)
        assert case.name == ("single" if folder == "single" else "c1")
        assert len(read(tmp_path / folder, tmp_path)) == 2


def test_several_folders(cases, tmp_path, chest, save_volume):
    hu, lesion = chest()
    save_volume(tmp_path / "flat" / "a.nii", hu)
    save_volume(tmp_path / "flat" / "a_label.nii", lesion)
    found = read_volume_slices([cases, tmp_path / "flat"], tmp_path / "cache")
    assert len({item.name for item in found}) == 6
    with pytest.raises(InputError, match=r"set is given twice as a source; give it once"):
        read_volume_slices([cases, cases / "one" / ".."], tmp_path / "cache")


def test_written_once(cases, tmp_path, monkeypatch):
    first = read(cases, tmp_path)
    monkeypatch.setattr(lesion_slices, "_write", None)  # would fail if it was called
    assert read(cases, tmp_path) == first


def test_other_parameters_or_files_are_cut_anew(cases, tmp_path):
    first = read(cases, tmp_path)
    other = read(cases, tmp_path, margin=0.2)
    assert {item.path.parent for item in first}.isdisjoint(item.path.parent for item in other)
    os.utime(cases / "one" / "ct.nii.gz", ns=(1, 1))
    assert read(cases, tmp_path)[0].path.parent != first[0].path.parent


@pytest.mark.parametrize("damage", ["index.json", "set_two_002.png", "set_two_002_mask.png"])
def test_damaged_cache_is_written_again(cases, tmp_path, damage):
    first = read(cases, tmp_path)
    path = first[0].path.parent / damage
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert read(cases, tmp_path) == first
    assert path.read_bytes() == whole


def test_damaged_case_among_good_ones_leaves_nothing(cases, tmp_path):
    path = cases / "two" / "ct.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"set/two/ct\.nii\.gz cannot be read \(.*\); it is damaged or cut short"):
        read(cases, tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"text"])
def test_no_nifti(cases, tmp_path, content):
    (cases / "one" / "lesion.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"one/lesion\.nii\.gz cannot be read \(.+\); it is damaged"):
        read(cases, tmp_path)


def test_nan_voxels(cases, tmp_path, chest, save_volume):
    hu = chest()[0].astype(np.float32)
    hu[0, 0, :2] = np.nan
    save_volume(cases / "two" / "ct.nii.gz", hu)
    with pytest.raises(InputError, match=r"two/ct\.nii\.gz holds NaN or infinite voxels \(2 in slices 0 to 3\)"):
        read(cases, tmp_path)


def test_nan_in_a_mask(cases, tmp_path, chest, save_volume):
    lesion = chest()[1].astype(np.float32)
    lesion[0, 0, 0] = np.nan
    save_volume(cases / "two" / "lesion.nii.gz", lesion)
    with pytest.raises(InputError, match=r"two/lesion\.nii\.gz holds NaN or infinite voxels \(1 in slices 0 to 3\)"):
        read(cases, tmp_path)


def test_mask_of_another_shape(cases, tmp_path, chest, save_volume):
    save_volume(cases / "two" / "lesion.nii.gz", chest()[1][:, :, :3])
    with pytest.raises(
        InputError, match=r"two/lesion\.nii\.gz has shape \(3, 40, 48\) .*ct\.nii\.gz has \(4, 40, 48\)"
    ):
        read(cases, tmp_path)


def test_mask_at_another_place(cases, tmp_path, chest, save_volume):
    save_volume(cases / "two" / "lesion.nii.gz", chest()[1], shift=0.5)
    assert len(read(cases, tmp_path)) == 4
    save_volume(cases / "two" / "lesion.nii.gz", chest()[1], shift=40.0)
    with pytest.raises(InputError, match=r"two/lesion\.nii\.gz lies up to 40\.0 mm away from its volume .*resample"):
        read(cases, tmp_path)


def test_empty_volumes(cases, tmp_path, chest, save_volume):
    hu, _ = chest()
    save_volume(cases / "one" / "ct.nii.gz", np.full(hu.shape, -1000, dtype=np.int16))
    with pytest.raises(InputError, match=r"one/ct\.nii\.gz is empty: every voxel is -1000"):
        read(cases, tmp_path)
    save_volume(cases / "one" / "ct.nii.gz", np.stack([hu, hu], -1))
    with pytest.raises(InputError, match=r"one/ct\.nii\.gz has 4 axes, 48 x 40 x 4 x 2; a CT volume has three axes"):
        read(cases, tmp_path)


def test_one_more_axis_of_one(cases, tmp_path, chest, save_volume):
    save_volume(cases / "one" / "ct.nii.gz", chest()[0][..., None])
    assert len(read(cases, tmp_path)) == 4


def test_windowed_volume_is_not_hu(cases, tmp_path, chest, save_volume):
    hu, _ = chest()
    save_volume(cases / "one" / "ct.nii.gz", ((np.clip(hu, -1250, 250) + 1250) // 6).astype(np.int16))
    with pytest.raises(InputError, match=r"one/ct\.nii\.gz is not in HU \(values 41 to 250, air is -1000\)"):
        read(cases, tmp_path)


def test_no_lesion(cases, tmp_path, chest, save_volume):
    save_volume(cases / "one" / "lesion.nii.gz", chest()[1] * 0)
    with pytest.raises(InputError, match=r"one/lesion\.nii\.gz: no slice has both lesion"):
        read(cases, tmp_path, least_area=0.0)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"gone does not exist; give a folder of CT volumes"):
        find_cases(tmp_path / "gone")
    (tmp_path / "holiday").mkdir()
    with pytest.raises(
        InputError, match=r"holds no CT volume: looked for \*\.nii\.gz, .* found holiday; give a folder"
    ):
        find_cases(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(InputError, match=r"imagesTr is empty"):
        find_cases(tmp_path)


def test_which_mask(cases, chest, save_volume):
    save_volume(cases / "one" / "tumour.nii.gz", chest()[1])
    with pytest.raises(
        InputError, match=r"one: 2 files could be the lesion mask, lesion\.nii\.gz, tumour\.nii\.gz; name"
    ):
        find_cases(cases)
    for name in ("lesion", "tumour"):
        (cases / "one" / f"{name}.nii.gz").unlink()
    with pytest.raises(
        InputError, match=r"one: no file is the lesion mask: found ct\.nii\.gz; name exactly one of them"
    ):
        find_cases(cases)
    (cases / "one" / "ct.nii.gz").rename(cases / "one" / "thorax.nii.gz")
    with pytest.raises(InputError, match=r"one: no file is the CT volume|one/thorax\.nii\.gz has no mask"):
        find_cases(cases)


def test_unpaired_files(tmp_path, chest, save_volume):
    hu, lesion = chest()
    save_volume(tmp_path / "flat" / "a.nii.gz", hu)
    with pytest.raises(InputError, match=r"flat/a\.nii\.gz has no mask: exactly one of a_mask\.nii\.gz or a_seg"):
        find_cases(tmp_path / "flat")
    save_volume(tmp_path / "flat" / "a_mask.nii.gz", lesion)
    save_volume(tmp_path / "flat" / "a_seg.nii.gz", lesion)
    with pytest.raises(InputError, match=r"flat/a\.nii\.gz has 2 masks \(a_mask, a_seg\)"):
        find_cases(tmp_path / "flat")
    (tmp_path / "flat" / "a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"a_mask\.nii\.gz has no image beside it"):
        find_cases(tmp_path / "flat")
    save_volume(tmp_path / "nn" / "imagesTr" / "a_0000.nii.gz", hu)
    with pytest.raises(InputError, match=r"imagesTr/a_0000\.nii\.gz has no mask: .*labelsTr/a\.nii\.gz is missing"):
        find_cases(tmp_path / "nn")
    for name in ("a", "b"):
        save_volume(tmp_path / "nn" / "labelsTr" / f"{name}.nii.gz", lesion)
    with pytest.raises(InputError, match=r"labelsTr/b\.nii\.gz has no image: .*imagesTr/b_0000\.nii\.gz is missing"):
        find_cases(tmp_path / "nn")


def test_same_volume_twice(cases, chest, save_volume):
    save_volume(cases / "one" / "ct.nii", chest()[0])
    with pytest.raises(InputError, match=r"are the same volume twice; remove one"):
        find_cases(cases)


def test_cache_that_cannot_be_written(cases, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cache: the slices cannot be written \(.*\); .*or give another cache folder"):
        read(cases, tmp_path)


def test_real_volumes(real_data, tmp_path):
    # 1e-9 mm2: every slice with lesion.
    found = read_volume_slices([real_data / "lidc"], tmp_path, Cut(least_area=1e-9))
    assert [sum(item.scan.endswith(case) for item in found) for case in ("0001", "0002", "0003")] == [8, 7, 7]
    for item in found:
        image, mask = load_slice(item)
        # Cropped to the lungs, where both reach the rims, and the spine (bone) is on the right half.
        assert all((edge < 100).any() for edge in (image[:8], image[-8:]))
        bright = np.argwhere(image > 250)
        middle = slice(image.shape[0] // 3, 2 * image.shape[0] // 3)
        assert (image[middle, -20:] > 180).mean() > 0.5
        assert mask.sum() >= 50
        assert bright.size


@pytest.mark.slow
def test_real_volume_with_lung_masks(real_data, tmp_path):
    found = read_volume_slices([real_data / "lung1"], tmp_path)
    assert len(found) == 21
    assert {load_slice(item)[0].shape for item in found if item.name.endswith("_074")} == {(264, 205)}


def _damage_header(path, offset, content):
    whole = bytearray(gzip.decompress(path.read_bytes()))
    whole[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(whole)))


@pytest.mark.parametrize(("offset", "content"), [(70, b"\x99\x00"), (40, b"\x0b\x00")], ids=["datatype", "axes"])
def test_damaged_header(cases, tmp_path, offset, content):
    _damage_header(cases / "two" / "ct.nii.gz", offset, content)
    with pytest.raises(InputError, match=r"two/ct\.nii\.gz cannot be read \(.+\); it is damaged"):
        read(cases, tmp_path)


def test_volume_of_colours(cases, tmp_path):
    colours = np.zeros((4, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), cases / "two" / "ct.nii.gz")
    with pytest.raises(InputError, match=r"two/ct\.nii\.gz has colours or vectors; a CT volume has three axes"):
        read(cases, tmp_path)


@pytest.mark.parametrize(("value", "what"), [(0.0, "a voxel measures 0 x 0 x 0 mm"), (np.nan, "not finite")])
def test_affine_without_a_place(cases, tmp_path, value, what):
    rows = np.full((3, 4), value, dtype="<f4").tobytes()
    path = cases / "two" / "ct.nii.gz"
    _damage_header(path, 280, rows)
    _damage_header(path, 252, b"\x00\x00\x01\x00")  # no qform, the damaged sform counts
    with pytest.raises(InputError, match=rf"two/ct\.nii\.gz: .*affine in its header .*{what}"):
        read(cases, tmp_path)
