"""What the readers of volume sets share: the set itself, where it lies, and what to say of it."""

from dataclasses import dataclass
from pathlib import Path

from covidct.ct.names import volumes_by_name
from covidct.ct.volume import VolumeCase
from covidct.files import entries


@dataclass(frozen=True)
class VolumeSet:
    """The cases of a data set, in natural order, and what was left out, one line each with the file and the reason."""

    name: str
    cases: tuple[VolumeCase, ...]
    skipped: tuple[str, ...]


def volumes_in(folder: Path, skipped: list[str]) -> dict[str, Path]:
    """The volume files directly in `folder`, by their names without suffix, in natural order.

    macOS' `._*` files (resource forks that its archives hold) are left out, and so is a volume that is there twice, as
    `.nii` and `.nii.gz`; `skipped` gets a line about them.
    """
    hidden = sum(path.name.startswith("._") for path in entries(folder))
    if hidden:
        skipped.append(f"{folder}: {hidden} {'file' if hidden == 1 else 'files'} ._* that macOS left in the archive")
    return volumes_by_name(folder, faults=skipped)


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
