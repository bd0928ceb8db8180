"""Pictures of the user's own: a folder of images, one of masks, and what may lie beside them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from covidct.ct.own_picture import OwnReading
from covidct.ct.picture import SUFFIXES, Slice, image_files
from covidct.errors import InputError
from covidct.sets.covid_semiseg import CovidSemiSeg
from covidct.sets.nnunet_raw import declared_labels
from covidct.sets.own_places import OwnPlaces, Pair
from covidct.sets.patients import patients_of

# What a mask's name may have beyond its image's.
ENDINGS = ("", "_mask", "_seg", "_segmentation", "_label", "_gt", "-mask")
# nnU-Net's number of a channel, of which the first is read.
CHANNEL = re.compile(r"_(\d{4})$")
# Names that a line lists.
LISTED = 3


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
    reading = OwnReading(labels or _declared(places, left_out))
    train = _pairs(places.train, places, reading, left_out)
    test = () if places.test is None else _pairs(places.test, places, reading, left_out)
    owners = patients_of([item.name for item in (*train, *test)], patients)
    train, test = (tuple(replace(item, scan=owners[item.name]) for item in part) for part in (train, test))
    if patients and (shared := {item.scan for item in train} & {item.scan for item in test}):
        raise InputError(
            f"patient {min(shared)} is both in {places.train.images} and in {places.test and places.test.images}; "
            "move all images of one patient to one of them"
        )
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
    images = _first_channels(image_files(found), [])
    known = {} if masks is None or found == folder else _partners(images, image_files(masks))
    with_masks = len(known) == len(images)
    return tuple(_slice(stem, path, known[stem] if with_masks else None, OwnReading()) for stem, path in images.items())


def _folder_of_pictures(folder: Path) -> Path | None:
    for place in (folder, folder / "images", folder / "imagesTr"):
        if place.is_dir() and image_files(place):
            return place
    return None


def _pairs(pair: Pair, places: OwnPlaces, reading: OwnReading, left_out: list[str]) -> tuple[Slice, ...]:
    images, masks = image_files(pair.images), image_files(pair.masks)
    if places.raw:
        images = _first_channels(images, left_out)
    partners = _partners(images, masks)
    if not partners:
        raise InputError(
            f"no image of {pair.images} has a mask of the same name in {pair.masks}: there are "
            f"{_named(images.values())} and {_named(masks.values())}; call the masks as their images"
        )
    alone = [path for stem, path in images.items() if stem not in partners]
    unused = [path for path in masks.values() if path not in partners.values()]
    for paths, what, fix in (
        (alone, "without a mask", "add them, or move the images to unlabelled/"),
        (unused, "without an image", "add the images"),
    ):
        if paths:
            left_out.append(f"{paths[0].parent}: {_named(paths)} {what}; {fix}")
    return tuple(_slice(stem, images[stem], mask, reading) for stem, mask in partners.items())


def _first_channels(images: Mapping[str, Path], left_out: list[str]) -> dict[str, Path]:
    """Images by case: of CASE_0000 and CASE_0001 the first; names without a number stay."""
    found: dict[str, Path] = {}
    others = []
    for stem, path in images.items():
        number = CHANNEL.search(stem)
        if number is None or number[1] == "0000":
            found[stem if number is None else stem[: number.start()]] = path
        else:
            others.append(path)
    if not found:
        return dict(images)
    if others:
        left_out.append(f"{others[0].parent}: {_named(others)}: further channels; the network takes one")
    return found


def _partners(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """The mask of each image that has one, by the image's stem."""
    found = {}
    for stem in images:
        for ending in ENDINGS:
            if stem + ending in masks:
                found[stem] = masks[stem + ending]
                break
    return found


def _slice(name: str, path: Path, mask: Path | None, reading: OwnReading) -> Slice:
    return Slice(name=name, path=path, mask_path=mask, scan=name, read=reading)


def _declared(places: OwnPlaces, left_out: list[str]) -> tuple[int, ...]:
    if places.description is None:
        return ()
    labels, ignored = declared_labels(places.description)
    if ignored is not None:
        left_out.append(f"{places.description} declares label {ignored} to be ignored: it counts as background here")
    return tuple(label for label in labels if label > 0)


def _named(paths: Iterable[Path]) -> str:
    files: Sequence[Path] = tuple(paths)
    names = ", ".join(path.name for path in files[:LISTED]) + (", ..." if len(files) > LISTED else "")
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}" + (f" ({names})" if files else "")
