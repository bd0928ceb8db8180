"""Loading one volume: geometry, values, memory, the way back, and the message of every fault."""

import gzip
import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from covidct.ct.volume import Volume, VolumeCase, load_volume, scan_case, to_window
from covidct.errors import InputError

CODES = ["LPS", "RAS", "LAS", "RPI", "RAI", "SRA", "ILP", "ASL"]


@pytest.fixture
def make_case(tmp_path, chest, save_volume):
    """A function that writes `chest` (turned to its axes `codes`) with its mask and gives the case."""

    def make(codes="LPS", mask_codes="LPS", **fields) -> VolumeCase:
        hu, lesion = chest()
        image = save_volume(tmp_path / "case.nii.gz", hu, codes)
        mask = save_volume(tmp_path / "case_mask.nii.gz", lesion, mask_codes)
        return replace(VolumeCase("case", image, mask, None, None, (), "hu", "case"), **fields)

    return make


@pytest.fixture
def expected(chest):
    """Windowed image and mask of `chest` as (z, y, x) from feet, back and left: its axes run right to left, front to
    back."""
    hu, lesion = chest()
    image = (np.clip(hu, -1250, 250) + 1250.0) / 1500 * 255
    return image.transpose(2, 1, 0)[:, ::-1, ::-1], lesion.transpose(2, 1, 0)[:, ::-1, ::-1] == 1


def save(path, values, affine=None):
    nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 3.0, 1.0]) if affine is None else affine), path)


@pytest.mark.parametrize("codes", CODES)
def test_any_storage_gives_the_same_volume(make_case, expected, codes):
    volume = load_volume(make_case(codes, "RPI"))
    assert isinstance(volume, Volume)
    assert volume.image.dtype == np.float32
    np.testing.assert_allclose(volume.image, expected[0], atol=1e-4)
    np.testing.assert_array_equal(volume.mask, expected[1])
    assert volume.spacing == (3, 2, 2)
    assert volume.hu
    assert volume.lungs is None
    assert volume.notes == ()


@pytest.mark.parametrize("codes", CODES)
def test_mask_goes_back_to_the_files_own_grid(make_case, tmp_path, codes):
    case = make_case(codes, codes)
    volume = load_volume(case)
    volume.grid.save_mask(tmp_path / "out.nii.gz", volume.mask, np.uint8)
    written, own = nib.load(tmp_path / "out.nii.gz"), nib.load(case.mask)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(own.dataobj))
    np.testing.assert_array_equal(written.affine, own.affine)
    assert written.get_data_dtype() == np.uint8
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_array_of_another_grid(make_case):
    with pytest.raises(ValueError, match=r"array has shape \(1, 2, 3\), the grid has \(4, 40, 48\) \(z, y, x\)"):
        load_volume(make_case()).grid.to_native(np.zeros((1, 2, 3)))


def test_facts(make_case, chest):
    facts = scan_case(make_case("RAI"))
    assert (facts.name, facts.shape, facts.spacing, facts.labels) == ("case", (4, 40, 48), (3, 2, 2), (0, 1))
    # 5 x 6 x 2 voxels of 12 mm3.
    assert facts.lesion_ml == pytest.approx(0.72)


@pytest.mark.parametrize(("hu", "grey"), [(-3024, 0), (-1250, 0), (-500, 127.5), (250, 255), (3000, 255)])
def test_window(hu, grey):
    values = np.array([[hu]], dtype=np.int16)
    assert to_window(values).item() == pytest.approx(grey)
    assert values.item() == hu


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats(make_case, chest, expected, tmp_path, suffix):
    case = make_case()
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = 30, -20, 50
    for path, values in zip((case.image, case.mask), chest(), strict=True):
        save(path, values, affine)
    for name in ("case", "case_mask"):
        sitk.WriteImage(sitk.ReadImage(tmp_path / f"{name}.nii.gz"), tmp_path / f"{name}{suffix}")
    volume = load_volume(replace(case, image=tmp_path / f"case{suffix}", mask=tmp_path / f"case_mask{suffix}"))
    np.testing.assert_allclose(volume.image, expected[0], atol=1e-4)
    np.testing.assert_array_equal(volume.mask, expected[1])
    np.testing.assert_allclose(volume.grid.affine, load_volume(case).grid.affine)


