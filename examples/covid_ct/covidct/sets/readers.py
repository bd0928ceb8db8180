"""The data sets of volumes by name, and what was found in one of them as a table."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from covidct.ct.volume import CaseFacts
from covidct.errors import InputError
from covidct.sets.covid_19_20 import read_covid_19_20
from covidct.sets.covid_ct_20 import read_covid_ct_20
from covidct.sets.lits import read_lits
from covidct.sets.medseg import read_medseg
from covidct.sets.mosmed import read_mosmed
from covidct.sets.msd_lung import read_msd_lung
from covidct.sets.names import COVID_CT_20, PHANTOM_VOLUMES
from covidct.sets.nnunet_raw import read_nnunet_raw
from covidct.sets.nsclc_pe import read_nsclc_pe
from covidct.sets.plain_folder import read_plain_folder
from covidct.sets.volume_set import VolumeSet

__all__ = ["READERS", "VolumeSet", "describe", "read_volume_set"]

READERS: Mapping[str, Callable[[Path], VolumeSet]] = {
    COVID_CT_20: read_covid_ct_20,
    "msd-lung": read_msd_lung,
    "nsclc-pe": read_nsclc_pe,
    "lits": read_lits,
    "covid-19-20": read_covid_19_20,
    "mosmed": read_mosmed,
    "medseg": read_medseg,
    "nnunet-raw": read_nnunet_raw,
    "folder": read_plain_folder,
    PHANTOM_VOLUMES: read_covid_ct_20,
}


def read_volume_set(name: str, folder: Path) -> VolumeSet:
    """Which cases the data set `name`, unpacked to `folder`, has there; only names are looked at, no file is opened.

    Raises InputError if there is no such set or folder, or no case in it; the message then says what was skipped.
    """
    if name not in READERS:
        raise InputError(f"--dataset {name} is not known; expected {', '.join(READERS)}")
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give the folder of the set, as --dataset {name} expects it")
    found = READERS[name](folder)
    if not found.cases:
        why = "; ".join(found.skipped[:3]) + (f"; and {len(found.skipped) - 3} more" if len(found.skipped) > 3 else "")
        raise InputError(
            f"{folder} holds no case of {name}{f' ({why})' if why else ''}; "
            "give the folder of the set, as it is published"
        )
    return found


def describe(found: VolumeSet, facts: Mapping[str, CaseFacts]) -> Group:
    """What was found, to print with rich: the cases that `facts` (by name) knows, what is odd, what was skipped.

    Columns: name, voxels and spacing (z, y, x), what the image holds, mask values, lesion volume.
    """
    table = Table(title=f"{found.name}: {len(found.cases)} cases, {len(facts)} readable", title_justify="left")
    for heading in ("case", "voxels (z y x)", "spacing, mm", "values", "mask values", "lesion, ml"):
        table.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=heading == "case")
    for case in found.cases:
        if case.name in facts:
            table.add_row(*map(Text, _row(facts[case.name])))
    notes = (note for case in found.cases if case.name in facts for note in facts[case.name].notes)
    return Group(table, *_lines("note", notes), *_lines("skipped", found.skipped))


def _row(facts: CaseFacts) -> tuple[str, ...]:
    return (
        facts.name,
        " x ".join(map(str, facts.shape)),
        " x ".join(f"{length:.3g}" for length in facts.spacing),
        "HU" if facts.hu else "0..255",
        _labels(facts.labels),
        "-" if facts.lesion_ml is None else f"{facts.lesion_ml:.1f}",
    )


def _labels(labels: tuple[float, ...], most: int = 6) -> str:
    """All of a few values; of many, as interpolated masks have them, the ends."""
    if len(labels) > most:
        return f"{labels[0]:g} .. {labels[-1]:g} ({len(labels)})"
    return " ".join(f"{label:g}" for label in labels) or "-"


def _lines(what: str, texts: Iterable[str]) -> list[Text]:
    return [Text.assemble((f"{what}: ", "bold yellow"), text) for text in texts]
