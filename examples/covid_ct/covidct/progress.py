"""What a training shows: a progress bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 20.0

# Gives the progress, called as progress(done, total), of a stage of work that it is told the name of.
Stages = Callable[[str], Callable[[int, int], None]]

NAMES = {
    "loss": "loss",
    "segmentation": "seg",
    "lambda": "lambda",
    "weighted_general": "lambda L_G",
    "weighted_target": "lambda L_T",
}


class TrainingProgress:
    """Context manager around the training loop; `advance` after every step, `show` whenever values are logged."""

    def __init__(self, console: Console, total: int, first: int) -> None:
        self.console = console
        self.total = total
        self.step = self.first = first
        self.values = ""
        self.started = self.shown = time.monotonic()
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[values]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=total, completed=first, values="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self) -> None:
        """One step done."""
        self.step += 1
        self.bar.advance(self.task)
        if not self.console.is_terminal and self._plain_is_due():
            self.shown = time.monotonic()
            self.console.print(f"step {self.step}/{self.total}  {self.values}  left {self._left()}", soft_wrap=True)

    def show(self, line: Mapping[str, Any]) -> None:
        """Take over the values of a logged step."""
        self.values = "  ".join(
            f"{short} {line[name]:.4f}" for name, short in NAMES.items() if line.get(name) is not None
        )
        self.bar.update(self.task, values=self.values)

    def _plain_is_due(self) -> bool:
        return self.step == self.total or time.monotonic() - self.shown >= PLAIN_SECONDS

    def _left(self) -> str:
        return clock((time.monotonic() - self.started) / (self.step - self.first) * (self.total - self.step))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


@contextmanager
def work_shown(console: Console, name: str) -> Iterator[Callable[[float], None]]:
    """Gives a function that takes the share that is done: a bar in a terminal, elsewhere a line now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn(), TimeRemainingColumn())
    started = shown = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(escape(name), total=1.0)

        def show(share: float) -> None:
            nonlocal shown
            bar.update(task, completed=share)
            now = time.monotonic()
            if not console.is_terminal and share > 0 and now - shown >= PLAIN_SECONDS:
                shown = now
                left = clock((now - started) / share * (1 - share))
                console.print(f"{name}  {share:.0%}  left {left}", soft_wrap=True, markup=False, highlight=False)

        yield show


@contextmanager
def stages_shown(console: Console) -> Iterator[Stages]:
    """Gives the progress of a stage by its name: a bar in a terminal, a line elsewhere, from its first step on."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def stage(name: str) -> Callable[[int, int], None]:
            task = bar.add_task(name, visible=False, total=None)

            def show(done: int, total: int) -> None:
                if not bar.tasks[task].visible and not console.is_terminal:
                    console.print(f"{name} (once)")
                bar.update(task, completed=done, total=total, visible=True)

            return show

        yield stage
