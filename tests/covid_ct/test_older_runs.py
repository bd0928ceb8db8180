"""Run folders that commit 68104c6 wrote are read, shown and gone on with: what it gave stands here as numbers."""

import io
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from covidct.results import show_result, wing_of
from covidct.run.building import build_model
from covidct.run.checkpoint import load_checkpoint, load_run
from covidct.run.figures import draw_curves, draw_relations
from covidct.slices.evaluation import predict_slice, read_metrics
from covidct.training.engine import Trainer, make_fabric
from covidct.volumes.plan import read_plan
from covidct.volumes.tables import read_volume_metrics
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

RUNS = Path(__file__).parent / "data" / "runs_of_68104c6"
TRAIN = Path("data/Dataset/TrainingSet/LungInfection-Train/Doctor-label")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A function that copies one of the runs to where it may be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda name: Path(shutil.copytree(RUNS / name, tmp_path / name))


def shown(run):
    config, _ = load_run(run)
    screen = io.StringIO()
    show_result(run, config, Console(file=screen, width=120))
    return screen.getvalue()


def test_slices(copied):
    run = copied("slices")
    config, model = load_run(run)
    assert (config.method, config.relation_reduction, config.features_per_stage) == ("ours", "row_mean", (2, 4, 6))
    image = np.add.outer(np.arange(20.0), np.arange(24.0)).astype(np.float32) * 5
    expected = [
        [0.48672685, 0.45561248, 0.60548331, 0.20183016],
        [0.48562810, 0.49782282, 0.54504520, 0.43960345],
        [0.48975211, 0.44410703, 0.76687616, 0.47643769],
    ]
    found = predict_slice(model, image, config, flips=False, name="x")[::7, ::7]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(read_metrics(run).images) == 1
    assert "0.2150" in shown(run)
    assert draw_curves(run).is_file()
    assert draw_relations(run).is_file()


def test_volumes(copied):
    run = copied("volumes")
    config, model = load_run(run)
    assert wing_of(config.dataset).is_whole(run)
    assert read_plan(run).patch_size == (4, 16, 16)
    assert read_plan(run).low == pytest.approx(77.25354927)
    with torch.inference_mode():
        logits = model(torch.linspace(-1, 1, 4 * 16 * 16).reshape(1, 1, 4, 16, 16))[0, 0, ::3, ::7, ::7]
    expected = [
        [
            [-0.08798815, -0.16220477, -0.15678285],
            [-0.15283394, -0.15818800, 0.32065874],
            [0.36174512, 0.35890728, -0.17291515],
        ],
        [
            [-0.15524742, 0.08203956, -0.16078500],
            [0.29002666, -0.06770995, 0.38421005],
            [-0.16250874, 1.08996403, 0.52069414],
        ],
    ]
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-5, rtol=0)
    assert read_volume_metrics(run).count == 16
    assert "0.1902" in shown(run)


def test_an_interrupted_run_goes_on(copied, tmp_path):
    """Its checkpoint is of step 3 of 6; on the data that it was made on it ends with the weights of that commit."""
    run = copied("slices")
    expected = load_file(run / "model.safetensors")
    write_data(tmp_path)
    config, _ = load_run(run)
    assert load_checkpoint(run)["step"] == 3
    model = build_model(config)
    data = wing_of(config.dataset).read(config)
    trainer = Trainer(make_fabric(config), config, run, model, data)
    trainer.train(Console(file=io.StringIO()))
    assert trainer.step == 6
    found = dict(model.named_parameters())
    assert expected.keys() <= found.keys() | dict(model.named_buffers()).keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-3, atol=1e-4)


def write_data(root: Path) -> None:
    for stem in map(str, range(6)):
        image = np.random.default_rng(sum(stem.encode())).integers(20, 120, (40, 36), dtype=np.uint8)
        mask = np.zeros((40, 36), dtype=np.uint8)
        mask[10:20, 7:18] = 255
        image[mask > 0] = 230
        for folder, values in (("Imgs", image), ("GT", mask)):
            (root / TRAIN / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / TRAIN / folder / f"{stem}.png")
    hu = np.full((48, 40, 4), -1000, dtype=np.int16)
    hu[4:44, 4:36] = 40
    hu[7:22, 8:32] = hu[28:41, 10:30] = -850
    hu[22:28, 29:35] = 600
    lesion = np.zeros(hu.shape, dtype=np.uint8)
    lesion[31:36, 22:28, 1:3] = 1
    hu[lesion > 0] = 0
    (root / "source" / "case").mkdir(parents=True)
    for name, values in (("ct", hu), ("lesion", lesion)):
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 3.0, 1.0])), root / "source" / "case" / f"{name}.nii.gz")
