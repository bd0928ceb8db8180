"""The order in which trainings are started and seen to end: each after what it needs, so many at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from covidct.errors import InputError
from covidct.run.lock import holder
from covidct.run.plan import Training
from covidct.sweep.runs import finished

# Seconds between two looks.
PAUSE = 0.5


class Workers(Protocol):
    """Who carries trainings out."""

    def begun(self) -> list[str]:
        """Runs that an earlier sweep has given out and that are not over."""

    def start(self, training: Training) -> None:
        """Begin one; InputError if that is impossible."""

    def ended(self) -> list[str]:
        """Runs that are over since this was last asked, however they ended."""

    def why(self, run: str) -> str:
        """What a run that ended unfinished said last."""


@dataclass
class State:
    """Where the sweep stands: every training is in one of these. `failed`: why."""

    waiting: list[Training]
    running: dict[str, Training] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def carry_out(
    trainings: Sequence[Training],
    root: Path,
    workers: Workers,
    at_once: int,
    show: Callable[[State], None],
    pause: Callable[[], None] = lambda: time.sleep(PAUSE),
) -> State:
    """Carry out `trainings`, each after those that it needs, in folders in `root`; returns how that ended.

    A run is finished when its folder says so, whoever trained it, and whatever its process said. One that fails, and
    those that start from it, do not hold up the others. A run in which another process of this machine trains is left
    to that until it ends.

    at_once: how many at most.
    show: called whenever something may have changed.
    pause: called between two looks.
    """
    begun = set(workers.begun())
    state = State([one for one in trainings if not finished(root / one.run)])
    state.finished = [one.run for one in trainings if one not in state.waiting]
    _move(state, [one for one in state.waiting if one.run in begun])
    show(state)
    while state.waiting or state.running:
        for run in workers.ended():
            _settle(state, state.running.pop(run), root, workers)
        _drop_those_that_cannot_start(state)
        _start(state, root, workers, at_once)
        show(state)
        if state.waiting or state.running:
            pause()
    return state


def _start(state: State, root: Path, workers: Workers, at_once: int) -> None:
    for one in list(state.waiting):
        if len(state.running) >= at_once:
            return
        if (one.start and one.start not in state.finished) or holder(root / one.run) is not None:
            continue
        _move(state, [one])
        if finished(root / one.run):  # by somebody else, meanwhile
            state.finished.append(state.running.pop(one.run).run)
            continue
        try:
            workers.start(one)
        except InputError as error:
            state.failed[state.running.pop(one.run).run] = str(error)


def _move(state: State, started: Sequence[Training]) -> None:
    state.waiting = [one for one in state.waiting if one not in started]
    state.running |= {one.run: one for one in started}


def _settle(state: State, one: Training, root: Path, workers: Workers) -> None:
    if finished(root / one.run):
        state.finished.append(one.run)
    else:
        state.failed[one.run] = workers.why(one.run)


def _drop_those_that_cannot_start(state: State) -> None:
    for one in state.waiting:
        if one.start in state.failed:
            state.failed[one.run] = f"it starts from {one.start}, which failed"
    state.waiting = [one for one in state.waiting if one.run not in state.failed]