def test_scaled_integers(make_case, chest, expected):
    case = make_case()
    image = nib.Nifti1Image(((chest()[0] + 1024) // 2).astype(np.int16), np.diag([-2.0, -2.0, 3.0, 1.0]))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, case.image)
    np.testing.assert_allclose(load_volume(case).image, expected[0], atol=1e-3)


def test_windowed_values_are_kept(make_case):
    case = make_case(intensity="window")
    grey = np.random.default_rng(0).integers(0, 256, (48, 40, 4)).astype(np.uint8)
    save(case.image, grey)
    volume = load_volume(case)
    np.testing.assert_array_equal(volume.image, grey.transpose(2, 1, 0)[:, ::-1, ::-1])
    assert not volume.hu
    assert volume.notes == ()


def test_guard_hu_where_a_window_is_expected(make_case, expected):
    volume = load_volume(make_case(intensity="window"))
    np.testing.assert_allclose(volume.image, expected[0], atol=1e-4)
    assert volume.hu
    (note,) = volume.notes
    assert note.endswith("case.nii.gz holds values -1000 to 600, expected 0 to 255 (already windowed); "
                         "taken for HU and windowed to [-1250, 250]")  # fmt: skip


def test_guard_window_where_hu_is_expected(make_case, expected):
    case = make_case()
    grey = np.round(expected[0][:, ::-1, ::-1].transpose(2, 1, 0)).astype(np.uint8)
    save(case.image, grey)
    volume = load_volume(case)
    np.testing.assert_allclose(volume.image, expected[0], atol=0.5)
    assert not volume.hu
    (note,) = volume.notes
    assert "case.nii.gz holds values 42 to 255, expected HU (air is -1000); taken for already windowed" in note


def test_double_precision_is_noted_and_never_whole_in_memory(tmp_path):
    shape = (128, 128, 400)
    values = np.random.default_rng(0).uniform(-1000, 500, shape)
    save(tmp_path / "double.nii", values)
    case = VolumeCase("double", tmp_path / "double.nii", None, None, None, (), "hu", "double")
    single = to_window(values.transpose(2, 1, 0)[:, ::-1, ::-1])
    size = values.size * 4
    del values
    tracemalloc.start()
    volume = load_volume(case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.notes == (f"{case.image} is stored as float64; read as float32",)
    np.testing.assert_allclose(volume.image, single, atol=1e-3)
    # The volume, and slabs of 16 MiB: as stored, as read, and where they are finite.
    assert peak < size + 3 * 16 * 2**20


def test_fractions_are_cut_at_a_half(make_case, chest, expected):
    case = make_case()
    save(case.mask, chest()[1] * np.float32(0.9) + np.float32(0.05))
    facts = scan_case(case)
    assert facts.labels == (pytest.approx(0.05), pytest.approx(0.95))
    np.testing.assert_array_equal(load_volume(case).mask, expected[1])


@pytest.mark.parametrize("allowed", [None, (0, 1)])
def test_interpolated_masks_may_overshoot(make_case, chest, expected, allowed):
    case = make_case(allowed_labels=allowed)
    values = chest()[1] * np.float32(1.08)
    values[0, 0, 0], values[0, 0, 1] = -0.06, 0.4
    save(case.mask, values)
    np.testing.assert_array_equal(load_volume(case).mask, expected[1])
    values[0, 0, 0] = -0.15
    save(case.mask, values)
    with pytest.raises(InputError, match=r"case_mask\.nii\.gz holds -0\.15, expected 0"):
        load_volume(case)


def test_labels_are_compared_to_a_thousandth(make_case, chest, expected):
    case = make_case(lesion_labels=(2,), allowed_labels=(0, 2))
    save(case.mask, chest()[1] * np.float32(1.9999998))
    assert scan_case(case).labels == (0, 2)
    np.testing.assert_array_equal(load_volume(case).mask, expected[1])
    save(case.mask, chest()[1].astype(np.int32) * 12345678)
    with pytest.raises(InputError, match=r"holds 12345678, expected 0, 2"):
        load_volume(case)


def test_a_window_may_overshoot(make_case):
    grey = np.random.default_rng(0).uniform(-4, 259, (48, 40, 4)).astype(np.float32)
    case = make_case(intensity="window")
    save(case.image, grey)
    volume = load_volume(case)
    assert not volume.hu
    assert (volume.image.min(), volume.image.max()) == (0, 255)
    with pytest.raises(InputError, match="neither HU"):
        load_volume(replace(case, intensity="hu"))


def test_lesion_labels(make_case, chest, expected):
    case = make_case(lesion_labels=(2, 3), allowed_labels=(0, 1, 2, 3))
    lesion = chest()[1] * 2
    lesion[:3] = 1
    lesion[32][lesion[32] == 2] = 3
    save(case.mask, lesion)
    volume = load_volume(case)
    np.testing.assert_array_equal(volume.mask, expected[1])
    assert scan_case(case).labels == (0, 1, 2, 3)


def test_lungs_are_joined(make_case, tmp_path, chest):
    case = make_case()
    left, right = (np.zeros((48, 40, 4), dtype=np.uint8) for _ in range(2))
    left[28:41], right[7:22] = 1, 2
    save(tmp_path / "left.nii.gz", left)
    save(tmp_path / "right.nii.gz", right)
    volume = load_volume(replace(case, lungs=(tmp_path / "left.nii.gz", tmp_path / "right.nii.gz")))
    np.testing.assert_array_equal(volume.lungs, (left | right).transpose(2, 1, 0)[:, ::-1, ::-1] > 0)


def test_one_slice_as_a_case(make_case, chest, expected):
    volume = load_volume(make_case(slice=2))
    np.testing.assert_allclose(volume.image, expected[0][2:3], atol=1e-4)
    np.testing.assert_array_equal(volume.mask, expected[1][2:3])
    assert volume.grid.shape == (48, 40, 1)
    assert volume.grid.affine[2, 3] == 6


def test_lesion_of_no_voxel_is_noted(make_case):
    case = make_case()
    save(case.mask, np.zeros((48, 40, 4), dtype=np.uint8))
    facts = scan_case(case)
    assert facts.lesion_ml == 0
    assert facts.notes == (f"{case.mask}: no voxel is lesion; the case counts as healthy",)


def cut_short(case, chest):
    case.image.write_bytes(case.image.read_bytes()[:200])


def cut_short_unpacked(case, chest):
    content = gzip.decompress(case.image.read_bytes())
    case.image.with_suffix("").write_bytes(content[:-100])
    return replace(case, image=case.image.with_suffix(""))


def no_volume(case, chest):
    case.image.write_bytes(b"not a volume at all")


def gone(case, chest):
    case.image.unlink()


def mask_gone(case, chest):
    case.mask.unlink()


def singular(case, chest):
    content = bytearray(gzip.decompress(case.image.read_bytes()))
    # srow_x, the first row of the affine.
    content[280:296] = bytes(16)
    case.image.write_bytes(gzip.compress(bytes(content)))


def shifted_mask(case, chest):
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[2, 3] = 30
    save(case.mask, chest()[1], affine)


def swapped_axes(case, chest):
    save(case.mask, chest()[1].transpose(2, 1, 0))


def other_size(case, chest):
    save(case.mask, chest()[1][1:])


def label_seven(case, chest):
    save(case.mask, chest()[1] * 7)


def undeclared_label(case, chest):
    save(case.mask, chest()[1] * 7)
    return replace(case, allowed_labels=(0, 1, 2))


def fraction_of_a_label(case, chest):
    save(case.mask, chest()[1] * np.float32(1.5))
    return replace(case, lesion_labels=(2,))


def one_slice(case, chest):
    save(case.image, chest()[0][:, :, :1])


def four_axes(case, chest):
    save(case.image, np.stack([chest()[0]] * 2, axis=3))


def not_finite(case, chest):
    values = chest()[0].astype(np.float32)
    values[3, 4, 2] = np.nan
    save(case.image, values)


def complex_numbers(case, chest):
    save(case.image, chest()[0].astype(np.complex64))


def nrrd_cut_short(case, chest):
    path = case.image.with_name("case.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(chest()[0].T), str(path), useCompression=True)
    path.write_bytes(path.read_bytes()[:-200])
    return replace(case, image=path, mask=None)


def constant(case, chest):
    save(case.image, np.full((48, 40, 4), -1000, dtype=np.int16))


def not_hu(case, chest):
    save(case.image, chest()[0] + np.int16(1024))


def no_such_slice(case, chest):
    return replace(case, slice=4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, r"case\.nii\.gz cannot be read \(.+\); it is damaged or cut short: replace the file"),
        (cut_short_unpacked, r"case\.nii cannot be read \(.+\); it is damaged or cut short: replace the file"),
        (no_volume, r"case\.nii\.gz cannot be read"),
        (nrrd_cut_short, r"case\.nrrd cannot be read \(.+\); it is damaged or cut short: replace the file"),
        (complex_numbers, r"case\.nii\.gz holds complex numbers \(complex64\); a CT holds real ones"),
        (gone, r"case\.nii\.gz is missing; put it back or correct the path"),
        (mask_gone, r"case_mask\.nii\.gz is missing"),
        (singular, r"case\.nii\.gz: by the affine in its header a voxel measures 0 x 2 x 3 mm; expected 0.05 to 50"),
        (shifted_mask, r"case_mask\.nii\.gz lies up to 30\.0 mm away from its volume .*case\.nii\.gz: the affines"),
        (
            swapped_axes,
            r"case_mask\.nii\.gz has shape \(48, 40, 4\) \(z y x\), but its volume .* has \(4, 40, 48\): "
            r"its axes are swapped",
        ),
        (other_size, r"case_mask\.nii\.gz has shape \(4, 40, 47\) \(z y x\), but its volume .* has \(4, 40, 48\); a"),
        (label_seven, r"case_mask\.nii\.gz holds 7, expected 0 \(background\) and 1 \(lesion\)"),
        (undeclared_label, r"case_mask\.nii\.gz holds 7, expected 0, 1, 2; correct the mask"),
        (fraction_of_a_label, r"case_mask\.nii\.gz holds 1\.5, expected whole numbers"),
        (one_slice, r"case\.nii\.gz has one slice only \(z y x 1 x 40 x 48\); give a volume of at least two"),
        (four_axes, r"case\.nii\.gz has 4 axes, 48 x 40 x 4 x 2; a CT volume has three axes: save one volume a file"),
        (not_finite, r"case\.nii\.gz holds NaN or infinite voxels \(1 in slices 0 to 3\)"),
        (constant, r"case\.nii\.gz is empty: every voxel is -1000"),
        (not_hu, r"case\.nii\.gz holds values 24 to 1624: neither HU \(air is -1000\) nor a lung window of 0 to 255"),
        (no_such_slice, r"case\.nii\.gz has 4 slices, but number 4 is asked for"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_fault_has_one_message(make_case, chest, damage, message):
    case = make_case()
    case = damage(case, chest) or case
    with pytest.raises(InputError, match=message) as caught:
        load_volume(case)
    assert "\n" not in str(caught.value)


def test_a_fourth_axis_of_length_one_is_none(make_case, chest, expected):
    case = make_case()
    save(case.image, chest()[0][..., None])
    np.testing.assert_allclose(load_volume(case).image, expected[0], atol=1e-4)


def test_real_volumes(real_data):
    lung1 = real_data / "lung1" / "LUNG1-001"
    lungs = (lung1 / "Lung-Left.nii.gz", lung1 / "Lung-Right.nii.gz")
    facts = scan_case(VolumeCase("a", lung1 / "ct.nii.gz", lung1 / "GTV-1.nii.gz", None, None, lungs, "hu", "a"))
    own = nib.load(lung1 / "GTV-1.nii.gz")
    assert facts.shape == (134, 512, 512)
    assert facts.spacing == pytest.approx((3, 0.9765625, 0.9765625))
    assert facts.lesion_ml == pytest.approx((np.asarray(own.dataobj) > 0).sum() * 3 * 0.9765625**2 / 1000)
    assert facts.hu


def test_real_nrrd(real_data):
    place = real_data / "cip"
    case = VolumeCase("b", place / "ct-64.nrrd", None, None, None, (place / "lm-64.nrrd",), "hu", "b")
    volume = load_volume(case)
    image = sitk.ReadImage(place / "ct-64.nrrd")
    # The file runs right to left and front to back.
    np.testing.assert_allclose(volume.image, to_window(sitk.GetArrayFromImage(image))[:, ::-1, ::-1])
    labels = sitk.GetArrayFromImage(sitk.ReadImage(place / "lm-64.nrrd"))
    np.testing.assert_array_equal(volume.lungs, labels[:, ::-1, ::-1] > 0)
    assert volume.spacing == pytest.approx((3.98734, 4.171872, 4.171872), abs=1e-4)
    # Lungs hold air.
    assert volume.image[volume.lungs].mean() < 110
