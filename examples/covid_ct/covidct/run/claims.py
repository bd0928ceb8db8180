"""Where results go: no two inputs share a file, and none takes the place of an input or of somebody else's file."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from covidct.errors import InputError, print_error


def given(path: Path) -> Path:
    """`path` as it was given, absolute and without `..`: links are not followed, so two links to one file are two."""
    return Path(os.path.abspath(path))


class Claims:
    """The files that the inputs of one call are written to.

    inputs: files that must stay, whatever links lead to them.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = {place: path for path in inputs for place in (_entry(path), os.path.realpath(path))}
        self._owners: dict[str, Path] = {}

    def take(self, owner: Path, results: Iterable[Path], *, ours: bool) -> None:
        """Claim all `results` for the input `owner`, or none; `ours`: those that are there were written by predict.py.

        Raises InputError, naming both files, if a result is another input's, is an input, or was written by another
        program.
        """
        found = {_entry(result): result for result in results}
        for place, result in found.items():
            if place in self._owners:
                raise InputError(
                    f"{self._owners[place]} and {owner} would both be written to {result}; rename one or run them apart"
                )
            if (taken := self._inputs.get(place) or self._inputs.get(os.path.realpath(result))) is not None:
                what = "is an input" if taken == result else f"is the input {taken}"
                raise InputError(f"{result} {what} and would be replaced; give another --output")
            if os.path.isdir(result):
                raise InputError(f"{result} cannot be written; a folder stands in its place: give another --output")
            if os.path.lexists(result) and not ours:
                raise InputError(
                    f"{result} is there, was not written by predict.py, and would be replaced; give another --output"
                )
        self._owners |= dict.fromkeys(found, owner)


def report(faults: Sequence[InputError], left: Sequence[object]) -> None:
    """Print what is wrong with the inputs that cannot be used; raise the last of it if no input is left to work on."""
    for fault in faults if left else faults[:-1]:
        print_error(fault)
    if not left:
        raise faults[-1]


def _entry(path: Path) -> str:
    """The place of the name itself in its folder, whatever links lead to that folder."""
    return os.path.join(os.path.realpath(path.parent), path.name)
