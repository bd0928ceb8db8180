"""Mutants against the tests that run their lines: `python -m tests.long.mutation core --sample 200`, by hand.

Every mutant is written into a copy of the repository, and a fork of one process that has the libraries already runs
there the tests that pass the changed line, quickest first, until one fails. What all of them let pass survives.
"""

import argparse
import contextlib
import importlib
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests.long.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 5  # a mutant may take so many times what its tests take without it, before it counts as hanging
BROKEN = 70  # exit code of a fork that failed itself, not its tests
# Of what is not in relcons, or done by other processes.
OTHERS = ("docs", "benchmarks", "loops", "floors", "import", "distributed", "several_processes")
# What is mutated in a room, the tests that are run on it, and those of them whose work other processes do.
SOURCES = {
    "core": ("relcons/*.py", *(f"relcons/{room}/*.py" for room in ("functional", "gap", "losses", "parts"))),
    "models": ("relcons/models/*.py", "relcons/networks/*.py"),
}
TESTS = {
    "core": (
        *(f"tests/{path.name}" for path in sorted(ROOT.glob("tests/test_*.py")) if path.stem[5:] not in OTHERS),
        "tests/parts",
        "tests/networks",
        "tests/models/test_build.py",
    ),
    "models": ("tests/models", "tests/networks", "tests/parts", "tests/test_losses.py"),
}
ELSEWHERE = {"core": ("tests/test_import.py", "tests/test_distributed.py"), "models": ()}
# Imported once, before the forks; none of them imports relcons.
LIBRARIES = (
    "torch._dynamo.testing",
    "torch.export",
    "torchvision",
    "timm",
    "segmentation_models_pytorch",
    "dynamic_network_architectures.architectures.unet",
    "monai.networks.nets",
    "hypothesis",
    "safetensors.torch",
    "huggingface_hub",
    "matplotlib.pyplot",
    "onnxruntime",
    "onnxscript",
)


@dataclass(eq=False)
class Recorder:
    """A plugin of pytest: the lines of relcons that each test runs, its seconds, and the tests that failed."""

    copy: str
    lines: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    tracing: bool = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        hits = self.lines.setdefault(item.nodeid, set())
        started = time.perf_counter()
        if self.tracing:
            sys.settrace(self._tracer(hits))
        try:
            return (yield)  # type: ignore[return-value]
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.perf_counter() - started

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def _tracer(self, hits: set[tuple[str, int]]) -> Callable[[FrameType, str, Any], Any]:
        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            name = frame.f_code.co_filename
            if not name.startswith(f"{self.copy}/relcons/"):
                return None
            hits.add((name[len(self.copy) + 1 :], frame.f_lineno))
            return trace

        return trace


@dataclass(frozen=True)
class Report:
    """What a fork's call of pytest came to; code: None where it hung; heard: what its recorder has seen."""

    code: int | None
    heard: Recorder
    seconds: float


def run_tests(copy: Path, tests: list[str], recorder: Recorder, limit: float) -> Report:
    """A call of pytest on the copy, in a fork of this process."""
    started = time.monotonic()
    answer = copy / "answer.pickle"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _in_child(copy, tests, recorder, answer)
    done, status = 0, 0
    while not done and time.monotonic() - started < limit:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
    seconds = time.monotonic() - started
    if answer.exists():
        # As plain values: the fork has forgotten the module that this class is of.
        recorder.lines, recorder.seconds, recorder.failed = pickle.loads(answer.read_bytes())
    code = os.waitstatus_to_exitcode(status) if done else None
    if code == BROKEN:
        sys.exit((copy / "output.txt").read_text(errors="replace")[-3000:])
    return Report(code, recorder, seconds)


