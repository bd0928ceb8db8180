"""What stands under a table made of runs: what they share, what differs, what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from covidct.errors import InputError
from covidct.run.ablations import CHOICES, in_words
from covidct.run.ablations import acting as choices
from covidct.run.config import Config
from covidct.run.groups import FREE
from covidct.run.paper import Kind, PaperTable
from covidct.run.results import NAMED
from covidct.run.scores import Place, RunScores
from covidct.run.systems import SYSTEMS
from covidct.sets.splits import FOLDS

# What tells rows apart by itself.
TELLING = {"method", "source", "init"}
# What results name and a row is made of several of, or says itself.
VARYING = {"method", "fold", "seed"}

# The runs of every row, by its title.
Filled = Mapping[str, Sequence[RunScores]]


def settings_line(runs: Sequence[RunScores]) -> str:
    """The settings that results name and all runs share; those that they do not are in the notes."""
    named = [
        {
            name: value
            for name, value in (*_named(one.config).items(), *one.inference.items())
            if name not in VARYING | TELLING
        }
        for one in runs
    ]
    acting = {choice.field for one in runs if one.config.method in SYSTEMS for choice in choices(one.config)}
    idle = {choice.field for choice in CHOICES} - acting
    shared = {
        name: value
        for name, value in named[0].items()
        if name not in idle and all(one.get(name) == value for one in named)
    }
    return ", ".join(f"{name} {in_words(value)}" for name, value in shared.items())


def published_notes(table: PaperTable, kind: Kind, runs: Sequence[RunScores]) -> list[str]:
    """Where the printed figures come from, and whether these runs may be held against them."""
    config = runs[0].config
    notes = [table.note] if kind == table.kinds[0] else []
    if kind != table.kinds[0]:
        notes.append(f"The paper has this table on {table.kinds[0]} alone: there is no figure to hold against these.")
    elif config.preset != "paper" or config.dataset.startswith("phantom"):
        notes.append(
            f"These runs are of preset {config.preset} on {config.dataset}, not the paper's training on its data: its "
            "figures stand beside them for orientation and cannot be compared with them."
        )
    if runs[0].inference.get("by_patient"):
        notes.append("Without test scans of the training patients: not the published protocol.")
    return notes


def missing(rows: Filled, reference: str, *, by_fold: bool) -> list[str]:
    """Rows without runs, seeds without all folds, folds without all volumes."""
    empty = [title for title, runs in rows.items() if not runs]
    notes = [f"Incomplete: no runs of {', '.join(empty)}."] if empty else []
    if reference in empty:
        notes.append(f"No differences: every row is compared with {reference}, which has no runs.")
    for title, runs in rows.items():
        for seed in sorted({one.config.seed for one in runs}):
            found = {one.config.fold: one for one in runs if one.config.seed == seed}
            lacking = [str(fold) for fold in range(FOLDS) if fold not in found] if by_fold else []
            if lacking:
                folds = f"fold {lacking[0]} is" if len(lacking) == 1 else f"folds {' '.join(lacking)} are"
                notes.append(f"Incomplete: {title}, seed {seed}: {folds} missing.")
            notes += [
                f"Incomplete: {title}, seed {seed}, fold {fold}: {', '.join(one.failed)} could not be scored."
                for fold, one in found.items()
                if one.failed
            ]
    return notes


def uncommon(rows: Filled, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs of rows that are not of the same images: what both have is compared."""
    notes = []
    for first, second in pairs:
        here, there = _places(rows[first]), _places(rows[second])
        if here != there:
            notes.append(
                f"{first} ({len(here)}) and {second} ({len(there)}) have {len(here & there)} evaluations in common, "
                "which are compared."
            )
    return notes


def differing(rows: Filled) -> list[str]:
    """Settings in which rows differ, each with its values and whose they are.

    InputError where the runs of one row were predicted with several settings.
    """
    settings = {title: _settings(runs) for title, runs in rows.items() if runs}
    notes = []
    for name in dict.fromkeys(name for values in settings.values() for name in values):
        titles: dict[str, list[str]] = {}
        for title, values in settings.items():
            titles.setdefault(in_words(values.get(name)), []).append(title)
        if len(titles) > 1:
            texts = [f"{value} ({', '.join(whose)})" for value, whose in titles.items()]
            notes.append(f"Rows differ in {name}: {'; '.join(texts)}.")
    return notes


def _settings(runs: Sequence[RunScores]) -> dict[str, Any]:
    first = runs[0]
    for one in runs:
        if one.inference != first.inference:
            raise InputError(
                f"{first.run} and {one.run} belong to one row and were predicted with other settings, "
                f"{dict(first.inference)} and {dict(one.inference)}; score both alike with evaluate.py"
            )
    own = {name: value for name, value in asdict(first.config).items() if name not in FREE | TELLING}
    return {**own, **first.inference}


def _named(config: Config) -> dict[str, Any]:
    """The settings that every result names."""
    return {name: getattr(config, name) for name in NAMED}


def _places(runs: Sequence[RunScores]) -> set[Place]:
    return {(one.config.fold, name) for one in runs for values in one.values.values() for name in values}
