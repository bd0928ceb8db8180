"""Which slices a run trains on, is tested on, and takes as source."""

from dataclasses import dataclass
from pathlib import Path

from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.files import cache_folder
from covidct.phantoms.slice_set import phantom_slices
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.covid_semiseg import UNLABELLED, CovidSemiSeg, read_covid_semiseg, read_unlabelled
from covidct.sets.names import PHANTOM
from covidct.slices.draw import draw_source, draw_target
from covidct.slices.lesion_slices import read_volume_slices
from covidct.slices.overlap import check_no_overlap
from covidct.slices.sampling import SliceSamples
from covidct.slices.splits import split
from covidct.training.batches import NumberedSamples
from covidct.training.masking import MaskedSamples


@dataclass(frozen=True)
class SliceData:
    """The slices of a run: for training and testing, source images (lesions of other diseases), and unlabelled ones.

    Trained on and tested are the target's. What others start from is trained on the source's lesions, or on the
    unlabelled slices, and tested on nothing.
    """

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    source: tuple[Slice, ...]
    split: str
    unlabelled: tuple[Slice, ...] = ()

    def samples(self, stream: str, config: Config, *, augment: bool, world_size: int = 1) -> NumberedSamples:
        """See `RunData.samples`."""
        chosen = system(config.method)
        recipe = None if chosen.network is None else chosen.network.recipe
        of = {"source": self.source, "probe-source": self.source, "unlabelled": self.unlabelled}
        samples = SliceSamples(
            of.get(stream, self.train),
            stream=stream,
            size=(config.size[0], config.size[1]),
            resize=config.resize,
            joined_batch=config.batch_size * world_size,
            seed=config.seed,
            oversample_foreground=config.oversample_foreground,
            augment=config.augmentation if augment else "none",
            unit_input=config.unit_input,
            edges=recipe is not None and recipe.edges,
        )
        if chosen.learns == "hidden parts" and stream == "target":
            return MaskedSamples(samples, block=config.hidden_block, ratio=config.hidden_share)
        return samples

    def facts(self) -> dict[str, str]:
        """See `RunData.facts`: how many unlabelled slices there are."""
        return {"beside": f"{len(self.unlabelled)} unlabelled slices"} if self.unlabelled else {}

    def keep(self, run: Path) -> None:
        """See `RunData.keep`: nothing, the config says it all."""


def read_run_data(config: Config) -> SliceData:
    """The slices that `config` names; a phantom data set is generated if need be, source volumes are cut once."""
    chosen = system(config.method)
    if chosen.learns == "source lesions":
        # Every slice is normalised by itself, so nothing of the target enters and all folds start from one run.
        return SliceData(train=_source_slices(config), test=(), source=(), split="lesions of the source, for any fold")
    target = read_target(config)
    found = split(target, config.fold, config.split_seed)
    unlabelled = _unlabelled_slices(config, target) if chosen.needs_unlabelled else ()
    if chosen.learns == "hidden parts":
        return SliceData(train=unlabelled, test=(), source=(), split="unlabelled, for any fold")
    train = found.train
    if config.target_cases is not None:
        train = draw_target(train, config.target_cases, config.split_seed)
    source = _source_slices(config) if chosen.needs_source else ()
    return SliceData(train, found.test, source, found.name, unlabelled)


def read_target(config: Config, data: Path | None = None) -> CovidSemiSeg:
    """The run's target data set; the phantoms are generated if need be, wherever the cache is now.

    data: where the data set lies now, if not where the run was trained.
    """
    return read_covid_semiseg(data or (phantom_slices()[0] if config.dataset == PHANTOM else Path(config.data)))


def slices_to_test(config: Config, data: Path | None = None) -> tuple[Slice, ...]:
    """The slices that a run is tested on; `data` as for `read_target`."""
    return split(read_target(config, data), config.fold, config.split_seed).test


def _source_slices(config: Config) -> tuple[Slice, ...]:
    folders = [Path(folder) for folder in config.source]
    if not folders and config.dataset == PHANTOM:
        folders = [phantom_slices()[1]]
    slices = read_volume_slices(folders, cache_folder() / "source-slices") if folders else ()
    return slices if config.source_cases is None else draw_source(slices, config.source_cases, config.split_seed)


def _unlabelled_slices(config: Config, target: CovidSemiSeg) -> tuple[Slice, ...]:
    """The unlabelled slices; InputError if there are none, or if some show what a slice to be tested on shows."""
    found = read_unlabelled(Path(config.unlabelled)) if config.unlabelled else target.unlabelled
    if not found:
        raise InputError(
            f"method {config.method} takes unlabelled slices and {config.data or config.dataset} has none "
            f"({UNLABELLED / 'Imgs'}); give a folder of pictures with --unlabelled"
        )
    check_no_overlap(found, split(target, config.fold, config.split_seed).test)
    return found
