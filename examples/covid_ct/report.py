"""A table of the paper from trained runs, beside the figures that the paper prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from covidct.errors import InputError, exit_on_input_error
from covidct.files import write_bytes, write_text, writing
from covidct.results import wing_of
from covidct.run.config import Config, read_config
from covidct.run.figures import draw_comparison
from covidct.run.paper import TABLES, PaperTable, TableName
from covidct.run.report import make_report
from covidct.run.report_files import screen, write_report
from covidct.run.report_text import explanations, grids, title
from covidct.run.results import JSON, make_output
from covidct.run.rows import Rows, assign
from covidct.run.scores import read_scores
from covidct.run.study import read_study
from covidct.run.study_figure import draw_gains
from covidct.run.study_report import markdown, study_rows
from covidct.run.study_scores import Scored, joined, read_csv
from rich.console import Console
from rich.markdown import Markdown

FILE_WIDTH = 200
TABLES_FOLDER = Path("tables")


@dataclass(frozen=True)
class Arguments:
    """Join runs of several methods, folds and seeds into a table of the paper, and compare its rows.

    Runs are put into rows by method, and by source where rows differ in it; they must be scored (train.py does that,
    evaluate.py again). Rows, folds and volumes that are missing are named under the table. Tables III and IV are made
    of runs on volumes or, without figures of the paper, on slices; V and VI of runs on slices. Writes table-NAME.md,
    .tex, .csv (the rows) and table-NAME-differences.csv; and pictures as the paper's: table-NAME-images.png of three
    test images (Figs. 3 and 4) and table-NAME-relations.png (Figs. 5 and 6). With --study: study-NAME.md and
    .png, every system's Dice and its gain over those that it is compared with.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ]
    """Run folders written by train.py; of a study, files scores.csv."""
    table: TableName | None = None
    """Table of the paper."""
    study: Path | None = None
    """Instead of a table: the file of the study whose scores.csv are given."""
    output: Path | None = None
    """Folder for the files; tables by default, beside train.py's runs."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    if arguments.study is not None and arguments.table is not None:
        raise InputError("--table and --study name two reports; leave one out")
    if arguments.study is not None:
        _report_study(arguments, arguments.study, console)
        return
    if arguments.table is None:
        raise InputError("give --table III, IV, V or VI, or --study with a study's file and its scores.csv")
    # Files are what runs/* finds beside the runs, such as evaluate.py's folds.csv.
    runs = list({run.resolve(): run for run in arguments.runs if not run.is_file()}.values())
    if not runs:
        raise InputError("no RUN was given; name the run folders that the table is made of")
    table = TABLES[arguments.table]
    configs = {run: read_config(run / "config.json") for run in runs}
    kinds = {run: wing_of(config.dataset).IMAGES for run, config in configs.items()}
    rows = assign(table, configs, kinds, {run for run in runs if (run / JSON).is_file()})
    scores = {run: read_scores(run, configs[run], kinds[run]) for _, found in rows.rows for run in found}
    report = make_report(table, rows, scores)
    folder = arguments.output or TABLES_FOLDER
    make_output(folder)
    written = write_report(folder, report)
    pictures, left_out = _pictures(folder, table, rows, configs)
    console.print(title(report), style="bold", soft_wrap=True)
    for grid in grids(report):
        console.print(screen(grid))
    names = ", ".join(path.name for path in (*written, *pictures))
    for line in (*explanations(report), *report.notes, *rows.left_out, *left_out, f"Written to {folder}: {names}"):
        console.print(line, soft_wrap=True)


def _report_study(arguments: Arguments, path: Path, console: Console) -> None:
    study = read_study(path)
    scores: list[Scored] = []
    for given in arguments.runs:
        scores = joined(scores, read_csv(given))
    folder = arguments.output or TABLES_FOLDER
    make_output(folder)
    rows = study_rows(study, scores)
    if not rows:
        raise InputError(f"{arguments.runs[0]} has no scores of a system of {path}; give the scores.csv of that study")
    text = markdown(study, rows)
    with writing(f"{folder}: the table"):
        write_text(folder / f"study-{path.stem}.md", text)
    console.print(study.question, style="bold", soft_wrap=True)
    console.print(Markdown(text))
    picture = draw_gains(folder / f"study-{path.stem}.png", study, rows)
    console.print(f"Written to {folder}: study-{path.stem}.md, {picture.name}", soft_wrap=True)


def _pictures(
    folder: Path, table: PaperTable, rows: Rows, configs: Mapping[Path, Config]
) -> tuple[list[Path], list[str]]:
    """Predictions of a few images beside each other, and the reference's relation matrices; and why one is lacking.

    Of every row the run of the same fold and seed as the first row's first, the reference before the others.
    """
    filled = {row.title: found for row, found in rows.rows if found}
    first = filled.get(table.reference) or next(iter(filled.values()))
    place = (configs[first[0]].fold, configs[first[0]].seed)
    chosen = {
        title: run
        for title, found in sorted(filled.items(), key=lambda item: item[1] is not first)
        for run in found
        if (configs[run].fold, configs[run].seed) == place
    }
    written, missing = [], []
    try:
        cases = wing_of(configs[first[0]].dataset).compare(chosen)
        written.append(draw_comparison(folder / f"table-{table.name}-images.png", cases))
    except InputError as error:
        missing.append(f"No picture of predictions: {error}")
    relations = next((run / "relations.png" for run in chosen.values() if (run / "relations.png").is_file()), None)
    if relations is not None:
        written.append(folder / f"table-{table.name}-relations.png")
        with writing(written[-1]):
            write_bytes(written[-1], relations.read_bytes())
    return written, missing


if __name__ == "__main__":
    exit_on_input_error(main)
