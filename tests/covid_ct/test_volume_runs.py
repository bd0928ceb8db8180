"""Runs on volumes from the command line, start to table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from covidct.data.preprocess import preprocess
from covidct.data.splits import covid_ct_20_names
from covidct.data.store import StoreSettings, begin_store, write_case
from covidct.data.volume_sets import read_volume_set
from covidct.data.volumes import load_volume

from tests.covid_ct.store_cases import SPACING, store

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "examples/covid_ct"


def write_target(root: Path) -> Path:
    """The 20 published names as scans of 32 x 32 x 10 voxels, and the store of them."""
    for number, name in enumerate(covid_ct_20_names()):
        rng = np.random.default_rng(number)
        hu = np.full((32, 32, 10), -1000, dtype=np.int16)
        hu[2:-2, 2:-2] = rng.integers(-900, 100, (28, 28, 10))
        lesion = np.zeros(hu.shape, dtype=np.uint8)
        lesion[8:16, 10:18, 3:7] = 1
        hu[lesion > 0] += 100
        grey = np.clip((hu + 1250) * (255 / 1500), 0, 255).astype(np.int16)
        values = grey if name.startswith("radiopaedia") else hu
        for folder, array in (("COVID-19-CT-Seg_20cases", values), ("Infection_Mask", lesion)):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), root / "data" / folder / f"{name}.nii.gz")
    begin_store(root / "target", StoreSettings("covid-ct-20", SPACING))
    for case in read_volume_set("covid-ct-20", root / "data").cases:
        volume = load_volume(case)
        made = preprocess(volume, SPACING)
        lesions = volume.image[volume.mask]
        write_case(root / "target", case.name, made, patient=case.patient, inputs={}, facts={}, lesion_values=lesions)
    return root


@pytest.mark.slow
def test_from_pretraining_to_the_table_of_folds(tmp_path):
    write_target(tmp_path)
    store(tmp_path / "lesions", 2, "lesions")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPTS)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def call(script: str, *arguments: str) -> str:
        command = [sys.executable, SCRIPTS / script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(method: str, *arguments: str) -> str:
        target = ("--dataset", "covid-ct-20", "--data", "data", "--store", "target", "--preset", "demo", "--fold", "2")
        return call("train.py", *target, "--steps", "2", "--method", method, "--output", method, *arguments)

    train("ours", "--source", "lesions")
    assert "nothing is tested" in train("pretrain", "--source", "lesions")
    assert "fold 2: 16 test volumes" in train("finetune", "--init", "pretrain")
    text = call("evaluate.py", "ours", "finetune", "--folds")
    assert "ours, seed 0" in text
    rows = json.loads((tmp_path / "folds.json").read_text())
    assert [row["method"] for row in rows] == ["ours", "finetune"]
    assert [row["missing"] for row in rows] == [[f"fold {fold} is missing" for fold in (0, 1, 3, 4)]] * 2
    assert len(json.loads((tmp_path / "finetune" / "metrics.json").read_text())["volumes"]) == 16