def _in_child(copy: Path, tests: list[str], recorder: Recorder, answer: Path) -> None:
    os.setsid()
    os.chdir(copy)
    silent = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT)]
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    code = BROKEN
    try:
        code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *tests], plugins=[recorder]))
        answer.write_bytes(pickle.dumps((recorder.lines, recorder.seconds, recorder.failed)))
    except BaseException:
        traceback.print_exc()
        code = BROKEN
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Copy:
    """A copy of what the tests need, in which one file at a time is a mutant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = int(time.time()) - 10_000_000
        for name in ("relcons", "tests", "examples", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "mkdocs.yml"):
            shutil.copy2(ROOT / name, folder / name)

    @contextlib.contextmanager
    def mutated(self, file: str, source: str) -> Iterator[None]:
        before = (ROOT / file).read_text(encoding="utf-8")
        self._write(file, source)
        try:
            yield
        finally:
            self._write(file, before)

    def _write(self, file: str, source: str) -> None:
        path = self.folder / file
        path.write_text(source, encoding="utf-8")
        self.clock += 2  # compiled files are told from their source by whole seconds and by size
        os.utime(path, (self.clock, self.clock))


def baseline(copy: Copy, tests: list[str], cache: Path | None) -> Recorder:
    """Which test runs which lines, from one call of them all; SystemExit if one fails without a mutant."""
    known = Recorder(str(copy.folder))
    if cache is not None and cache.exists():
        known.lines, known.seconds = pickle.loads(cache.read_bytes())
        return known
    report = run_tests(copy.folder, tests, known, 7200)
    if report.code != 0:
        sys.exit((copy.folder / "output.txt").read_text(errors="replace")[-3000:])
    if cache is not None:
        cache.write_bytes(pickle.dumps((known.lines, known.seconds)))
    return known


def tests_of(mutant: Mutant, file: str, known: Recorder, seconds: float) -> tuple[list[str], float]:
    """The tests that run the changed line, or else its function, or else its file: quickest first, and their time."""
    nearer: list[Callable[[int], bool]] = [
        lambda line: mutant.lines[0] <= line <= mutant.lines[1] or line == mutant.statement,
        lambda line: mutant.function[0] <= line <= mutant.function[1],
        lambda line: True,
    ]
    found: list[str] = []
    for near in nearer:
        found = found or [
            test for test, hits in known.lines.items() if any(name == file and near(line) for name, line in hits)
        ]
    chosen, total = [], 0.0
    for test in sorted(found or known.lines, key=known.seconds.__getitem__):
        if chosen and total + known.seconds[test] > seconds:
            break
        chosen.append(test)
        total += known.seconds[test]
    return chosen, total


def judge(copy: Copy, room: str, file: str, mutant: Mutant, known: Recorder, seconds: float) -> dict[str, Any]:
    """What became of a mutant, as a line of the log."""
    tests, expected = tests_of(mutant, file, known, seconds)
    quiet = Recorder(str(copy.folder), tracing=False)
    with copy.mutated(file, mutant.source):
        report = run_tests(copy.folder, tests, quiet, SLOWER * expected + 60)
        if report.code == 0 and ELSEWHERE[room]:
            report = run_tests(copy.folder, list(ELSEWHERE[room]), quiet, 300)
    by = "a limit on time" if report.code is None else f"code {report.code}"
    if report.heard.failed:
        by = report.heard.failed[0]
    survives = report.code == 0
    return {
        "file": file,
        "line": mutant.lines[0],
        "change": mutant.change,
        "survives": survives,
        "by": f"{len(tests)} tests passed" if survives else by,
        "seconds": round(report.seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", choices=tuple(SOURCES))
    parser.add_argument("--sample", type=int, help="so many mutants, drawn; without it all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only files whose path contains this")
    parser.add_argument("--tests", nargs="+", help="test files, instead of the room's")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a mutant, as they run without it")
    parser.add_argument("--log", type=Path, help="file of one JSON line a mutant; those in it are not run again")
    parser.add_argument("--lines", type=Path, help="file that keeps which test runs which lines, for later calls")
    parser.add_argument("--again", action="store_true", help="run those again that survived in the log")
    arguments = parser.parse_args()
    files = sorted(str(path.relative_to(ROOT)) for glob in SOURCES[arguments.room] for path in ROOT.glob(glob))
    every = [(file, mutant) for file in files for mutant in mutants_of((ROOT / file).read_text(encoding="utf-8"))]
    order = random.Random(arguments.seed).sample(every, len(every))[: arguments.sample]
    order = [(file, mutant) for file, mutant in order if arguments.only in file]
    for name in LIBRARIES:
        importlib.import_module(name)
    done = _logged(arguments.log, arguments.again)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder).resolve())
        known = baseline(copy, arguments.tests or list(TESTS[arguments.room]), arguments.lines)
        for file, mutant in order:
            key = (file, mutant.lines[0], mutant.change)
            if key in done:
                continue
            result = done[key] = judge(copy, arguments.room, file, mutant, known, arguments.seconds)
            print(json.dumps(result), flush=True)
            if arguments.log is not None:
                with arguments.log.open("a") as log:
                    log.write(json.dumps(result) + "\n")
    survivors = [result for result in done.values() if result["survives"]]
    for result in survivors:
        print("survives:", json.dumps(result))
    print(f"{len(done)} of {len(every)} mutants, {len(survivors)} survive")
    return 0


def _logged(log: Path | None, again: bool) -> dict[tuple[str, int, str], dict[str, Any]]:
    """What earlier calls wrote into the log; a later line replaces an earlier one."""
    if log is None or not log.exists():
        return {}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done = {(line["file"], line["line"], line["change"]): line for line in lines}
    return {key: line for key, line in done.items() if not (again and line["survives"])}


if __name__ == "__main__":
    sys.exit(main())
