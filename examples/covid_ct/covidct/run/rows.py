"""Which runs belong to which row of a table of the paper."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from covidct.errors import InputError
from covidct.files import read_json
from covidct.run.ablations import departures
from covidct.run.config import Config, read_config
from covidct.run.groups import groups, label
from covidct.run.paper import TABLES, Kind, PaperRow, PaperTable
from covidct.run.results import SOURCES
from covidct.run.systems import SYSTEMS, system

# How the folder of a set may be called, where no store says what it is.
FOLDER_NAMES = {
    "msd-lung": r"msd|task06",
    "nsclc-pe": r"nsclc|plethora",
    "lits": r"lits|task03",
    "covid-19-20": r"covid-?19-?20",
}
KNOWN_METHODS = {row.method for table in TABLES.values() for row in table.rows}


@dataclass(frozen=True)
class Named:
    """A run and its config."""

    run: Path
    config: Config


@dataclass(frozen=True)
class _Noted:
    """Of sources.json, what is read here."""

    dataset: str


@dataclass(frozen=True)
class Rows:
    """The table's rows with their runs, then rows that the paper has not; `left_out`: a text for each other run."""

    rows: tuple[tuple[PaperRow, tuple[Path, ...]], ...]
    left_out: tuple[str, ...] = ()


def assign(
    table: PaperTable, configs: Mapping[Path, Config], kinds: Mapping[Path, Kind], scored: Collection[Path]
) -> Rows:
    """The rows of `table` with their runs.

    Runs of a method that no table of the paper has, and of this table's methods on a source that it has not, get rows
    of their own at its end. Runs of other tables' methods, and of trainings that are not scored (pre-trainings), are
    left out.

    Args:
        table: of the paper.
        configs: of the runs.
        kinds: of their images.
        scored: the runs that have a metrics.json.

    Raises InputError if a run is of another kind than the table, a run of one of its rows is not scored, two settings
    or two runs of one fold and seed would share a row, or no run is left.
    """
    _check_kinds(table, kinds)
    taken: dict[str, list[Named]] = {row.title: [] for row in table.rows}
    others, left_out = [], []
    for run, config in configs.items():
        row = _row_of(table, run, config)
        here = row is not None or config.method in {one.method for one in table.rows}
        if not here and config.method in KNOWN_METHODS:
            left_out.append(f"{run} is left out: no row of Table {table.name} is of method {config.method}")
        elif run not in scored and not here:
            left_out.append(f"{run} is left out: it has no metrics.json")
        elif run not in scored:
            raise InputError(
                f"{run} has no metrics.json: end its training with train.py --resume --output {run}, score it with "
                f"evaluate.py {run}, or leave it out"
            )
        elif row is None:
            others.append(Named(run, config))
        else:
            taken[row.title].append(Named(run, config))
    rows = [(row, _one_group(row.title, taken[row.title])) for row in table.rows]
    rows += _own_rows(others)
    if not any(runs for _, runs in rows):
        raise InputError(
            f"none of the {len(configs)} runs is in a row of Table {table.name}, whose methods are "
            f"{', '.join(dict.fromkeys(row.method for row in table.rows))}; give runs of these"
        )
    return Rows(tuple(rows), tuple(left_out))


def source_sets(run: Path, config: Config) -> frozenset[str]:
    """The sets whose lesions a run has learned from: its own sources', and those of the run that it started from.

    A set that its folder's name does not tell is given by that name. InputError if the run it started from is gone.
    """
    own = _sets(run, config)
    if config.init:
        start = Path(config.init)
        try:
            started = read_config(start / "config.json")
        except InputError as error:
            raise InputError(
                f"{run} started from {start}, and what that learned from decides its row: {error}; bring the folder "
                f"back, or leave {run} out"
            ) from None
        return own | _sets(start, started)
    return own


def _sets(run: Path, config: Config) -> frozenset[str]:
    return _recorded(run) or frozenset(set_of(Path(folder)) for folder in config.source)


