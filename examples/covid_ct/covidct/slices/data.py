"""Which slices a run trains on, is tested on, and takes as source."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.files import cache_folder
from covidct.phantoms.slice_set import phantom_slices
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.covid_semiseg import UNLABELLED, CovidSemiSeg, read_covid_semiseg, read_unlabelled
from covidct.sets.names import OWN, PHANTOM
from covidct.sets.own_folder import OwnPictures, read_own_pictures, read_own_source
from covidct.sets.own_places import own_places
from covidct.slices.draw import draw_source, draw_target
from covidct.slices.lesion_slices import read_volume_slices
from covidct.slices.overlap import check_no_overlap, without_overlap
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
        source = _source_slices(config)
        if not all(item.mask_path for item in source):
            raise InputError(f"method {config.method} learns from the source's masks; give a --source that has them")
        return SliceData(train=source, test=(), source=(), split="lesions of the source, for any fold")
    target = read_target(config)
    if chosen.learns == "hidden parts":
        # All folds start from one run, so it may show none of the slices that any of them tests on.
        unlabelled = _unlabelled_slices(config, target, (*target.train, *target.test))
        return SliceData(train=unlabelled, test=(), source=(), split="unlabelled, for any fold")
    found = split(target, config.fold, config.split_seed)
    unlabelled = _unlabelled_slices(config, target, found.test) if chosen.needs_unlabelled else ()
    train = found.train
    if config.target_cases is not None:
        train = draw_target(train, config.target_cases, config.split_seed + config.target_draw)
    source = _source_slices(config) if chosen.needs_source else ()
    if config.dataset == OWN:
        source = without_overlap(source, found.test)
    return SliceData(train, found.test, source, found.name, unlabelled)


def read_target(config: Config, data: Path | None = None) -> CovidSemiSeg:
    """The run's target data set; the phantoms are generated if need be, wherever the cache is now.

    data: where the data set lies now, if not where the run was trained.
    """
    if config.dataset == OWN:
        return read_own(config, data)
    return read_covid_semiseg(data or (phantom_slices()[0] if config.dataset == PHANTOM else Path(config.data)))


def read_own(config: Config, data: Path | None = None) -> OwnPictures:
    """The run's target where that is the user's own, `data` as above; InputError if it is not there."""
    root, images, masks = (Path(folder) if folder else None for folder in (config.data, config.images, config.masks))
    places = own_places(root, images, masks) if data is None else own_places(data)
    if places is None:
        raise InputError(
            f"{data or root} has neither images/ and masks/ nor imagesTr/ and labelsTr/; give --data with a folder "
            "that has them"
        )
    unlabelled = Path(config.unlabelled) if config.unlabelled else None
    return read_own_pictures(places, labels=config.labels, patients=config.patients, unlabelled=unlabelled)


def slices_to_test(config: Config, data: Path | None = None) -> tuple[Slice, ...]:
    """The slices that a run is tested on; `data` as for `read_target`."""
    return split(read_target(config, data), config.fold, config.split_seed).test


def _source_slices(config: Config) -> tuple[Slice, ...]:
    folders = [Path(folder) for folder in config.source]
    if not folders and config.dataset == PHANTOM:
        folders = [phantom_slices()[1]]
    slices = _slices_of(folders)
    if config.source_cases is None:
        return slices
    return draw_source(slices, config.source_cases, config.split_seed, policy=config.source_policy)


def _slices_of(folders: Sequence[Path]) -> tuple[Slice, ...]:
    """The slices of source folders: pictures as they are, volumes cut once; without masks unless all have them."""
    pictures = {folder: found for folder in folders if (found := read_own_source(folder)) is not None}
    volumes = [folder for folder in folders if folder not in pictures]
    slices = read_volume_slices(volumes, cache_folder() / "source-slices") if volumes else ()
    for number, (folder, found) in enumerate(pictures.items()):
        # Folders may share names: each set's are its own.
        prefix = f"{folder.name}_" if len(pictures) == 1 else f"{folder.name}-{number}_"
        slices += tuple(replace(item, name=prefix + item.name, dataset=str(folder)) for item in found)
    if all(item.mask_path for item in slices):
        return slices
    return tuple(replace(item, mask_path=None) for item in slices)


def _unlabelled_slices(config: Config, target: CovidSemiSeg, test: Sequence[Slice]) -> tuple[Slice, ...]:
    """The unlabelled slices; InputError if there are none, or if some show what a slice to be tested on shows.

    Of the user's own, which may well be neighbours of those that a fold tests on, these are left out.
    """
    if isinstance(target, OwnPictures):
        found = without_overlap(target.unlabelled, test)
    else:
        found = read_unlabelled(Path(config.unlabelled)) if config.unlabelled else target.unlabelled
        check_no_overlap(found, test)
    if not found:
        where = "unlabelled/" if config.dataset == OWN else UNLABELLED / "Imgs"
        raise InputError(
            f"method {config.method} takes unlabelled slices and {config.data or config.dataset} has none "
            f"({where}); give a folder of pictures with --unlabelled"
        )
    return found
