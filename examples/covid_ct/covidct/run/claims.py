"""Where results go: no two inputs share a file, and none takes the place of an input or of somebody else's file."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from covidct.errors import InputError, print_error
from covidct.files import not_written


def given(path: Path) -> Path:
    """`path` as it was given, absolute and without `..`: two links to one file are two.

    Links are followed only where a `..` comes after one, which is the folder above that where the link leads.
    """
    place = Path(os.path.sep)
    for part in path.absolute().parts:
        if part != os.path.pardir:
            place /= part
        else:
            place = (Path(os.path.realpath(place)) if place.is_symlink() else place).parent
    return place


class Claims:
    """The files that the inputs of one call are written to.

    inputs: files that must stay, whatever links lead to them.
    """

    def __init__(self, inputs: Iterable[Path]) -> None:
        self._inputs = {identity: path for path in inputs for identity in _identities(path)}
        self._owners: dict[str, Path] = {}

    def take(self, owner: Path, results: Iterable[Path], *, ours: bool) -> None:
        """Claim all `results` for the input `owner`, or none; `ours`: those that are there were written by predict.py.

        Names that differ in nothing but capitals are one: they are on many disks.

        Raises InputError, naming both files, if a result is another input's, is an input, was written by another
        program, or has a name that the disk does not take.
        """
        found = {unicodedata.normalize("NFC", _entry(result)).casefold(): result for result in results}
        for place, result in found.items():
            if place in self._owners:
                raise InputError(
                    f"{self._owners[place]} and {owner} would both be written to {result}; rename one or run them apart"
                )
            _check_name(owner, result)
            taken = next((self._inputs[one] for one in _identities(result) if one in self._inputs), None)
            if taken is not None:
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


def _identities(path: Path) -> Iterator[str | tuple[int, int]]:
    """What two paths of one file share: the entry in its folder, where that leads, and the content on the disk."""
    yield _entry(path)
    yield os.path.realpath(path)
    with suppress(OSError):
        state = os.stat(path)
        yield state.st_dev, state.st_ino


def _check_name(owner: Path, result: Path) -> None:
    folder = next(parent for parent in given(result).parents if os.path.isdir(parent))
    try:
        os.lstat(folder / result.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{owner}: {not_written(result, error)}") from None


def _entry(path: Path) -> str:
    """The place of the name itself in its folder, whatever links lead to that folder."""
    return os.path.join(os.path.realpath(path.parent), path.name)
