import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import predict
import pytest
import SimpleITK as sitk
import torch
from covidct.errors import InputError
from covidct.run.building import build_model
from covidct.run.checkpoint import load_run, save_weights
from covidct.run.config import Config
from covidct.store.preprocess import Plan
from covidct.volumes import prediction
from covidct.volumes.plan import write_plan
from covidct.volumes.presets import PRESETS as VOLUME_PRESETS
from torch import nn

from tests.covid_ct.plain_demo import DEMO

SPACING = (3.0, 2.0, 2.0)  # of save_volume, (z, y, x)
VOXEL_ML = 3 * 2 * 2 / 1000
WHITE_HU = -200  # what Bright calls a lesion, in chests without noise the body and the lesion but not the lungs


class Bright(nn.Module):
    """Every voxel above WHITE_HU is a lesion."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 100.0))

    def forward(self, x):
        return self.scale * (x - (WHITE_HU + 1250) / 1500 * 255)


def plan(spacing=SPACING):
    """Normalisation that leaves values as they are."""
    return Plan(spacing=spacing, patch_size=(4, 16, 16), low=0.0, high=255.0, mean=0.0, std=1.0)


@pytest.fixture
def run(tmp_path):
    values = VOLUME_PRESETS["demo"] | {"size": (4, 16, 16), "features_per_stage": (4, 8), "strides": (), "workers": 0}
    values |= {"kernel_sizes": ()}
    config = Config("covid-ct-20", "", (), "unet", "demo", fold=0, seed=0, **values)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    save_weights(folder, build_model(config))
    write_plan(folder, plan())
    return folder


@pytest.fixture
def bright(monkeypatch):
    """The run's network is `Bright`."""
    monkeypatch.setattr(prediction, "load_run", lambda run: (load_run(run)[0], Bright()))


@pytest.fixture
def call(monkeypatch, capsys):
    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        predict.main()
        return capsys.readouterr().out

    return with_arguments


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def report(path):
    return json.loads(path.read_text())["result"]


