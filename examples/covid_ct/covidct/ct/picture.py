"""One 2D slice on disk, and reading it so that every fault has one clear message."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from covidct.errors import InputError
from covidct.files import entries

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")

# Inf-Net's evaluation of COVID-SemiSeg binarises the ground truth with > 128.
LESION_ABOVE = 128


@dataclass(frozen=True)
class Slice:
    """Where one slice lies.

    name: the stem of the image file, unique in its set.
    path: an 8-bit lung-window picture (HU [-1250, 250] -> 0..255).
    mask_path: a 0/255 picture of the same size, or None without a label.
    scan: which scan the slice was cut from; the name itself where that is not known.
    """

    name: str
    path: Path
    mask_path: Path | None
    scan: str


def load_slice(item: Slice) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """The image of `item`, float32 (H, W) in 0..255, and its lesion mask, bool (H, W), or None without a label.

    Colour pictures become grey (ITU-R 601 luma). Raises InputError naming the file if the image or the mask is
    missing, unreadable, of another size than the other, holds NaN or values outside 0..255, shows nothing (one
    value everywhere), or if the mask is not a 0/255 picture.
    """
    image = read_grey(item.path)
    if image.min() == image.max():
        raise InputError(
            f"{item.path}: every pixel is {image.min():g}, the picture shows nothing; replace or remove the file"
        )
    if item.mask_path is None:
        return image, None
    return image, _read_mask(item.mask_path, item.path, image.shape)


def check_slices(items: Iterable[Slice]) -> None:
    """Load every slice once; InputError for the first that cannot be used. Training calls it before its first step."""
    for item in items:
        load_slice(item)


def image_files(folder: Path) -> dict[str, Path]:
    """The pictures of `folder` by stem, in natural order (2 before 10); InputError if two share a stem.

    Hidden files are skipped, and with them the `._*` companions that macOS leaves in archives.
    """
    found: dict[str, Path] = {}
    for path in sorted(entries(folder), key=lambda path: natural_key(path.name)):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} have the same stem; remove one of them")
        found[path.stem] = path
    return found


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that puts numbers inside names in numerical order."""
    pieces: list[str] = [""]
    for character in name:
        if pieces[-1] and pieces[-1][-1].isdecimal() != character.isdecimal():
            pieces.append("")
        pieces[-1] += character
    return tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces)


def read_grey(path: Path) -> NDArray[np.float32]:
    """The picture at `path` as float32 (H, W) in 0..255; InputError, naming it, if it cannot be read or used."""
    try:
        with Image.open(path) as picture:
            # I and F are 32-bit integers and floats; their values are looked at below, as those of I;16 are.
            deep = picture.mode[0] in "IF"
            values = np.asarray(picture if deep else picture.convert("L"), dtype=np.float32)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; put it back or correct the path") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); replace the file") from None
    return _checked(values, path)


def _checked(values: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise InputError(f"{path} has {bad} pixels that are NaN or infinite; replace the file")
    if values.min() < 0 or values.max() > 255:
        raise InputError(
            f"{path} has more than 8 bits (values {values.min():g} to {values.max():g}); "
            "save it as an 8-bit lung-window picture, HU [-1250, 250] -> 0..255"
        )
    return values


def _read_mask(path: Path, image_path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if not path.is_file():
        raise InputError(f"{path}, the mask of {image_path}, is missing; put it back or remove the image")
    values = read_grey(path)
    if values.shape != shape:
        raise InputError(
            f"{path} is {values.shape[1]} x {values.shape[0]} pixels (width x height), but its image {image_path} "
            f"is {shape[1]} x {shape[0]}; a mask must have the size of its image"
        )
    if 0 < values.max() <= LESION_ABOVE:
        raise InputError(
            f"{path} holds values 0 to {values.max():g}; a mask must be 0 outside the lesion and 255 inside: "
            f"multiply it by {255 / values.max():g}"
        )
    return values > LESION_ABOVE
