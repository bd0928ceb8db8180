"""One 2D slice on disk, and reading it so that every fault has one clear message."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from covidct.ct.content import check_content, check_path, head_of, reading
from covidct.errors import InputError
from covidct.files import entries

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")

# Pixels of the largest picture that is read; as float32 it takes 144 MB, and prediction holds a few copies.
MOST_PIXELS = 6000 * 6000
# What Pillow may take a file for, whatever its suffix: pictures of pixels. (For EPS it would run another program.)
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "JPEG2000", "PPM")
# The same as `kind_of` has them, where it knows them.
_PICTURES = ("PNG", "JPEG", "TIFF", "GIF")
# Inf-Net's evaluation of COVID-SemiSeg binarises the ground truth with > 128.
LESION_ABOVE = 128


@dataclass(frozen=True)
class Slice:
    """Where one slice lies.

    name: the stem of the image file, unique in its set.
    path: an 8-bit lung-window picture (HU [-1250, 250] -> 0..255).
    mask_path: a 0/255 picture of the same size, or None without a label.
    scan: which scan the slice was cut from; the name itself where that is not known.
    convert: of a picture without label that was saved otherwise (turned, in another window): brings it, float32 (H, W)
        in 0..255, to how the labelled slices are; a function of a module, so that workers can be sent it.
    dataset: which set the slice is of, where several are read together.
    soft: the mask is a network's own label, 0..255 for probabilities of 0 to 1, of the converted picture
        (`load_soft_slice`).
    read: reads a slice that is not as `path` and `mask_path` say: of the user's own (`OwnReading`).
    """

    name: str
    path: Path
    mask_path: Path | None
    scan: str
    convert: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    dataset: str = ""
    soft: bool = False
    read: "Callable[[Slice], tuple[NDArray[np.float32], NDArray[np.bool_] | None]] | None" = None

    def __post_init__(self) -> None:
        if self.convert is not None and self.mask_path is not None and not self.soft:
            raise ValueError(f"slice {self.name} has a mask, which would not be converted with its picture")


def load_slice(item: Slice) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """The image of `item`, float32 (H, W) in 0..255, and its lesion mask, bool (H, W), or None without a label.

    Colour pictures become grey (ITU-R 601 luma); `item.convert` is applied. Raises InputError naming the file if the
    image or the mask is missing, unreadable, of another size than the other, holds NaN or values outside 0..255, shows
    nothing (one value everywhere), or if the mask is not a 0/255 picture.
    """
    if item.read is not None:
        return item.read(item)
    image = read_grey(item.path)
    check_shown(image, item.path)
    if item.mask_path is None:
        return (image if item.convert is None else item.convert(image)), None
    return image, _read_mask(item.mask_path, item.path, image.shape)


def load_soft_slice(item: Slice) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The image of a slice whose mask is `soft`, as `load_slice` gives it, and the mask as it is stored, 0..255."""
    if item.mask_path is None:
        raise InputError(f"{item.path} has no soft mask")
    image, _ = load_slice(replace(item, mask_path=None))
    label = read_grey(item.mask_path)
    check_size(item.mask_path, label.shape, item.path, image.shape)
    return image, label.round().astype(np.uint8)


def check_slices(items: Iterable[Slice]) -> None:
    """Load every slice once; InputError for the first that cannot be used. Training calls it before its first step."""
    for item in items:
        load_slice(item)


def image_files(folder: Path) -> dict[str, Path]:
    """The pictures of `folder` by stem, in natural order (2 before 10); InputError if two share a stem.

    Hidden files are skipped, and with them the `._*` companions that macOS leaves in archives. What is no folder is
    there: a link that leads nowhere, or a named pipe, is refused by name where it is read.
    """
    found: dict[str, Path] = {}
    for path in pictures_in(folder):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} have the same stem; remove one of them")
        found[path.stem] = path
    return found


def pictures_in(folder: Path) -> list[Path]:
    """What is called as a picture is, directly in `folder`, in natural order; see `image_files`."""
    listed = sorted(entries(folder), key=lambda path: natural_key(path.name))
    return [
        path
        for path in listed
        if not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and not path.is_dir()
    ]


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
    return in_8_bits(read_pixels(path), path)


