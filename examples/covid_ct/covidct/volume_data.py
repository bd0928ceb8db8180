"""Which volumes a run trains on, is tested on, and takes as source, from stores that prepare.py made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covidct.config import Config
from covidct.data.preprocess import Plan
from covidct.data.splits import source_split, volume_fold
from covidct.data.store import CaseStore, Store, intensity_of, open_store
from covidct.data.volume_sampling import make_volume_loader
from covidct.data.volumes import VolumeCase
from covidct.errors import InputError
from covidct.phantom_sets import VOLUMES as PHANTOM
from covidct.phantom_sets import phantom_stores
from covidct.systems import system
from covidct.volume_evaluation import volume_test_cases

# Sets whose published division keeps some cases from training.
DIVIDED = ("msd-lung", "nsclc-pe")


@dataclass(frozen=True)
class VolumeData:
    """The volumes of a run.

    training: preprocessed cases by data set: the fold's four scans, or for a pre-training the source's. testing: the
    fold's other scans as they are published. sources: preprocessed cases of other lesions by data set. plan: grid,
    patch and normalisation, from the fold's training scans.
    """

    training: tuple[tuple[CaseStore, ...], ...]
    test: tuple[VolumeCase, ...]
    sources: tuple[tuple[CaseStore, ...], ...]
    split: str
    plan: Plan

    @property
    def train(self) -> Sequence[CaseStore]:
        """All cases that are trained on."""
        return [case for cases in self.training for case in cases]

    @property
    def source(self) -> Sequence[CaseStore]:
        """All source cases."""
        return [case for cases in self.sources for case in cases]

    def loader(
        self,
        stream: str,
        config: Config,
        *,
        first_step: int,
        steps: int,
        augment: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> Any:
        """See `datasets.RunData.loader`."""
        return make_volume_loader(
            self.sources if stream.endswith("source") else self.training,
            plan=self.plan,
            stream=stream,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first_step,
            steps=steps,
            workers=config.workers if augment else 0,
            oversample_foreground=config.oversample_foreground,
            augment=augment,
            rank=rank,
            world_size=world_size,
        )


def read_volume_data(config: Config) -> VolumeData:
    """The volumes that `config` names; InputError if a store or a case is missing."""
    chosen = system(config.method)
    folder, others = _stores(config)
    store = open_store(folder)
    scans = store.named(volume_fold(config.dataset, config.fold)[0])
    sources = _sources(config, others, store) if chosen.needs_source else ()
    low, high, mean, std = intensity_of(scans)
    depth, height, width = config.size
    return VolumeData(
        training=sources if chosen.on_source else (scans,),
        test=() if chosen.on_source else volume_test_cases(config),
        sources=sources if chosen.general else (),
        split=f"published fold {config.fold} of 5",
        plan=Plan(store.settings.spacing, (depth, height, width), low=low, high=high, mean=mean, std=std),
    )


def _stores(config: Config) -> tuple[Path, tuple[Path, ...]]:
    """Stores of the target and of the sources; of the phantoms where they are now."""
    given = tuple(map(Path, config.source))
    if config.dataset != PHANTOM:
        return Path(config.store), given
    target, own = phantom_stores()
    return target, given or own


def _sources(config: Config, folders: Sequence[Path], target: Store) -> tuple[tuple[CaseStore, ...], ...]:
    """The cases of every source; InputError if one is given twice or would show the fold's test volumes."""
    places = [folder.resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise InputError(f"--source {place} is given twice; leave one out")
    tested = set(volume_fold(config.dataset, config.fold)[1])
    return tuple(_source_cases(folder, target, tested) for folder in folders)


def _source_cases(folder: Path, target: Store, tested: set[str]) -> tuple[CaseStore, ...]:
    """The cases of a source's store that may be trained on, on the target's grid."""
    store = open_store(folder)
    if store.settings.dataset == target.settings.dataset:
        raise InputError(
            f"--source {folder} is a store of {store.settings.dataset}, the target itself, whose test volumes would be "
            "trained on; give stores of other lesions"
        )
    leaked = [case.name for case in store.cases if case.name in tested]
    if leaked:
        raise InputError(
            f"--source {folder} holds {leaked[0]}, which this fold is tested on; give stores of other lesions"
        )
    if store.settings.spacing != target.settings.spacing:
        raise InputError(
            f"--source {folder} has voxels of {store.settings.spacing} mm (z y x), the target's store {target.root} "
            f"has {target.settings.spacing}; prepare it again with prepare.py ... --like {target.root}"
        )
    cases = store.cases
    if store.settings.dataset in DIVIDED:
        allowed = set(source_split(store.settings.dataset)[0])
        cases = tuple(case for case in cases if case.name in allowed)
    cases = tuple(case for case in cases if case.labelled)
    if not cases:
        raise InputError(f"--source {folder} holds no labelled case to train on; look at what prepare.py said of it")
    return cases
