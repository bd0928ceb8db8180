"""The scores that a run leaves: metrics.json and metrics.csv, and where results can be written."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from covidct.errors import InputError, print_error
from covidct.files import remove_leftovers, write_text, writing
from covidct.run.ablations import caption
from covidct.run.building import count_parameters
from covidct.run.config import Config

T = TypeVar("T")

JSON, CSV = "metrics.json", "metrics.csv"
# The sets that a run takes its source images from: [{"dataset": ..., ...}, ...].
SOURCES = "sources.json"
# The fields of the config that a result cannot be read without.
NAMED = (
    *("dataset", "method", "preset", "fold", "split_seed", "seed", "steps"),
    *(
        "relation_reduction",
        "relation_peak_general",
        "relation_peak_target",
        "relation_power",
        "general_rate",
        "anchor",
    ),
    *(
        "relation_levels",
        "fuse_levels",
        "fusion",
        "route",
        "init",
        "width",
        "variant",
        "imagenet",
        "source_cases",
        "source_policy",
        "target_cases",
        "target_draw",
    ),
    *("pseudo_group", "pseudo_epochs", "pseudo_groups", "hidden_block", "hidden_share", "hidden_steps"),
    *("optimizer", "learning_rate", "ema", "precision"),
)


@dataclass(frozen=True)
class Failed:
    """An image that could not be evaluated, and why."""

    name: str
    message: str


def heading(config: Config, data: Path | None = None) -> dict[str, Any]:
    """What every metrics.json begins with; `data`: where the data set lies now, if not where the config says."""
    named: dict[str, Any] = {name: getattr(config, name) for name in NAMED}
    return named | {"parameters": count_parameters(config), "data": config.data if data is None else str(data)}


def write_tables(json_path: Path, content: Any, csv_path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `content` as JSON and `rows` (dicts of the same keys) as CSV; InputError if that is impossible."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _cell(value) for name, value in row.items()} for row in rows])
    with writing(f"{json_path.parent}: the results"):
        write_text(json_path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_text(csv_path, text.getvalue())


def each_run(runs: Mapping[Path, Config], look: Callable[[Path, Config], T]) -> tuple[dict[Path, T], int]:
    """What `look` gives for every run, and how many it refuses: these get a line each, the others go on.

    Raises InputError if it refuses all.
    """
    found: dict[Path, T] = {}
    refused: list[InputError] = []
    for run, config in runs.items():
        try:
            found[run] = look(run, config)
        except InputError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for fault in refused:
        print_error(fault)
    return found, len(refused)


def settings_line(config: Config) -> str:
    """What stands below a table of one run's scores."""
    parts = (f"preset {config.preset}", f"{config.steps} steps", f"seed {config.seed}")
    return ", ".join(part for part in (*parts, f"{count_parameters(config):,} parameters", caption(config)) if part)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` for JSON, which knows neither NaN nor infinity: None in their place."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}


def check_writable(folder: Path) -> None:
    """InputError unless a file can be made in `folder`: better said before an hour of computing than after."""
    with writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


def make_output(folder: Path) -> None:
    """Make `folder`, the value of --output, unless it is there; InputError if results cannot be written to it.

    What killed calls have left in it goes.
    """
    with writing(f"--output {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    remove_leftovers(folder)


def _cell(value: Any) -> Any:
    """Numbers with six decimals; empty where a score does not exist."""
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else value
