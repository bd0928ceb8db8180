"""Pictures of the user's own: a folder of images, one of masks, and what may lie beside them."""

from dataclasses import dataclass, replace
from pathlib import Path

from covidct.ct.own_picture import OwnReading
from covidct.ct.picture import SUFFIXES, Slice, image_files
from covidct.errors import InputError
from covidct.sets.covid_semiseg import CovidSemiSeg
from covidct.sets.own_pairs import first_channels, pair, partners_of
from covidct.sets.own_places import OwnPlaces, Pair
from covidct.sets.own_rules import lesion_labels, owners_of


@dataclass(frozen=True)
class OwnPictures(CovidSemiSeg):
    """The slices of a set of the user's own; `scan` is the patient. left_out: what is not used and why, a line each."""

    left_out: tuple[str, ...] = ()


def read_own_pictures(
    places: OwnPlaces, *, labels: tuple[int, ...] = (), patients: str = "", unlabelled: Path | None = None
) -> OwnPictures:
    """The pictures in `places`, without opening them; images and masks pair by stem.

    labels: mask values that are lesion; empty: all above 0, or what `dataset.json` declares, without `ignore`.
    patients: see `patients_of`.
    unlabelled: a folder of pictures instead of that of `places`.

    A mask may be called as its image, or with an ending (`x_mask.png`). Of nnU-Net's `CASE_0000.png` the first channel
    is read. Images and masks that have no partner are left out. Raises InputError if no image has a mask, if two files
    share a stem, for a patient who is both trained and tested on, and what `patients_of` finds.
    """
    left_out = list(places.notes)
    reading = OwnReading(labels or lesion_labels(places, left_out))
    train = _pairs(places.train, places, reading, left_out)
    test = () if places.test is None else _pairs(places.test, places, reading, left_out)
    owners = owners_of([item.name for item in train], [item.name for item in test], patients, places)
    train, test = (tuple(replace(item, scan=owners[item.name]) for item in part) for part in (train, test))
    folder = unlabelled or places.unlabelled
    beside = () if folder is None else read_own_unlabelled(folder)
    return OwnPictures(train=train, test=test, unlabelled=beside, left_out=tuple(left_out))


def read_own_unlabelled(folder: Path) -> tuple[Slice, ...]:
    """The pictures in `folder`, or in `images` in it, without masks; InputError if it is missing or has none."""
    found = _folder_of_pictures(folder)
    if found is None:
        what = "is a file" if folder.is_file() else "has no picture" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} {what}; give a folder of pictures ({', '.join(SUFFIXES)})")
    return tuple(_slice(stem, path, None, OwnReading()) for stem, path in image_files(found).items())


def read_own_source(folder: Path) -> tuple[Slice, ...] | None:
    """The pictures of a source folder, with masks if all have them; None if it holds no pictures.

    Pictures lie in it, in `images` or in `imagesTr`; their masks, of which no relation loss knows, in `masks` or
    `labelsTr`.
    """
    found = _folder_of_pictures(folder)
    if found is None:
        return None
    masks = next((path for name in ("masks", "labelsTr") if (path := found.parent / name).is_dir()), None)
    images = first_channels(image_files(found), [])
    known = {} if masks is None or found == folder else partners_of(images, image_files(masks))
    with_masks = len(known) == len(images)
    return tuple(_slice(stem, path, known[stem] if with_masks else None, OwnReading()) for stem, path in images.items())


def _folder_of_pictures(folder: Path) -> Path | None:
    for place in (folder, folder / "images", folder / "imagesTr"):
        if place.is_dir() and image_files(place):
            return place
    return None


def _pairs(folders: Pair, places: OwnPlaces, reading: OwnReading, left_out: list[str]) -> tuple[Slice, ...]:
    images, masks = image_files(folders.images), image_files(folders.masks)
    if places.raw:
        images = first_channels(images, left_out)
    found = pair(images, masks, left_out, (folders.images, folders.masks))
    return tuple(_slice(stem, image, mask, reading) for stem, (image, mask) in found.items())


def _slice(name: str, path: Path, mask: Path | None, reading: OwnReading) -> Slice:
    return Slice(name=name, path=path, mask_path=mask, scan=name, read=reading)
