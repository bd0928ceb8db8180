"""What is lesion in masks of the user's own, and whose the images are: for pictures and for volumes alike."""

from collections.abc import Sequence

from covidct.errors import InputError
from covidct.sets.nnunet_raw import declared_labels
from covidct.sets.own_places import OwnPlaces
from covidct.sets.patients import patients_of


def lesion_labels(places: OwnPlaces, left_out: list[str]) -> tuple[int, ...]:
    """The labels above 0 that dataset.json declares, without `ignore`, of which `left_out` gets a line; else none."""
    if places.description is None:
        return ()
    labels, ignored = declared_labels(places.description)
    if ignored is not None:
        left_out.append(f"{places.description} declares label {ignored} to be ignored: it counts as background here")
    return tuple(label for label in labels if label > 0)


def owners_of(train: Sequence[str], test: Sequence[str], patients: str, places: OwnPlaces) -> dict[str, str]:
    """The patient of each image by its name, see `patients_of`; InputError if one is both trained and tested on."""
    owners = patients_of((*train, *test), patients)
    shared = {owners[name] for name in train} & {owners[name] for name in test}
    if patients and shared:
        raise InputError(
            f"patient {min(shared)} is both in {places.train.images} and in {places.test and places.test.images}; "
            "move all images of one patient to one of them"
        )
    return owners
