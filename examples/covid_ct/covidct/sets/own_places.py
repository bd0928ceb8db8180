"""Where the user's own images lie: images/ and masks/, or nnU-Net's raw layout, and what may be beside them."""

from dataclasses import dataclass
from pathlib import Path

from covidct.ct.names import SUFFIXES as VOLUMES
from covidct.ct.names import is_volume
from covidct.ct.picture import SUFFIXES as PICTURES
from covidct.ct.picture import pictures_in
from covidct.errors import InputError
from covidct.files import entries
from covidct.sets.names import OWN, OWN_VOLUMES

# Names that a message lists.
LISTED = 10


@dataclass(frozen=True)
class Pair:
    """A folder of images and the one of their masks."""

    images: Path
    masks: Path


@dataclass(frozen=True)
class OwnPlaces:
    """The folders of a set of the user's own; those that are not there are None.

    train: labelled images. test: labelled images to test on. unlabelled, source: images without labels that count.
    description: nnU-Net's dataset.json. notes: what lies there and is not used.
    """

    train: Pair
    test: Pair | None = None
    unlabelled: Path | None = None
    source: Path | None = None
    description: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def raw(self) -> bool:
        """Whether it is nnU-Net's raw layout, whose images are called CASE_0000."""
        return self.train.images.name == "imagesTr"


def own_places(data: Path | None, images: Path | None = None, masks: Path | None = None) -> OwnPlaces | None:
    """The folders of the user's own images; None where `data` has neither of the two layouts and nothing else is given.

    data: with `images/` and `masks/`, or `imagesTr/` and `labelsTr/`; beside them optionally `test/` (with `images/`
        and `masks/`) or `imagesTs/` and `labelsTs/`, `unlabelled/` and `source/`.
    images, masks: folders that lie elsewhere.

    Raises InputError if only one of the two is there, or if a given folder is not.
    """
    for option, folder in (("--images", images), ("--masks", masks)):
        if folder is not None and not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise InputError(f"{option} {folder} {what}; give the folder of the {option[2:]}")
    if data is not None and not data.is_dir():
        if images is None and masks is None:
            return None
        what = "is a file" if data.exists() else "does not exist"
        raise InputError(f"--data {data} {what}; give a folder, or leave it out beside --images and --masks")
    train = _train(data, images, masks)
    if train is None or data is None:
        return None if train is None else OwnPlaces(train)
    raw = train.images.name == "imagesTr"
    test, notes = _raw_test(data) if raw else _test(data)
    return OwnPlaces(
        train,
        test,
        unlabelled=_present(data / "unlabelled"),
        source=_present(data / "source"),
        description=data / "dataset.json" if (data / "dataset.json").is_file() else None,
        notes=notes,
    )


def kind_of(places: OwnPlaces) -> str:
    """The name of the data set by what its images are: `OWN` pictures or `OWN_VOLUMES`; InputError if by neither."""
    folder = places.train.images
    pictures, volumes = len(pictures_in(folder)), sum(is_volume(path) for path in entries(folder))
    if pictures and volumes:
        raise InputError(
            f"{folder} holds both {pictures} pictures and {volumes} volumes; put one kind of them into another folder"
        )
    if not pictures and not volumes:
        raise InputError(
            f"{folder} holds no picture ({', '.join(PICTURES)}) and no volume ({', '.join(VOLUMES)}) directly in it, "
            f"found {_listed(folder)}; put the images there"
        )
    return OWN if pictures else OWN_VOLUMES


def _train(data: Path | None, images: Path | None, masks: Path | None) -> Pair | None:
    if data is not None and images is None and masks is None and (data / "imagesTr").is_dir():
        return _both(data / "imagesTr", data / "labelsTr")
    images = images or (None if data is None else _present(data / "images"))
    masks = masks or (None if data is None else _present(data / "masks"))
    if images is not None and masks is not None:
        return Pair(images, masks)
    if images is None and masks is None:
        return None
    there, lacking = (masks, "images") if images is None else (images, "masks")
    # By its name: a data set of another layout may have one of the two by chance, and its reader says more.
    where = f"{data} has no folder {lacking} (found {_listed(data)}); put them there" if data else "it is given alone"
    raise InputError(
        f"{there} needs the folder of its {lacking}: {where}, or name a folder that lies elsewhere with --{lacking} DIR"
    )


def _both(images: Path, masks: Path) -> Pair:
    if not masks.is_dir():
        raise InputError(
            f"{images.parent} has {images.name} and no {masks.name} (found {_listed(images.parent)}); put the masks of "
            f"{images.name} there, by the same names"
        )
    return Pair(images, masks)


def _raw_test(data: Path) -> tuple[Pair | None, tuple[str, ...]]:
    images, masks = data / "imagesTs", data / "labelsTs"
    if images.is_dir() and masks.is_dir():
        return Pair(images, masks), ()
    return None, (f"{images}: no labelsTs beside it, so it is not tested on",) if images.is_dir() else ()


def _test(data: Path) -> tuple[Pair | None, tuple[str, ...]]:
    folder = data / "test"
    pair = Pair(folder / "images", folder / "masks")
    if pair.images.is_dir() and pair.masks.is_dir():
        return pair, ()
    if not folder.is_dir():
        return None, ()
    return None, (f"{folder}: not tested on, since it has not both a folder images and a folder masks",)


def _present(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _listed(folder: Path) -> str:
    names = [path.name for path in entries(folder) if not path.name.startswith(".")]
    return (", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")) or "nothing"