def _row_of(table: PaperTable, run: Path, config: Config) -> PaperRow | None:
    rows = [row for row in table.rows if row.method == config.method]
    if not rows or not _starts_as_published(config) or departures(config):
        return None
    if all(row.source is None for row in rows):
        return rows[0]
    sets = source_sets(run, config)
    return next((row for row in rows if row.source == sets), None)


def _starts_as_published(config: Config) -> bool:
    """Whether a run that starts from another is of a method that does, and from a training on lesions."""
    if not config.init:
        return True
    if config.method in SYSTEMS and not system(config.method).needs_start:
        return False
    try:
        return read_config(Path(config.init) / "config.json").method == "pretrain"
    except InputError:
        # Gone. Where it matters `source_sets` says so.
        return True


def _recorded(run: Path) -> frozenset[str]:
    """The sets that a run has noted itself; none where it has not."""
    path = run / SOURCES
    if not path.exists():
        return frozenset()
    noted = read_json(path, list[_Noted], fix="put it back as train.py wrote it, or leave the run out")
    return frozenset(one.dataset for one in noted)


def set_of(folder: Path) -> str:
    """The set that a folder's name, or its parent's, tells; else that name."""
    for name in (folder.name, folder.parent.name):
        for known, pattern in FOLDER_NAMES.items():
            if re.search(rf"(?<![a-z])({pattern})", name.lower().replace("_", "-")):
                return known
    return folder.name


def _check_kinds(table: PaperTable, kinds: Mapping[Path, Kind]) -> None:
    first = next(iter(kinds))
    for run, kind in kinds.items():
        if kind not in table.kinds:
            raise InputError(f"{run} is a run on {kind} and Table {table.name} is of {table.kinds[0]}; leave it out")
        if kind != kinds[first]:
            raise InputError(
                f"{first} is a run on {kinds[first]} and {run} one on {kind}; make a table of each, with another "
                "--output"
            )


def _one_group(title: str, runs: Sequence[Named]) -> tuple[Path, ...]:
    """The runs of a row; InputError unless they differ in fold and seed alone, and each of these is there once."""
    found = groups(runs)
    if len(found) > 1:
        texts = [f"{group[0].run} ({label(group[0], runs)})" for group in found[:2]]
        raise InputError(
            f"row {title!r} is of runs of one setting, and {' and '.join(texts)} differ; leave the runs of one out"
        )
    places: dict[tuple[int | None, int], Path] = {}
    for one in runs:
        place = (one.config.fold, one.config.seed)
        if place in places:
            what = "the published split" if one.config.fold is None else f"fold {one.config.fold}"
            raise InputError(
                f"{places[place]} and {one.run} are both {what} and seed {one.config.seed} of row {title!r}; leave one "
                "out"
            )
        places[place] = one.run
    return tuple(one.run for one in sorted(runs, key=lambda one: (one.config.seed, one.config.fold or 0)))


def _own_rows(others: Sequence[Named]) -> list[tuple[PaperRow, tuple[Path, ...]]]:
    found = groups(others)
    titles = [_own_title(group[0]) for group in found]
    # Those that method and source do not tell apart get every setting that does.
    titles = [
        title if titles.count(title) == 1 else label(group[0], others)
        for title, group in zip(titles, found, strict=True)
    ]
    return [
        (PaperRow(f"{title} (not in the paper)", group[0].config.method), _one_group(title, group))
        for title, group in zip(titles, found, strict=True)
    ]


def _own_title(one: Named) -> str:
    method = ", ".join(part for part in (one.config.method, departures(one.config)) if part)
    if one.config.init and not _starts_as_published(one.config):
        method = f"{method} after {read_config(Path(one.config.init) / 'config.json').method}"
    sets = source_sets(one.run, one.config)
    return f"{method} on {' + '.join(sorted(sets))}" if sets else method
