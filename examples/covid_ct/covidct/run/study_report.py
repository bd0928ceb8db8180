"""The table of a study: every system's Dice, and what it gains over those it is compared with, slice by slice."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from covidct.run.statistics import Paired, Summary, case_means, compare, holm, summarise
from covidct.run.study import Study
from covidct.run.study_scores import Scored

# (seed, fold) of one run.
Place = tuple[int, int]


@dataclass(frozen=True)
class Gain:
    """What a system has more than `other` on the same slices, seeds and folds, seeds averaged; p values by Holm."""

    other: str
    runs: int
    paired: Paired
    t_holm: float = float("nan")
    wilcoxon_holm: float = float("nan")


@dataclass(frozen=True)
class StudyRow:
    """A system under one number of labels: mean over its slices, seeds averaged, and the spread of the seeds' means."""

    system: str
    labels: str
    runs: int
    slices: Summary
    seeds: Summary
    parameters: int
    milliseconds: float
    gains: tuple[Gain, ...]


def study_rows(study: Study, scores: Sequence[Scored]) -> list[StudyRow]:
    """The rows for which there are scores, by labels and then as the study lists its systems.

    Holm's correction is over the systems that are compared with the same other one under the same labels.
    """
    rows = []
    for labels in [str(count or "all") for count in study.labels]:
        of = {name: [one for one in scores if (one.system, one.labels) == (name, labels)] for name in study.tested()}
        made = [_row(name, labels, of, study.systems[name].against) for name in of if of[name]]
        rows += _corrected(made)
    return rows


def _row(name: str, labels: str, of: dict[str, list[Scored]], against: Sequence[str]) -> StudyRow:
    own = of[name]
    gains = (_gain(own, of[other], other) for other in against if of.get(other))
    return StudyRow(
        system=name,
        labels=labels,
        runs=len(_places(own)),
        slices=summarise(list(_by_slice(own).values())),
        seeds=summarise(_by_seed(own)),
        parameters=max(one.parameters for one in own),
        milliseconds=median(one.milliseconds for one in own),
        gains=tuple(gain for gain in gains if gain is not None),
    )


def _gain(own: Sequence[Scored], others: Sequence[Scored], other: str) -> Gain | None:
    shared = _places(own) & _places(others)
    if not shared:
        return None
    first, second = (_by_slice([one for one in each if _place(one) in shared]) for each in (own, others))
    names = sorted(first.keys() & second.keys())
    paired = compare([first[name] for name in names], [second[name] for name in names])
    return Gain(other, len(shared), paired)


def _corrected(rows: Sequence[StudyRow]) -> list[StudyRow]:
    gains = {(row.system, gain.other): gain for row in rows for gain in row.gains}
    for other in dict.fromkeys(gain.other for gain in gains.values()):
        places = [place for place in gains if place[1] == other]
        t_values = holm([gains[place].paired.t_p for place in places])
        signed = holm([gains[place].paired.wilcoxon_p for place in places])
        for place, t_p, wilcoxon_p in zip(places, t_values, signed, strict=True):
            gains[place] = replace(gains[place], t_holm=t_p, wilcoxon_holm=wilcoxon_p)
    return [replace(row, gains=tuple(gains[row.system, gain.other] for gain in row.gains)) for row in rows]


def markdown(study: Study, rows: Sequence[StudyRow]) -> str:
    """The rows as tables of Markdown, one for each number of labels; gains in points of Dice."""
    head = ["system", "Dice", "runs", "million parameters", "ms a step", "against", "points (95 %)"]
    head += ["p: t, Wilcoxon", "visible"]
    parts = []
    for labels in dict.fromkeys(row.labels for row in rows):
        lines = [head, ["---", *["---:"] * 4, "---", *["---:"] * 3]]
        lines += [line for row in rows if row.labels == labels for line in _lines(study, row)]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        parts.append(f"**{'All labels of a fold' if labels == 'all' else f'{labels} labels'}**\n\n{table}")
    return "\n".join(parts)


def _lines(study: Study, row: StudyRow) -> list[list[str]]:
    """A line for each comparison, what is the row's own on the first alone."""
    spread = f" ± {row.seeds.deviation:.3f}" if row.seeds.count > 1 else ""
    own = [study.systems[row.system].title, f"{row.slices.mean:.3f}{spread}", str(row.runs)]
    own += [f"{row.parameters / 1e6:.2f}", f"{row.milliseconds:.0f}"]
    gains = [_cells(study, gain) for gain in row.gains] or [["-", "", "", ""]]
    return [[*(own if number == 0 else [""] * len(own)), *cells] for number, cells in enumerate(gains)]


def _cells(study: Study, gain: Gain) -> list[str]:
    found = gain.paired
    points = f"{_points(found.difference)} ({_points(found.low)} to {_points(found.high)})"
    tests = f"{gain.t_holm:.3f}, {gain.wilcoxon_holm:.3f}"
    return [study.systems[gain.other].title, points, tests, f"{100 * found.detectable:.1f}"]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _by_slice(scores: Iterable[Scored]) -> dict[str, float]:
    return case_means([(one.image, one.dice) for one in scores])


def _by_seed(scores: Sequence[Scored]) -> list[float]:
    """The mean of every seed, of those with the most folds alone."""
    seeds = {seed: {fold for each, fold in _places(scores) if each == seed} for seed, _ in _places(scores)}
    most = max(map(len, seeds.values()))
    return [
        fmean(one.dice for one in scores if one.seed == seed)
        for seed, folds in sorted(seeds.items())
        if len(folds) == most
    ]


def _places(scores: Iterable[Scored]) -> set[Place]:
    return {_place(one) for one in scores}


def _place(one: Scored) -> Place:
    return one.seed, one.fold
