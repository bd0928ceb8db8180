"""Which volumes a run trains on, is tested on, and takes as source, from stores that prepare.py made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.names import OWN_VOLUMES, PHANTOM_VOLUMES
from covidct.sets.splits import FOLDS, volume_fold
from covidct.store.phantoms import phantom_stores
from covidct.store.preprocess import Plan
from covidct.store.store import CaseStore, intensity_of, open_store
from covidct.volumes import own
from covidct.volumes.evaluation import volume_test_cases
from covidct.volumes.plan import keep_plan
from covidct.volumes.sampling import VolumeSamples
from covidct.volumes.sources import Source, keep_sources, read_sources


@dataclass(frozen=True)
class VolumeData:
    """The volumes of a run.

    training: preprocessed cases by data set: the fold's four scans, or for a pre-training the source's. testing: the
    fold's other scans as they are published. sources: preprocessed cases of other lesions by data set. plan: grid,
    patch and normalisation, from the fold's training scans. taken: what is known of the sources, of a pre-training,
    too.
    """

    training: tuple[tuple[CaseStore, ...], ...]
    test: tuple[VolumeCase, ...]
    sources: tuple[tuple[CaseStore, ...], ...]
    split: str
    plan: Plan
    taken: tuple[Source, ...] = ()

    @property
    def train(self) -> Sequence[CaseStore]:
        """All cases that are trained on."""
        return [case for cases in self.training for case in cases]

    @property
    def source(self) -> Sequence[CaseStore]:
        """All source cases."""
        return [case for cases in self.sources for case in cases]

    def samples(self, stream: str, config: Config, *, augment: bool, world_size: int = 1) -> VolumeSamples:
        """See `RunData.samples`."""
        return VolumeSamples(
            self.sources if stream.endswith("source") else self.training,
            plan=self.plan,
            stream=stream,
            joined_batch=config.batch_size * world_size,
            seed=config.seed,
            oversample_foreground=config.oversample_foreground,
            augment=augment,
        )

    def facts(self) -> dict[str, str]:
        """See `RunData.facts`: what was found of the sources."""
        return {"source": "; ".join(source.describe() for source in self.taken)} if self.taken else {}

    def keep(self, run: Path) -> None:
        """See `RunData.keep`: plan.json, and sources.json where there are sources."""
        keep_plan(run, self.plan)
        keep_sources(run, self.taken)


def read_volume_data(config: Config) -> VolumeData:
    """The volumes that `config` names; InputError if a store or a case is missing."""
    chosen = system(config.method)
    folder, others = own.own_stores(config) if config.dataset == OWN_VOLUMES else _stores(config)
    store = open_store(folder)
    train, test, name = _split(config)
    scans = store.named(train)
    if config.dataset == OWN_VOLUMES:
        own.check_lesions(config, scans)
    phantoms = config.dataset == PHANTOM_VOLUMES and not config.source
    taken: tuple[Source, ...] = ()
    if chosen.needs_source:
        any_labels = config.dataset == OWN_VOLUMES
        taken = read_sources(others, store, set(test), phantoms=phantoms, unlabelled=any_labels)
        taken = own.of_one_kind(config, taken) if any_labels else taken
    sources = tuple(source.cases for source in taken)
    low, high, mean, std = intensity_of(scans)
    depth, height, width = config.size
    return VolumeData(
        training=(scans,) if chosen.tested else sources,
        test=volume_test_cases(config) if chosen.tested else (),
        sources=sources if chosen.streams_source else (),
        split=name,
        plan=Plan(store.settings.spacing, (depth, height, width), low=low, high=high, mean=mean, std=std),
        taken=taken,
    )


def _split(config: Config) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Names of the cases to train on, of those to test on, and what the split is called."""
    if config.dataset == OWN_VOLUMES:
        train, cases, name = own.own_split(config, own.read_own(config))
        return train, tuple(case.name for case in cases), name
    return *volume_fold(config.dataset, config.fold), f"published fold {config.fold} of {FOLDS}"


def _stores(config: Config) -> tuple[Path, tuple[Path, ...]]:
    """Stores of the target and of the sources; of the phantoms where they are now."""
    given = tuple(map(Path, config.source))
    if config.dataset != PHANTOM_VOLUMES:
        return Path(config.store), given
    target, own = phantom_stores()
    return target, given or own
