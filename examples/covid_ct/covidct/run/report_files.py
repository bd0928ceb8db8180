"""A report as Markdown, LaTeX and CSV, and on the screen; all but the CSV print the same grids of text."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from covidct.errors import InputError
from covidct.files import write_text
from covidct.run.paper import ALIKE, HEADING, MEASURES, Figure
from covidct.run.report import Block, Difference, Report, RowResult
from covidct.run.statistics import CONFIDENCE, POWER, counted, number, spread
from covidct.sets.splits import FOLDS

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


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


def write_report(folder: Path, report: Report) -> list[Path]:
    """Write table-NAME.md, .tex, .csv and -differences.csv into `folder`, each whole or not at all.

    Returns their paths; InputError if that is impossible.
    """
    stem = f"table-{report.table.name}"
    texts = {
        f"{stem}.md": markdown(report),
        f"{stem}.tex": latex(report),
        f"{stem}.csv": _csv(_row_cells(block, row) for block in report.blocks for row in block.rows),
        f"{stem}-differences.csv": _csv(map(_difference_cells, report.differences)),
    }
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise InputError(f"{folder}: the table cannot be written ({error.strerror}); free space there") from None
    return [folder / name for name in texts]


def heading(report: Report) -> str:
    """What the table is and is made of."""
    runs = "one run" if report.runs == 1 else f"{report.runs} runs"
    return f"Table {report.table.name}: {report.table.title}, made of {runs} ({report.settings})"


def explanations(report: Report) -> list[str]:
    """How the numbers are to be read."""
    what = "slices" if report.kind == "slices" else "evaluations, each of one volume in one fold"
    lines = [
        f"± is the sample standard deviation over all {what}, scores of several seeds averaged first; SD over seeds is "
        "that of the seeds' means."
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
    lines.append(
        f"Differences are the first minus the second on the same images{'' if report.kind == 'volumes' else ' (of MAE '}"
        f"{'' if report.kind == 'volumes' else 'less is better)'}: bootstrap interval ({CONFIDENCE:.0%}, BCa), paired t "
        "test as in the paper, Wilcoxon's signed rank test; (Holm): corrected over the differences of all measures made "
        f"here on the same unit. Detectable: the smallest true difference that this design finds with probability "
        f"{POWER:g} (two-sided, 5 %), by the SD of the differences."
    )
    return lines


def grids(report: Report) -> list[Grid]:
    """Every measure's rows, each followed by its differences."""
    found = []
    for block in report.blocks:
        title = _block_title(report, block)
        found.append(_row_grid(report, block, title))
        here = [one for one in report.differences if (one.protocol, one.measure) == (block.protocol, block.measure)]
        if here:
            found.append(_difference_grid(here, f"{title}: differences"))
    return found


def markdown(report: Report) -> str:
    """The report as Markdown."""
    parts = [f"# {heading(report)}", *explanations(report)]
    for grid in grids(report):
        lines = [grid.columns, ("---", *("---:" for _ in grid.columns[1:])), *grid.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        parts += [f"## {grid.title}", table]
    parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """The report as LaTeX tables, which take the package booktabs."""
    parts = [f"% {heading(report)}\n% \\usepackage{{booktabs}}"]
    for grid in grids(report):
        parts.append(_latex_table(f"Table {report.table.name}, {grid.title}.", grid))
    notes = "\n\n".join(map(_escaped, (heading(report) + ".", *explanations(report), *report.notes)))
    return "\n\n".join([*parts, f"{{\\footnotesize\n{notes}\\par}}"]) + "\n"


def screen(grid: Grid) -> Table:
    """A grid to print with rich."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=grid.title, title_justify="left")
    for place, title in enumerate(grid.columns):
        table.add_column(title, justify="right" if place else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


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
    measured = ("first - second", "n", "difference", f"{CONFIDENCE:.0%} interval", "SD", "t", "p (t)", "p (t, Holm)")
    measured += "p (Wilcoxon)", "p (Wilcoxon, Holm)", "detectable"
    printed = ("difference",) if any(one.paper is not None for one in differences) else ()
    rows = []
    for one in differences:
        found = one.paired
        exists = found.low == found.low
        cells = [f"{one.first} - {one.second}", f"{found.count} {one.unit}", _signed(found.difference)]
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


def _latex_table(caption: str, grid: Grid) -> str:
    before, after = len(grid.measured), len(grid.printed)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (before + after - 1)}}}", r"\toprule"]
    if after:
        lines.append(rf"\multicolumn{{{before}}}{{c}}{{}} & \multicolumn{{{after}}}{{c}}{{{_escaped(HEADING)}}} \\")
        lines.append(rf"\cmidrule(lr){{{before + 1}-{before + after}}}")
    lines += [_latex_row((*grid.measured, *grid.printed)), r"\midrule", *map(_latex_row, grid.rows), r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}"])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    listed, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, list(listed[0]) if listed else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in listed)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers with six decimals, p values as they are; empty where there is none."""
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _row_cells(block: Block, row: RowResult) -> dict[str, Any]:
    cells = {
        "protocol": block.protocol,
        "measure": block.measure,
        "row": row.title,
        "seeds": " ".join(map(str, row.seed_numbers)),
        "mean": row.all.mean,
        "deviation": row.all.deviation,
        "count": row.all.count,
        "empty": row.all.empty,
        "case_mean": row.cases.mean if row.cases else None,
        "case_deviation": row.cases.deviation if row.cases else None,
        "case_count": row.cases.count if row.cases else None,
        "seed_deviation": row.seeds.deviation,
        "seed_count": row.seeds.count,
    }
    cells |= {f"fold_{fold}": row.folds.get(fold) for fold in range(FOLDS)}
    paper = row.paper
    cells |= {
        "paper_not_measured_here_mean": paper.mean if paper else None,
        "paper_not_measured_here_deviation": paper.deviation if paper else None,
    }
    printed = dict(enumerate(paper.folds)) if paper else {}
    return cells | {f"paper_not_measured_here_fold_{fold}": printed.get(fold) for fold in range(FOLDS)}


def _difference_cells(one: Difference) -> dict[str, Any]:
    found = one.paired
    return {
        "protocol": one.protocol,
        "measure": one.measure,
        "first": one.first,
        "second": one.second,
        "unit": one.unit,
        "count": found.count,
        "difference": found.difference,
        "deviation": found.deviation,
        "interval_low": found.low,
        "interval_high": found.high,
        "t": found.t,
        "t_p": found.t_p,
        "t_p_holm": one.t_holm,
        "wilcoxon": found.wilcoxon,
        "wilcoxon_p": found.wilcoxon_p,
        "wilcoxon_p_holm": one.wilcoxon_holm,
        "detectable": found.detectable,
        "paper_not_measured_here_difference": one.paper,
    }
