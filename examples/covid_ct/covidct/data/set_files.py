"""What the readers of volume sets share: the set itself, and which files of a folder are volumes."""

from dataclasses import dataclass
from pathlib import Path

from covidct.data.slices import natural_key
from covidct.data.volume_files import SUFFIXES
from covidct.data.volumes import VolumeCase
from covidct.errors import InputError
from covidct.files import entries


@dataclass(frozen=True)
class VolumeSet:
    """The cases of a data set, in natural order, and what was left out, one line each with the file and the reason."""

    name: str
    cases: tuple[VolumeCase, ...]
    skipped: tuple[str, ...]


def volumes_in(folder: Path, skipped: list[str]) -> dict[str, Path]:
    """The volume files directly in `folder`, by their names without suffix, in natural order.

    macOS' `._*` files (resource forks that its archives hold) are left out, and `skipped` gets a line about them.
    Raises InputError if one volume is there twice, as `.nii` and `.nii.gz`.
    """
    found: dict[str, Path] = {}
    hidden = 0
    for path in sorted(entries(folder), key=lambda path: natural_key(path.name)):
        if not path.name.lower().endswith(SUFFIXES) or path.name.startswith("."):
            hidden += path.name.startswith("._")
        elif path.is_file():
            stem = stem_of(path)
            if stem in found:
                raise InputError(f"{path} and {found[stem].name} are the same volume twice; remove one of them")
            found[stem] = path
    if hidden:
        skipped.append(f"{folder}: {hidden} {'file' if hidden == 1 else 'files'} ._* that macOS left in the archive")
    return found


def stem_of(path: Path) -> str:
    """The name of a volume file without its suffix."""
    ending = next(suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix))
    return path.name[: len(path.name) - len(ending)]


def below(folder: Path, name: str) -> Path | None:
    """`folder` itself if it is called `name`, else the folder of this name in it or one or two levels further down."""
    if folder.name == name:
        return folder
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        if found := sorted(path for path in folder.glob(pattern) if path.is_dir()):
            return found[0]
    return None


def count_of(paths: list[Path], what: str) -> str:
    """`3 volumes without a mask (a, b, ...)`, for a line of what was skipped."""
    names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return f"{paths[0].parent}: {len(paths)} {'volume' if len(paths) == 1 else 'volumes'} {what} ({names})"
