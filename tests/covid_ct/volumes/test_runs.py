"""Runs on volumes from the command line, start to table."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train
from covidct.progress import TrainingProgress
from covidct.results import is_finished
from covidct.run.checkpoint import load_checkpoint
from covidct.sets.splits import volume_fold

from tests.covid_ct.store_cases import begin_run, store, write_target

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "examples/covid_ct"


@pytest.fixture
def target(tmp_path, monkeypatch):
    """The current folder, with `write_target` in it."""
    monkeypatch.chdir(tmp_path)
    return write_target(tmp_path)


@pytest.fixture
def call(monkeypatch, capsys):
    """A function that goes on with a run, and gives what it says and its exit code."""

    def resume(name):
        monkeypatch.setattr(sys, "argv", ["train.py", "--resume", "--output", name])
        code = 0
        try:
            train.main()
        except SystemExit as stop:
            code = stop.code
        return capsys.readouterr().out, code

    return resume


def test_test_volumes_that_fail_are_said_and_the_others_scored(target, call):
    config = begin_run(target, "run")
    no_header, damaged = volume_fold("covid-ct-20", 2)[1][4:6]
    images = target / "data" / "COVID-19-CT-Seg_20cases"
    (images / f"{no_header}.nii.gz").write_bytes(b"no volume")
    whole = bytearray((images / f"{damaged}.nii.gz").read_bytes())
    # The checksum of the voxels, which is compared when they have been read.
    whole[-8] ^= 1
    (images / f"{damaged}.nii.gz").write_bytes(whole)
    shown, code = call("run")
    assert code == 2
    # The one that shows at once is named before training, and again when its turn has come.
    before, after = shown.split("step 4/4", 1)
    assert f"error: {no_header}: {images / no_header}.nii.gz cannot be read" in before
    assert "1 of 16 test volumes will not be scored, unless they are mended by then" in before
    assert damaged not in before
    for name in (no_header, damaged):
        assert f"error: {name}: {images / name}.nii.gz cannot be read" in after
        assert f"not scored: {name}: {images / name}.nii.gz cannot be read" in after
    assert "ours on covid-ct-20, fold 2: 14 test volumes" in after
    assert is_finished(target / "run", config)
    result = json.loads((target / "run" / "metrics.json").read_text())
    assert (result["count"], [item["name"] for item in result["failed"]]) == (14, [no_header, damaged])
    again, code = call("run")
    assert code == 2
    assert "This run is finished" in again
    assert f"not scored: {damaged}" in again


def test_a_run_that_goes_on_does_not_start_from_init_again(target, call, monkeypatch):
    begin_run(target, "pretrain", method="pretrain", steps=2)
    call("pretrain")
    # Weights are all that matters here, and the checkpoint has them.
    monkeypatch.setattr(train, "finish", lambda *_: 0)
    for name in ("whole", "stopped"):
        begin_run(target, name, method="finetune", source=(), init=str(target / "pretrain"))
    call("whole")
    advance = TrainingProgress.advance

    def stop(progress):
        advance(progress)
        if progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "advance", stop)
        shown, code = call("stopped")
    assert code == 130
    assert "the checkpoint of step 2 is kept" in shown
    monkeypatch.setattr(train, "load_run", lambda run: pytest.fail(f"{run} was loaded again"))
    shutil.rmtree(target / "pretrain")
    assert "going on from step 2" in call("stopped")[0]
    one, other = (load_checkpoint(target / name) for name in ("whole", "stopped"))
    assert one["step"] == other["step"] == 4
    for name, value in one["model"].items():
        assert torch.equal(other["model"][name], value)


def run_script(folder: Path, script: str, *arguments: str | Path) -> str:
    """What a command line of the example, in a process of its own in `folder`, prints; it must end well."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPTS)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, SCRIPTS / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_training(folder: Path, method: str, *arguments: str | Path) -> str:
    """Two steps on the target of `write_target`."""
    target = ("--dataset", "covid-ct-20", "--data", "data", "--store", "target", "--preset", "demo", "--fold", "2")
    return run_script(folder, "train.py", *target, "--steps", "2", "--method", method, "--output", method, *arguments)


@pytest.mark.slow
def test_real_scans_are_the_source(tmp_path, real_data):
    write_target(tmp_path)
    for name, count in (("lidc", 3), ("lung1", 1)):
        said = run_script(tmp_path, "prepare.py", real_data / name, "--output", name, "--like", "target")
        assert f"{count} {'case' if count == 1 else 'cases'} in {name}" in said
    run_training(tmp_path, "ours", "--source", "lidc", "lung1")
    lines = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    assert lines[-1]["general"] > 0 > lines[-1]["target"]


@pytest.mark.slow
def test_from_pretraining_to_the_table_of_folds(tmp_path):
    write_target(tmp_path)
    store(tmp_path / "lesions", 2, "lesions")
    run_training(tmp_path, "ours", "--source", "lesions")
    assert "nothing is tested" in run_training(tmp_path, "pretrain", "--source", "lesions")
    assert "fold 2: 16 test volumes" in run_training(tmp_path, "finetune", "--init", "pretrain")
    text = run_script(tmp_path, "evaluate.py", "ours", "finetune", "--folds")
    assert "ours, seed 0" in text
    rows = json.loads((tmp_path / "folds.json").read_text())
    assert [row["method"] for row in rows] == ["ours", "finetune"]
    assert [row["missing"] for row in rows] == [[f"fold {fold} is missing" for fold in (0, 1, 3, 4)]] * 2
    assert len(json.loads((tmp_path / "finetune" / "metrics.json").read_text())["volumes"]) == 16
