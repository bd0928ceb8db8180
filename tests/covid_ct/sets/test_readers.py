"""Readers of the volume sets: tiny folders in the published layouts, with their quirks, read back."""

import io
import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from covidct.ct.volume import load_volume, scan_case, to_window
from covidct.errors import InputError
from covidct.sets.covid_ct_20 import published_name
from covidct.sets.readers import READERS, describe, read_volume_set
from covidct.sets.splits import covid_ct_20_names, patient_of, source_split, volume_fold
from rich.console import Console

AFFINE = np.diag([-1.0, -1.0, 5.0, 1.0])
KAGGLE = {
    "coronacases_001": "coronacases_org_001",
    "coronacases_007": "coronacases_org_case007",
    "radiopaedia_10_85902_1": "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm",
    "radiopaedia_14_85914_0": "radiopaedia_org_covid-19-pneumonia-14_85914_0-dcm",
}


def write(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def fork(path):
    """What macOS leaves beside `path` in an archive."""
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7Mac OS X")


def scan(seed=0, shape=(20, 16, 4)):
    """HU with the tails of coronacases, and a lesion of 12 voxels."""
    hu = np.random.default_rng(seed).integers(-1100, 4000, shape).astype(np.int16)
    lesion = np.zeros(shape, dtype=np.uint8)
    lesion[3:6, 7:9, 1:3] = 1
    return hu, lesion


def turned(values):
    """(z, y, x) of what is stored with AFFINE."""
    return values.transpose(2, 1, 0)[:, ::-1, ::-1]


def names(found):
    return [case.name for case in found.cases]


def check(case, hu, lesion):
    volume = load_volume(case)
    np.testing.assert_allclose(volume.image, to_window(turned(hu)), atol=1e-3)
    np.testing.assert_array_equal(volume.mask, turned(lesion))
    return volume


def pair(root, image, mask):
    hu, lesion = scan()
    write(root / image, hu)
    write(root / mask, lesion)


def write_covid(root, suffix=".nii.gz", places=("COVID-19-CT-Seg_20cases", "Infection_Mask", "Lung_Mask"), rename=None):
    for number, name in enumerate(rename or covid_ct_20_names()):
        hu, lesion = scan(number)
        grey = (hu % 256).astype(np.uint8)
        stem = (rename or {}).get(name, name)
        write(root / places[0] / f"{stem}{suffix}", grey if name.startswith("radio") else hu)
        mask_stem = stem.replace("_org_covid-19-pneumonia-", "_").replace("-dcm", "").replace("_org_", "_")
        write(root / places[1] / f"{mask_stem}{suffix}", lesion)
        write(root / places[2] / f"{mask_stem}{suffix}", lesion * 2)
    return root


def test_covid_as_zenodo_has_it(tmp_path):
    found = read_volume_set("covid-ct-20", write_covid(tmp_path))
    assert names(found) == list(covid_ct_20_names())
    assert len(names(found)) == 20
    assert found.skipped == ()
    for number, case in enumerate(found.cases):
        hu, lesion = scan(number)
        volume = load_volume(case)
        windowed = case.name.startswith("radiopaedia")
        assert volume.hu != windowed
        expected = turned(hu % 256) if windowed else to_window(turned(hu))
        np.testing.assert_allclose(volume.image, expected, atol=1e-3)
        np.testing.assert_array_equal(volume.mask, turned(lesion))
        np.testing.assert_array_equal(volume.lungs, volume.mask)
        assert volume.notes == ()


def test_covid_images_in_the_root(tmp_path):
    write_covid(tmp_path, places=(".", "Infection_Mask", "Lung_Mask"))
    assert len(read_volume_set("covid-ct-20", tmp_path).cases) == 20


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_covid_as_kaggle_has_it(tmp_path, suffix):
    write_covid(tmp_path, suffix, ("ct_scans", "infection_mask", "lung_mask"), KAGGLE)
    write(tmp_path / "ct_scans" / f"another{suffix}", scan()[0])
    found = read_volume_set("covid-ct-20", tmp_path)
    assert names(found) == list(KAGGLE)
    assert [case.intensity for case in found.cases] == ["hu", "hu", "window", "window"]
    assert [len(case.lungs) for case in found.cases] == [1] * 4
    assert any(f"another{suffix}: its name is none of the 20 published ones" in line for line in found.skipped)
    assert any("16 of the 20 scans are not there: coronacases_002, " in line for line in found.skipped)


@pytest.mark.parametrize(("name", "stem"), list(KAGGLE.items()))
def test_published_names(name, stem):
    assert published_name(stem) == published_name(name) == name
    assert published_name("lung_001") == "lung_001"


def test_covid_union_mask(tmp_path):
    hu, lesion = scan()
    both = lesion * 3
    both[10:12] = 1
    write(tmp_path / "coronacases_001.nii.gz", hu)
    write(tmp_path / "coronacases_002.nii.gz", hu)
    write(tmp_path / "Lung_and_Infection_Mask" / "coronacases_001.nii.gz", both)
    found = read_volume_set("covid-ct-20", tmp_path)
    (case,) = found.cases
    volume = check(case, hu, lesion)
    np.testing.assert_array_equal(volume.lungs, turned(both) > 0)
    assert any("coronacases_002.nii.gz: no mask of it in Infection_Mask or Lung_and" in line for line in found.skipped)


def test_covid_scan_that_is_not_square(tmp_path):
    hu, lesion = scan(shape=(630, 401, 3))
    write(tmp_path / "radiopaedia_14_85914_0.nii.gz", (hu % 256).astype(np.uint8))
    write(tmp_path / "Infection_Mask" / "radiopaedia_14_85914_0.nii.gz", lesion)
    (case,) = read_volume_set("covid-ct-20", tmp_path).cases
    facts = scan_case(case)
    assert facts.shape == (3, 401, 630)
    assert facts.lesion_ml == pytest.approx(12 * 5 / 1000)


def test_covid_scan_twice(tmp_path):
    for stem in ("coronacases_001", "coronacases_org_001"):
        write(tmp_path / f"{stem}.nii.gz", scan()[0])
    with pytest.raises(InputError, match=r"coronacases_org_001\.nii\.gz and coronacases_001\.nii\.gz are both"):
        read_volume_set("covid-ct-20", tmp_path)


def write_tasks(root, name, labels, values=1):
    for number in (1, 3, 10):
        hu, lesion = scan(number)
        write(root / "imagesTr" / f"{name}_{number:03d}.nii.gz", hu)
        write(root / "labelsTr" / f"{name}_{number:03d}.nii.gz", lesion * values)
    fork(root / "imagesTr" / f"{name}_001.nii.gz")
    fork(root / "labelsTr" / f"{name}_001.nii.gz")
    write(root / "imagesTs" / f"{name}_002.nii.gz", hu)
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_msd_lung(tmp_path, inside):
    root = write_tasks(tmp_path / "Task06_Lung", "lung", {"0": "background", "1": "cancer"})
    found = read_volume_set("msd-lung", root if inside else tmp_path)
    assert names(found) == ["lung_001", "lung_003", "lung_010"]
    check(found.cases[1], *scan(3))
    assert sum("._*" in line for line in found.skipped) == 2
    assert any("imagesTs: 1 test volumes, which have no masks" in line for line in found.skipped)


def test_a_case_without_mask_does_not_stop_the_others(tmp_path):
    root = write_tasks(tmp_path, "lung", {"0": "background", "1": "cancer"})
    (root / "labelsTr" / "lung_003.nii.gz").unlink()
    found = read_volume_set("msd-lung", root)
    assert names(found) == ["lung_001", "lung_010"]
    assert any("lung_003.nii.gz has no mask" in line for line in found.skipped)


def effusion(root, name, hu, lesion, series="1.3.6"):
    """A DICOM series stored as RAI (ITK's letters: from right, front, foot) and masks stored RPI, with fractions."""
    place = root / "NSCLC-Radiomics" / name / "1.2.study" / series
    place.mkdir(parents=True)
    for k in range(hu.shape[2]):
        image = sitk.GetImageFromArray(hu[:, :, k].T[None])
        image.SetSpacing((1.0, 1.0, 5.0))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0032": f"0\\0\\{5 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "5",
            "0020|0013": str(k),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(place / f"1-{k + 1:03d}.dcm"))
        writer.Execute(image)
    # RPI: x from the right as in the series, y from the back, z from the foot.
    rpi = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, lesion.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    soft = (lesion * 0.97 + 0.01).astype(np.float32)[:, ::-1]
    write(root / "Effusions" / name / f"{name}_effusion_first_reviewer.nii.gz", soft, rpi)
    write(root / "Effusions" / name / f"{name}_effusion_second_reviewer.nii.gz", soft * 0, rpi)
    write(root / "Thoracic_Cavities" / name / f"{name}_thor_cav_primary_reviewer.nii.gz", lesion[:, ::-1] * 2, rpi)
    return place


def test_nsclc_series_under_masks_of_another_orientation(tmp_path):
    hu, lesion = scan()
    hu = np.clip(hu, -1024, 3071)
    effusion(tmp_path, "LUNG1-001", hu, lesion)
    found = read_volume_set("nsclc-pe", tmp_path)
    assert names(found) == ["LUNG1-001"]
    volume = check(found.cases[0], hu, lesion)
    assert volume.spacing == (5, 1, 1)
    np.testing.assert_array_equal(volume.lungs, turned(lesion))
    np.testing.assert_allclose(volume.grid.affine, AFFINE)


def test_nsclc_structure_sets_and_what_is_missing(tmp_path):
    hu, lesion = scan()
    hu = np.clip(hu, -1024, 3071)
    place = effusion(tmp_path, "LUNG1-001", hu, lesion)
    shutil.copytree(place, place.parent / "structures", ignore=lambda _, files: sorted(files)[1:])
    effusion(tmp_path, "LUNG1-005", hu, lesion)
    shutil.rmtree(tmp_path / "NSCLC-Radiomics" / "LUNG1-005")
    two = effusion(tmp_path, "LUNG1-008", hu, lesion)
    shutil.copytree(two, two.parent / "again")
    (tmp_path / "NSCLC-Radiomics" / "LUNG1-003").mkdir()
    found = read_volume_set("nsclc-pe", tmp_path)
    assert names(found) == ["LUNG1-001"]
    skipped = "\n".join(found.skipped)
    assert "LUNG1-005 is missing, the CT of LUNG1-005; download the series" in skipped
    assert "LUNG1-008 holds 2 CT series" in skipped
    assert "1 scans without effusion (LUNG1-003, ...)" in skipped


def test_series_with_a_missing_slice(tmp_path):
    hu, lesion = scan(shape=(20, 16, 6))
    place = effusion(tmp_path, "LUNG1-001", np.clip(hu, -1024, 3071), lesion)
    (place / "1-003.dcm").unlink()
    (case,) = read_volume_set("nsclc-pe", tmp_path).cases
    with pytest.raises(InputError, match=r"its slices are 5 to 10 mm apart, usually 5; some are missing"):
        load_volume(case)


def test_nsclc_as_nifti_copy(tmp_path):
    write_tasks(tmp_path, "LUNG1", {"0": "background", "1": "effusion"})
    found = read_volume_set("nsclc-pe", tmp_path)
    assert names(found) == ["LUNG1_001", "LUNG1_003", "LUNG1_010"]
    check(found.cases[0], *scan(1))


def test_lits(tmp_path):
    for number, part in ((2, "Training Batch 1"), (10, "Training Batch 2"), (0, "Training Batch 1")):
        hu, lesion = scan(number)
        lesion = lesion * 2
        lesion[12:] = 1
        write(tmp_path / part / f"volume-{number}.nii", hu)
        write(tmp_path / part / f"segmentation-{number}.nii", lesion)
    write(tmp_path / "volume-11.nii", scan()[0])
    found = read_volume_set("lits", tmp_path)
    assert names(found) == ["volume-0", "volume-2", "volume-10"]
    check(found.cases[2], *scan(10))
    assert scan_case(found.cases[0]).labels == (0, 1, 2)
    assert any("there is no segmentation-11.nii" in line for line in found.skipped)


def test_lits_other_files_may_have_one_name(tmp_path):
    for number in (0, 1):
        pair(tmp_path / f"case{number}", f"volume-{number}.nii", f"segmentation-{number}.nii")
        write(tmp_path / f"case{number}" / "liver.nii", scan()[1])
    assert names(read_volume_set("lits", tmp_path)) == ["volume-0", "volume-1"]


def test_lits_volume_in_two_batches(tmp_path):
    for part in ("Training Batch 1", "Training Batch 2"):
        pair(tmp_path / part, "volume-0.nii", "segmentation-0.nii")
    with pytest.raises(InputError, match=r"Training Batch 2/segmentation-0\.nii and .*1/.* are the same volume twice"):
        read_volume_set("lits", tmp_path)


def test_lits_says_what_it_does_not_take(tmp_path):
    hu, lesion = scan()
    write(tmp_path / "volume-0.nii", hu)
    for number in (0, 7):
        write(tmp_path / f"segmentation-{number}.nii", lesion)
    for number in (0, 1):
        write(tmp_path / "tests" / f"test-volume-{number}.nii", hu)
    found = read_volume_set("lits", tmp_path)
    assert names(found) == ["volume-0"]
    assert found.skipped == (
        f"{tmp_path / 'segmentation-7.nii'}: there is no volume-7.nii",
        f"{tmp_path / 'tests'}: 2 volumes without a mask (test-volume-0.nii, test-volume-1.nii)",
    )


def test_lits_segmentation_whose_header_was_never_set(tmp_path):
    """As the challenge has them: the image's first axis runs to the left, the mask has the identity with offset 1."""
    hu, lesion = scan()
    image_affine = np.diag([-0.836, 0.836, 2.5, 1.0])
    image_affine[:3, 3] = 172.9, -179.3, -368.0
    unset = np.eye(4)
    unset[:3, 3] = 1
    write(tmp_path / "volume-0.nii", hu, image_affine)
    write(tmp_path / "segmentation-0.nii", lesion * 2, unset)
    (case,) = read_volume_set("lits", tmp_path).cases
    volume = load_volume(case)
    np.testing.assert_array_equal(volume.mask, lesion.transpose(2, 1, 0)[:, :, ::-1])
    np.testing.assert_allclose(volume.image, to_window(hu).transpose(2, 1, 0)[:, :, ::-1], atol=1e-3)
    (note,) = scan_case(case).notes
    assert note.startswith(f"{tmp_path / 'segmentation-0.nii'}: its header is not set")
    # Another header that differs is another place, and so is this one where it is not expected.
    with pytest.raises(InputError, match=r"segmentation-0\.nii lies up to .* mm away from its volume"):
        load_volume(replace(case, placeholder_masks=False))
    write(tmp_path / "segmentation-0.nii", lesion * 2, unset * [-1, 1, 1, 1])
    with pytest.raises(InputError, match=r"segmentation-0\.nii lies up to .* mm away from its volume"):
        load_volume(case)


def test_liver_of_msd(tmp_path):
    write_tasks(tmp_path / "Task03_Liver", "liver", {"0": "background", "1": "liver", "2": "cancer"}, values=2)
    found = read_volume_set("lits", tmp_path)
    check(found.cases[0], *scan(1))


@pytest.mark.parametrize("inside", ["COVID-19-20_v2", ".", "COVID-19-20_v2/Train"])
def test_covid_19_20(tmp_path, inside):
    root = tmp_path / "COVID-19-20_v2"
    hu, lesion = scan()
    for number in ("0003", "0011", "0012"):
        write(root / "Train" / f"volume-covid19-A-{number}_ct.nii.gz", hu)
        write(root / "Train" / f"volume-covid19-A-{number}_seg.nii.gz", lesion)
    (root / "Train" / "volume-covid19-A-0012_seg.nii.gz").unlink()
    write(root / "Validation" / "volume-covid19-A-0001_ct.nii.gz", hu)
    found = read_volume_set("covid-19-20", tmp_path / inside)
    assert names(found) == ["volume-covid19-A-0003", "volume-covid19-A-0011"]
    check(found.cases[0], hu, lesion)
    skipped = "\n".join(found.skipped)
    assert "there is no volume-covid19-A-0012_seg.nii.gz" in skipped
    assert ("Validation: 1 volume without a mask" in skipped) == (inside != "COVID-19-20_v2/Train")


def test_mosmed(tmp_path):
    root = tmp_path / "COVID19_1110"
    hu, lesion = scan()
    write(root / "studies" / "CT-0" / "study_0001.nii.gz", hu)
    write(root / "studies" / "CT-1" / "study_0255.nii.gz", hu)
    write(root / "masks" / "study_0255_mask.nii.gz", lesion)
    write(root / "masks" / "study_0256_mask.nii.gz", lesion)
    found = read_volume_set("mosmed", tmp_path)
    assert names(found) == ["study_0255"]
    check(found.cases[0], hu, lesion)
    skipped = "\n".join(found.skipped)
    assert "CT-0: 1 volume without a mask (study_0001.nii.gz)" in skipped
    assert "study_0256_mask.nii.gz: there is no study study_0256" in skipped


def test_medseg(tmp_path):
    hu, lesion = scan(shape=(20, 16, 5))
    lesion[3, 7, 1], lesion[4, 7, 1] = 2, 3
    write(tmp_path / "tr_im.nii.gz", hu.astype(np.float32))
    write(tmp_path / "tr_mask.nii.gz", lesion.astype(np.float64))
    write(tmp_path / "tr_lungmasks_updated.nii.gz", lesion)
    write(tmp_path / "val_im.nii.gz", hu)
    found = read_volume_set("medseg", tmp_path)
    assert names(found) == ["0", "1", "2", "3", "4"]
    volume = load_volume(found.cases[1])
    np.testing.assert_allclose(volume.image, to_window(turned(hu)[1:2]), atol=1e-3)
    np.testing.assert_array_equal(volume.mask, turned(lesion)[1:2] > 0)
    assert scan_case(found.cases[1]).labels == (0, 1, 2, 3)
    assert any("val_im.nii.gz: no mask of it is published" in line for line in found.skipped)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_medseg_cut_short(tmp_path, suffix):
    pair(tmp_path, f"tr_im{'.nii' if suffix == '.nrrd' else suffix}", "tr_mask.nii.gz")
    path = tmp_path / f"tr_im{suffix}"
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "tr_im.nii")), str(path), useCompression=True)
        (tmp_path / "tr_im.nii").unlink()
    path.write_bytes(path.read_bytes()[:-500])
    # The one file holds every case, and its header is held against it when it is opened.
    with pytest.raises(InputError, match=rf"tr_im\{suffix} cannot be read \(.+\); it is damaged or cut short"):
        read_volume_set("medseg", tmp_path)


