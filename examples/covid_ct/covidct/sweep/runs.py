"""What a run's folder tells: whether it is finished, how far it is, and what its output ended with."""

import json
import os
from contextlib import suppress
from pathlib import Path

from covidct.errors import InputError, as_text
from covidct.results import is_finished
from covidct.run.checkpoint import METRICS
from covidct.run.config import read_config

# Bytes at the end of a file in which its last lines are.
TAIL = 8192


def finished(run: Path) -> bool:
    """Whether every result is there."""
    with suppress(OSError):
        # On a network's disk a look at the folder shows what other machines have just written.
        os.listdir(run)
    try:
        return is_finished(run, read_config(run / "config.json"))
    except InputError:
        return False


def share_done(run: Path) -> float:
    """The share of its steps that a run has taken, as far as it has logged them."""
    try:
        steps = read_config(run / "config.json").steps
    except InputError:
        return 0.0
    for line in reversed(_last_lines(run / METRICS)):
        with suppress(ValueError, KeyError, TypeError):
            return min(1.0, float(json.loads(line)["step"]) / steps)
    return 0.0


def last_words(log: Path) -> str:
    """The error that the output of train.py ended with, else its last line."""
    lines = [line.strip() for line in _last_lines(log) if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return as_text((errors or lines or ["no output"])[-1])


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
