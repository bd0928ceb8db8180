"""Which trainings make a table of the paper: a list of calls of train.py, those that others start from first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from covidct.errors import InputError
from covidct.run.paper import TABLES, Kind, PaperRow, TableName
from covidct.run.systems import system
from covidct.sets.splits import FOLDS

# Slices that the paper drew: of the source, one a scan, and of the target.
SOURCE_CASES = {"V": 100, "VI": 60}
TARGET_CASES = {"VI": 10}
# Groups of unlabelled slices and epochs after each, in preset demo: all of the phantoms' would take hours.
DEMO_GROUPS, DEMO_EPOCHS = 2, 1
# Tables over the five folds; the others are of the published split.
BY_FOLD = ("III", "IV")
PRETRAIN = "pretrain"


@dataclass(frozen=True)
class SourceSet:
    """A source set by the name that `covidct.run.paper` has for it, or its folder's; `folders`: what --source names."""

    name: str
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """What is trained on.

    dataset: as configs name it.
    arguments: of train.py, for the target.
    implied: whether train.py takes all of `sources` where it is told none.
    phantoms: whether the sources stand in for the paper's.
    """

    dataset: str
    kind: Kind
    arguments: tuple[str, ...] = ()
    sources: tuple[SourceSet, ...] = ()
    implied: bool = False
    phantoms: bool = False
    unlabelled: str = ""


@dataclass(frozen=True)
class Settings:
    """What all trainings of a table share; None: train.py's or the paper's own, and 0 cases: all there are."""

    preset: str
    seeds: tuple[int, ...] = (0,)
    folds: tuple[int, ...] | None = None
    steps: int | None = None
    methods: tuple[str, ...] = ()
    source_cases: int | None = None
    source_policy: str | None = None
    target_cases: int | None = None
    pseudo_groups: int | None = None
    pseudo_epochs: int | None = None


@dataclass(frozen=True)
class Training:
    """One run: the name of its folder, the arguments of train.py, and the name of the run that it starts from."""

    run: str
    arguments: tuple[str, ...]
    start: str = ""

    def command(self, root: Path) -> list[str]:
        """All arguments of train.py with the runs in `root`; the run's folder must be there, it may be empty."""
        init = ["--init", str(root / self.start)] if self.start else []
        return [*self.arguments, *init, "--output", str(root / self.run), "--resume"]


@dataclass(frozen=True)
class Plan:
    """Every training after those that it needs; `notes`: rows that stay empty, and why."""

    trainings: tuple[Training, ...]
    notes: tuple[str, ...] = ()


def plan(table: TableName, images: Images, settings: Settings) -> Plan:
    """The trainings of `table`: by seed, by fold, by row; all pre-trainings come first.

    Raises InputError if the table is not of such images, has no such methods, or takes sources and none is given.
    """
    rows = _rows(table, images, settings.methods)
    found = [_systems(method, [row for row in rows if row.method == method], images) for method in _methods(rows)]
    systems = [one for ones, _ in found for one in ones]
    folds: Sequence[int | None] = settings.folds or (range(FOLDS) if table in BY_FOLD else (None,))
    maker = _Maker(table, images, settings)
    places = [(seed, fold) for seed in settings.seeds for fold in folds]
    starts = [
        maker.training(_System(PRETRAIN, one.sources), seed, fold)
        for seed, fold in places
        for one in systems
        if system(one.method).needs_start
    ]
    others = [maker.training(one, seed, fold) for seed, fold in places for one in systems]
    return Plan(tuple(dict.fromkeys([*starts, *others])), tuple(note for _, notes in found for note in notes))


def check_kind(table: TableName, dataset: str, kind: Kind) -> None:
    """InputError unless `table` can be made of runs on `dataset`, whose images are of `kind`."""
    kinds = TABLES[table].kinds
    if kind not in kinds:
        raise InputError(f"Table {table} is of {kinds[0]} and --dataset {dataset} of {kind}; take another")


@dataclass(frozen=True)
class _System:
    """A method and the source sets that it, or what it starts from, learns from."""

    method: str
    sources: tuple[SourceSet, ...] = ()