def values(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SPL", "ILA"])
def test_mask_has_the_files_own_grid(call, run, bright, chest, save_volume, tmp_path, codes):
    hu, _ = chest()
    path = save_volume(tmp_path / "in" / "case.nii.gz", hu, codes)
    text = call(run, path, "--output", tmp_path / "out")
    assert names(tmp_path / "out") == ["case.json", "case.nii.gz", "case.png"]
    given, mask = nib.load(path), nib.load(tmp_path / "out" / "case.nii.gz")
    assert mask.shape == given.shape
    np.testing.assert_array_equal(mask.affine, given.affine)
    assert mask.get_data_dtype() == np.uint8
    expected = values(path) > WHITE_HU
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
    assert f"case: lesion {expected.sum() * VOXEL_ML:.1f} ml" in text
    assert "1 of 1 volumes written" in text


def overlap(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_other_spacing_of_the_network_comes_back_to_the_grid(call, run, bright, chest, save_volume, tmp_path):
    write_plan(run, plan((4.5, 1.6, 2.4)))
    hu, _ = chest()
    path = save_volume(tmp_path / "case.nii.gz", np.repeat(hu, 4, axis=2))
    call(run, path, "--output", tmp_path / "out")
    mask, expected = values(tmp_path / "out" / "case.nii.gz") > 0, values(path) > WHITE_HU
    assert mask.shape == expected.shape
    assert overlap(mask, expected) > 0.93
    for axis in range(3):
        for shift in (-1, 1):
            assert overlap(mask, expected) > overlap(np.roll(mask, shift, axis), expected)


def test_probabilities_are_the_networks(call, run, chest, save_volume, tmp_path):
    hu, _ = chest()
    path = save_volume(tmp_path / "case.nii.gz", hu, "RAS")
    call(run, path, "--output", tmp_path / "out", "--probabilities", "--flips", "--region", "all")
    assert names(tmp_path / "out") == ["case.json", "case.nii.gz", "case.png", "case_probability.nii.gz"]
    probability = nib.load(tmp_path / "out" / "case_probability.nii.gz")
    assert probability.get_data_dtype() == np.float32
    np.testing.assert_array_equal(values(tmp_path / "out" / "case.nii.gz"), np.asarray(probability.dataobj) > 0.5)
    # MONAI on the whole array, mirrored by hand.
    from monai.inferers.utils import sliding_window_inference

    model = load_run(run)[1]
    window = (np.clip(values(path), -1250, 250).astype(np.float32) + 1250) / 1500 * 255
    image = torch.from_numpy(np.ascontiguousarray(window.T))[None, None]

    def mirrored(x):
        axes = [[2 + a for a in range(3) if n >> a & 1] for n in range(8)]
        return torch.stack([model(x.flip(a))[0].sigmoid().flip(a) for a in axes]).mean(0)

    with torch.inference_mode():
        expected = sliding_window_inference(image, (4, 16, 16), 1, mirrored, 0.5, "gaussian")[0, 0].numpy().T
    np.testing.assert_allclose(np.asarray(probability.dataobj), expected, atol=1e-5)


def lung_masks():
    right, left = np.zeros((48, 40, 4), np.uint8), np.zeros((48, 40, 4), np.uint8)
    right[7:22, 8:32], left[28:41, 10:30] = 1, 1
    return right, left


def test_percent_of_lung(call, run, bright, chest, save_volume, tmp_path):
    hu, lesion = chest()
    hu[(hu == 40) | (hu == 600)] = -300  # the body is no lesion to Bright
    right, left = lung_masks()
    save_volume(tmp_path / "LUNG1-001" / "ct.nii.gz", hu)
    save_volume(tmp_path / "LUNG1-001" / "Lung-Right.nii.gz", right)
    save_volume(tmp_path / "LUNG1-001" / "Lung-Left.nii.gz", left)
    save_volume(tmp_path / "LUNG1-001" / "GTV-1.nii.gz", lesion)
    text = call(run, tmp_path / "LUNG1-001", "--output", tmp_path / "out")
    found = report(tmp_path / "out" / "LUNG1-001.json")
    lung = int(right.sum()) + int(left.sum())
    assert found["lesion_ml"] == pytest.approx(lesion.sum() * VOXEL_ML)
    assert found["lung_ml"] == pytest.approx(lung * VOXEL_ML)
    assert found["percent_of_lung"] == pytest.approx(100 * lesion.sum() / lung)
    assert f"LUNG1-001: lesion 0.7 ml, 0.7 ml of it in the lung: {100 * lesion.sum() / lung:.1f} % of the lung" in text
    assert "1 of 1 volumes" in text


def test_lesion_outside_of_the_lung_is_told_apart(call, run, bright, chest, save_volume, tmp_path):
    hu, lesion = chest()
    hu[(hu == 40) | (hu == 600)] = -300
    right, left = lung_masks()
    aerated = (right | left) & ~lesion
    aerated[31:33] |= lesion[31:33]
    path = save_volume(tmp_path / "in" / "case.nii.gz", hu)
    for side, lung in (("left", left), ("right", right)):
        save_volume(tmp_path / "in" / f"case_lung_{side}.nii.gz", lung & aerated)
    call(run, path.parent, "--output", tmp_path / "out")
    found = report(tmp_path / "out" / "case.json")
    inside = lesion[31:33].sum()
    assert 0 < inside < lesion.sum()
    assert found["lesion_ml"] == pytest.approx(lesion.sum() * VOXEL_ML)
    assert found["lesion_in_lung_ml"] == pytest.approx(inside * VOXEL_ML)
    assert found["percent_of_lung"] == pytest.approx(100 * inside / aerated.sum())


def test_an_empty_lung_mask_is_said(call, run, bright, chest, save_volume, tmp_path):
    hu, _ = chest()
    path = save_volume(tmp_path / "in" / "case.nii.gz", hu)
    mask = save_volume(tmp_path / "in" / "case_lungs.nii.gz", np.zeros(hu.shape, dtype=np.uint8))
    call(run, path, "--output", tmp_path / "out")
    found = report(tmp_path / "out" / "case.json")
    assert found["percent_of_lung"] is None
    assert found["notes"] == [f"{mask}: no voxel is lung, so that there is no share of it"]


def test_given_lungs_and_their_region(call, run, bright, chest, save_volume, tmp_path):
    hu, _ = chest()
    left = lung_masks()[1]
    path = save_volume(tmp_path / "case.nii.gz", hu)
    mask = save_volume(tmp_path / "masks" / "case.nii.gz", left)
    for lungs in (mask, mask.parent):
        out = tmp_path / f"out-{lungs.name}"
        call(run, path, "--output", out, "--lungs", lungs, "--region", "lungs")
        found = values(out / "case.nii.gz") > 0
        # Nothing is looked at outside of the lung's box and its rim of 2 voxels.
        expected = values(path) > WHITE_HU
        expected[:26] = expected[43:] = expected[:, :8] = expected[:, 32:] = False
        np.testing.assert_array_equal(found, expected)


def test_folder_of_volumes_without_their_masks(call, run, bright, chest, save_volume, tmp_path):
    hu, lesion = chest()
    for name, array in (("lung_001", hu), ("lung_002", hu), ("lung_001_mask", lesion), ("lung_002_lungs", lesion)):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", array)
    (tmp_path / "in" / "._lung_001.nii.gz").write_bytes(b"macOS")
    assert "2 of 2 volumes" in call(run, tmp_path / "in", "--output", tmp_path / "out")
    assert [name for name in names(tmp_path / "out") if name.endswith(".nii.gz")] == [
        "lung_001.nii.gz",
        "lung_002.nii.gz",
    ]


def test_bad_files_are_reported_and_the_others_done(run, bright, chest, save_volume, tmp_path, monkeypatch, capsys):
    hu, _ = chest()
    good = save_volume(tmp_path / "in" / "good.nii.gz", hu)
    cut = tmp_path / "in" / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:200])
    missing = tmp_path / "missing.nii.gz"
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, (run, cut, missing, good, "--output", tmp_path / "out"))])
    with pytest.raises(SystemExit) as stop:
        predict.main()
    assert stop.value.code == 2
    assert names(tmp_path / "out") == ["good.json", "good.nii.gz", "good.png"]
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True]
    assert f"{cut} cannot be read" in lines[0]
    assert str(missing) in lines[1]
    assert "1 of 3 volumes written" in captured.out


