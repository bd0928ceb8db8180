"""A table of the paper made of runs: every row's scores beside the printed ones, and the rows compared."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from covidct.errors import InputError
from covidct.run.paper import ALIKE, MEASURES, Figure, Kind, PaperRow, PaperTable
from covidct.run.report_notes import differing, missing, published_notes, settings_line, uncommon
from covidct.run.rows import Rows
from covidct.run.scores import MASK, Place, RunScores, Score, evaluations, seed_means
from covidct.run.statistics import Paired, Summary, case_means, compare, holm, over_cases, summarise

# What all runs of one table share.
SHARED = ("preset", "dataset", "split_seed")
# The protocol of the paper's table; `ALIKE` is the other.
PUBLISHED = "published"


@dataclass(frozen=True)
class RowResult:
    """One row of one measure.

    folds: the mean of each.
    all: over the evaluations; `cases`: over the cases, None where each is evaluated once.
    seeds: over the means of the seeds.
    """

    title: str
    seed_numbers: tuple[int, ...]
    folds: Mapping[int | None, float]
    all: Summary
    cases: Summary | None
    seeds: Summary
    paper: Figure | None


@dataclass(frozen=True)
class Block:
    """The rows of one measure under one protocol, `PUBLISHED` or `ALIKE`."""

    protocol: str
    measure: str
    rows: tuple[RowResult, ...]


@dataclass(frozen=True)
class Difference:
    """First row minus second on one kind of unit: slices, evaluations or cases.

    `t_holm`, `wilcoxon_holm`: p values corrected over all differences of the protocol on that unit. `paper`: the
    difference of the printed means.
    """

    protocol: str
    measure: str
    first: str
    second: str
    unit: str
    paired: Paired
    paper: float | None
    t_holm: float = float("nan")
    wilcoxon_holm: float = float("nan")


@dataclass(frozen=True)
class Report:
    """The whole table. `settings`: what all runs share; `notes`: what is missing or differs."""

    table: PaperTable
    kind: Kind
    by_fold: bool
    runs: int
    settings: str
    blocks: tuple[Block, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Filled:
    """A row, the title it has here, and its runs."""

    title: str
    row: PaperRow
    runs: tuple[RunScores, ...]


def make_report(table: PaperTable, rows: Rows, scores: Mapping[Path, RunScores]) -> Report:
    """The report of `rows`, whose runs scored `scores`.

    Raises InputError if the runs are of several presets, data sets or splits, or were scored in several ways.
    """
    runs = [scores[run] for _, found in rows.rows for run in found]
    _check_alike(runs)
    kind, by_fold = runs[0].kind, runs[0].config.fold is not None
    filled = [_Filled(_title(row, kind), row, tuple(scores[run] for run in found)) for row, found in rows.rows]
    protocols = (PUBLISHED, ALIKE) if kind == "slices" else (PUBLISHED,)
    by_title = {one.title: one.runs for one in filled}
    return Report(
        table=table,
        kind=kind,
        by_fold=by_fold,
        runs=len(runs),
        settings=settings_line(runs),
        blocks=tuple(
            _block(table, kind, protocol, measure, filled) for protocol in protocols for measure in MEASURES[kind]
        ),
        differences=tuple(
            one for protocol in protocols for one in _corrected(list(_differences(table, kind, protocol, filled)))
        ),
        notes=(
            *published_notes(table, kind, runs),
            *missing(by_title, _title(table.row(table.reference), kind), by_fold=by_fold),
            *uncommon(by_title, _pairs(table, filled)),
            *differing(by_title),
        ),
    )


def _title(row: PaperRow, kind: Kind) -> str:
    return row.on_slices if kind == "slices" and row.on_slices else row.title


def _check_alike(runs: Sequence[RunScores]) -> None:
    first = runs[0]
    for one in runs:
        for name in SHARED:
            here, there = getattr(first.config, name), getattr(one.config, name)
            if here != there:
                raise InputError(
                    f"{first.run} is of {name} {here} and {one.run} of {name} {there}: these do not compare in one "
                    "table; leave the runs of one out"
                )
        if (first.config.fold is None) != (one.config.fold is None):
            published, folded = (first, one) if first.config.fold is None else (one, first)
            raise InputError(
                f"{published.run} was tested on the published split and {folded.run} on fold {folded.config.fold}; "
                "make a table of each, with another --output"
            )
        if first.inference.get("by_patient") != one.inference.get("by_patient"):
            raise InputError(
                f"{first.run} and {one.run} were scored on other cases, one with --by-patient and one without; score "
                "both alike with evaluate.py"
            )


def _pairs(table: PaperTable, filled: Sequence[_Filled]) -> list[tuple[str, str]]:
    """Titles of what is compared, the second taken from the first: rows that have runs."""
    reference = next(one for one in filled if one.row.title == table.reference)
    others = [one.title for one in filled if one.runs and one is not reference]
    if not reference.runs:
        return []
    return [(reference.title, other) if table.gain else (other, reference.title) for other in others]


def _block(table: PaperTable, kind: Kind, protocol: str, measure: str, filled: Sequence[_Filled]) -> Block:
    results = []
    for one in filled:
        score = _score(kind, protocol, measure, one.row)
        paper = _printed(table, kind, protocol, measure, one.row)
        results.append(_row_result(one, evaluations(one.runs, score), score, paper))
    return Block(protocol, measure, tuple(results))


def _score(kind: Kind, protocol: str, measure: str, row: PaperRow) -> Score:
    if kind == "volumes":
        return MASK, measure
    return (row.fed if protocol == PUBLISHED else protocol), measure


def _printed(table: PaperTable, kind: Kind, protocol: str, measure: str, row: PaperRow) -> Figure | None:
    return row.figures.get(measure) if protocol == PUBLISHED and kind == table.kinds[0] else None


def _row_result(one: _Filled, values: Mapping[Place, float], score: Score, paper: Figure | None) -> RowResult:
    folds: dict[int | None, list[float]] = {}
    for (fold, _), value in values.items():
        folds.setdefault(fold, []).append(value)
    named = [(name, value) for (_, name), value in values.items()]
    return RowResult(
        title=one.title,
        seed_numbers=tuple(sorted({run.config.seed for run in one.runs})),
        folds={fold: summarise(each).mean for fold, each in folds.items()},
        all=summarise(list(values.values())),
        cases=over_cases(named) if _recur(name for name, _ in named) else None,
        seeds=summarise(seed_means(one.runs, score)),
        paper=paper,
    )


def _recur(names: Iterable[str]) -> bool:
    """Whether a case is evaluated in several folds."""
    listed = list(names)
    return len(set(listed)) < len(listed)


def _differences(table: PaperTable, kind: Kind, protocol: str, filled: Sequence[_Filled]) -> Iterator[Difference]:
    by_title = {one.title: one for one in filled}
    for measure in MEASURES[kind]:
        for pair in _pairs(table, filled):
            sides = [by_title[title] for title in pair]
            first, second = (evaluations(one.runs, _score(kind, protocol, measure, one.row)) for one in sides)
            printed = [_printed(table, kind, protocol, measure, one.row) for one in sides]
            paper = None if printed[0] is None or printed[1] is None else printed[0].mean - printed[1].mean
            for unit, values in _units(kind, first, second).items():
                yield Difference(protocol, measure, *pair, unit=unit, paired=compare(*values), paper=paper)


def _units(
    kind: Kind, first: Mapping[Place, float], second: Mapping[Place, float]
) -> dict[str, tuple[list[float], list[float]]]:
    """Unit -> the two systems' scores of what both have; of cases where they recur, each averaged over its folds."""
    # Where one side has no score the other's does not count either, so that a case is averaged over the same folds.
    common = [
        (place[1], first[place], second[place])
        for place in first
        if place in second and first[place] == first[place] and second[place] == second[place]
    ]
    evaluated = [a for _, a, _ in common], [b for _, _, b in common]
    if kind == "slices":
        return {"slices": evaluated}
    units = {"evaluations": evaluated}
    if _recur(name for name, _, _ in common):
        sides = case_means([(name, a) for name, a, _ in common]), case_means([(name, b) for name, _, b in common])
        units["cases"] = (list(sides[0].values()), list(sides[1].values()))
    return units


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """The differences of one protocol; tests on the same unit are corrected together."""
    corrected = list(found)
    for unit in {one.unit for one in found}:
        places = [place for place, one in enumerate(found) if one.unit == unit]
        t = holm([found[place].paired.t_p for place in places])
        signed = holm([found[place].paired.wilcoxon_p for place in places])
        for place, t_p, signed_p in zip(places, t, signed, strict=True):
            corrected[place] = replace(found[place], t_holm=t_p, wilcoxon_holm=signed_p)
    return corrected
