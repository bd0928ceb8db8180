"""Seeded folds in which whoever shares a scan or a patient stays together."""

import hashlib
from collections.abc import Mapping

from covidct.errors import InputError
from covidct.sets.splits import FOLDS


def draw_folds(owners: Mapping[str, str], count: int, seed: int) -> list[set[str]]:
    """`count` folds of the names in `owners`, which maps each to its scan or patient; none is in two folds.

    They depend on the seed and on names alone, so neither the order on disk nor a version of NumPy changes them. With
    fewer owners than `count`, some folds are empty.
    """
    groups: dict[str, list[str]] = {}
    for name, owner in owners.items():
        groups.setdefault(owner, []).append(name)
    # Larger groups first and each to the smallest fold: the single ones then even the sizes out.
    order = sorted(groups, key=lambda owner: (-len(groups[owner]), _draw(owner, seed)))
    folds: list[set[str]] = [set() for _ in range(count)]
    for owner in order:
        min(folds, key=len).update(groups[owner])
    return folds


def own_folds(patients: int, fold: int) -> int:
    """How many folds images of the user's own make: `FOLDS`, or one a patient where these are fewer.

    Raises InputError if there are fewer than two patients, or no such fold.
    """
    count = min(FOLDS, patients)
    if count < 2:
        raise InputError(
            f"cross-validation needs labelled images of at least 2 patients, found {patients}; add some, or test "
            "images and their masks in test/images and test/masks, and leave --fold out"
        )
    if not 0 <= fold < count:
        raise InputError(f"--fold must be 0 to {count - 1}, got {fold}: there are {patients} patients")
    return count


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
