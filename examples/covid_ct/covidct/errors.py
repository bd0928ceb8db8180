"""Errors that the user can mend, and how a command line reports them."""

import sys
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.text import Text

T = TypeVar("T")


class InputError(ValueError):
    """A file or argument that cannot be used; the message names it, what came, what was expected, the fix."""

    def __str__(self) -> str:
        return as_text(super().__str__())


def as_text(value: object) -> str:
    """`value` for a screen or file: names of files may hold bytes that are no text, which neither takes."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def exit_on_input_error(main: Callable[[], T]) -> T:
    """Call `main` and return what it returns; an `InputError` becomes one message on stderr and exit code 2.

    Every script ends with

        if __name__ == "__main__":
            exit_on_input_error(main)

    Other exceptions are programming errors and keep their traceback.
    """
    try:
        return main()
    except InputError as error:
        print_error(error)
        sys.exit(2)


def print_error(error: InputError | str, console: Console | None = None) -> None:
    """Print the one line of an error, on stderr or where a progress bar runs."""
    # soft_wrap: a path broken across two lines cannot be copied.
    (console or Console(stderr=True)).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
