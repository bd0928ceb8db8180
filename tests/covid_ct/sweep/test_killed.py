"""A sweep of real, tiny runs that is killed and called again: it must end with the bytes of one that was not."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from covidct.arguments import resolve
from covidct.run.plan import Images, Settings, SourceSet, plan
from covidct.sweep.arguments import parsed

EXAMPLE = Path(__file__).parents[3] / "examples" / "covid_ct"
TINY = {
    **{"steps": 40, "batch_size": 2, "size": (16, 16), "features_per_stage": (4, 6, 8)},
    **{"log_every": 1, "relations_every": 20, "checkpoint_every": 3},
}
METHODS = ("unet", "multi-encoder")
RESULTS = ("metrics.json", "metrics.csv", "model.safetensors")


@pytest.fixture
def runs(tmp_path, write_covid, chest, save_volume, monkeypatch):
    """A folder of two runs and the one that one of them starts from, as if killed before their first step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)])
    for name, values in zip(("ct", "lesion"), chest(), strict=True):
        save_volume(tmp_path / "source" / "case" / f"{name}.nii.gz", values)
    target = ("--dataset", "covid_semiseg", "--data", str(data))
    images = Images("covid_semiseg", "slices", target, (SourceSet("source", (str(tmp_path / "source"),)),))
    for one in plan("IV", images, Settings("demo", methods=METHODS, folds=(0,))).trainings:
        run = tmp_path / "runs" / one.run
        command = [word for word in one.command(tmp_path / "runs") if word != "--resume"]
        of = replace(resolve(parsed(command)).config, **TINY)
        run.mkdir(parents=True)
        (run / "config.json").write_text(of.to_json())
    return tmp_path / "runs"


def begin():
    command = [sys.executable, str(EXAMPLE / "sweep.py"), "--table", "IV", "--dataset", "covid_semiseg"]
    command += ["--data", "data", "--source", "source", "--preset", "demo", "--methods", *METHODS, "--folds", "0"]
    return subprocess.Popen([*command, "--at-once", "2", "--output", "runs"])


def contents(runs):
    return {path.relative_to(runs): path.read_bytes() for name in RESULTS for path in sorted(runs.glob(f"*/{name}"))}


def lines(run):
    log = run / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def kill_when(true, process):
    end = time.monotonic() + 300
    while not true():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_numbers(runs):
    fresh = runs.with_name("fresh")
    shutil.copytree(runs, fresh)
    with begin() as process:
        pass
    assert process.returncode == 0
    undisturbed = contents(runs)
    assert len(undisturbed) == 2 * 3 + 1
    shutil.rmtree(runs)
    fresh.rename(runs)

    process = begin()
    kill_when(lambda: lines(runs / "covid_semiseg-pretrain-seed0") >= 10, process)
    process = begin()
    kill_when(lambda: lines(runs / "covid_semiseg-multi-encoder-fold0-seed0") >= 10, process)
    with begin() as process:
        pass
    assert process.returncode == 0
    assert contents(runs) == undisturbed
    # What was killed has gone on from its checkpoint.
    assert "going on from step" in (runs / ".sweep" / "covid_semiseg-pretrain-seed0.log").read_text()
    assert not [path for path in os.listdir(runs) if path.startswith(".") and path != ".sweep"]
