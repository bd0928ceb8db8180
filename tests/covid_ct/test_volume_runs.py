"""Runs on volumes from the command line, start to table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.covid_ct.store_cases import store, write_target

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "examples/covid_ct"


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
