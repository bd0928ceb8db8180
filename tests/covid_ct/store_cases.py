"""Small stores for the tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
from covidct.ct.volume import load_volume
from covidct.run.config import Config
from covidct.sets.readers import read_volume_set
from covidct.sets.splits import covid_ct_20_names
from covidct.store.preprocess import Plan, Spacing, preprocess
from covidct.store.store import CaseStore, StoreSettings, begin_store, intensity_of, write_case
from covidct.volumes.presets import PRESETS

SPACING: Spacing = (2.0, 1.0, 1.0)


def volume(seed: int, shape: Sequence[int] = (12, 40, 36), lesion: bool = True, labelled: bool = True):
    """A volume of random grey values, 200 and more in a lesion that no symmetry maps to itself."""
    rng = np.random.default_rng(seed)
    image = (rng.random(shape, dtype=np.float32) * 150 + 1).astype(np.float32)
    mask = np.zeros(shape, dtype=bool)
    if lesion:
        mask[2 : 4 + seed % 3, 5:12, 6:20] = True
        mask[3, 12:18, 6:9] = True
    image[mask] += 60
    return SimpleNamespace(image=image, mask=mask if labelled else None, spacing=SPACING)


def save(root: Path, name: str, given, spacing: Spacing = SPACING) -> CaseStore:
    lesions = given.image[:0].ravel() if given.mask is None else given.image[given.mask]
    return write_case(
        root, name, preprocess(given, spacing), patient=name, inputs={"raw": 1}, facts={}, lesion_values=lesions
    )


def store(root: Path, count: int, dataset: str = "test", **changed) -> tuple[CaseStore, ...]:
    begin_store(root, StoreSettings(dataset, SPACING))
    return tuple(save(root, f"{dataset}_{number}", volume(number, **changed)) for number in range(count))


def plan(cases: Sequence[CaseStore], patch_size=(8, 24, 24)) -> Plan:
    return Plan(SPACING, patch_size, *intensity_of(cases))


def write_scans(root: Path) -> Path:
    """The 20 published names as scans of 32 x 32 x 10 voxels."""
    for number, name in enumerate(covid_ct_20_names()):
        rng = np.random.default_rng(number)
        hu = np.full((32, 32, 10), -1000, dtype=np.int16)
        hu[2:-2, 2:-2] = rng.integers(-900, 100, (28, 28, 10))
        lesion = np.zeros(hu.shape, dtype=np.uint8)
        lesion[8:16, 10:18, 3:7] = 1
        hu[lesion > 0] += 100
        grey = np.clip((hu + 1250) * (255 / 1500), 0, 255).astype(np.int16)
        values = grey if name.startswith("radiopaedia") else hu
        for folder, array in (("COVID-19-CT-Seg_20cases", values), ("Infection_Mask", lesion)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), root / folder / f"{name}.nii.gz")
    return root


def write_target(root: Path) -> Path:
    """`root`/data with `write_scans`, and `root`/target, the store of them."""
    write_scans(root / "data")
    begin_store(root / "target", StoreSettings("covid-ct-20", SPACING))
    for case in read_volume_set("covid-ct-20", root / "data").cases:
        volume = load_volume(case)
        made = preprocess(volume, SPACING)
        lesions = volume.image[volume.mask]
        write_case(root / "target", case.name, made, patient=case.patient, inputs={}, facts={}, lesion_values=lesions)
    return root


def begin_run(root: Path, name: str, **changes) -> Config:
    """The folder `root`/name as a process leaves it that was killed before its first step: a tiny run on volumes.

    Its target is that of `write_target`; its source the store `root`/lesions, made if absent.
    """
    if not (root / "lesions").exists():
        store(root / "lesions", 2, "lesions")
    values = PRESETS["demo"] | {"size": (4, 16, 16), "features_per_stage": (4, 8), "steps": 4, "workers": 0}
    values |= {"strides": (), "kernel_sizes": (), "checkpoint_every": 2, "relations_every": 2, "log_every": 1}
    values |= {"dataset": "covid-ct-20", "method": "ours", "preset": "demo", "fold": 2, "seed": 0}
    values |= {"data": str(root / "data"), "store": str(root / "target"), "source": (str(root / "lesions"),)}
    config = Config(**values | changes)
    (root / name).mkdir()
    (root / name / "config.json").write_text(config.to_json())
    return config
