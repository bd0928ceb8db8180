"""What train.py takes of a folder of the user's own where the command line leaves it open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covidct.errors import InputError
from covidct.run.recommended import recommended
from covidct.run.systems import system
from covidct.sets.names import OWN, OWN_VOLUMES
from covidct.sets.own_folder import read_own_pictures
from covidct.sets.own_places import OwnPlaces, kind_of, own_places
from covidct.sets.own_volumes import read_own_volumes

# Arguments that are for them alone.
FOR_OWN = ("images", "masks", "labels", "patients")


def places_given(asked: Mapping[str, Any]) -> OwnPlaces | None:
    """Where the user's own images lie by what train.py was `asked`; None where the data set is another.

    Raises InputError for half a layout, and for none where --dataset asks for one.
    """
    if asked["dataset"] not in (None, OWN, OWN_VOLUMES):
        return None
    places = own_places(asked["data"], asked["images"], asked["masks"])
    if places is not None and asked["store"] is not None:
        raise InputError(
            "--store is for --dataset covid-ct-20; leave it out: volumes of your own are prepared by train.py"
        )
    if places is None and asked["dataset"] is not None:
        raise InputError(
            f"--dataset {asked['dataset']} needs --data with a folder that has images/ and masks/, or imagesTr/ and "
            f"labelsTr/, got {asked['data'] or 'none'}"
        )
    return places


def check_unasked(asked: Mapping[str, Any], dataset: str) -> None:
    """InputError for an argument that is for images of the user's own, where the data set is another."""
    for name in FOR_OWN:
        if asked[name]:
            raise InputError(f"--{name} is for images of your own, and the data set is {dataset}; leave it out")


def own_dataset(asked: str | None, places: OwnPlaces) -> str:
    """The name of the data set in `places`; InputError if --dataset asks for the other kind."""
    found = kind_of(places)
    if asked not in (None, found):
        raise InputError(f"--dataset {asked} and {places.train.images} holds what {found} is of; leave --dataset out")
    return found


def own_choices(asked: Mapping[str, Any], places: OwnPlaces, dataset: str, notes: list[str]) -> dict[str, Any]:
    """The arguments method, source and unlabelled of train.py, by those that were `asked` for and what is in `places`.

    `notes` gets the line that says what was taken and why. The reader's InputErrors come from here, before any other
    of the method.
    """
    source, unlabelled = tuple(asked["source"]), asked["unlabelled"]
    if not source and places.source is not None:
        source = (places.source,)
    beside = unlabelled or places.unlabelled
    labelled = _labelled(asked, places, dataset)
    method = asked["method"]
    if method is None:
        method, why = recommended(labelled, unlabelled=beside is not None, source=bool(source), slices=dataset == OWN)
        notes.append(f"{why} (--method chooses another)")
        if method == "ours" and not source:
            source, unlabelled = (beside,), None
    if source == (places.source,) and not asked["source"] and not system(method).needs_source:
        notes.append(f"method {method} takes no source images: {places.source} is not used")
        source = ()
    unused = places.unlabelled is not None and not unlabelled and places.unlabelled not in source
    if unused and not system(method).needs_unlabelled:
        notes.append(f"method {method} takes no unlabelled images: {places.unlabelled} is not used")
    return {"method": method, "source": source, "unlabelled": unlabelled}


def patients_rule(given: str) -> str:
    """--patients as a config keeps it: the path of a CSV wherever train.py is called from."""
    return str(Path(given).absolute()) if given.lower().endswith(".csv") else given


def _labelled(asked: Mapping[str, Any], places: OwnPlaces, dataset: str) -> int:
    rule = asked["patients"] or ""
    if dataset == OWN_VOLUMES:
        return len(read_own_volumes(places, labels=asked["labels"], patients=rule).train)
    return len(read_own_pictures(places, labels=asked["labels"], patients=rule, unlabelled=asked["unlabelled"]).train)
