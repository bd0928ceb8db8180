"""Volumes of the user's own: their split, their store, and what was found in them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.progress import Stages
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.folds import draw_folds, own_folds
from covidct.sets.own_places import own_places
from covidct.sets.own_volumes import OwnVolumes, read_own_volumes, read_volume_source
from covidct.store.own import own_store, prepared
from covidct.store.store import SETTINGS, CaseStore, read_settings
from covidct.volumes.sources import Source

TARGET, SOURCE = "own-volumes", "{} (own)"
# Values of masks that a line lists.
LISTED = 8


def read_own(config: Config, data: Path | None = None) -> OwnVolumes:
    """The run's target; `data`: where it lies now, if not where the run was trained."""
    root, images, masks = (Path(folder) if folder else None for folder in (config.data, config.images, config.masks))
    places = own_places(root, images, masks) if data is None else own_places(data)
    if places is None:
        raise InputError(
            f"{data or root} has neither images/ and masks/ nor imagesTr/ and labelsTr/; give --data with a folder "
            "that has them"
        )
    return read_own_volumes(places, labels=config.labels, patients=config.patients)


def own_split(config: Config, found: OwnVolumes) -> tuple[tuple[str, ...], tuple[VolumeCase, ...], str]:
    """Names of the volumes to train on, those to test on, and what the split is called."""
    if config.fold is None:
        if not found.test:
            raise InputError("there are no labelled volumes in test/; add them, or pass --fold 0 for cross-validation")
        return tuple(case.name for case in found.train), found.test, "given test volumes"
    owners = {case.name: case.patient for case in found.train}
    count = own_folds(len(set(owners.values())), config.fold)
    held_out = draw_folds(owners, count, config.split_seed)[config.fold]
    train = tuple(case.name for case in found.train if case.name not in held_out)
    test = tuple(case for case in found.train if case.name in held_out)
    return train, test, f"fold {config.fold} of {count}, split seed {config.split_seed}"


def prepare_own(config: Config, stages: Stages) -> None:
    """Make the stores that a run takes, of its target and sources, unless they are there."""
    own_stores(config, stages)


def own_stores(config: Config, stages: Stages | None = None) -> tuple[Path, tuple[Path, ...]]:
    """Stores of the target and of each source; a source that is a store already stays where it is.

    They are made, or looked through for files that have changed, where `stages` shows it.
    """
    target = _store(Path(config.data or config.images).name, TARGET, read_own(config).train, None, stages)
    spacing = read_settings(target).spacing
    stores = []
    for folder in map(Path, config.source):
        if (folder / SETTINGS).is_file():
            stores.append(folder)
        else:
            cases = read_volume_source(folder)
            stores.append(_store(f"{folder.name}-source", SOURCE.format(folder.name), cases, spacing, stages))
    return target, tuple(stores)


def _store(
    name: str,
    dataset: str,
    cases: Sequence[VolumeCase],
    spacing: tuple[float, float, float] | None,
    stages: Stages | None,
) -> Path:
    root = own_store(name, cases, spacing)
    if stages is not None:
        prepared(root, dataset, cases, spacing, stages(f"preparing {name}"))
    return root


def of_one_kind(config: Config, sources: Sequence[Source]) -> tuple[Source, ...]:
    """`sources` without masks, unless all cases have them; InputError for a method that learns from them."""
    if all(case.labelled for source in sources for case in source.cases):
        return tuple(sources)
    if system(config.method).learns == "source lesions":
        raise InputError(f"method {config.method} learns from the source's masks; give a --source that has them")
    return tuple(
        replace(source, cases=tuple(replace(case, labelled=False) for case in source.cases)) for source in sources
    )


def check_lesions(config: Config, cases: Sequence[CaseStore]) -> None:
    """InputError if no case to train on has lesion."""
    if any(case.lesion_voxels for case in cases):
        return
    labels = " ".join(map(str, config.labels)) or "all above 0"
    values = " ".join(f"{value:g}" for value in _values(cases))
    raise InputError(
        f"no mask of the {len(cases)} volumes to train on has lesion ({labels}): their values are {values}; say which "
        "of them are lesion with --labels"
    )


def described(config: Config, train: Sequence[CaseStore]) -> Iterator[str]:
    """What was found, a line each."""
    shapes = sorted({tuple(case.facts["shape"]) for case in train})
    sizes = " to ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys((shapes[0], shapes[-1])))
    mm = " x ".join(f"{length:g}" for length in train[0].placement.target)
    values = _values(train)
    shown = " ".join(f"{value:g}" for value in values[:LISTED]) + (" ..." if len(values) > LISTED else "")
    lesion = sum(case.lesion_voxels > 0 for case in train)
    units = sorted({"HU" if case.facts["hu"] else "other values than HU" for case in train})
    labels = " ".join(map(str, config.labels)) or "all above 0"
    yield (
        f"to train on: {len(train)} volumes of {sizes} voxels (z y x), {' and '.join(units)}, brought to {mm} mm; mask "
        f"values {shown}, {lesion} with lesion; lesion: {labels}"
    )
    for line in read_own(config).left_out:
        yield f"left out: {line}"
    for case in train:
        yield from (f"note: {note}" for note in case.facts["notes"])
    if not config.labels and len(values) > 2:
        yield f"every mask value above 0 counts as lesion, of {shown}; --labels chooses"
    if not config.patients:
        yield "every volume counts as a patient; --patients keeps those of one patient in one fold"


def _values(cases: Sequence[CaseStore]) -> list[float]:
    return sorted({float(value) for case in cases for value in case.facts["labels"]})
