"""report.html of a run: one page that needs nothing beside it and no network."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from covidct.errors import InputError
from covidct.files import read_json, write_text, writing
from covidct.run.ablations import caption, in_words
from covidct.run.building import count_parameters
from covidct.run.checkpoint import METRICS, LogLine, log_lines
from covidct.run.config import Config
from covidct.run.figures import read_matrices, relation_files, relation_step
from covidct.run.results import JSON
from covidct.run.systems import system
from relcons.plot import plot_relations

PAGE = "report.html"
# Moments of the relation matrices that the page holds, evenly spread over training.
MOMENTS = 12
# What the log says of a run's end, by its words on the page.
DIAGNOSTICS = {
    "segmentation": "L_seg",
    "weighted_general": "lambda L_G",
    "weighted_target": "lambda L_T",
    "supervised": "L_seg of the source",
    "moved_general": "general encoder moved, share of its norm",
    "rank_general": "effective rank of R_G",
    "rank_target": "effective rank of R_T",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); }
th { text-align: left; } td { text-align: right; font-variant-numeric: tabular-nums; }
input[type=range] { width: 100%; max-width: 40rem; }
figure { margin: 0; } figure img { display: none; } figure img.shown { display: block; }
"""
SLIDER = """
const slider = document.getElementById('moment'), pictures = document.querySelectorAll('#relations img');
function show() {
  pictures.forEach((picture, place) => picture.classList.toggle('shown', place == slider.value));
  document.getElementById('step').textContent = pictures[slider.value].alt;
}
slider.addEventListener('input', show);
show();
"""


def write_page(run: Path, config: Config) -> Path:
    """Write `run`/report.html from what lies in the run's folder, whole or not at all; returns its path.

    Scores, curves, predictions, relation matrices with a slider over training, and every setting. What a run has not is
    left out. InputError if the page cannot be written, or metrics.json is damaged.
    """
    parts = [_head(config), *_scores(run), *_log(run), *_pictures(run), *_relations(run), *_settings(config)]
    title = escape(f"{config.method} on {config.dataset}")
    body = "\n".join(parts)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    with writing(run / PAGE):
        write_text(run / PAGE, text)
    return run / PAGE


def _head(config: Config) -> str:
    split = "the published split" if config.fold is None else f"fold {config.fold}"
    facts = (
        f"{system(config.method).title}; {split}, seed {config.seed}, preset {config.preset}, {config.steps:,} steps"
    )
    more = ", ".join(part for part in (f"{count_parameters(config):,} parameters", caption(config)) if part)
    return f"<h1>{escape(f'{config.method} on {config.dataset}')}</h1>\n<p>{escape(facts)}.<br>{escape(more)}.</p>"


def _scores(run: Path) -> list[str]:
    if not (run / JSON).is_file():
        return []
    metrics = read_json(run / JSON, dict[str, Any], fix=f"write it with evaluate.py {run}")
    summary = metrics.get("summary", {})
    measures = list(dict.fromkeys(name for values in summary.values() for name in values))
    rows = [[name, *(_number(values.get(measure)) for measure in measures)] for name, values in summary.items()]
    parts = [f"<h2>Scores over {metrics.get('count', 0)} test images</h2>", _table(["", *measures], rows)]
    failed = [f"{one.get('name')}: {one.get('message')}" for one in metrics.get("failed", [])]
    parts += [f"<p>Not scored: {escape(text)}</p>" for text in failed]
    images = [one for one in metrics.get("images", metrics.get("volumes", [])) if isinstance(one, dict)]
    if images:
        flat = [_flat(one) for one in images]
        columns = list(flat[0])
        listed = _table(columns, [[_number(one.get(name)) for name in columns] for one in flat])
        parts.append(f"<details><summary>Every test image</summary>{listed}</details>")
    return parts


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name} ")
        elif not isinstance(value, list):
            flat[f"{before}{name}"] = value
    return flat


def _log(run: Path) -> list[str]:
    lines: list[LogLine] = []
    if (run / METRICS).is_file():
        lines = [line for line in log_lines(run / METRICS) if line is not None]
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    rows = [
        [words, _number(first.get(name)), _number(last.get(name))]
        for name, words in DIAGNOSTICS.items()
        if last.get(name) is not None
    ]
    columns = ["", f"step {first['step']}", f"step {last['step']}"]
    return ["<h2>What moved</h2>", _table(columns, rows)]


def _pictures(run: Path) -> list[str]:
    parts = []
    for name, words in (("predictions.png", "Test images, from best to worst"), ("curves.png", "Training")):
        if (run / name).is_file():
            parts.append(f"<h2>{words}</h2>\n{_image((run / name).read_bytes(), words)}")
    return parts


def _relations(run: Path) -> list[str]:
    files = relation_files(run)
    if not files:
        return []
    chosen = [files[place] for place in sorted(set(np.linspace(0, len(files) - 1, MOMENTS).round().astype(int)))]
    pictures = [_image(_drawn(path), f"step {relation_step(path):,}") for path in chosen]
    slider = f'<input type="range" id="moment" min="0" max="{len(chosen) - 1}" value="{len(chosen) - 1}"'
    return [
        "<h2>Relation matrices of the same images</h2>",
        f'<label>{slider} aria-label="moment of training"> <span id="step"></span></label>',
        f'<figure id="relations">{"".join(pictures)}</figure>',
        f"<script>{SLIDER}</script>",
    ]


def _drawn(path: Path) -> bytes:
    matrices = read_matrices(path)
    source = [matrices["general_source"]] if "general_source" in matrices else None
    return _png(plot_relations(source, [matrices["general_target"]], [matrices["target"]]))


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    return content.getvalue()


def _settings(config: Config) -> list[str]:
    rows = [[name, in_words(value)] for name, value in asdict(config).items()]
    return [f"<details><summary>Every setting</summary>{_table(['setting', 'value'], rows)}</details>"]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(value)}</td>' for value in others)}</tr>"
        for first, *others in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _image(content: bytes, words: str) -> str:
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def try_page(run: Path, config: Config) -> str:
    """Where the page of `run` lies, in words, or why there is none: results do not depend on it."""
    try:
        return f"Everything of it on one page: {write_page(run, config)}"
    except InputError as error:
        return f"No page was written: {error}"
