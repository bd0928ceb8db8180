"""Which slices a run trains on, is tested on, and takes as source."""

import os
from dataclasses import dataclass
from pathlib import Path

from covidct.config import Config
from covidct.data.covid_semiseg import CovidSemiSeg, read_covid_semiseg
from covidct.data.phantom import Progress, phantom_root
from covidct.data.slices import Slice
from covidct.data.splits import split
from covidct.data.volume_slices import read_volume_slices
from covidct.errors import InputError
from covidct.systems import system

PHANTOM = "phantom"
READERS = {PHANTOM: read_covid_semiseg, "covid_semiseg": read_covid_semiseg}


@dataclass(frozen=True)
class RunData:
    """The slices of a run: target images for training and testing, source images (lesions of other diseases)."""

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    source: tuple[Slice, ...]
    split: str


def read_run_data(config: Config, *, progress: Progress | None = None) -> RunData:
    """The slices that `config` names; a phantom data set is generated if need be, source volumes are cut once."""
    found = split(read_target(config, progress=progress), config.fold, config.split_seed)
    folders = [Path(folder) for folder in config.source] if system(config.method).needs_source else []
    source = read_volume_slices(folders, cache_folder() / "source-slices") if folders else ()
    return RunData(train=found.train, test=found.test, source=source, split=found.name)


def read_target(config: Config, *, progress: Progress | None = None) -> CovidSemiSeg:
    """The run's target data set; the phantoms are generated if need be, wherever the cache is now."""
    check_dataset(config.dataset)
    folder = phantom_folders(progress=progress)[0] if config.dataset == PHANTOM else Path(config.data)
    return READERS[config.dataset](folder)


def phantom_folders(*, progress: Progress | None = None) -> tuple[Path, Path]:
    """Folders of the phantoms' target and source sets, generated once."""
    root = phantom_root(progress=progress)
    return root / "target", root / "source"


def check_dataset(name: str) -> None:
    """InputError unless `name` is a data set that this example reads."""
    if name not in READERS:
        raise InputError(f"--dataset {name!r} is unknown; take one of {', '.join(READERS)}")


def cache_folder() -> Path:
    """Where derived data are kept: `relcons` in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relcons"
