"""A report as Markdown, LaTeX and CSV, and on the screen; all but the CSV print the same grids of text."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from covidct.files import write_text, writing
from covidct.run.paper import HEADING
from covidct.run.report import Block, Difference, Report, RowResult
from covidct.run.report_text import Grid, explanations, grids, title
from covidct.sets.splits import FOLDS

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"$<$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


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
    with writing(f"{folder}: the table"):
        for name, text in texts.items():
            write_text(folder / name, text)
    return [folder / name for name in texts]


def markdown(report: Report) -> str:
    """The report as Markdown."""
    parts = [f"# {title(report)}", *explanations(report)]
    for grid in grids(report):
        lines = [grid.columns, ("---", *("---:" for _ in grid.columns[1:])), *grid.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        parts += [f"## {grid.title}", table]
    parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """The report as LaTeX tables, which take the package booktabs."""
    parts = [f"% {title(report)}; needs \\usepackage{{booktabs}}"]
    for grid in grids(report):
        parts.append(_latex_table(f"Table {report.table.name}, {grid.title}.", grid))
    notes = "\n\n".join(map(_escaped, (*explanations(report), *report.notes)))
    return "\n\n".join([*parts, f"{{\\footnotesize\n{notes}\\par}}"]) + "\n"


def screen(grid: Grid) -> Table:
    """A grid to print with rich."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=grid.title, title_justify="left")
    for place, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


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
