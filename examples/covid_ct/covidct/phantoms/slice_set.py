"""The phantom data set: CT-like slices with COVID-like lesions (target) and with other lesions (source).

Made from ellipses, random fields and branching trees; no real scan went into it. It stands in for a real set where
none is at hand: to try the example, to test it. Numbers measured on it say nothing about patients.
"""

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

from covidct.errors import InputError
from covidct.files import cache_folder
from covidct.phantoms.chests import KINDS, source_case, target_slice
from covidct.phantoms.sets import MANIFEST, Progress, generated
from covidct.sets.splits import published

VERSION = "phantom-2d-v2"
SOURCES_VERSION = "phantom-2d-sources-v1"
# In the order of KINDS.
KIND_SETS = ("phantom-nodules", "phantom-masses", "phantom-effusions")
# The paper's Table VI takes so many of each set.
OF_EACH_KIND = 60
TRAINING = Path("target/Dataset/TrainingSet/LungInfection-Train/Doctor-label")
UNLABELLED = Path("target/Dataset/TrainingSet/LungInfection-Train/Pseudo-label")
# Places in the list of pictures: labelled ones from 0 on.
TEST_FROM, UNLABELLED_FROM = 1000, 2000
TESTING = Path("target/Dataset/TestingSet/LungInfection-Test")


def write_phantoms(
    root: Path,
    *,
    seed: int = 0,
    labelled: int = 50,
    test: int = 48,
    source: int = 42,
    unlabelled: int = 60,
    progress: Progress | None = None,
) -> Path:
    """Write a phantom data set below `root` and return `root`; the same arguments give the same bytes.

    `root/target` is in the layout of COVID-SemiSeg and has the published names; `root/source/CASE` holds `ct.nii.gz`
    (HU) and `lesion.nii.gz` (0, 1), whole slices with nodules, masses and effusions in turn; `root/phantom.json`,
    written last, says how it was made.

    root: a folder, made if absent.
    seed: every picture depends on it and on its own place in the list alone, so fewer pictures are the same ones.
    labelled, test: slices for training and testing, at most the 50 and 48 of the published lists.
    source: source cases of one to three slices.
    unlabelled: slices without labels, as the target's.
    progress: called as progress(done, total) after every picture and case.

    Raises InputError if more slices are asked for than the lists have names; OSError if a file cannot be written.
    """
    names = published()["covid_semiseg"]
    training = _first(names["train"], labelled, "labelled")
    testing = _first(names["test"], test, "test")
    root = Path(root)
    total = labelled + test + source + unlabelled
    for done, name in enumerate(training + testing):
        picture, mask = target_slice(seed, done if done < labelled else TEST_FROM + done - labelled)
        _write_target(root / (TRAINING if done < labelled else TESTING), name, picture, mask, edge=done < labelled)
        if progress is not None:
            progress(done + 1, total)
    for index in range(source):
        _write_source(root / "source" / f"{KINDS[index % len(KINDS)]}_{index:03d}", seed, index)
        if progress is not None:
            progress(labelled + test + index + 1, total)
    for index in range(unlabelled):
        picture, _ = target_slice(seed, UNLABELLED_FROM + index)
        _save(root / UNLABELLED / "Imgs" / f"phantom_{index // 10:02d}_{index % 10}.jpg", picture, quality=92)
        if progress is not None:
            progress(labelled + test + source + index + 1, total)
    counts = {"labelled": labelled, "test": test, "source": source, "unlabelled": unlabelled}
    made = {"version": VERSION, "seed": seed, **counts}
    (root / MANIFEST).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return root


def phantom_root(cache: Path | None = None, seed: int = 0, *, progress: Progress | None = None) -> Path:
    """The folder of the phantom data set of `seed`, generated on the first call.

    cache: the folder to keep it in, as `CACHE/relcons/phantom-2d-v2-seedN`; by default $XDG_CACHE_HOME or ~/.cache.
    progress: called as progress(done, total) while the set is generated.

    The set is written beside its place and renamed when complete: an interrupted run leaves nothing that looks like a
    data set, and of two processes that generate at once the first one's stays.

    Raises InputError if the folder cannot be written.
    """
    root = cache_folder(cache) / f"{VERSION}-seed{seed}"
    return generated(root, lambda folder: write_phantoms(folder, seed=seed, progress=progress))


def phantom_slices() -> tuple[Path, Path]:
    """Folders of the target slices and of the source volumes, wherever the cache is now."""
    root = phantom_root()
    return root / "target", root / "source"


def write_phantom_sources(
    root: Path, *, seed: int = 0, cases: int = OF_EACH_KIND, progress: Progress | None = None
) -> Path:
    """Write phantom source sets of one kind of lesion each below `root` and return `root`; same arguments, same bytes.

    `root/phantom-nodules`, `-masses` and `-effusions` hold cases as `root/source` of `write_phantoms` does, whose cases
    are the first of these; `root/phantom.json`, written last, says how they were made.

    root: a folder, made if absent.
    seed: every case depends on it and on its own place in the list alone.
    cases: of each kind.
    progress: called as progress(done, total) after every case.

    Raises OSError if a file cannot be written.
    """
    root = Path(root)
    for index in range(len(KINDS) * cases):
        place = index % len(KINDS)
        _write_source(root / KIND_SETS[place] / f"{KINDS[place]}_{index:03d}", seed, index)
        if progress is not None:
            progress(index + 1, len(KINDS) * cases)
    made = {"version": SOURCES_VERSION, "seed": seed, "cases": cases}
    (root / MANIFEST).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return root


def phantom_sources(cache: Path | None = None, seed: int = 0, *, progress: Progress | None = None) -> tuple[Path, ...]:
    """Folders of phantom source sets of one kind of lesion each, generated on the first call.

    They stand in for several source sets, as `phantom_root` does for one. Arguments and errors are its own; the folders
    are in `CACHE/relcons/phantom-2d-sources-v1-seedN`.
    """
    root = cache_folder(cache) / f"{SOURCES_VERSION}-seed{seed}"
    generated(root, lambda folder: write_phantom_sources(folder, seed=seed, progress=progress))
    return tuple(root / name for name in KIND_SETS)


def _first(names: Sequence[int], count: int, argument: str) -> list[str]:
    if not 0 <= count <= len(names):
        raise InputError(f"{argument} must be 0 to {len(names)}, the published number of names; got {count}")
    return [str(name) for name in names[:count]]


def _write_target(folder: Path, name: str, picture: np.ndarray, mask: np.ndarray, *, edge: bool) -> None:
    _save(folder / "Imgs" / f"{name}.jpg", picture, quality=92)
    _save(folder / "GT" / f"{name}.png", mask * np.uint8(255))
    if edge:
        # Two pixels wide, half inside: as the published ones.
        boundary = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
        _save(folder / "Edge" / f"{name}.png", boundary * np.uint8(255))


def _save(path: Path, picture: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


def _write_source(folder: Path, seed: int, index: int) -> None:
    hu, mask, affine = source_case(seed, index)
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in (("ct", hu), ("lesion", mask)):
        (folder / f"{name}.nii.gz").write_bytes(nifti(volume, affine))


def nifti(volume: np.ndarray, affine: np.ndarray) -> bytes:
    """The content of a .nii.gz file of `volume`; the same volume gives the same bytes."""
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    content = io.BytesIO()
    # No time stamp and no name inside.
    with gzip.GzipFile(filename="", mode="wb", fileobj=content, compresslevel=3, mtime=0) as stream:
        stream.write(image.to_bytes())
    return content.getvalue()
