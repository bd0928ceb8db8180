"""Volumes of the user's own: a folder of images, one of masks, and what may lie beside them."""

from dataclasses import dataclass, replace
from pathlib import Path

from covidct.ct.names import SUFFIXES, volumes_by_name
from covidct.ct.volume import VolumeCase
from covidct.errors import InputError
from covidct.sets.cases import LUNG_PREFIX, MASK_ENDINGS
from covidct.sets.own_pairs import first_channels, pair, partners_of
from covidct.sets.own_places import OwnPlaces, Pair
from covidct.sets.own_rules import lesion_labels, owners_of
from covidct.sets.plain_folder import read_plain_folder


@dataclass(frozen=True)
class OwnVolumes:
    """The volumes of a set of the user's own. left_out: what is not used and why, a line each."""

    train: tuple[VolumeCase, ...]
    test: tuple[VolumeCase, ...]
    left_out: tuple[str, ...] = ()


def read_own_volumes(places: OwnPlaces, *, labels: tuple[int, ...] = (), patients: str = "") -> OwnVolumes:
    """The volumes in `places` (NIfTI, NRRD, MetaImage), without opening them; see `read_own_pictures`."""
    left_out = list(places.notes)
    lesion = labels or lesion_labels(places, left_out)
    train = _pairs(places.train, places, lesion, left_out)
    test = () if places.test is None else _pairs(places.test, places, lesion, left_out)
    owners = owners_of([case.name for case in train], [case.name for case in test], patients, places)
    train, test = (tuple(replace(case, patient=owners[case.name]) for case in part) for part in (train, test))
    names = {case.name for case in train}
    if twice := [case.name for case in test if case.name in names]:
        raise InputError(f"{twice[0]} is the name of a volume to train on and of one to test on; rename one of them")
    return OwnVolumes(train, test, tuple(left_out))


def read_volume_source(folder: Path) -> tuple[VolumeCase, ...]:
    """The volumes of a source folder, with masks if all have them; no relation loss knows of these.

    Volumes lie in it, in `images` or in `imagesTr` (their masks in `masks` or `labelsTr`), or a folder a case.
    """
    place = next((place for place in (folder, folder / "images", folder / "imagesTr") if _holds_volumes(place)), None)
    if place is None:
        found = read_plain_folder(folder).cases
        return tuple(replace(case, name=f"{folder.name}-{case.name}", intensity="any") for case in found)
    images = first_channels(volumes_by_name(place), [])
    beside = [stem for stem in images if stem.lower().endswith(MASK_ENDINGS) or f"_{LUNG_PREFIX}" in stem.lower()]
    masks = {stem: images.pop(stem) for stem in beside}
    for name in ("masks", "labelsTr"):
        if place != folder and (place.parent / name).is_dir():
            masks |= volumes_by_name(place.parent / name)
    known = partners_of(images, masks)
    whole = len(known) == len(images)
    return tuple(
        _case(f"{folder.name}-{stem}", path, known[stem] if whole else None, ()) for stem, path in images.items()
    )


def _holds_volumes(folder: Path) -> bool:
    return folder.is_dir() and bool(volumes_by_name(folder))


def _pairs(folders: Pair, places: OwnPlaces, lesion: tuple[int, ...], left_out: list[str]) -> tuple[VolumeCase, ...]:
    images, masks = (volumes_by_name(folder, faults=left_out) for folder in (folders.images, folders.masks))
    if places.raw:
        images = first_channels(images, left_out)
    if not images:
        raise InputError(f"{folders.images} holds no volume ({', '.join(SUFFIXES)}); put the images there")
    found = pair(images, masks, left_out, (folders.images, folders.masks))
    return tuple(_case(stem, image, mask, lesion) for stem, (image, mask) in found.items())


def _case(name: str, image: Path, mask: Path | None, lesion: tuple[int, ...]) -> VolumeCase:
    return VolumeCase(name, image, mask, lesion, None, (), "any", patient=name)
