"""Slices that show what the test slices show must not be learnt from, not even without their labels."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.slices.sampling import resize_image

# Pictures are compared at this height and width.
SIDE = 32
# The least correlation that counts as the same. Measured on COVID-SemiSeg at this size: copies scaled to 60 %, saved as
# JPEG of quality 60 and made brighter have .998 and more with their originals, copies cropped by 1 % a side .978; the
# next slice of a scan .996 (median; 98 % of them .958 and more). Different patients reach .87 between the labelled and
# the unlabelled slices, mirrored and turned ones included, and .94 among the unlabelled ones, where the guard finds the
# one patient who has two scans and nobody else.
SAME = 0.95
# Where the names are the same as well: copies cropped by 2 % a side have .90 and more, other slices .88 at most in 99.5
# of 100 pairs.
SAME_NAME = 0.9
# How many names an error tells.
NAMED = 5

Vectors = NDArray[np.float32]


def check_no_overlap(unlabelled: Sequence[Slice], test: Sequence[Slice]) -> None:
    """InputError, with the names, if an unlabelled slice is, or nearly is, a test slice or its place of its scan.

    Slices are the same where their pictures, as read and at `SIDE` x `SIDE` pixels, have a correlation of `SAME` or
    more (`SAME_NAME` where they are called the same), upright, mirrored or turned by quarters.
    Grey scale, size and compression do not matter; how the pictures are cropped does, where it differs by more than 1 %
    a side. Reads every picture once.
    """
    if not unlabelled or not test:
        return
    pairs = _alike(unlabelled, test)
    if pairs:
        named = ", ".join(f"{one.path} is {other.name}" for one, other in pairs[:NAMED])
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        raise InputError(
            f"{len(pairs)} of {len(unlabelled)} unlabelled slices show what a test slice shows ({named}{more}); "
            "remove them from the unlabelled folder"
        )


def without_overlap(unlabelled: Sequence[Slice], test: Sequence[Slice]) -> tuple[Slice, ...]:
    """Those of `unlabelled` that show nothing of what `test` shows, as `check_no_overlap` tells."""
    shared = {item.path for item, _ in _alike(unlabelled, test)} if unlabelled and test else set()
    return tuple(item for item in unlabelled if item.path not in shared)


def _alike(unlabelled: Sequence[Slice], test: Sequence[Slice]) -> list[tuple[Slice, Slice]]:
    known = np.stack([_small(item) for item in test])
    ways = np.stack([np.rot90(way, turns, (1, 2)) for way in (known, known[:, :, ::-1]) for turns in range(4)])
    known_ways = ways.reshape(-1, SIDE * SIDE)
    pairs = []
    for item in unlabelled:
        alike = (known_ways @ _small(item).ravel()).reshape(len(ways), len(test)).max(0)
        least = [SAME_NAME if other.name == item.name else SAME for other in test]
        best = int((alike - least).argmax())
        if alike[best] >= least[best]:
            pairs.append((item, test[best]))
    return pairs


def _small(item: Slice) -> Vectors:
    """The picture at (SIDE, SIDE), with mean 0 and length 1."""
    image = torch.from_numpy(load_slice(item)[0])
    small: Vectors = resize_image(image[None, None], (SIDE, SIDE))[0, 0].numpy()
    small = small - small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-8)
