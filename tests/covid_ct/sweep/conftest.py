"""A train.py that does nothing but what the test tells it, and finished run folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from covidct.run.folder import result_files
from covidct.run.plan import Training
from covidct.sweep.workers import Place

from tests.covid_ct.fabricated_runs import config

# Its method says what it does: unet finishes, target fails, ours waits (general: and cannot be interrupted).
TRAIN = """
import json, os, pathlib, shutil, signal, sys, time

place = pathlib.Path(sys.argv[0]).parent
run = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
method = sys.argv[sys.argv.index("--method") + 1]
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd(), "process": os.getpid()}
seen["job"] = os.getppid()
(place / f"{run.name}.json.new").write_text(json.dumps(seen))
(place / f"{run.name}.json.new").replace(place / f"{run.name}.json")
if method == "target":
    print("Traceback", file=sys.stderr)
    sys.exit("error: it cannot be trained")
if method == "general":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
waits = method == "general" or method == "ours" and not (run / ".was-here").exists()
if waits:
    try:
        print("waiting", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        (run / ".was-here").touch()
        print("interrupted", flush=True)
        sys.exit(130)
shutil.copytree(place / "whole", run, dirs_exist_ok=True)
print("done")
"""


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[Path], Path]:
    """A function that makes a folder that of a finished run."""
    of = config(volumes=False)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text(of.to_json())
    for path in result_files(whole, of):
        path.write_text("{}")

    def make(run: Path) -> Path:
        shutil.copytree(whole, run, dirs_exist_ok=True)
        return run

    return make


@pytest.fixture
def place(tmp_path: Path, fill: Callable[[Path], Path]) -> Place:
    """An empty folder for runs, and the script."""
    (tmp_path / "train.py").write_text(TRAIN)
    made = Place(tmp_path / "runs", tmp_path / "train.py")
    made.own.mkdir(parents=True)
    return made


@pytest.fixture
def training() -> Callable[..., Training]:
    """A function that gives a training of a method."""

    def make(method: str, run: str = "", start: str = "") -> Training:
        return Training(run or method, ("--method", method), start)

    return make
