"""The phantom volumes: whole chests in the layouts of the published sets, as target and as source.

Made from ellipses, random fields and branching trees; no real scan went into them. They stand in for the real sets
where none is at hand: to try the 3D example, to test it. Numbers measured on them say nothing about patients.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from covidct.files import cache_folder
from covidct.phantoms.chests import windowed
from covidct.phantoms.sets import MANIFEST, Progress, generated
from covidct.phantoms.slice_set import nifti
from covidct.phantoms.volume_chests import Frame, PhantomVolume, source_volume, target_volume
from covidct.sets.splits import published

VERSION = "phantom-3d-v1"
TARGET, MSD, NSCLC = Path("target"), Path("source/msd/Task06_Lung"), Path("source/nsclc")
# The published set holds one patient twice: the key is a later scan of the value's patient.
SAME_PATIENT = {"radiopaedia_10_85902_3": "radiopaedia_10_85902_1"}
NEARLY_EMPTY = "radiopaedia_29_86490_1"
NOT_SQUARE = "radiopaedia_14_85914_0"
MSD_CASES = {"train": 6, "val": 2}
NSCLC_CASES = {"train": 5, "val": 1}


@dataclass(frozen=True)
class _Scan:
    """A scan to make: `part` target, msd or nsclc; `index` its place in the list of that part."""

    part: str
    name: str
    index: int


def volume_phantom_root(cache: Path | None = None, seed: int = 0, *, progress: Progress | None = None) -> Path:
    """The folder of the phantom volumes of `seed`, generated on the first call.

    cache: the folder to keep it in, as `CACHE/relcons/phantom-3d-v1-seedN`; by default $XDG_CACHE_HOME or ~/.cache.
    progress: called as progress(done, total) while the volumes are generated.

    As with `covidct.phantoms.slice_set.phantom_root`, the set appears whole or not at all.

    Raises InputError if the folder cannot be written.
    """
    root = cache_folder(cache) / f"{VERSION}-seed{seed}"
    return generated(root, lambda folder: write_volume_phantoms(folder, seed=seed, progress=progress))


def phantom_volumes() -> Path:
    """Folder of the target volumes, in the layout of covid-ct-20, wherever the cache is now."""
    return volume_phantom_root() / TARGET


def write_volume_phantoms(
    root: Path, *, seed: int = 0, only: frozenset[str] | None = None, progress: Progress | None = None
) -> Path:
    """Write phantom volumes below `root` and return `root`; the same arguments give the same bytes.

    `root/target` is in the layout of COVID-19-CT-Seg 20 with its 20 names; `root/source/msd/Task06_Lung` in that of
    the Medical Segmentation Decathlon, with nodules and masses (1); `root/source/nsclc` holds effusions (1) as NIfTI
    copies, `imagesTr` and `labelsTr`; `root/phantom.json`, written last, says how it was made. Names of sources are
    the first of the published divisions for training and validation.

    root: a folder, made if absent.
    seed: every volume depends on it and on its own name alone.
    only: names to write; by default all. Fewer volumes are the same ones.
    progress: called as progress(done, total) after every volume.

    Raises OSError if a file cannot be written.
    """
    root = Path(root)
    scans = [scan for scan in _scans() if only is None or scan.name in only]
    for done, scan in enumerate(scans):
        _write(root, seed, scan)
        if progress is not None:
            progress(done + 1, len(scans))
    _write_dataset(root / MSD, [scan.name for scan in scans if scan.part == "msd"])
    made = {"version": VERSION, "seed": seed, "volumes": len(scans)}
    (root / MANIFEST).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return root


def _scans() -> list[_Scan]:
    splits = published()
    fold = splits["covid20_task1_folds"]["folds"][0]
    parts = {"target": sorted(fold["train"] + fold["test"])}
    for part, key, counts in (("msd", "msd_lung", MSD_CASES), ("nsclc", "nsclc_pe", NSCLC_CASES)):
        parts[part] = [name for division, count in counts.items() for name in splits[key][division][:count]]
    return [_Scan(part, name, index) for part, names in parts.items() for index, name in enumerate(names)]


def _write(root: Path, seed: int, scan: _Scan) -> None:
    if scan.part == "target":
        _write_target(root / TARGET, scan.name, _target(seed, scan))
    elif scan.part == "msd":
        _write_source(root / MSD, scan.name, scan.name, _source(seed, scan))
    else:
        _write_source(root / NSCLC, f"{scan.name}_0000", scan.name, _source(seed, scan))


def _target(seed: int, scan: _Scan) -> PhantomVolume:
    names = [other.name for other in _scans() if other.part == "target"]
    rng = np.random.default_rng([seed, 6, scan.index])
    # Quantiles of the share of the lungs, a few per cent in most patients, so that 20 cases show the whole range.
    order = np.random.default_rng([seed, 7]).permutation(len(names))
    quantile = (order[scan.index] + rng.uniform(0.2, 0.8)) / len(names)
    share = float(0.004 + 0.46 * quantile**2.2)
    if scan.name == NEARLY_EMPTY:
        share = 0.0005
    gap = rng.choice([6.0, 6.5, 7.5]) if scan.name.startswith("coronacases") else rng.choice([8.0, 9.0, 10.0])
    if scan.name in SAME_PATIENT:
        # This one has the thinnest slices of the radiopaedia scans.
        gap = 6.0
    patient = names.index(SAME_PATIENT.get(scan.name, scan.name))
    return target_volume(seed, patient, scan.index, _frame(rng, float(gap), square=scan.name != NOT_SQUARE), share)


def _source(seed: int, scan: _Scan) -> PhantomVolume:
    place = 100 * (scan.part == "nsclc") + scan.index
    rng = np.random.default_rng([seed, 8, place])
    kind = "effusion" if scan.part == "nsclc" else ("mass", "nodule")[scan.index % 2]
    return source_volume(seed, place, _frame(rng, float(rng.choice([6.0, 7.0, 8.0]))), kind)


def _frame(rng: np.random.Generator, gap: float, *, square: bool = True) -> Frame:
    width = int(rng.choice([96, 104, 112, 120]))
    view = float(rng.uniform(395, 420))
    return Frame(width, width if square else int(width * 0.66), view / width, gap)


def _write_target(folder: Path, name: str, volume: PhantomVolume) -> None:
    hu = name.startswith("coronacases")
    image = np.rint(volume.hu).astype(np.int16) if hu else windowed(volume.hu)
    lesion = volume.lesion.astype(np.uint8)
    axes = "LPS" if hu else "RAS"
    for kind, values in (
        ("COVID-19-CT-Seg_20cases", image),
        ("Infection_Mask", lesion),
        ("Lung_Mask", volume.lungs),
        ("Lung_and_Infection_Mask", np.where(volume.lesion, np.uint8(3), volume.lungs)),
    ):
        _save(folder / kind / f"{name}.nii.gz", values, volume.affine, axes)


def _write_source(folder: Path, image: str, name: str, volume: PhantomVolume) -> None:
    _save(folder / "imagesTr" / f"{image}.nii.gz", np.rint(volume.hu).astype(np.int16), volume.affine, "RAS")
    _save(folder / "labelsTr" / f"{name}.nii.gz", volume.lesion.astype(np.uint8), volume.affine, "RAS")


def _save(path: Path, values: np.ndarray, affine: np.ndarray, axes: str) -> None:
    own = nibabel.orientations.io_orientation(affine)
    turn = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(axes))
    turned = np.ascontiguousarray(nibabel.orientations.apply_orientation(values, turn))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti(turned, affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape)))


def _write_dataset(folder: Path, names: list[str]) -> None:
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    content: dict[str, Any] = {
        "name": "Lung",
        "description": "Phantom volumes in the layout of Task06_Lung; no real scan went into them",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": len(names),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
