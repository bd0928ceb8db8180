"""Training patches of volumes, with the promises of `sampling`: they depend on (seed, stream, step, index) alone."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch

from covidct.errors import InputError
from covidct.store.preprocess import Plan
from covidct.store.store import CaseStore
from covidct.training.augment import augmentation, larger_patch
from covidct.training.batches import NumberedSamples, Sample, augmented, seeded
from covidct.training.patches import corner, corner_around


class VolumeSamples(NumberedSamples):
    """Patches cut and augmented for training.

    Each is a dict with `image`, float32 (1, D, H, W), and, where the cases have masks, `mask`, float32 0/1 of the same
    shape.

    Args:
        stores: cases by data set. Data sets are drawn from evenly, whatever their sizes, and cases uniformly inside,
            with replacement; all have masks or none has.
        plan: size of the patches, and how grey values are normalised.
        stream: what the samples are for ("target", "source"): streams draw independently.
        joined_batch: samples a step over all processes.
        seed: 0 or more.
        oversample_foreground: share of every batch, at its end, whose patch is laid around a lesion voxel.
        augment: nnU-Net's augmentation, or none.

    Raises InputError: no cases, masks for a part of them, negative seed, cases on another grid than the plan's; and,
    while it is read, what `CaseStore.patch` finds.
    """

    def __init__(
        self,
        stores: Sequence[Sequence[CaseStore]],
        *,
        plan: Plan,
        stream: str,
        joined_batch: int,
        seed: int,
        oversample_foreground: float = 0.33,
        augment: bool = True,
    ) -> None:
        super().__init__(
            stream=stream, joined_batch=joined_batch, seed=seed, oversample_foreground=oversample_foreground
        )
        _check(stores, plan, stream)
        self.stores = tuple(tuple(cases) for cases in stores)
        self.plan = plan
        self.augmentation = augmentation(plan.patch_size) if augment else None
        self.extent = larger_patch(plan.patch_size) if augment else plan.patch_size

    def __getitem__(self, number: int) -> Sample:
        step, index = divmod(number, self.joined_batch)
        with seeded(self.seed, crc32(self.stream.encode()), step, index) as rng:
            cases = self.stores[rng.integers(len(self.stores))]
            case = cases[rng.integers(len(cases))]
            place = self._place(case, rng, forced=index >= self.first_forced)
            image, label = case.patch(place, self.extent, self.plan)
            masks = None if label is None else torch.from_numpy(label)[None]
            return augmented(torch.from_numpy(image)[None], masks, self.augmentation)

    def _place(self, case: CaseStore, rng: np.random.Generator, *, forced: bool) -> tuple[int, ...]:
        if forced and case.lesion_voxels:
            positions = case.positions
            voxel = positions[rng.integers(len(positions))].tolist()
            return corner_around(voxel, case.shape, self.extent, self.plan.patch_size)
        return corner(case.shape, self.extent, self.plan.patch_size, rng)


def _check(stores: Sequence[Sequence[CaseStore]], plan: Plan, stream: str) -> None:
    cases = [case for each in stores for case in each]
    if not stores or not all(stores):
        raise InputError(f"no cases for the {stream} stream in {'one' if stores else 'any'} of its data sets; add some")
    labelled = sum(case.labelled for case in cases)
    if labelled not in (0, len(cases)):
        raise InputError(f"{labelled} of {len(cases)} cases of the {stream} stream have a mask; all or none must")
    for case in cases:
        if not np.allclose(case.placement.target, plan.spacing, rtol=1e-4):
            have, want = (" x ".join(f"{mm:g}" for mm in each) for each in (case.placement.target, plan.spacing))
            raise InputError(
                f"{case.folder} was prepared at {have} mm, the plan is for {want} mm; prepare it again with --like"
            )
