"""Calls of pytest in forks of a process that has the libraries already: what they ran, what failed, how long."""

import contextlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

__all__ = ["Recorder", "Report", "run_tests"]

ROOT = Path(__file__).resolve().parents[2]
# Plugins of pytest, hypothesis's among them, are imported before the fork; their own assertions matter to nobody.
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--tb=line", "-W", "ignore::pytest.PytestAssertRewriteWarning")
BROKEN = 70  # exit code of a fork that failed itself, not its tests


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
            return (yield)
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
        code = int(pytest.main([*OPTIONS, *tests], plugins=[recorder]))
        answer.write_bytes(pickle.dumps((recorder.lines, recorder.seconds, recorder.failed)))
    except BaseException:
        traceback.print_exc()
        code = BROKEN
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
