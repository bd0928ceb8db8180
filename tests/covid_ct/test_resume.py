"""Runs that are really killed (SIGKILL) and go on: they must end with the bytes of one that was never killed."""

import json
import multiprocessing
import runpy
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
from covidct.run.checkpoint import load_checkpoint
from covidct.run.config import Config
from covidct.sets.splits import volume_fold

from tests.covid_ct.plain_demo import DEMO
from tests.covid_ct.store_cases import begin_run, write_target

EXAMPLE = Path(__file__).parents[2] / "examples" / "covid_ct"
STEPS = 12
RESULTS = ("model.safetensors", "metrics.json", "metrics.csv", "curves.png", "relations.png", "predictions.png")

# Runs train.py; with NAME and COUNT it dies, as if killed, when it has written half of NAME for the COUNT-th time.
LAUNCH = """
import multiprocessing, os, pathlib, runpy, signal, sys

# A child of a fork server would start its data loader's workers in the same, slower way.
multiprocessing.set_start_method("fork", force=True)
script, name, count, *sys.argv = sys.argv
left = int(count)
write = pathlib.Path.write_bytes

def dying(path, data):
    global left
    left -= path.name.startswith(f".{name}.")
    if left or not name:
        return write(path, data)
    write(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.write_bytes = dying
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def config(tmp_path: Path, write_covid: Callable[..., Path], chest: Callable, save_volume: Callable) -> Config:
    """A tiny run of the whole method, on a data set of its own."""
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)])
    hu, lesion = chest()
    for name, values in (("ct", hu), ("lesion", lesion)):
        save_volume(tmp_path / "source" / "case" / f"{name}.nii.gz", values)
    values = DEMO | {
        "steps": STEPS,
        "batch_size": 2,
        "size": (16, 16),
        "features_per_stage": (4, 6, 8),
        "log_every": 1,
        "relations_every": 4,
        "checkpoint_every": 3,
    }
    places = {"data": str(data), "source": (str(tmp_path / "source"),)}
    return Config(dataset="covid_semiseg", method="ours", preset="demo", fold=1, seed=5, **places, **values)


@pytest.fixture
def new_run(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that makes a run folder as a process leaves it that was killed before its first step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name: str) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "config.json").write_text(config.to_json())
        return run

    return make


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ForkServerProcess]:
    """A function that starts train.py as a process of its own, forked from one that has torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["covidct.training.engine", "covidct.results", "covidct.arguments"])
    script = tmp_path / "launch.py"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    script.write_text(LAUNCH)

    def begin(run: Path, name: str = "", count: int = 0) -> ForkServerProcess:
        train = [str(EXAMPLE / "train.py"), "--resume", "--output", str(run)]
        monkeypatch.setattr(sys, "argv", [str(script), name, str(count), *train])
        process = context.Process(target=runpy.run_path, args=(str(script),), kwargs={"run_name": "__main__"})
        process.start()
        return process

    return begin


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill_at(run: Path, process: ForkServerProcess, count: int) -> None:
    """Kill `process` as soon as it has logged `count` steps."""
    while lines(run) < count and process.is_alive():
        process.join(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def check_whole(run: Path, reference: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    for name in RESULTS:
        assert (run / name).stat().st_size > 0
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert [{**line, "seconds": 0} for line in logged] == [{**line, "seconds": 0} for line in expected]
    assert json.loads((run / "metrics.json").read_text()) == json.loads((reference / "metrics.json").read_text())
    for path in sorted((reference / "relations").iterdir()):
        with np.load(path) as wanted, np.load(run / "relations" / path.name) as got:
            assert all(np.array_equal(wanted[name], got[name]) for name in wanted.files)
    assert sorted(p.name for p in run.rglob("*")) == sorted(p.name for p in reference.rglob("*"))


def finish(run: Path, process: ForkServerProcess) -> Path:
    process.join()
    assert process.exitcode == 0
    return run


def dies(process: ForkServerProcess) -> None:
    process.join()
    assert process.exitcode == -signal.SIGKILL


def weights(run: Path, process: ForkServerProcess) -> bytes:
    """The weights of a run as soon as they are there; evaluation and pictures are not waited for."""
    path = run / "model.safetensors"
    while not path.exists() and process.is_alive():
        process.join(0.005)
    process.kill()
    process.join()
    return path.read_bytes()


@pytest.mark.slow
def test_a_killed_run_ends_like_one_never_killed(new_run: Callable[[str], Path], start: Callable) -> None:
    whole, run = new_run("whole"), new_run("killed")
    undisturbed = start(whole)
    kill_at(run, start(run), 1)
    dies(start(run, "checkpoint.pt", 2))
    state = load_checkpoint(run)
    assert state is not None
    assert state["step"] == 3
    assert weights(run, start(run)) == weights(whole, undisturbed)


@pytest.mark.slow
def test_a_killed_run_on_volumes_ends_like_one_never_killed(tmp_path: Path, start: Callable) -> None:
    write_target(tmp_path)
    for name in ("whole", "killed"):
        begin_run(tmp_path, name, steps=STEPS, checkpoint_every=3, workers=1)
    whole, run = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole)
    kill_at(run, start(run), 5)
    state = load_checkpoint(run)
    assert state is not None
    assert 3 <= state["step"] < STEPS
    # And among the test volumes: what was scored before is not scored again.
    tested = volume_fold("covid-ct-20", 2)[1]
    dies(start(run, f"{tested[3]}.json", 1))
    scored = [run / "evaluation" / f"{name}.nii.gz" for name in tested[:3]]
    before = [path.stat().st_mtime_ns for path in scored]
    finish(run, start(run))
    assert [path.stat().st_mtime_ns for path in scored] == before
    check_whole(run, finish(whole, undisturbed))
    for name in tested:
        path = Path("evaluation", f"{name}.nii.gz")
        assert (run / path).read_bytes() == (whole / path).read_bytes()


@pytest.mark.slow
def test_killed_everywhere(new_run: Callable[[str], Path], start: Callable) -> None:
    whole, run = new_run("whole"), new_run("killed")
    finish(whole, start(whole))
    dies(start(run, "checkpoint.pt", 1))
    assert load_checkpoint(run) is None
    for count in (2, 5, 8, 11):
        kill_at(run, start(run), count)
    for name in ("checkpoint.pt", "model.safetensors", "metrics.json", "metrics.csv"):
        dies(start(run, name, 1))
    check_whole(finish(run, start(run)), whole)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    finish(run, start(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
