"""The few slices that a run of Table V or VI takes from its sets, drawn by a seed."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError

Policy = Literal["random", "max_area"]


def draw_source(slices: Sequence[Slice], count: int, seed: int, *, policy: Policy = "random") -> tuple[Slice, ...]:
    """`count` lesion slices of as many scans, with as many of each set as there can be.

    slices: with their scan and set; all of a scan's that have lesion.
    seed: draws the scans and slices. They depend on it and on names alone, so neither the order of the slices nor a
        version of NumPy changes them, and a smaller count gives a part of what a larger one gives.
    policy: a random slice of each scan, or the one with the largest lesion (the first of several).

    The sets give equal numbers; one that has too few gives all, and the others more. What is left over comes from the
    sets named first. Returns them in the order of `slices`. Raises InputError if there are too few scans.
    """
    _check_count("--source-cases", count)
    scans: dict[str, dict[str, list[Slice]]] = {}
    for item in slices:
        scans.setdefault(item.dataset, {}).setdefault(item.scan, []).append(item)
    sizes = {dataset: len(of_set) for dataset, of_set in scans.items()}
    if sum(sizes.values()) < count:
        listed = ", ".join(f"{size} in {dataset}" if dataset else str(size) for dataset, size in sizes.items())
        raise InputError(
            f"--source-cases {count} needs slices with lesion from {count} scans, found {sum(sizes.values())}"
            f"{f' ({listed})' if len(sizes) > 1 else ''}; take fewer, or add scans to --source"
        )
    chosen = set()
    for dataset, share in _shares(sizes, count).items():
        label = Path(dataset).name
        for scan in _drawn(scans[dataset], share, f"{seed}:{label}"):
            chosen.add(_one_of(scans[dataset][scan], policy, f"{seed}:{label}"))
    return tuple(item for item in slices if item in chosen)


def draw_target(slices: Sequence[Slice], count: int, seed: int) -> tuple[Slice, ...]:
    """`count` of the target's labelled slices, in their order; drawn as `draw_source` does.

    Raises InputError if there are fewer.
    """
    _check_count("--target-cases", count)
    if len(slices) < count:
        raise InputError(f"--target-cases {count} needs {count} labelled slices, found {len(slices)}; take fewer")
    chosen = set(_drawn((item.name for item in slices), count, str(seed)))
    return tuple(item for item in slices if item.name in chosen)


def _check_count(argument: str, count: int) -> None:
    if count < 1:
        raise InputError(f"{argument} must be 1 or more, got {count}")


def _shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """How many of `count` each set gives: one in turn, until a set has no more."""
    shares = dict.fromkeys(sizes, 0)
    while count:
        open_sets = [dataset for dataset in sizes if shares[dataset] < sizes[dataset]]
        for dataset in open_sets[:count]:
            shares[dataset] += 1
        count -= min(count, len(open_sets))
    return shares


def _one_of(slices: Sequence[Slice], policy: Policy, key: str) -> Slice:
    if policy == "max_area":
        return max(slices, key=_lesion_pixels)
    (name,) = _drawn((item.name for item in slices), 1, key)
    return next(item for item in slices if item.name == name)


def _lesion_pixels(item: Slice) -> int:
    mask = load_slice(item)[1]
    if mask is None:
        raise InputError(f"{item.path} has no mask; the largest lesion of {item.scan} cannot be told")
    return int(mask.sum())


def _drawn(names: Iterable[str], count: int, key: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{key}:{name}".encode()).digest())[:count]
