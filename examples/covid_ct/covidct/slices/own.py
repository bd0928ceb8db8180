"""Pictures of the user's own: the network's input that fits them, and what was found in them."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from covidct.ct.own_picture import JPEG, OwnReading, grey_of, lesion_of, read_mask_values
from covidct.ct.picture import Slice, check_size, load_slice, read_pixels, read_size
from covidct.errors import InputError
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.slices.data import SliceData, read_own

# Values of masks that a line lists.
LISTED = 8


def fit(config: Config) -> Config:
    """See `Wing.fit`: `size` by the pictures' shape, except for networks that have their own."""
    if system(config.method).network is not None:
        return config
    sizes = [read_size(item.path) for item in read_own(config).train]
    return replace(config, size=fitted_size(sizes, config.size, config.divisors))


def fitted_size(sizes: Sequence[tuple[int, int]], size: Sequence[int], divisors: Sequence[int]) -> tuple[int, int]:
    """The network's input (height, width) for pictures of `sizes`, as large as `size` is or as the pictures are.

    Height and width are in the proportion of the pictures' medians, their product is at most about that of `size`, and
    each is a multiple of its divisor, twice that at least.
    """
    height, width = (median(axis) for axis in zip(*sizes, strict=True))
    scale = min(1.0, math.sqrt(math.prod(size) / (height * width)))
    wanted = zip((height, width), divisors, strict=True)
    fitted = [max(2, round(scale * length / divisor)) * divisor for length, divisor in wanted]
    return fitted[0], fitted[1]


@dataclass(frozen=True)
class Found:
    """Of some pictures: sizes (height, width), types, values of the masks, and how many have lesion."""

    count: int
    sizes: frozenset[tuple[int, int]]
    types: frozenset[str]
    values: tuple[float, ...]
    with_lesion: int


def look(items: Iterable[Slice]) -> Found:
    """Read every picture and mask once; InputError for the first that cannot be used."""
    sizes: set[tuple[int, int]] = set()
    types: set[str] = set()
    values: set[float] = set()
    count = with_lesion = 0
    for item in items:
        if not isinstance(item.read, OwnReading):
            image, mask = load_slice(item)
            types.add("8 bits")
        else:
            pixels = read_pixels(item.path)
            types.add(f"{8 * pixels.dtype.itemsize} bits" + (" (float)" if pixels.dtype.kind == "f" else ""))
            image, mask = grey_of(pixels, item.path), None
            if item.mask_path is not None:
                labels = read_mask_values(item.mask_path)
                check_size(item.mask_path, labels.shape, item.path, image.shape)
                mask = lesion_of(labels, item.read.labels, item.mask_path)
                values |= set() if item.mask_path.suffix.lower() in JPEG else set(np.unique(labels).tolist())
        count += 1
        sizes.add((image.shape[0], image.shape[1]))
        with_lesion += mask is not None and bool(mask.any())
    return Found(count, frozenset(sizes), frozenset(types), tuple(sorted(values)), with_lesion)


def check_own(config: Config, data: SliceData) -> Iterator[str]:
    """What was found, a line each; InputError if a picture cannot be used or there is no lesion to learn."""
    if not system(config.method).tested:
        look((*data.train, *data.source, *data.unlabelled))
        return
    target = read_own(config)
    train, test = look(data.train), look(data.test)
    labels = " ".join(map(str, config.labels)) or "all above 0"
    if not train.with_lesion:
        raise InputError(
            f"no mask of the {train.count} pictures to train on has lesion ({labels}): their values are "
            f"{_values(train.values)}; say which of them are lesion with --labels"
        )
    absent = [label for label in config.labels if label not in (*train.values, *test.values)]
    if absent:
        raise InputError(
            f"--labels {absent[0]} is in no mask: their values are {_values((*train.values, *test.values))}"
        )
    yield f"to train on: {_describe(train)}; lesion: {labels}"
    yield f"to test on: {_describe(test)}"
    for what, items in (("source", data.source), ("unlabelled", data.unlabelled)):
        if items:
            yield f"{what}: {_describe(look(items))}"
    yield from _warnings(config, data, train, target.left_out)


def _warnings(config: Config, data: SliceData, train: Found, left_out: Sequence[str]) -> Iterator[str]:
    for line in left_out:
        yield f"left out: {line}"
    if not config.labels and len(train.values) > 2:
        yield f"every mask value above 0 counts as lesion, of {_values(train.values)}; --labels chooses"
    if not config.patients:
        yield "every picture counts as a patient; --patients keeps those of one patient in one fold"
    if data.unlabelled and (gone := len(read_own(config).unlabelled) - len(data.unlabelled)):
        yield f"left out: {gone} unlabelled pictures that show what a test picture shows"


def _describe(found: Found) -> str:
    smallest, largest = min(found.sizes), max(found.sizes)
    sizes = " to ".join(f"{width} x {height}" for height, width in sorted({smallest, largest}))
    parts = [f"{found.count} {'picture' if found.count == 1 else 'pictures'} of {sizes} pixels (width x height)"]
    parts.append(", ".join(sorted(found.types)))
    if found.values:
        parts += [f"mask values {_values(found.values)}", f"{found.with_lesion} with lesion"]
    return ", ".join(parts)


def _values(values: Sequence[float]) -> str:
    values = sorted(set(values))
    if len(values) > LISTED:
        return f"{values[0]:g} to {values[-1]:g} ({len(values)})"
    return " ".join(f"{value:g}" for value in values) or "about 0 and 255 (JPEG)"
