"""A study: systems by their options of train.py, over folds, seeds and numbers of labels, and its runs."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from covidct.errors import InputError
from covidct.files import parse_json
from covidct.run.plan import Images, Plan, Settings, SourceSet, Training
from covidct.run.systems import STARTS, SYSTEMS, System, system
from covidct.sets.splits import FOLDS

ALL = 0


def _known(method: str) -> str:
    if method not in SYSTEMS:
        raise ValueError(f"must be one of {', '.join(SYSTEMS)}, got {method!r}")
    return method


@dataclass(frozen=True)
class Studied:
    """One system: a method of train.py and its further options.

    start: the system, of a method that others start from, whose run of the same seed it starts from.
    sources: names of the source sets that it takes; None: all that are given.
    against: systems that it is compared with.
    """

    title: str
    method: Annotated[str, AfterValidator(_known)]
    options: tuple[str, ...] = ()
    start: str = ""
    sources: tuple[str, ...] | None = None
    against: tuple[str, ...] = ()

    @property
    def kind(self) -> System:
        """What train.py knows of its method."""
        return system(self.method)


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    labels: how many labelled images are trained on; 0: all of the fold.
    draws: how many draws of them there are; seed s takes draw s modulo this.
    """

    question: str
    systems: dict[str, Studied]
    labels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (ALL,)
    folds: tuple[Annotated[int, Field(ge=0, lt=FOLDS)], ...] = tuple(range(FOLDS))
    draws: Annotated[int, Field(ge=1)] = 1
    options: tuple[str, ...] = field(default=())

    def tested(self) -> dict[str, Studied]:
        """The systems that are scored."""
        return {name: one for name, one in self.systems.items() if one.kind.tested}


def read_study(path: Path) -> Study:
    """The study in the TOML file `path`; InputError if it is missing, damaged, or names a system that it has not."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"--study {path} cannot be read ({error.strerror or error}); give a study's file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--study {path} is no TOML ({error}); correct it") from None
    study = parse_json(json.dumps(content, default=str), Study, str(path), "correct it")
    for name, one in study.systems.items():
        if fault := _fault(study, one):
            raise InputError(f"{path}: system {name} {fault}; correct it")
    return study


def _fault(study: Study, one: Studied) -> str:
    """What is wrong with a system beside the others."""
    for other in filter(None, (one.start, *one.against)):
        if other not in study.systems:
            return f"names {other}, which is no system of the study"
    if one.start and (study.systems[one.start].method not in STARTS or one.kind.start == "nothing"):
        return f"starts from {one.start}; methods that start from a run do so from one of {' or '.join(STARTS)}"
    if not one.start and one.kind.needs_start:
        return f"is of method {one.method}, which needs a start: a system of method {' or '.join(STARTS)}"
    if any(not study.systems[other].kind.tested for other in one.against):
        return "is compared with one that is not scored"
    return ""


def study_plan(study: Study, images: Images, settings: Settings) -> Plan:
    """The trainings of `study`: those that others start from first, then by seed, labels, fold and system.

    settings: `methods` are names of systems here. Raises InputError for one that the study has not, and for sources
    that are needed and not given.
    """
    chosen = _chosen(study, settings)
    maker = _Maker(study, images, settings)
    folds = settings.folds or study.folds
    places = [(seed, labels, fold) for seed in settings.seeds for labels in study.labels for fold in folds]
    wanted = [run for seed, labels, fold in places for name in chosen for run in maker.runs(name, seed, labels, fold)]
    starts = [run for run in wanted if "-fold" not in run.run]
    return Plan(tuple(dict.fromkeys([*starts, *wanted])))


def run_name(study: Study, name: str, seed: int, labels: int, fold: int) -> str:
    """The folder of one run of a study."""
    if not study.systems[name].kind.tested:
        return f"{name}-seed{seed}"
    return f"{name}-labels{labels or 'all'}-fold{fold}-seed{seed}"


def _chosen(study: Study, settings: Settings) -> list[str]:
    tested = study.tested()
    unknown = [name for name in settings.methods if name not in tested]
    if unknown:
        raise InputError(f"--methods {unknown[0]} is no system of the study; take some of {', '.join(tested)}")
    return [name for name in tested if not settings.methods or name in settings.methods]


@dataclass(frozen=True)
class _Maker:
    study: Study
    images: Images
    settings: Settings

    def runs(self, name: str, seed: int, labels: int, fold: int) -> Iterator[Training]:
        """The run of one system, after that which it starts from."""
        one = self.study.systems[name]
        if one.start:
            yield from self.runs(one.start, seed, labels, fold)
        start = run_name(self.study, one.start, seed, labels, fold) if one.start else ""
        yield Training(run_name(self.study, name, seed, labels, fold), self._arguments(name, seed, labels, fold), start)

    def _arguments(self, name: str, seed: int, labels: int, fold: int) -> tuple[str, ...]:
        one = self.study.systems[name]
        words = [*self.images.arguments, "--method", one.method, "--preset", self.settings.preset, "--seed", str(seed)]
        if one.kind.tested:
            words += ["--fold", str(fold)]
            if labels != ALL:
                words += ["--target-cases", str(labels), "--target-draw", str(seed % self.study.draws)]
        if one.kind.needs_source:
            words += ["--source", *(folder for source in self._sources(name) for folder in source.folders)]
        if one.kind.needs_unlabelled and self.images.unlabelled:
            words += ["--unlabelled", self.images.unlabelled]
        words += [*self.study.options, *one.options]
        return (*words, *(() if self.settings.steps is None else ("--steps", str(self.settings.steps))))

    def _sources(self, name: str) -> list[SourceSet]:
        wanted = self.study.systems[name].sources
        given = {source.name: source for source in self.images.sources}
        lacking = [source for source in wanted or () if source not in given]
        if lacking or not given:
            raise InputError(
                f"system {name} of the study learns from {lacking[0] if lacking else 'source images'}: give --source "
                "with a folder of that name, or choose other systems with --methods"
            )
        return [given[source] for source in (given if wanted is None else wanted)]
