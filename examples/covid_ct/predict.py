"""Lesion masks for pictures of CT slices, or for CT volumes, by a trained run."""

import sys

import tyro
from covidct.errors import as_text, exit_on_input_error
from covidct.results import wing_of
from covidct.run.config import read_config
from covidct.run.requests import Prediction
from rich.console import Console


def main() -> None:
    asked = tyro.cli(Prediction, config=(tyro.conf.FlagCreatePairsOff,))
    config = read_config(asked.run / "config.json")
    failures, total, what = wing_of(config.dataset).predict(asked)
    others = f", {failures} not: see above" if failures else ""
    Console(markup=False, highlight=False).print(
        f"{total - failures} of {total} {what} written to {as_text(asked.output)}{others}", soft_wrap=True
    )
    if failures:
        sys.exit(2)


if __name__ == "__main__":
    exit_on_input_error(main)