def test_medseg_incomplete(tmp_path):
    write(tmp_path / "tr_im.nii.gz", scan()[0])
    with pytest.raises(InputError, match=r"tr_mask\.nii\.gz is missing"):
        read_volume_set("medseg", tmp_path)
    write(tmp_path / "tr_mask.nii.gz", scan()[1][:, :, :2])
    with pytest.raises(InputError, match=r"tr_mask\.nii\.gz has 2 slices, but .*tr_im\.nii\.gz has 4"):
        read_volume_set("medseg", tmp_path)


@pytest.mark.parametrize(
    "labels",
    [{"0": "background", "1": "a", "7": "b"}, {"background": 0, "a": 1, "b": 7}, {"background": 0, "all": [1, 7]}],
)
def test_nnunet_declares_its_labels(tmp_path, labels):
    found = read_volume_set("nnunet-raw", write_tasks(tmp_path, "case", labels, values=7))
    check(found.cases[0], *scan(1))


def test_nnunet_label_that_is_not_declared(tmp_path):
    root = write_tasks(tmp_path, "case", {"background": 0, "lesion": 1})
    write(root / "labelsTr" / "case_003.nii.gz", scan(3)[1] * 7)
    found = read_volume_set("nnunet-raw", root)
    with pytest.raises(InputError, match=r"case_003\.nii\.gz holds 7, expected 0, 1"):
        load_volume(found.cases[1])
    check(found.cases[2], *scan(10))


