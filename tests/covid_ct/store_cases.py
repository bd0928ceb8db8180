"""Small stores for the tests of what reads them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from covidct.data.preprocess import Plan, Spacing, preprocess
from covidct.data.store import CaseStore, StoreSettings, begin_store, intensity_of, write_case

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
