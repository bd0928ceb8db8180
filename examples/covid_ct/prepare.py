"""Volumes to preprocessed patches, once: cut, resampled and compressed, for training to read."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from covidct.ct.volume import CaseFacts, VolumeCase
from covidct.errors import InputError, exit_on_input_error, print_error
from covidct.files import entries, remove_leftovers
from covidct.sets.readers import describe, read_volume_set
from covidct.store.preparation import (
    Needs,
    Outcome,
    check_disk,
    fitting_workers,
    gigabytes,
    median_spacing,
    needs,
    of_one_name,
    prepare,
    survey,
    total_memory,
)
from covidct.store.preprocess import Spacing, check_spacing
from covidct.store.store import FACTS, SETTINGS, StoreSettings, begin_store, check_free, read_settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

# Memory of a process that looks at a case whose size is not known yet: twice 512 x 512 x 1000 voxels of float32.
LOOKING_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Arguments:
    """Preprocess a data set of CT volumes into a store that training reads patches from.

    Every volume is cut to what is not empty, brought to one spacing (images by cubic splines, masks linearly; nothing
    is interpolated along an axis with voxels more than three times longer) and compressed. Grey values are normalised
    later, by the training cases of the fold. Run the same command again after an interruption: finished cases are
    kept, their checksums verified. A case that cannot be used is reported, the others are still done, and the exit
    code is then 2. One preparation at a time may write to a store.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Folder of the data set, as it is published."""
    output: Path
    """Folder of the store; made if absent."""
    dataset: str | None = None
    """covid-ct-20, msd-lung, nsclc-pe, lits, covid-19-20, mosmed, medseg, nnunet-raw (default where DATA has imagesTr),
    folder (default) or phantom-volumes."""
    spacing: tuple[float, float, float] | None = None
    """z y x in mm; by default that of the store, else the median of the cases."""
    like: Path | None = None
    """A store whose spacing is taken: that of the target, when DATA is a source."""
    workers: int | None = None
    """Processes; by default as many as there are processors and as the memory holds."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(stderr=True, highlight=False)
    _check(arguments)
    check_free(arguments.output)
    dataset = arguments.dataset or ("nnunet-raw" if (arguments.data / "imagesTr").is_dir() else "folder")
    found = read_volume_set(dataset, arguments.data)
    known = _known_spacing(arguments)
    if known is not None and (arguments.output / SETTINGS).exists():
        begin_store(arguments.output, StoreSettings(dataset, known))
    failures = of_one_name(found.cases)
    facts, unreadable = _survey([case for case in found.cases if case.name not in failures], arguments, console)
    failures |= unreadable
    console.print(describe(found, facts))
    _report(failures, console)
    if not facts:
        raise InputError(f"none of the {len(found.cases)} cases of {arguments.data} can be read; see above")
    spacing = known or median_spacing(facts.values())
    need = needs(facts.values(), spacing, arguments.output)
    workers = arguments.workers or fitting_workers(len(facts), need.worker)
    _announce(need, spacing, workers, check_disk(arguments.output, need), console)
    begin_store(arguments.output, StoreSettings(dataset, spacing))
    remove_leftovers(arguments.output)
    cases = [case for case in found.cases if case.name in facts]
    outcomes = _prepare(cases, arguments.output, spacing, workers, facts, console)
    failures |= {outcome.name: outcome.message for outcome in outcomes if outcome.state == "failed"}
    _report_others(outcomes, arguments.output, console)
    _finish(outcomes, failures, arguments.output)


def _check(arguments: Arguments) -> None:
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"--workers must be 1 or more, got {arguments.workers}")
    if arguments.spacing is not None and arguments.like is not None:
        raise InputError("--spacing and --like both say the spacing; leave one out")
    if arguments.spacing is not None:
        check_spacing(arguments.spacing, "--spacing")


def _known_spacing(arguments: Arguments) -> Spacing | None:
    if arguments.spacing is not None:
        return arguments.spacing
    if arguments.like is not None:
        return read_settings(arguments.like).spacing
    return read_settings(arguments.output).spacing if (arguments.output / SETTINGS).exists() else None


def _survey(
    cases: Sequence[VolumeCase], arguments: Arguments, console: Console
) -> tuple[dict[str, CaseFacts], dict[str, str]]:
    workers = arguments.workers or fitting_workers(len(cases), LOOKING_BYTES)
    with _bar(console) as bar:
        task = bar.add_task("looking at the cases", total=len(cases))
        return survey(cases, arguments.output, workers, lambda done, _: bar.update(task, completed=done))


def _announce(need: Needs, spacing: Spacing, workers: int, free: int, console: Console) -> None:
    mm = " x ".join(f"{length:g}" for length in spacing)
    console.print(f"spacing {mm} mm (z y x)", soft_wrap=True)
    console.print(
        f"disk: about {gigabytes(need.disk)}, at most {gigabytes(need.most_disk)}; {gigabytes(free)} free",
        soft_wrap=True,
    )
    memory, there = need.worker * workers, total_memory()
    console.print(
        f"memory: at most {gigabytes(memory)}, {workers} workers of {gigabytes(need.worker)}; "
        f"this machine has {gigabytes(there)}",
        soft_wrap=True,
    )
    if memory > there:
        console.print("[bold yellow]note:[/] that is more than this machine has; take fewer --workers", soft_wrap=True)


def _prepare(
    cases: Sequence[VolumeCase],
    root: Path,
    spacing: Spacing,
    workers: int,
    facts: dict[str, CaseFacts],
    console: Console,
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with _bar(console) as bar:
        task = bar.add_task("preparing", total=len(cases))
        for outcome in prepare(cases, facts, root, spacing, workers):
            outcomes.append(outcome)
            if outcome.state == "failed":
                _report({outcome.name: outcome.message}, console)
            else:
                size = " x ".join(map(str, facts[outcome.name].shape))
                console.print(f"{len(outcomes)}/{len(cases)} {outcome.name}: {size}, {outcome.state}", markup=False)
            bar.advance(task)
    return outcomes


def _report(failures: dict[str, str], console: Console) -> None:
    for name, message in failures.items():
        print_error(f"{name}: {message}", console)


def _report_others(outcomes: Sequence[Outcome], root: Path, console: Console) -> None:
    """Say which cases the store has from before that this run has neither made nor kept."""
    done = {outcome.name for outcome in outcomes if outcome.state != "failed"}
    others = [path.name for path in entries(root) if (path / FACTS).is_file() and path.name not in done]
    if others:
        what = f"{_cases(len(others))} that {'is' if len(others) == 1 else 'are'}"
        text = (
            f"{root} also holds {what} not of this run (gone from DATA, or not done): {', '.join(others)}; "
            "training takes them, too: delete their folders there to leave them out"
        )
        console.print(Text.assemble(("note: ", "bold yellow"), text), soft_wrap=True)


def _finish(outcomes: Sequence[Outcome], failures: dict[str, str], root: Path) -> None:
    counts = {state: sum(each.state == state for each in outcomes) for state in ("made", "kept", "repaired")}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    output = Console(markup=False, highlight=False)
    output.print(f"{_cases(sum(counts.values()))} in {root}" + (f" ({parts})" if parts else ""), soft_wrap=True)
    if failures:
        output.print(f"{_cases(len(failures))} not done: {', '.join(sorted(failures))}", soft_wrap=True)
        sys.exit(2)


def _cases(count: int) -> str:
    return f"{count} {'case' if count == 1 else 'cases'}"


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=20), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)


if __name__ == "__main__":
    exit_on_input_error(main)
