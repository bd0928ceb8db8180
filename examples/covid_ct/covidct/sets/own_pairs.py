"""Which mask is whose, in folders of the user's own, by the names of the files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from covidct.errors import InputError

# What a mask's name may have beyond its image's.
ENDINGS = ("", "_mask", "_seg", "_segmentation", "_label", "_gt", "-mask")
# nnU-Net's number of a channel, of which the first is read.
CHANNEL = re.compile(r"_(\d{4})$")
# Names that a line lists.
LISTED = 3


def pair(
    images: Mapping[str, Path], masks: Mapping[str, Path], left_out: list[str], where: tuple[Path, Path]
) -> dict[str, tuple[Path, Path]]:
    """Image and mask by the image's stem; both arguments are files by stem.

    where: the two folders. `left_out` gets a line for the files of each that have no partner; InputError if all.
    """
    partners = partners_of(images, masks)
    if not partners:
        raise InputError(
            f"no image of {where[0]} has a mask of the same name in {where[1]}: there are "
            f"{named(images.values())} and {named(masks.values())}; call the masks as their images"
        )
    alone = [path for stem, path in images.items() if stem not in partners]
    unused = [path for path in masks.values() if path not in partners.values()]
    for paths, what, fix in (
        (alone, "without a mask", "add them, or move the images to unlabelled/"),
        (unused, "without an image", "add the images"),
    ):
        if paths:
            left_out.append(f"{paths[0].parent}: {named(paths)} {what}; {fix}")
    return {stem: (images[stem], mask) for stem, mask in partners.items()}


def first_channels(images: Mapping[str, Path], left_out: list[str]) -> dict[str, Path]:
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
        left_out.append(f"{others[0].parent}: {named(others)}: further channels; the network takes one")
    return found


def partners_of(images: Iterable[str], masks: Mapping[str, Path]) -> dict[str, Path]:
    """The mask of each image that has one, by the image's stem."""
    found = {}
    for stem in images:
        for ending in ENDINGS:
            if stem + ending in masks:
                found[stem] = masks[stem + ending]
                break
    return found


def named(paths: Iterable[Path]) -> str:
    """How many files, and the first names."""
    files: Sequence[Path] = tuple(paths)
    names = ", ".join(path.name for path in files[:LISTED]) + (", ..." if len(files) > LISTED else "")
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}" + (f" ({names})" if files else "")
