"""Tables of results: what they were measured on, and where they are written."""

import argparse
import datetime
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

import relcons

README = Path(__file__).with_name("README.md")


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """Command line with the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--repeats", type=int, default=repeats, help="counted runs of every call")
    options.add_argument("--output", type=Path, help="write the table to this file as well")
    options.add_argument("--update-readme", action="store_true", help="replace this benchmark's results in README.md")
    return options


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, body: str, packages: Sequence[str], options: argparse.Namespace) -> None:
    """Print the result with what it was measured on; write it where the options ask for it."""
    text = f"{body}\n\n{_measured_on(packages, options)}\n"
    print(text, end="")
    if options.output is not None:
        _replace(options.output, text)
    if options.update_readme:
        _replace(README, _with_section(README.read_text(encoding="utf-8"), name, text))


def _measured_on(packages: Sequence[str], options: argparse.Namespace) -> str:
    versions = [
        f"torch {torch.__version__}",
        f"relcons {relcons.__version__}",
        *(f"{p} {version(p)}" for p in packages),
    ]
    script = Path(sys.argv[0]).resolve().relative_to(README.parents[2]).as_posix()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seed = [f"Seed {options.seed}."] if hasattr(options, "seed") else []
    return "\n".join(
        [
            f"{_processor(options)}, {cores} cores, {torch.get_num_threads()} threads, {platform.system()}.",
            f"Python {platform.python_version()}, {', '.join(versions)}.",
            " ".join([*seed, f"{datetime.date.today()}:", f"`{shlex.join(['python', script, *sys.argv[1:]])}`"]),
        ]
    )


def _processor(options: argparse.Namespace) -> str:
    if getattr(options, "device", "cpu").startswith("cuda"):
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _with_section(readme: str, name: str, text: str) -> str:
    start, end = f"<!-- {name}: start -->\n", f"<!-- {name}: end -->\n"
    if readme.count(start) != 1 or readme.count(end) != 1:
        raise ValueError(f"{README} must hold the lines {start.strip()!r} and {end.strip()!r} once each")
    return readme.partition(start)[0] + start + "\n" + text + "\n" + end + readme.partition(end)[2]


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
