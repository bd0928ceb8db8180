"""Batches that depend on their numbers alone: what loaders of slices and of volumes share."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from covidct.errors import InputError

Sample = dict[str, Tensor]


class NumberedSamples(Dataset[Sample]):
    """Samples by number, where `__getitem__` gives the same sample for the same number, whoever asks.

    joined_batch: samples a step over all processes; sample `step * joined_batch + index` is that of `index` in `step`.
    As in nnU-Net the last samples of a batch, from `first_forced` = round(joined_batch * (1 - oversample_foreground))
    on, are patches around a lesion voxel (where there is one).
    """

    def __init__(self, *, stream: str, joined_batch: int, seed: int, oversample_foreground: float) -> None:
        if seed < 0:
            raise InputError(f"--seed must be 0 or more, got {seed}")
        self.stream, self.seed = stream, seed
        self.joined_batch = joined_batch
        self.first_forced = round(joined_batch * (1 - oversample_foreground))

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample | InputError]:
        # A worker's exception reaches the main process with the worker's traceback as its message; as a value the
        # error arrives as it was raised.
        try:
            return [self[number] for number in numbers]
        except InputError as error:
            return [error]


def numbered_loader(
    samples: NumberedSamples, *, first_step: int, steps: int, workers: int, rank: int = 0, world_size: int = 1
) -> DataLoader[Sample]:
    """The batches of steps `first_step` to `steps - 1`, in order: this process' share of the joined batch of each.

    They are the same for any number of workers and for any `first_step`, so a resumed run goes on with what the
    interrupted one would have taken. Neither making nor reading the loader touches a global generator. An InputError
    in a worker arrives as it was raised.

    Args:
        samples: whose `joined_batch` is world_size times this process' batch.
        first_step, steps: the first step, and one past the last.
        workers: processes that load; 0 loads in this one.
        rank, world_size: this process among `world_size`.
    """
    return _Loader(
        samples,
        batch_sampler=_Numbers(first_step, steps, samples.joined_batch // world_size, rank, world_size),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        # Without its own, a DataLoader draws its workers' seeds from the global generator.
        generator=torch.Generator(),
    )


def augmented(image: Tensor, label: Tensor | None, augmentation: Callable[..., dict[str, Tensor]] | None) -> Sample:
    """A sample of `image` and, where there is one, the mask of the labels above 0, float32, after `augmentation`."""
    if augmentation is not None:
        result = augmentation(image=image, segmentation=label)
        image, label = result["image"], result.get("segmentation")
    return {"image": image} if label is None else {"image": image, "mask": (label > 0).float()}


@contextmanager
def seeded(*key: int) -> Iterator[np.random.Generator]:
    """A generator drawn from `key`, and the global ones set from it; these are put back afterwards.

    One torch thread, too: sums over several threads differ in their last bits, and workers have one.
    """
    sequence = np.random.SeedSequence(key)
    words = sequence.generate_state(4)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()  # noqa: NPY002
    random.seed(int(words[0]))
    np.random.seed(words)  # noqa: NPY002 - batchgeneratorsv2 draws from the global generator
    # torch.manual_seed would seed the accelerator's generators, too.
    torch.default_generator.manual_seed(int(words[1]))
    if states[3] > 1:
        torch.set_num_threads(1)
    try:
        yield np.random.default_rng(sequence)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if states[3] > 1:
            torch.set_num_threads(states[3])


class _Numbers(Sampler[list[int]]):
    """The sample numbers of this process, a list a step."""

    def __init__(self, first_step: int, steps: int, batch_size: int, rank: int, world_size: int) -> None:
        self.steps = range(first_step, steps)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return len(self.steps)


def _collate(samples: list[Sample | InputError]) -> Sample | InputError:
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
    batch: Sample = default_collate(samples)
    return batch


class _Loader(DataLoader[Sample]):
    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            yield batch
