"""Mutants against the tests that run their lines: `python -m tests.long.mutation core --sample 200`, by hand.

Every mutant is written into a copy of the repository, and a fork of one process that has the libraries already runs
there the tests that pass the changed line, quickest first, until one fails. What all of them let pass survives.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests.long.forked_tests import Recorder, run_tests
from tests.long.mutants import Mutant, mutants_of, mutated

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 5  # a mutant may take so many times what its tests take without it, before it counts as hanging
FIRST = 20  # tests that are tried before the others: to collect hundreds takes longer than most mutants live
KEY = ("file", "line", "change", "nth")  # by which the log knows a mutant; nth: of the same change on one line
# Of what is not in relcons, or done by other processes.
OTHERS = ("docs", "pages", "benchmarks", "loops", "floors", "import", "extras", "distributed", "several_processes")
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
ELSEWHERE = {"core": ("tests/test_import.py", "tests/test_extras.py"), "models": ()}
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
    def changed(self, file: str, mutant: Mutant) -> Iterator[None]:
        before = (ROOT / file).read_text(encoding="utf-8")
        self._write(file, mutated(before, mutant))
        try:
            yield
        finally:
            self._write(file, before)

    def _write(self, file: str, source: str) -> None:
        path = self.folder / file
        path.write_text(source, encoding="utf-8")
        self.clock += 2  # compiled files are told from their source by whole seconds and by size
        os.utime(path, (self.clock, self.clock))


def baseline(copy: Copy, files: list[str], cache: Path | None) -> Recorder:
    """Which test of the files runs which lines, from one call of those that the cache lacks or knows otherwise.

    SystemExit if a test fails without a mutant.
    """
    known = Recorder(str(copy.folder))
    measured: dict[str, str] = {}
    if cache is not None and cache.exists():
        known.lines, known.seconds, measured = pickle.loads(cache.read_bytes())
    now = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in files}
    lacking = [file for file in files if measured.get(file) != now[file]]
    if lacking:
        report = run_tests(copy.folder, lacking, Recorder(str(copy.folder)), 7200)
        if report.code != 0:
            sys.exit((copy.folder / "output.txt").read_text(errors="replace")[-3000:])
        known.lines = {test: hits for test, hits in known.lines.items() if test.partition("::")[0] not in lacking}
        known.lines |= report.heard.lines
        known.seconds |= report.heard.seconds
        if cache is not None:
            cache.write_bytes(pickle.dumps((known.lines, known.seconds, measured | now)))
    known.lines = {test: hits for test, hits in known.lines.items() if test.partition("::")[0] in files}
    return known


def tests_of(mutant: Mutant, file: str, known: Recorder, seconds: float) -> tuple[list[str], float, bool]:
    """The tests that run the changed line, or else its function, or else its file: quickest first, and their time.

    The last value: whether they run the line itself.
    """
    # What is in no function runs in the first test alone that imports the file.
    first, last = mutant.function or (-1, -1)
    nearer: list[Callable[[int], bool]] = [
        lambda line: first > 0 and (mutant.lines[0] <= line <= mutant.lines[1] or line == mutant.statement),
        lambda line: first <= line <= last,
        lambda line: True,
    ]
    near_to = [
        [test for test, hits in known.lines.items() if any(name == file and near(line) for name, line in hits)]
        for near in nearer
    ]
    found = next(filter(None, near_to), list(known.lines))
    chosen: list[str] = []
    total = 0.0
    for test in sorted(found, key=known.seconds.__getitem__):
        # What no test runs itself may be run by the processes of one, and those tests take long.
        if near_to[0] and chosen and total + known.seconds[test] > seconds:
            break
        chosen.append(test)
        total += known.seconds[test]
    return chosen, total, bool(near_to[0])


def judge(copy: Copy, room: str, file: str, mutant: Mutant, known: Recorder, seconds: float) -> dict[str, Any]:
    """What became of a mutant, for its line of the log."""
    tests, expected, ran = tests_of(mutant, file, known, seconds)
    quiet = Recorder(str(copy.folder), tracing=False)
    with copy.changed(file, mutant):
        report = run_tests(copy.folder, tests[:FIRST], quiet, SLOWER * expected + 60)
        if report.code == 0 and len(tests) > FIRST:
            report = run_tests(copy.folder, tests[FIRST:], quiet, SLOWER * expected + 60)
        if report.code == pytest.ExitCode.USAGE_ERROR:  # a test's name may hold what was changed
            report = run_tests(copy.folder, sorted({test.partition("::")[0] for test in tests}), quiet, 600)
        if report.code == 0 and not ran and ELSEWHERE[room]:
            report = run_tests(copy.folder, list(ELSEWHERE[room]), quiet, 300)
    by = "a limit on time" if report.code is None else f"code {report.code}"
    if report.heard.failed:
        by = report.heard.failed[0]
    survives = report.code == 0
    return {
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
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a mutant whose line they run")
    parser.add_argument("--log", type=Path, help="file of one JSON line a mutant; those in it are not run again")
    parser.add_argument("--lines", type=Path, help="file that keeps which test runs which lines, for later calls")
    parser.add_argument("--again", action="store_true", help="run those again that survived in the log")
    arguments = parser.parse_args()
    files = sorted(str(path.relative_to(ROOT)) for glob in SOURCES[arguments.room] for path in ROOT.glob(glob))
    every = [(file, *made) for file in files for made in numbered(mutants_of((ROOT / file).read_text("utf-8")))]
    order = random.Random(arguments.seed).sample(every, len(every))[: arguments.sample]
    order = [drawn for drawn in order if arguments.only in drawn[0]]
    for name in LIBRARIES:
        importlib.import_module(name)
    # Collections in the forks would go through all that the libraries hold, which is most of what a fork does.
    gc.collect()
    gc.freeze()
    done = _logged(arguments.log, arguments.again)
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder).resolve())
        known = baseline(copy, test_files(arguments.tests or TESTS[arguments.room]), arguments.lines)
        for file, nth, mutant in order:
            key = (file, mutant.lines[0], mutant.change, nth)
            if key in done:
                continue
            verdict = judge(copy, arguments.room, file, mutant, known, arguments.seconds)
            result = done[key] = dict(zip(KEY, key, strict=True)) | verdict
            print(json.dumps(result), flush=True)
            if arguments.log is not None:
                with arguments.log.open("a") as log:
                    log.write(json.dumps(result) + "\n")
    survivors = [result for result in done.values() if result["survives"]]
    for result in survivors:
        print("survives:", json.dumps(result))
    print(f"{len(done)} of {len(every)} mutants, {len(survivors)} survive")
    return 0


def test_files(named: Sequence[str]) -> list[str]:
    """Files of tests, of those named and in the folders named."""
    paths = [ROOT / name for name in named]
    found = [file for path in paths for file in (sorted(path.rglob("test_*.py")) if path.is_dir() else [path])]
    return [str(file.relative_to(ROOT)) for file in found]


def numbered(mutants: list[Mutant]) -> Iterator[tuple[int, Mutant]]:
    """Each with its number among those of the same change on the same line."""
    seen: Counter[tuple[int, str]] = Counter()
    for mutant in mutants:
        seen[mutant.lines[0], mutant.change] += 1
        yield seen[mutant.lines[0], mutant.change], mutant


def _logged(log: Path | None, again: bool) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What earlier calls wrote into the log; a later line replaces an earlier one."""
    if log is None or not log.exists():
        return {}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    done = {tuple(line[name] for name in KEY): line for line in lines}
    return {key: line for key, line in done.items() if not (again and line["survives"])}


if __name__ == "__main__":
    sys.exit(main())
