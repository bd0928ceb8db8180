"""Which files are volumes, by their names."""

from pathlib import Path

from covidct.ct.picture import natural_key
from covidct.errors import InputError
from covidct.files import entries

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")


def is_volume(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether `path` is called as a volume is; case does not matter. Hidden files are none, with them macOS' `._*`."""
    return path.name.lower().endswith(suffixes) and not path.name.startswith(".")


def check_volume_name(path: Path) -> None:
    """InputError unless the file is called as a volume is, with a name before the suffix."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path} is no volume by its name; expected {', '.join(SUFFIXES)}, or a DICOM series' folder")
    if not stem_of(path):
        raise InputError(
            f"{path} has no name before its suffix, which makes it a hidden file; rename it to NAME{path.name}"
        )


def stem_of(path: Path) -> str:
    """The name of a file without the suffix of a volume."""
    ending = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(ending)]


def volumes_by_name(
    folder: Path, suffixes: tuple[str, ...] = SUFFIXES, faults: list[str] | None = None
) -> dict[str, Path]:
    """The volume files directly in `folder`, by their names without suffix, in natural order.

    What is no folder is there: a link that leads nowhere, or a named pipe, is refused by name where it is read.
    Raises InputError if one volume is there twice, as `.nii` and `.nii.gz`; where `faults` are given, that is added
    to them, and neither of the two is found.
    """
    found: dict[str, Path] = {}
    twice: set[str] = set()
    for path in sorted(entries(folder), key=lambda path: natural_key(path.name)):
        if not is_volume(path, suffixes) or path.is_dir():
            continue
        stem = stem_of(path)
        if stem in found:
            message = f"{path} and {found[stem].name} are the same volume twice; remove one of them"
            if faults is None:
                raise InputError(message)
            faults.append(message)
            twice.add(stem)
        found[stem] = path
    return {stem: path for stem, path in found.items() if stem not in twice}
