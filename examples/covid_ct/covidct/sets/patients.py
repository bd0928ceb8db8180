"""Whose an image is: by a part of its name, or by a list."""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from covidct.ct.names import stem_of
from covidct.ct.picture import SUFFIXES
from covidct.errors import InputError


def patients_of(names: Iterable[str], rule: str) -> dict[str, str]:
    """The patient of each of `names`, which are image files' without suffix; with an empty `rule` the name itself.

    rule: a regular expression that is searched in the name, whose first group (the whole match, if it has none) is the
        patient; or the path of a CSV file (`*.csv`) with the image's name and the patient in its first two columns.

    Raises InputError for a rule that cannot be used, or that does not know a name.
    """
    if not rule:
        return {name: name for name in names}
    known = _listed(Path(rule)) if rule.lower().endswith(".csv") else None
    return {name: _searched(name, rule) if known is None else _looked_up(name, known, rule) for name in names}


def _searched(name: str, rule: str) -> str:
    try:
        found = re.search(rule, name)
    except re.error as error:
        raise InputError(f"--patients {rule!r} is no regular expression ({error}); correct it, or give a CSV") from None
    patient = None if found is None else next((group for group in found.groups() if group), found[0])
    if not patient:
        raise InputError(
            f"--patients {rule!r} finds no patient in the name {name}; write one that fits every name, such as "
            r"'^([^_]+)' for all before the first _, or give a CSV of names and patients"
        )
    return patient


def _listed(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) > 1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--patients {path} cannot be read ({reason}); give a CSV of names and patients") from None
    return {_bare(row[0].strip()): row[1].strip() for row in rows if row[1].strip()}


def _looked_up(name: str, known: Mapping[str, str], rule: str) -> str:
    if name not in known:
        raise InputError(
            f"--patients {rule} lists no patient of {name}; add a line `{name},PATIENT` (first column the image's "
            "name, second the patient, with commas between)"
        )
    return known[name]


def _bare(name: str) -> str:
    """A file's name without its suffix, or a name that has none."""
    volume = stem_of(Path(name))
    picture = Path(name)
    return volume if volume != name else picture.stem if picture.suffix.lower() in SUFFIXES else name