def test_diverged_training_is_said(run, chest, save_volume, tmp_path, monkeypatch, capsys):
    broken = Bright()
    broken.scale.data *= np.nan
    monkeypatch.setattr(prediction, "load_run", lambda run: (load_run(run)[0], broken))
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])
    monkeypatch.setattr(sys, "argv", ["predict.py", str(run), str(path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        predict.main()
    assert "case.nii.gz: the network's output is NaN; the training has diverged" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


def test_windowed_volume_is_taken_with_a_note(run, bright, chest, save_volume, tmp_path, monkeypatch, capsys):
    hu, _ = chest()
    windowed = ((hu.clip(-1250, 250) + 1250) / 1500 * 255).astype(np.float32)
    path = save_volume(tmp_path / "case.nii.gz", windowed)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(run), str(path), "--output", str(tmp_path / "out")])
    predict.main()
    assert "expected HU (air is -1000); taken for already windowed" in capsys.readouterr().err
    np.testing.assert_array_equal(values(tmp_path / "out" / "case.nii.gz"), hu > WHITE_HU)


def write_dicom(folder, hu):
    """A series of `hu`, indexed [right to left, anterior to posterior, feet to head], 2 x 2 x 3 mm."""
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    study, series = "1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"
    for number in range(hu.shape[2]):
        image = sitk.GetImageFromArray(np.ascontiguousarray(hu[:, :, number].T)[None])
        image.SetSpacing((2.0, 2.0, 3.0))
        image.SetOrigin((0.0, 0.0, 3.0 * number))
        for key, value in (
            ("0008|0060", "CT"),
            ("0020|000d", study),
            ("0020|000e", series),
            ("0020|0013", str(number)),
        ):
            image.SetMetaData(key, value)
        image.SetMetaData("0020|0032", f"0\\0\\{3 * number}")
        image.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{number:03d}.dcm"))
        writer.Execute(image)
    return folder


def test_dicom_series_and_nrrd_become_nifti_in_their_place(call, run, bright, chest, tmp_path):
    import SimpleITK as sitk

    hu, _ = chest()
    series = write_dicom(tmp_path / "in" / "series", hu)
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.T))
    image.SetSpacing((2.0, 2.0, 3.0))
    nrrd = tmp_path / "in" / "scan.nrrd"
    sitk.WriteImage(image, str(nrrd))
    assert "2 of 2 volumes" in call(run, series, nrrd, "--output", tmp_path / "out")
    for name in ("series", "scan"):
        mask = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), hu > WHITE_HU)
        # ITK's first axis runs to the left, its second to the back; NIfTI's world to the right and the front.
        np.testing.assert_allclose(mask.affine, np.diag([-2.0, -2.0, 3.0, 1.0]), atol=1e-6)


