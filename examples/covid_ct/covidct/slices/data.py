"""Which slices a run trains on, is tested on, and takes as source."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.covid_semiseg import CovidSemiSeg, read_covid_semiseg
from covidct.sets.splits import split
from covidct.slices.lesion_slices import read_volume_slices
from covidct.slices.sampling import SliceSamples
from covidct.store.phantoms import SLICES as PHANTOM
from covidct.store.phantoms import phantom_slices
from covidct.training.batches import NumberedSamples

READERS = {PHANTOM: read_covid_semiseg, "covid_semiseg": read_covid_semiseg}


class RunData(Protocol):
    """What a run trains on and is tested on, slices or volumes."""

    @property
    def train(self) -> Sequence[Any]:
        """Images of the target for training."""

    @property
    def test(self) -> Sequence[Any]:
        """Images of the target for testing."""

    @property
    def source(self) -> Sequence[Any]:
        """Images with lesions of other diseases."""

    @property
    def split(self) -> str:
        """What the division is called."""

    def samples(self, stream: str, config: Config, *, augment: bool, world_size: int = 1) -> NumberedSamples:
        """Samples of `stream`: target or source for training, probe or probe-source for the relation matrices."""


@dataclass(frozen=True)
class SliceData:
    """The slices of a run: target images for training and testing, source images (lesions of other diseases)."""

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    source: tuple[Slice, ...]
    split: str

    def samples(self, stream: str, config: Config, *, augment: bool, world_size: int = 1) -> SliceSamples:
        """See `RunData.samples`."""
        return SliceSamples(
            self.source if stream.endswith("source") else self.train,
            stream=stream,
            size=(config.size[0], config.size[1]),
            resize=config.resize,
            joined_batch=config.batch_size * world_size,
            seed=config.seed,
            oversample_foreground=config.oversample_foreground,
            augment=augment,
        )


def read_run_data(config: Config) -> SliceData:
    """The slices that `config` names; a phantom data set is generated if need be, source volumes are cut once."""
    found = split(read_target(config), config.fold, config.split_seed)
    folders = _source_folders(config) if system(config.method).needs_source else []
    source = read_volume_slices(folders, cache_folder() / "source-slices") if folders else ()
    return SliceData(train=found.train, test=found.test, source=source, split=found.name)


def read_target(config: Config) -> CovidSemiSeg:
    """The run's target data set; the phantoms are generated if need be, wherever the cache is now."""
    check_dataset(config.dataset)
    return READERS[config.dataset](phantom_slices()[0] if config.dataset == PHANTOM else Path(config.data))


def _source_folders(config: Config) -> list[Path]:
    if config.source or config.dataset != PHANTOM:
        return [Path(folder) for folder in config.source]
    return [phantom_slices()[1]]


def check_dataset(name: str) -> None:
    """InputError unless `name` is a data set of slices that this example trains on."""
    if name not in READERS:
        raise InputError(f"--dataset {name!r} is unknown; take one of {', '.join(READERS)}")


def cache_folder() -> Path:
    """Where derived data are kept: `relcons` in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relcons"
