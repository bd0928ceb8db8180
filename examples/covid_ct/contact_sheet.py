"""Labelled and unlabelled slices side by side, as stored and as read: whether the two sets look alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from covidct.errors import InputError, exit_on_input_error
from covidct.sets.covid_semiseg import read_covid_semiseg
from covidct.slices.contact_sheet import draw_contact_sheet, grey_table, grey_values, groups_to_compare
from rich.console import Console


@dataclass(frozen=True)
class Arguments:
    """Draw a row of the labelled slices and rows of the unlabelled ones of COVID-SemiSeg, and print their grey values.

    What is stored otherwise than the labelled slices (mirrored, in another grey scale) has two rows: as it is stored,
    and as training reads it.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Folder of COVID-SemiSeg, as its archive unpacks."""
    output: Path = Path("contact_sheet.png")
    """The picture, a PNG; replaced if it is there."""
    columns: int = 10
    """Slices of each row."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if arguments.columns < 1:
        raise InputError(f"--columns must be 1 or more, got {arguments.columns}")
    groups = groups_to_compare(read_covid_semiseg(arguments.data))
    drawn = draw_contact_sheet(arguments.output, groups, columns=arguments.columns)
    Console().print(grey_table(grey_values(groups)))
    print(drawn)


if __name__ == "__main__":
    exit_on_input_error(main)