def test_what_is_there_is_not_computed_again(call, run, chest, save_volume, tmp_path, monkeypatch):
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])
    arguments = (run, path, "--output", tmp_path / "out")
    first = call(*arguments)
    before = (tmp_path / "out" / "case.nii.gz").read_bytes()
    counted = []
    segment = prediction.segment
    monkeypatch.setattr(prediction, "segment", lambda *a, **k: counted.append(1) or segment(*a, **k))
    again = call(*arguments)
    assert not counted
    assert "(was there already)" in again
    assert again.splitlines()[0].startswith(first.splitlines()[0])
    # Other settings, a missing picture, another file, other weights: computed anew.
    call(*arguments, "--flips")
    call(*arguments)
    (tmp_path / "out" / "case.png").unlink()
    call(*arguments)
    assert len(counted) == 3
    assert (tmp_path / "out" / "case.nii.gz").read_bytes() == before
    os.utime(path, ns=(1, 1))
    call(*arguments)
    config = load_run(run)[0]
    model = build_model(config)
    model.decoder.seg_layers[-1].bias.data += 9
    save_weights(run, model)
    call(*arguments)
    assert len(counted) == 5
    assert (tmp_path / "out" / "case.nii.gz").read_bytes() != before


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_files(call, run, chest, save_volume, tmp_path):
    hu, _ = chest()
    for number in range(4):
        save_volume(tmp_path / "in" / f"case{number}.nii.gz", np.repeat(hu, 4, axis=2) + number)
    arguments = [str(run), str(tmp_path / "in"), "--output"]
    # Threads sum in another order: as many as here.
    environment = os.environ | {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, predict.__file__, *arguments, str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    # The record of a case is begun before its files: the first case is whole then, and the second is being written.
    while process.poll() is None and not (tmp_path / "killed" / "case1.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "case3.json").exists()
    left = {path.name: path.read_bytes() for path in (tmp_path / "killed").glob("[!.]*")}
    text = call(*arguments, tmp_path / "killed")
    assert text.count("(was there already)") >= 1
    assert "(was there already)" not in call(*arguments, tmp_path / "whole")
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    for name in names(tmp_path / "whole"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # Whatever was there after the kill was whole; a record that was begun has no result.
    assert {"case0.nii.gz", "case0.png", "case0.json"} <= set(left)
    for name, written in left.items():
        if name.endswith(".json") and json.loads(written)["result"] is None:
            assert name != "case0.json"
        else:
            assert written == (tmp_path / "whole" / name).read_bytes(), name


def refused(call, message, *arguments):
    with pytest.raises(InputError, match=message):
        call(*arguments)


def stopped(call, *arguments):
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code == 2


def test_results_that_would_replace_something_are_refused(call, run, chest, save_volume, tmp_path, capsys):
    path = save_volume(tmp_path / "a" / "case.nii.gz", chest()[0])
    other = save_volume(tmp_path / "b" / "case.nii", chest()[0])
    stopped(call, run, path, other, "--output", tmp_path / "out")
    captured = capsys.readouterr()
    assert re.search(r"would both be written to .*out/case\.nii\.gz; rename one", captured.err)
    assert "1 of 2 volumes written" in captured.out
    refused(call, r"case\.nii\.gz is an input and would be replaced", run, path, "--output", tmp_path / "a")
    labels = save_volume(tmp_path / "labels" / "case.nii.gz", chest()[1])
    before = labels.read_bytes()
    refused(call, "was not written by predict.py, and would be replaced", run, path, "--output", labels.parent)
    assert labels.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        '{"Modality": "CT", "SliceThickness": 3}',
        '["origin", "result"]',
        '{"origin": {',
        "{}",
        "null",
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_a_ct_with_the_json_of_its_converter_is_not_replaced(call, run, chest, save_volume, tmp_path, text):
    """dcm2niix writes NAME.nii.gz and NAME.json of the series NAME."""
    converted = save_volume(tmp_path / "nifti" / "series.nii.gz", chest()[0])
    converted.with_name("series.json").write_text(text)
    (tmp_path / "dicom" / "series").mkdir(parents=True)
    (tmp_path / "dicom" / "series" / "000.dcm").touch()
    before = {path.name: path.read_bytes() for path in converted.parent.iterdir()}
    arguments = (run, tmp_path / "dicom" / "series", "--output", converted.parent)
    refused(call, r"series\.nii\.gz is there, was not written by predict\.py, and would be replaced", *arguments)
    assert {path.name: path.read_bytes() for path in converted.parent.iterdir()} == before
    converted.unlink()
    refused(call, r"series\.json is there, was not written by predict\.py, and would be replaced", *arguments)
    assert names(converted.parent) == ["series.json"]


def test_names_come_from_the_path_as_given(chest, save_volume, tmp_path, monkeypatch):
    """git-annex, DVC and the hub's cache lay links to contents that are named by their checksums."""
    content = save_volume(tmp_path / "cache" / "K1" / "ct.nii.gz", chest()[0])
    for name in ("a", "b"):
        (tmp_path / "volumes").mkdir(exist_ok=True)
        (tmp_path / "volumes" / f"{name}.nii.gz").symlink_to(content)
    found, faults = prediction.volume_inputs(
        [tmp_path / "volumes", tmp_path / "volumes" / ".." / "volumes" / "a.nii.gz"]
    )
    assert (list(found.values()), faults) == (["a", "b"], [])
    case = tmp_path / "sub-01"
    case.mkdir()
    for name in ("sub-01", "lesion", "lung_left"):
        key = save_volume(tmp_path / "cache" / f"{name}-KEY" / f"{name}-KEY.nii.gz", chest()[0])
        (case / f"{name}.nii.gz").symlink_to(key)
    found, _ = prediction.volume_inputs([case])
    assert found == {case / "sub-01.nii.gz": "sub-01"}
    for name in ("patient1", "patient2"):
        (tmp_path / name).symlink_to(content.parent)
    monkeypatch.chdir(tmp_path)
    found, _ = prediction.volume_inputs([Path("patient1"), Path("patient2")])
    assert list(found.values()) == ["patient1", "patient2"]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_their_header_are_a_part_of_the_volume(call, run, chest, tmp_path, suffix):
    image = sitk.GetImageFromArray(np.ascontiguousarray(chest()[0].T))
    image.SetSpacing((2, 2, 3))
    sitk.WriteImage(image, tmp_path / f"case{suffix}")
    arguments = (run, tmp_path / f"case{suffix}", "--output", tmp_path / "out")
    assert "was there already" not in call(*arguments)
    assert "was there already" in call(*arguments)
    raw = tmp_path / "case.raw"
    raw.write_bytes(np.full(chest()[0].shape, -900, dtype=np.int16).tobytes()[:-2] + b"\0\0")
    assert "was there already" not in call(*arguments)


def test_a_batch_of_volumes_goes_on(call, run, chest, save_volume, tmp_path, capsys):
    good = save_volume(tmp_path / "in" / "good.nii.gz", chest()[0])
    shutil.copy(good, tmp_path / "in" / ".nii.gz")
    (tmp_path / "in" / "notes.txt").write_text("")
    (tmp_path / "in" / "loop.nii.gz").symlink_to("loop.nii.gz")
    os.mkfifo(tmp_path / "in" / "pipe.nrrd")
    save_volume(tmp_path / "in" / "old.nii.gz", chest()[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.json").write_text("{}")
    named = [tmp_path / "in" / name for name in (".nii.gz", "notes.txt")]
    stopped(call, run, *named, tmp_path / "absent.mha", tmp_path / "in", "--output", tmp_path / "out")
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    for what in (
        r"\.nii\.gz has no name before its suffix",
        r"notes\.txt is no volume by its name",
        r"absent\.mha is missing",
        r"loop\.nii\.gz is a link that leads back to itself",
        r"pipe\.nrrd is a named pipe",
        r"old\.json is there, was not written by predict\.py",
    ):
        assert sum(re.search(what, line) is not None for line in lines) == 1, what
    assert len(lines) == 6
    assert "1 of 7 volumes written" in captured.out
    assert (tmp_path / "out" / "good.nii.gz").is_file()


def test_results_never_share_a_file(call, run, chest, save_volume, tmp_path, capsys):
    for name in ("a", "a_probability", "b"):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", chest()[0])
    out = tmp_path / "out"
    stopped(call, run, tmp_path / "in", "--output", out, "--probabilities")
    captured = capsys.readouterr()
    first, second = (tmp_path / "in" / f"{name}.nii.gz" for name in ("a", "a_probability"))
    assert f"{first} and {second} would both be written to {out / 'a_probability.nii.gz'}; rename" in captured.err
    assert "2 of 3 volumes written" in captured.out
    assert nib.load(out / "a_probability.nii.gz").get_data_dtype() == np.float32
    call(run, tmp_path / "in", "--output", tmp_path / "masks")
    assert nib.load(tmp_path / "masks" / "a_probability.nii.gz").get_data_dtype() == np.uint8


def test_lung_masks_are_inputs(call, run, chest, save_volume, tmp_path):
    case = save_volume(tmp_path / "in" / "case.nii.gz", chest()[0])
    lungs = save_volume(tmp_path / "lungs" / "case.nii.gz", chest()[1])
    before = lungs.read_bytes()
    # Even beside a record that says that the file is a result.
    call(run, case, "--output", tmp_path / "out")
    shutil.copy(tmp_path / "out" / "case.json", lungs.with_name("case.json"))
    message = r"lungs/case\.nii\.gz is an input and would be replaced"
    refused(call, message, run, case, "--output", lungs.parent, "--lungs", lungs.parent)
    assert lungs.read_bytes() == before


def test_a_folder_that_holds_its_own_results_is_predicted_again(call, run, chest, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    image = sitk.GetImageFromArray(np.ascontiguousarray(chest()[0].T))
    for name in ("a.nrrd", "b.mha"):
        sitk.WriteImage(image, folder / name)
    for there in ("", " (was there already)"):
        text = call(run, folder, "--output", folder, "--probabilities")
        assert "2 of 2 volumes written" in text
        assert all(line.endswith(f" ml{there}") for line in text.splitlines()[:2])
    for name in ("a.nrrd", "b.mha"):
        (folder / name).unlink()
    refused(call, "in holds nothing but what predict.py wrote", run, folder, "--output", tmp_path / "out")


def test_a_volume_beside_its_own_record_is_an_input(call, run, chest, save_volume, tmp_path):
    case = save_volume(tmp_path / "in" / "case.nii.gz", chest()[0])
    call(run, case, "--output", tmp_path / "out")
    shutil.copy(tmp_path / "out" / "case.json", case.with_name("case.json"))
    assert "1 of 1 volumes written" in call(run, case.parent, "--output", tmp_path / "again")


def test_results_do_not_lie_among_the_slices_of_a_series(call, run, chest, tmp_path):
    series = write_dicom(tmp_path / "series", chest()[0])
    before = names(series)
    refused(call, "series is a series and --output: results would lie among", run, series, "--output", series)
    call(run, series, "--output", series / "out")
    assert "(was there already)" in call(run, series, "--output", series / "out")
    assert names(series) == [*before, "out"]


@pytest.mark.parametrize("kind", ["pipe", "nested", "null"])
def test_a_damaged_record_is_told_and_the_others_are_done(call, run, chest, save_volume, tmp_path, kind, capsys):
    for name in ("a", "b"):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", chest()[0])
    out = tmp_path / "out"
    call(run, tmp_path / "in", "--output", out)
    (out / "a.json").unlink()
    if kind == "pipe":
        os.mkfifo(out / "a.json")
    else:
        (out / "a.json").write_text("null" if kind == "null" else "[" * 100_000)
    stopped(call, run, tmp_path / "in", "--output", out)
    captured = capsys.readouterr()
    assert re.search(r"a\.nii\.gz is there, was not written by predict\.py", captured.err)
    assert "1 of 2 volumes written" in captured.out


def test_memory_that_runs_out_is_one_volumes_fault(
    call, run, bright, chest, save_volume, tmp_path, monkeypatch, capsys
):
    for name in ("a", "b"):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", chest()[0])
    segment = prediction.segment

    def greedy(model, volume, *arguments, **options):
        if volume.case.name == "a":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return segment(model, volume, *arguments, **options)

    monkeypatch.setattr(prediction, "segment", greedy)
    stopped(call, run, tmp_path / "in", "--output", tmp_path / "out")
    captured = capsys.readouterr()
    assert f"{tmp_path / 'in' / 'a.nii.gz'}: not enough memory to compute its mask" in captured.err
    assert "1 of 2 volumes written" in captured.out


def test_other_faults_of_the_network_are_not_called_memory(call, run, chest, save_volume, tmp_path, monkeypatch):
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])

    def broken(*_, **__):
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr(prediction, "segment", broken)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        call(run, path, "--output", tmp_path / "out")


def test_arguments_that_make_no_sense_are_refused(call, run, chest, save_volume, tmp_path):
    path = save_volume(tmp_path / "in" / "case.nii.gz", chest()[0])
    other = save_volume(tmp_path / "in" / "other.nii.gz", chest()[0])
    out = ("--output", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    refused(call, "no INPUT was given", run, *out)
    refused(call, "empty is empty", run, tmp_path / "empty", *out)
    (tmp_path / "patient" / "study" / "series2").mkdir(parents=True)
    (tmp_path / "patient" / "study" / "series1").mkdir()
    (tmp_path / "patient" / "study" / ".DS_Store").touch()
    (tmp_path / "patient" / "study" / "series1" / "1.dcm").touch()
    (tmp_path / "patient" / "study" / "series2" / "1.dcm").touch()
    instead = r"patient holds no file directly; give the folder of the DICOM series itself, .* as .*study/series1$"
    refused(call, instead, run, tmp_path / "patient", *out)
    refused(call, r"text\.txt is no volume by its name; expected \.nii\.gz", run, tmp_path / "text.txt", *out)
    refused(call, "is one mask and there are 2 volumes", run, path, other, *out, "--lungs", path)
    refused(call, "holds no mask named case", run, path, *out, "--lungs", tmp_path / "empty")
    (run / "plan.json").unlink()
    refused(call, r"plan\.json is missing", run, path, *out)
    assert not (tmp_path / "out").exists()


def test_region_lungs_needs_a_mask(run, chest, save_volume, tmp_path, monkeypatch, capsys):
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])
    arguments = ["predict.py", str(run), str(path), "--output", str(tmp_path / "out"), "--region", "lungs"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        predict.main()
    assert "case.nii.gz has no lung mask; give one, or take --region body" in capsys.readouterr().err


def test_runs_on_slices_take_no_options_of_volumes(call, tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    config = Config("phantom", "", (), "unet", "demo", fold=0, seed=0, **DEMO)
    (folder / "config.json").write_text(config.to_json())
    for option in (("--lungs", tmp_path), ("--region", "all")):
        refused(call, "are for runs on volumes", folder, tmp_path, "--output", tmp_path / "out", *option)
    assert not (tmp_path / "out").exists()


def test_full_disk_leaves_no_half_file(run, bright, chest, save_volume, tmp_path, monkeypatch, capsys):
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])

    def full(image, name):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(run), str(path), "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        predict.main()
    assert "case.nii.gz cannot be written (No space left" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["case.json"]
    assert report(tmp_path / "out" / "case.json") is None


def test_interrupted_replacement_is_not_taken_for_the_old_result(call, run, chest, save_volume, tmp_path, monkeypatch):
    path = save_volume(tmp_path / "case.nii.gz", chest()[0])
    arguments = (run, path, "--output", tmp_path / "out")
    call(*arguments)
    before = (tmp_path / "out" / "case.nii.gz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "load_run", lambda run: (load_run(run)[0], Bright()))

        def killed(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(prediction, "draw_lesions", killed)
        with pytest.raises(KeyboardInterrupt):
            call(*arguments, "--flips")
    assert (tmp_path / "out" / "case.nii.gz").read_bytes() != before
    assert "(was there already)" not in call(*arguments)
    assert (tmp_path / "out" / "case.nii.gz").read_bytes() == before


def test_real_nrrd_with_its_lungs(call, run, real_data, tmp_path):
    """A thorax of 64 x 64 x 79 in HU; its label map is above 0 in the lungs."""
    write_plan(run, replace(plan(), spacing=(8.0, 8.0, 8.0)))
    scan, lungs = real_data / "cip" / "ct-64.nrrd", real_data / "cip" / "lm-64.nrrd"
    call(run, scan, "--output", tmp_path / "out", "--lungs", lungs, "--region", "lungs", "--probabilities")
    import SimpleITK as sitk

    image, labels = (sitk.ReadImage(str(path)) for path in (scan, lungs))
    mask = nib.load(tmp_path / "out" / "ct-64.nii.gz")
    assert mask.shape == image.GetSize()
    # ITK's world runs to the left and the back.
    ends = np.array([[0, 0, 0, 1], [63, 63, 78, 1]])
    for end in ends:
        there = np.array(image.TransformIndexToPhysicalPoint([int(at) for at in end[:3]]))
        np.testing.assert_allclose((mask.affine @ end)[:3], there * (-1, -1, 1), atol=1e-3)
    found = report(tmp_path / "out" / "ct-64.json")
    lung, lesion = sitk.GetArrayFromImage(labels).T > 0, np.asarray(mask.dataobj) > 0
    litre = np.prod(image.GetSpacing()) / 1000
    assert found["lung_ml"] == pytest.approx(lung.sum() * litre, rel=1e-5)
    assert found["lesion_ml"] == pytest.approx(lesion.sum() * litre, rel=1e-5)
    assert 1000 < lung.sum() * litre < 10000
    probability = values(tmp_path / "out" / "ct-64_probability.nii.gz")
    assert (probability[lung] > 0).all()
