"""What a sweep shows: bars in a terminal, elsewhere a line for every run that begins or ends, and now and then."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from covidct.progress import clock
from covidct.sweep.runs import share_done
from covidct.sweep.schedule import State

PLAIN_SECONDS = 60.0


class Display:
    """Context manager; `show` takes a state of the sweep.

    The time left is what the time since the first call would give for what is then left, runs counted alike and those
    that have begun by their steps.
    """

    def __init__(
        self, console: Console, root: Path, total: int, *, clock_now: Callable[[], float] = time.monotonic
    ) -> None:
        self.console, self.root, self.total, self.now = console, root, total, clock_now
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self.all = self.bars.add_task("runs", total=total, text="")
        self.each: dict[str, TaskID] = {}
        self.said: dict[str, str] = {}
        self.began = self.plain_at = self.now()
        self.first: float | None = None

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show(self, state: State) -> None:
        """Show how far the runs are."""
        shares = {run: share_done(self.root / run) for run in state.running}
        done = len(state.finished) + len(state.failed) + sum(shares.values())
        if self.first is None:
            self.first, self.began = done, self.now()
            self.said = dict.fromkeys(state.finished, "finished")
            if state.finished:
                self._say(f"{len(state.finished)} of {self.total} runs are finished already")
        self._show_runs(shares)
        text = self._text(state, done)
        self.bars.update(self.all, completed=done, text=text)
        self._say_changes(state)
        if not self.console.is_terminal and self.now() - self.plain_at >= PLAIN_SECONDS:
            self._say(text)

    def _text(self, state: State, done: float) -> str:
        over = len(state.finished) + len(state.failed)
        text = f"{over} of {self.total} runs over, {len(state.running)} running"
        if state.failed:
            text += f", {len(state.failed)} failed"
        gained = done - (self.first or 0.0)
        if gained <= 0 or over == self.total:
            return text
        return f"{text}, left about {clock((self.now() - self.began) / gained * (self.total - done))}"

    def _show_runs(self, shares: dict[str, float]) -> None:
        for run in self.each.keys() - shares.keys():
            self.bars.remove_task(self.each.pop(run))
        for run, share in shares.items():
            if run not in self.each:
                self.each[run] = self.bars.add_task(f"  {run}", total=1.0, text="")
            self.bars.update(self.each[run], completed=share, text=f"{share:.0%} of its steps")

    def _say_changes(self, state: State) -> None:
        now = dict.fromkeys(state.finished, "finished") | dict.fromkeys(state.running, "begun")
        now |= {run: f"failed: {why}" for run, why in state.failed.items()}
        for run, what in now.items():
            if self.said.get(run) != what:
                self._say(f"{run} {what}")
        self.said = now

    def _say(self, text: str) -> None:
        self.plain_at = self.now()
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)