def read_pixels(path: Path, *, labels: bool = False) -> NDArray[np.generic]:
    """The pixels (H, W) of a picture as every viewer shows them: turned as the file says, colours as grey (uint8).

    Deep grey keeps its type: uint16, int32 or float32. With `labels` a palette of colours is one of label numbers:
    these are given, not its colours. Raises InputError, naming the file, if it is no readable
    picture, has several frames, or has more pixels than `MOST_PIXELS`.
    """
    check_path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a picture")
    check_content(path, head_of(path), *_PICTURES)
    with reading(path, " as a picture", "replace the file"), _opened(path) as picture:
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise _too_large(path, f"{width} x {height} pixels")
        if (frames := getattr(picture, "n_frames", 1)) > 1:
            raise InputError(
                f"{path} holds {frames} frames, and a picture is one slice; save every frame as a picture of its own"
            )
        ImageOps.exif_transpose(picture, in_place=True)
        # I and F are 32-bit integers and floats; I;16 are 16 bits, of which the order depends on the file.
        as_it_is = picture.mode[0] in "IF" or (labels and _has_colours(picture))
        pixels = np.asarray(picture if as_it_is else picture.convert("L"))
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as `read_pixels` gives it, from its header alone; InputError if that is damaged."""
    check_path(path)
    check_content(path, head_of(path), *_PICTURES)
    with reading(path, " as a picture", "replace the file"), _opened(path) as picture:
        width, height = picture.size
        # Orientations 5 to 8 are turned by a quarter.
        return (width, height) if picture.getexif().get(ExifTags.Base.Orientation, 1) > 4 else (height, width)


def in_8_bits(pixels: NDArray[np.generic], path: Path) -> NDArray[np.float32]:
    """`pixels` of the picture at `path` as float32; InputError, naming it, unless they lie in 0..255."""
    return _checked(pixels.astype(np.float32), path)


def check_shown(image: NDArray[np.floating], path: Path) -> None:
    """InputError, naming the picture at `path`, if it has one value everywhere."""
    if image.min() == image.max():
        raise InputError(
            f"{path}: every pixel is {image.min():g}, the picture shows nothing; replace or remove the file"
        )


def _has_colours(picture: Image.Image) -> bool:
    """Whether a palette has more than greys."""
    palette = picture.getpalette("RGB") if picture.mode == "P" else None
    return palette is not None and (palette[0::3] != palette[1::3] or palette[1::3] != palette[2::3])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Pillow maps an uncompressed TIFF that it opens by name, and then garbles one that is to be turned.
    with path.open("rb") as file, warnings.catch_warnings():
        # Pillow warns of odd tags, which say nothing of the pixels, and of sizes, which are refused here.
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(file, formats=_FORMATS)
        except Image.DecompressionBombError:
            raise _too_large(path, f"more than {2 * (Image.MAX_IMAGE_PIXELS or MOST_PIXELS):,} pixels") from None
        except UnidentifiedImageError:
            raise UnidentifiedImageError("no picture that is known") from None
        with picture:
            yield picture


def _too_large(path: Path, size: str) -> InputError:
    return InputError(
        f"{path} has {size}, and at most {MOST_PIXELS:,} (6000 x 6000) are read; a CT slice has about 512 x 512: "
        "scale it down or cut it to the slice"
    )


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
    if not os.path.lexists(path):
        raise InputError(f"{path}, the mask of {image_path}, is missing; put it back or remove the image")
    values = read_grey(path)
    check_size(path, values.shape, image_path, shape)
    if 0 < values.max() <= LESION_ABOVE:
        raise InputError(
            f"{path} holds values 0 to {values.max():g}; a mask must be 0 outside the lesion and 255 inside: "
            f"multiply it by {255 / values.max():g}"
        )
    return values > LESION_ABOVE


def check_size(path: Path, size: tuple[int, ...], image_path: Path, expected: tuple[int, ...]) -> None:
    """InputError unless the mask at `path`, of `size` (H, W), has that of its image."""
    if size != expected:
        raise InputError(
            f"{path} is {size[1]} x {size[0]} pixels (width x height), but its image {image_path} "
            f"is {expected[1]} x {expected[0]}; a mask must have the size of its image"
        )