@pytest.mark.parametrize(
    "labels", [{"background": 0, "a": 1, "ignore": 2}, {"0": "background", "1": "a", "2": "ignore"}]
)
def test_nnunet_voxels_to_ignore_are_no_lesion(tmp_path, labels):
    root = write_tasks(tmp_path, "case", labels)
    write(root / "labelsTr" / "case_003.nii.gz", scan(3)[1] * 2)
    found = read_volume_set("nnunet-raw", root)
    with pytest.raises(InputError, match=r"case_003\.nii\.gz holds 2, expected 0, 1"):
        load_volume(found.cases[1])
    check(found.cases[2], *scan(10))


def test_nnunet_channel_numbers_and_a_damaged_description(tmp_path):
    hu, lesion = scan()
    write(tmp_path / "imagesTr" / "case_0000.nii.gz", hu)
    write(tmp_path / "labelsTr" / "case.nii.gz", lesion)
    (case,) = read_volume_set("nnunet-raw", tmp_path).cases
    check(case, hu, lesion)
    for text, what in (
        ("{", "it is not JSON"),
        ("[" * 10**5, "it is not JSON"),
        ("null", "it must be an object, got None"),
        ("{}", "labels is missing"),
        ('{"labels": [0, 1]}', r"labels must be an object|labels must be a valid"),
        ('{"labels": {"background": 0, "a": 1.5}}', r"labels\.a\S* must be a valid integer, got 1\.5"),
        ('{"labels": {"background": "nothing"}}', "labels 'background' must be a number"),
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=rf"dataset\.json is damaged: {what}.*; expected nnU-Net's JSON with 'lab"):
            read_volume_set("nnunet-raw", tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_plain_folder(tmp_path, suffix):
    hu, lesion = scan()
    for name, values in (("one", hu), ("one_mask", lesion), ("two", hu)):
        path = write(tmp_path / f"{name}.nii.gz", values)
        if suffix != ".nii.gz":
            sitk.WriteImage(sitk.ReadImage(path), tmp_path / f"{name}{suffix}")
            path.unlink()
    found = read_volume_set("folder", tmp_path)
    assert names(found) == ["one"]
    check(found.cases[0], hu, lesion)
    assert any(f"two{suffix} has no mask" in line for line in found.skipped)


def test_plain_folder_of_folders(tmp_path):
    hu, lesion = scan()
    for name in ("one", "two"):
        write(tmp_path / name / "ct.nii.gz", hu)
        write(tmp_path / name / "lesion.nii.gz", lesion)
        write(tmp_path / name / "lung-left.nii.gz", lesion)
    (tmp_path / "two" / "lesion.nii.gz").unlink()
    found = read_volume_set("folder", tmp_path)
    assert names(found) == ["one"]
    assert check(found.cases[0], hu, lesion).lungs.any()
    assert any("two: no file is the lesion mask" in line for line in found.skipped)


def test_plain_folder_says_which_folders_hold_no_volume(tmp_path):
    hu, lesion = scan()
    write(tmp_path / "one" / "ct.nii.gz", hu)
    write(tmp_path / "one" / "lesion.nii.gz", lesion)
    (tmp_path / ".hidden").mkdir()
    for name in ("two", "three/ct"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.dcm").touch()
    write(tmp_path / "three" / "lesion.nii.gz", lesion)
    found = read_volume_set("folder", tmp_path)
    assert names(found) == ["one"]
    three, two = found.skipped
    assert three.startswith(f"{tmp_path / 'three'}: no file is the CT volume: found lesion.nii.gz; name exactly one")
    assert two == f"{tmp_path / 'two'} holds no NIfTI, NRRD or MetaImage file; convert DICOM first"


def test_plain_folder_says_which_folders_it_leaves_out(tmp_path):
    hu, lesion = scan()
    for place in (tmp_path, tmp_path / "more"):
        write(place / "a.NII.GZ", hu)
        write(place / "a_mask.nii.gz", lesion)
    (tmp_path / "notes").mkdir()
    # Twice the same, which is nobody's business in a folder that is left out.
    write(tmp_path / "more" / "a.nii", hu)
    found = read_volume_set("folder", tmp_path)
    assert names(found) == ["a"]
    assert found.skipped == (
        f"{tmp_path / 'more'} is left out, since {tmp_path} itself holds volumes; give it by itself",
    )


@pytest.mark.parametrize("image", ["a", "a_ct", "A_CT"])
@pytest.mark.parametrize("sides", [("a_lungLeft", "a_lungright"), ("a_lung_Left", "a_lung_right")])
def test_lung_masks_in_a_flat_folder_are_the_cases_own(tmp_path, image, sides):
    hu, lesion = scan()
    left, right = np.zeros_like(lesion), np.zeros_like(lesion)
    left[:10], right[10:] = 1, 1
    for name, values in ((image, hu), ("a_seg", lesion), *zip(sides, (left, right), strict=True)):
        write(tmp_path / f"{name}.nii.gz", values)
    # A case of its own by its own mask, and one whose case is not there.
    for name, values in (("a_lung2", hu), ("a_lung2_mask", lesion), ("b_lungs", left)):
        write(tmp_path / f"{name}.nii.gz", values)
    found = read_volume_set("folder", tmp_path)
    (own,) = [case for case in found.cases if case.name != "a_lung2"]
    assert len(found.cases) == 2
    assert [path.name for path in own.lungs] == [f"{side}.nii.gz" for side in sides]
    assert check(own, hu, lesion).lungs.all()
    (line,) = found.skipped
    assert line.startswith(f"{tmp_path / 'b_lungs.nii.gz'} has no mask")


def test_real_folders(real_data):
    found = read_volume_set("folder", real_data / "lidc")
    assert names(found) == ["LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003"]
    for case in found.cases:
        facts = scan_case(case)
        assert facts.hu
        assert facts.labels == (0, 1)
        assert facts.shape[1:] == (512, 512)
        assert facts.lesion_ml > 0
    (case,) = read_volume_set("folder", real_data / "lung1").cases
    assert (case.name, len(case.lungs)) == ("LUNG1-001", 2)


def test_description(tmp_path):
    found = read_volume_set("covid-ct-20", write_covid(tmp_path, rename=KAGGLE))
    broken = found.cases[1]
    broken.image.write_bytes(b"")
    facts = {case.name: scan_case(case) for case in found.cases if case != broken}
    console = Console(width=200, file=io.StringIO())
    console.print(describe(found, facts))
    text = console.file.getvalue()
    assert "covid-ct-20: 4 cases, 3 readable" in text
    rows = [line for line in text.splitlines() if "4 x 16 x 20" in line]
    assert [row.split("│")[1].strip() for row in rows] == [case.name for case in found.cases if case != broken]
    assert [cell.strip() for cell in rows[0].split("│")[2:-1]] == ["4 x 16 x 20", "5 x 1 x 1", "HU", "0 1", "0.1"]
    assert "skipped: " in text


@pytest.mark.parametrize("name", list(READERS))
def test_empty_folder(tmp_path, name):
    with pytest.raises(InputError, match=str(tmp_path)):
        read_volume_set(name, tmp_path)


def test_no_such_set_or_folder(tmp_path):
    with pytest.raises(InputError, match=r"--dataset nothing is not known; expected covid-ct-20, msd-lung, nsclc-pe, "):
        read_volume_set("nothing", tmp_path)
    with pytest.raises(
        InputError, match=r"absent does not exist; give the folder of the set, as --dataset mosmed expects it"
    ):
        read_volume_set("mosmed", tmp_path / "absent")


LAYOUTS = {
    "covid-ct-20": write_covid,
    "msd-lung": lambda root: write_tasks(root / "Task06_Lung", "lung", {"0": "background", "1": "cancer"}),
    "nsclc-pe": lambda root: effusion(root, "LUNG1-001", np.clip(scan()[0], -1024, 3071), scan()[1]),
    "lits": lambda root: pair(root / "Training Batch 1", "volume-0.nii", "segmentation-0.nii"),
    "covid-19-20": lambda root: pair(
        root / "Train", "volume-covid19-A-0003_ct.nii.gz", "volume-covid19-A-0003_seg.nii.gz"
    ),
    "mosmed": lambda root: pair(root, "studies/CT-1/study_0255.nii.gz", "masks/study_0255_mask.nii.gz"),
    "medseg": lambda root: pair(root, "tr_im.nii.gz", "tr_mask.nii.gz"),
    "nnunet-raw": lambda root: write_tasks(root, "case", {"background": 0, "lesion": 1}),
    "folder": lambda root: pair(root / "one", "ct.nii.gz", "lesion.nii.gz"),
}


@pytest.mark.parametrize("name", [name for name in READERS if name != "phantom-volumes"])
def test_what_macos_leaves_in_an_archive_is_no_volume(tmp_path, name):
    LAYOUTS[name](tmp_path)
    before = read_volume_set(name, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("._")]:
        fork(path)
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    found = read_volume_set(name, tmp_path)
    assert found.cases == before.cases
    assert len(found.cases) > 0
    assert scan_case(found.cases[0]).shape[1:] == (16, 20)


def test_published_folds_of_volumes():
    folds = [volume_fold("covid-ct-20", fold) for fold in range(5)]
    assert folds[0][0] == ("coronacases_008", "coronacases_007", "radiopaedia_36_86526_0", "radiopaedia_4_85506_1")
    for train, test in folds:
        assert sorted((*train, *test)) == sorted(covid_ct_20_names())
    assert sum(len(test) for _, test in folds) == 80


def test_folds_by_patient():
    first, second = "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"
    assert patient_of(first) == patient_of(second) != patient_of("radiopaedia_14_85914_0")
    assert len({patient_of(name) for name in covid_ct_20_names()}) == 19
    for fold in range(5):
        train, test = volume_fold("covid-ct-20", fold)
        own, apart = volume_fold("covid-ct-20", fold, by_patient=True)
        assert own == train
        assert set(test) - set(apart) == ({second} if fold == 2 else {first} if fold == 4 else set())


def test_source_splits():
    assert [len(part) for part in source_split("msd-lung")] == [51, 12]
    assert [len(part) for part in source_split("nsclc-pe")] == [63, 15]
    with pytest.raises(InputError, match=r"source set lits has no published split; msd-lung and nsclc-pe have"):
        source_split("lits")


@pytest.mark.parametrize("fold", [None, -1, 5])
def test_no_such_fold_of_volumes(fold):
    with pytest.raises(InputError, match=rf"--fold must be 0 to 4, got {fold}"):
        volume_fold("covid-ct-20", fold)
    with pytest.raises(InputError, match="--dataset folder has no published folds"):
        volume_fold("folder", 0)
