"""Which slices a run trains on, is tested on, and takes as source."""

from dataclasses import dataclass
from pathlib import Path

from covidct.ct.picture import Slice
from covidct.files import cache_folder
from covidct.phantoms.slice_set import phantom_slices
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.covid_semiseg import CovidSemiSeg, read_covid_semiseg
from covidct.sets.names import PHANTOM
from covidct.slices.lesion_slices import read_volume_slices
from covidct.slices.sampling import SliceSamples
from covidct.slices.splits import split


@dataclass(frozen=True)
class SliceData:
    """The slices of a run: for training and testing, and source images (lesions of other diseases).

    Trained on and tested are the target's; a pre-training is trained on the source's and tested on none.
    """

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

    def facts(self) -> dict[str, str]:
        """See `RunData.facts`: none."""
        return {}

    def keep(self, run: Path) -> None:
        """See `RunData.keep`: nothing, the config says it all."""


def read_run_data(config: Config) -> SliceData:
    """The slices that `config` names; a phantom data set is generated if need be, source volumes are cut once."""
    chosen = system(config.method)
    if chosen.on_source:
        # Every slice is normalised by itself, so nothing of the target enters and all folds start from one run.
        return SliceData(train=_source_slices(config), test=(), source=(), split="lesions of the source, for any fold")
    found = split(read_target(config), config.fold, config.split_seed)
    source = _source_slices(config) if chosen.needs_source else ()
    return SliceData(train=found.train, test=found.test, source=source, split=found.name)


def read_target(config: Config, data: Path | None = None) -> CovidSemiSeg:
    """The run's target data set; the phantoms are generated if need be, wherever the cache is now.

    data: where the data set lies now, if not where the run was trained.
    """
    return read_covid_semiseg(data or (phantom_slices()[0] if config.dataset == PHANTOM else Path(config.data)))


def slices_to_test(config: Config, data: Path | None = None) -> tuple[Slice, ...]:
    """The slices that a run is tested on; `data` as for `read_target`."""
    return split(read_target(config, data), config.fold, config.split_seed).test


def _source_slices(config: Config) -> tuple[Slice, ...]:
    given = [Path(folder) for folder in config.source]
    folders = given if given or config.dataset != PHANTOM else [phantom_slices()[1]]
    return read_volume_slices(folders, cache_folder() / "source-slices") if folders else ()
