"""Kills and resumptions, many of them: `python -m tests.long.soak --cycles 200 --seed 0`, by hand.

A cycle starts train.py, prepare.py or predict.py, kills it (SIGKILL) at a moment of the seed, looks whether every
file that is there is whole, and starts it again on the same folder. After a few kills it is let through: then the
folder must hold what an undisturbed call makes, to the last bit, and nothing else. The processes are forks of one
that has imported the libraries.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "covid_ct"))

import covidct.training.engine  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numpy as np
from covidct.arguments import resolve  # noqa: F401
from covidct.run.checkpoint import load_checkpoint

from tests.long.soak_scenes import SCENES, Scene

EXAMPLE = Path(__file__).parents[2] / "examples" / "covid_ct"
KILLS = 5  # of one folder, before it is let through
LIMIT = 600  # seconds that a call may take
# Their content grows, or holds how long it took.
GROWING = ("metrics.jsonl", "checkpoint.pt")


def call(scene: Scene, folder: Path, seconds: float = LIMIT) -> int | None:
    """The exit code of a call that `seconds` are given; None if it was killed when they were over."""
    child = os.fork()
    if child == 0:
        _in_child(scene, folder)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    # Itself alone: its workers have to see for themselves that it is gone.
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _in_child(scene: Scene, folder: Path) -> None:
    code: Any = 70
    try:
        screen = os.open(folder.with_name("screen.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(screen, 1)
        os.dup2(screen, 2)
        fork = multiprocessing.get_context("fork")
        multiprocessing.set_start_method("fork", force=True)
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]  # to spawn takes seconds
        sys.argv = [scene.script, *scene.arguments(folder)]
        runpy.run_path(str(EXAMPLE / scene.script), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def content(path: Path) -> object:
    """What has to be equal of a file."""
    if path.name == "checkpoint.pt":
        return "whole"
    if path.name == "metrics.jsonl":
        lines = (json.loads(line) for line in path.read_text().splitlines())
        return [{**line, "seconds": 0} for line in lines]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}
    return path.read_bytes()


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}


def not_whole(folder: Path, reference: Path) -> Iterator[str]:
    """What a killed call has left under a name of its own that is not what it becomes."""
    wanted = files(reference)
    for name, path in files(folder).items():
        if path.name.startswith("."):
            continue
        if name not in wanted:
            yield f"{name} is left, which an undisturbed call does not make"
        elif path.name == "checkpoint.pt":
            load_checkpoint(folder)
        elif path.name not in GROWING and content(path) != content(wanted[name]) and not is_open(path):
            yield f"{name} is there in part"


def is_open(path: Path) -> bool:
    """Whether it is a record of predict.py that has no result yet, which is written before what it will stand for."""
    return path.suffix == ".json" and json.loads(path.read_text(encoding="utf-8")).get("result", path) is None


def not_equal(folder: Path, reference: Path) -> Iterator[str]:
    """What differs from an undisturbed call, after a call that was let through."""
    wanted, found = files(reference), files(folder)
    yield from (f"{name} is on one side only" for name in sorted(set(wanted) ^ set(found)))
    both = sorted(set(wanted) & set(found))
    yield from (f"{name} differs" for name in both if content(found[name]) != content(wanted[name]))


def soak(name: str, cycles: int, seed: int, root: Path) -> tuple[int, list[str]]:
    """(kills, faults) of a scene; prints them, and the calls that were let through."""
    scene, chance = SCENES[name](root), random.Random(f"{name} {seed}")
    reference, folder = root / "whole", root / "killed"
    scene.begin(reference)
    started = time.monotonic()
    if call(scene, reference) != 0:
        fault = f"undisturbed: {(root / 'screen.txt').read_text()[-2000:]}"
        print(fault)
        return 0, [fault]
    usual = time.monotonic() - started
    kills, through, faults, told = 0, 0, [], 0
    while kills < cycles:
        scene.begin(folder)
        code, count = None, 0
        while code is None and count < KILLS and kills < cycles:
            code = call(scene, folder, chance.uniform(0, usual))
            kills, count = kills + (code is None), count + (code is None)
            faults += [f"{name}, kill {kills}: {fault}" for fault in not_whole(folder, reference)]
        if code is None:
            code = call(scene, folder)
        through += 1
        if code != 0:
            said = (root / "screen.txt").read_text()[-1000:]
            faults.append(f"{name}, after kill {kills}: ended with {code}: {said}")
        faults += [f"{name}, after kill {kills}: {fault}" for fault in not_equal(folder, reference)]
        shutil.rmtree(folder)
        print(*faults[told:], sep="\n", end="\n" * (len(faults) > told))
        told = len(faults)
        print(f"{name}: {kills} kills, {through} let through, {len(faults)} faults", flush=True)
    return kills, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200, help="kills, over all scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(SCENES), action="append", help="scenes; all by default")
    arguments = parser.parse_args()
    started, everything, total = time.monotonic(), [], 0
    names = arguments.only or list(SCENES)
    for place, name in enumerate(names):
        cycles = (arguments.cycles + place) // len(names)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            kills, faults = soak(name, cycles, arguments.seed, Path(folder))
        total += kills
        everything += faults
    print(f"{total} kills, {len(everything)} faults, {time.monotonic() - started:.0f} s")
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