@dataclass(frozen=True)
class _Maker:
    table: TableName
    images: Images
    settings: Settings

    def training(self, one: _System, seed: int, fold: int | None) -> Training:
        """Of one system, fold and seed."""
        # A slice is normalised by itself: nothing of the fold enters a pre-training on slices.
        where = None if one.method == PRETRAIN and self.images.kind == "slices" else fold
        chosen = system(one.method)
        start = self.training(_System(PRETRAIN, one.sources), seed, fold).run if chosen.needs_start else ""
        arguments = (
            *self.images.arguments,
            *("--method", one.method, "--preset", self.settings.preset, "--seed", str(seed)),
            *_option("--fold", where),
            *_option("--steps", self.settings.steps),
            *(self._source(one) if chosen.needs_source else ()),
            *_option("--source-cases", self._source_cases(one.method)),
            *_option("--source-policy", self._source_policy(one.method)),
            *_option("--target-cases", self._target_cases(one.method)),
            *(self._pseudo_labels() if chosen.pseudo_labels else ()),
            *(("--unlabelled", self.images.unlabelled) if self.images.unlabelled and chosen.needs_unlabelled else ()),
        )
        return Training(self._name(one, seed, where), arguments, start)

    def _source(self, one: _System) -> Iterator[str]:
        if self.images.implied and one.sources == self.images.sources:
            return
        yield "--source"
        for source in one.sources:
            yield from source.folders

    def _pseudo_labels(self) -> Iterator[str]:
        groups, epochs = self.settings.pseudo_groups, self.settings.pseudo_epochs
        if self.settings.preset == "demo":
            groups, epochs = groups or DEMO_GROUPS, epochs or DEMO_EPOCHS
        yield from (*_option("--pseudo-groups", groups), *_option("--pseudo-epochs", epochs))

    def _source_cases(self, method: str) -> int | None:
        asked = self.settings.source_cases
        count = SOURCE_CASES.get(self.table) if asked is None else asked
        return (count or None) if system(method).needs_source else None

    def _source_policy(self, method: str) -> str | None:
        return None if self._source_cases(method) is None else self.settings.source_policy

    def _target_cases(self, method: str) -> int | None:
        asked = self.settings.target_cases
        count = TARGET_CASES.get(self.table) if asked is None else asked
        return None if method == PRETRAIN else count or None

    def _name(self, one: _System, seed: int, fold: int | None) -> str:
        """As train.py names runs, and what else tells runs of the same method apart."""
        parts = [self.images.dataset, one.method]
        if one.sources and one.sources != self.images.sources:
            parts.append("+".join(source.name for source in one.sources))
        for word, count in (("source", self._source_cases(one.method)), ("target", self._target_cases(one.method))):
            if count is not None:
                parts.append(f"{word}{count}")
        if self._source_policy(one.method) is not None:
            parts.append(f"source-{self.settings.source_policy}")
        if fold is not None:
            parts.append(f"fold{fold}")
        elif one.method != PRETRAIN:
            parts.append("published")
        return "-".join([*parts, f"seed{seed}"])


def _rows(table: TableName, images: Images, methods: Sequence[str]) -> list[PaperRow]:
    check_kind(table, images.dataset, images.kind)
    paper = TABLES[table]
    listed = _methods(paper.rows)
    unknown = [method for method in methods if method not in listed]
    if unknown:
        raise InputError(f"--methods {unknown[0]} is in no row of Table {table}; take some of {', '.join(listed)}")
    rows = [row for row in paper.rows if not methods or row.method in methods]
    learning = [method for method in _methods(rows) if system(method).needs_source or system(method).needs_start]
    if learning and not images.sources:
        raise InputError(
            f"Table {table} has methods that learn from other lesions ({', '.join(learning)}): give --source with "
            "their sets, or choose others with --methods"
        )
    return rows


def _methods(rows: Iterable[PaperRow]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _systems(method: str, rows: Sequence[PaperRow], images: Images) -> tuple[list[_System], list[str]]:
    """The method once for every source that its rows take, and a note for each row whose source is not given.

    Sets that the rows have not get runs of their own: each alone where a row has one set, all where a row has several.
    """
    if not (system(method).needs_source or system(method).needs_start):
        return [_System(method)], []
    given = {source.name: source for source in images.sources}
    wanted = {row.title: set(given) if row.source is None else set(row.source) for row in rows}
    published = [names for names in wanted.values() if names <= set(given)]
    strangers = [name for name in given if not any(name in names for names in wanted.values())]
    singles = [{name} for name in strangers] if any(len(row.source or ()) == 1 for row in rows) else []
    several = any(len(row.source or ()) > 1 for row in rows)
    joint = [set(given)] if strangers and len(given) > 1 and several else []
    notes = [
        f"No runs of row {title!r}: --source names no set {' or '.join(sorted(names - set(given)))}."
        for title, names in wanted.items()
        if not names <= set(given) and not images.phantoms
    ]
    choices = [*published, *singles, *joint]
    return [_System(method, tuple(given[name] for name in given if name in choice)) for choice in choices], notes


def _option(name: str, value: int | str | None) -> tuple[str, ...]:
    return () if value is None else (name, str(value))
