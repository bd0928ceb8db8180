"""A report in words and as grids of text, whatever they are printed as."""

from collections.abc import Sequence
from dataclasses import dataclass

from covidct.run.paper import ALIKE, HEADING, MEASURES, Figure
from covidct.run.report import Block, Difference, Report
from covidct.run.statistics import CONFIDENCE, POWER, counted, number, spread
from covidct.sets.splits import FOLDS


@dataclass(frozen=True)
class Grid:
    """A table of text: titles of its columns, and of the last ones what was printed elsewhere."""

    title: str
    measured: tuple[str, ...]
    printed: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles that stand alone."""
        return (*self.measured, *(f"{HEADING}: {title}" for title in self.printed))


def title(report: Report) -> str:
    """What the table is."""
    return f"Table {report.table.name}: {report.table.title}"


def explanations(report: Report) -> list[str]:
    """How the numbers are to be read."""
    what = "slices" if report.kind == "slices" else "evaluations, each of one volume in one fold"
    runs = "one run" if report.runs == 1 else f"{report.runs} runs"
    lines = [
        f"Made of {runs}: {report.settings}.",
        f"± is the sample standard deviation over all {what}, scores of several seeds averaged first; SD over seeds is "
        "that of the seeds' means.",
    ]
    if report.kind == "volumes":
        lines.append(
            "Volumes recur in several folds, so that evaluations are not independent; by case: the folds of a volume "
            "are averaged first. Empty: neither lesion nor prediction, left out."
        )
    else:
        lines.append(
            "Table V's protocol is the mean over 256 thresholds, as the paper fed each system: of masks the nnU-Net "
            "family, of probabilities the others. At probability 0.5 all are scored alike."
        )
    better = "" if report.kind == "volumes" else " (of MAE less is better)"
    lines.append(
        f"Differences are the first minus the second on the same images{better}: bootstrap interval ({CONFIDENCE:.0%}, "
        "BCa), paired t test as in the paper, Wilcoxon's signed rank test; (Holm): corrected over the differences of "
        "all measures made here on the same unit. Detectable: the smallest true difference that this design finds with "
        f"probability {POWER:g} (two-sided, 5 %), by the SD of the differences."
    )
    return lines


def grids(report: Report) -> list[Grid]:
    """Every measure's rows, each followed by its differences."""
    found = []
    for block in report.blocks:
        name = _block_title(report, block)
        found.append(_row_grid(report, block, name))
        here = [one for one in report.differences if (one.protocol, one.measure) == (block.protocol, block.measure)]
        if here:
            found.append(_difference_grid(here, f"{name}: differences"))
    return found


def _block_title(report: Report, block: Block) -> str:
    title = MEASURES[report.kind][block.measure]
    if report.kind == "volumes":
        return title
    return f"{title} at probability 0.5" if block.protocol == ALIKE else f"{title}, Table V's protocol"


def _row_grid(report: Report, block: Block, title: str) -> Grid:
    folds = [f"fold {fold}" for fold in range(FOLDS)] if report.by_fold else []
    by_case = any(row.cases for row in block.rows)
    printed = [("mean", _printed_mean)] if any(row.paper for row in block.rows) else []
    if any(row.paper and row.paper.folds for row in block.rows):
        printed = [("mean ± SD", _printed_mean), (f"folds 0 to {FOLDS - 1}", _printed_folds)]
    rows = []
    for row in block.rows:
        cells = [row.title, *(number(row.folds.get(fold, float("nan"))) for fold in range(len(folds)))]
        cells += _measured(spread(row.all), row.all.count), _measured(counted(row.all), row.all.count)
        if by_case:
            cells += (spread(row.cases), counted(row.cases)) if row.cases else ("-", "-")
        cells += number(row.seeds.deviation), " ".join(map(str, row.seed_numbers)) or "-"
        rows.append((*cells, *(show(row.paper) for _, show in printed)))
    cases = ("by case", "n cases") if by_case else ()
    measured = ("", *folds, "mean ± SD", "n", *cases, "SD over seeds", "seeds")
    return Grid(title, measured, tuple(name for name, _ in printed), tuple(rows))


def _measured(text: str, count: int) -> str:
    return text if count else "-"


def _printed_mean(paper: Figure | None) -> str:
    if paper is None:
        return "-"
    return number(paper.mean) if paper.deviation is None else f"{number(paper.mean)}±{number(paper.deviation)}"


def _printed_folds(paper: Figure | None) -> str:
    return " ".join(map(number, paper.folds)) if paper and paper.folds else "-"


def _difference_grid(differences: Sequence[Difference], title: str) -> Grid:
    measured = (
        *("first minus second", "n", "difference", f"{CONFIDENCE:.0%} interval", "SD", "t", "p (t)", "p (t, Holm)"),
        *("p (Wilcoxon)", "p (Wilcoxon, Holm)", "detectable"),
    )
    printed = ("difference",) if any(one.paper is not None for one in differences) else ()
    rows = []
    for one in differences:
        found = one.paired
        exists = found.low == found.low
        cells = [f"{one.first} minus {one.second}", f"{found.count} {one.unit}", _signed(found.difference)]
        cells += f"{_signed(found.low)} to {_signed(found.high)}" if exists else "-", number(found.deviation)
        cells += f"{found.t:.2f}" if found.t == found.t else "-", _p(found.t_p), _p(one.t_holm)
        cells += _p(found.wilcoxon_p), _p(one.wilcoxon_holm), number(found.detectable)
        rows.append((*cells, *([_signed(one.paper)] if printed and one.paper is not None else ["-"] * len(printed))))
    return Grid(title, measured, printed, tuple(rows))


def _signed(value: float) -> str:
    return f"{value:+.3f}" if value == value else "-"


def _p(value: float) -> str:
    if value != value:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
