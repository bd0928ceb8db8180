"""COVID-SemiSeg in its published folder layout: the 2D COVID-19 slices of the paper's Table V."""

from dataclasses import dataclass
from pathlib import Path

from covidct.ct.picture import SUFFIXES, Slice, image_files
from covidct.errors import InputError
from covidct.files import entries
from covidct.sets.coronacases import as_labelled, is_coronacases

TRAIN = Path("TrainingSet/LungInfection-Train/Doctor-label")
UNLABELLED = Path("TrainingSet/LungInfection-Train/Pseudo-label")
# What a user who has another set in mind may have meant.
OWN = "one of your own with images/ and masks/ (or imagesTr/ and labelsTr/)"
TEST = Path("TestingSet/LungInfection-Test")


@dataclass(frozen=True)
class CovidSemiSeg:
    """The slices of a COVID-SemiSeg folder.

    train: the labelled training slices, in natural order of their names (50 as published).
    test: the labelled test slices (48 as published); empty if the folder is absent.
    unlabelled: slices without masks (1,600 as published), read as the labelled ones are (see `coronacases`); empty if
        the folder is absent.
    """

    train: tuple[Slice, ...]
    test: tuple[Slice, ...]
    unlabelled: tuple[Slice, ...]


def read_covid_semiseg(root: Path) -> CovidSemiSeg:
    """Find the slices of COVID-SemiSeg under `root`, without opening them.

    root: the folder that holds `Dataset`, `Dataset` itself, or the parent of the former.

    Below `Dataset`: `TrainingSet/LungInfection-Train/Doctor-label/{Imgs,GT}`, and optionally
    `TrainingSet/LungInfection-Train/Pseudo-label/Imgs` and `TestingSet/LungInfection-Test/{Imgs,GT}`. Images and
    masks pair by stem. `Edge` is not used. Raises InputError if the layout is not found, a folder is empty, an image
    has no mask or a mask no image.

    Source: Fan et al., Inf-Net, IEEE TMI 39(8), 2020, https://github.com/DengPingFan/Inf-Net. Non-commercial use only.
    """
    dataset = _find_dataset(Path(root))
    test, unlabelled = dataset / TEST, dataset / UNLABELLED / "Imgs"
    return CovidSemiSeg(
        train=_labelled(dataset / TRAIN),
        test=_labelled(test) if test.is_dir() else (),
        unlabelled=_without_labels(unlabelled) if unlabelled.is_dir() else (),
    )


def read_unlabelled(folder: Path) -> tuple[Slice, ...]:
    """The slices without masks in `folder`, a folder of pictures; InputError if it is missing or has none.

    Slices of coronacases, which their names tell, are read as the labelled ones are (see `coronacases`).
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"--unlabelled {folder} {what}; give a folder of pictures")
    if not image_files(folder):
        raise InputError(f"--unlabelled {folder} holds no picture ({', '.join(SUFFIXES)}); give a folder of pictures")
    return _without_labels(folder)


def _find_dataset(root: Path) -> Path:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}; give the folder that holds COVID-SemiSeg's Dataset, or {OWN}")
    near = [root, root / "Dataset"]
    below = [folder / "Dataset" for folder in entries(root) if folder.is_dir() and folder.name[0] != "."]
    for candidates in (near, below):
        found = [folder for folder in candidates if (folder / TRAIN).is_dir()]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder in found)
            raise InputError(f"{root} holds {len(found)} data sets ({names}); give one of them")
        if found:
            return found[0]
    inside = ", ".join([path.name for path in entries(root)][:10]) or "nothing"
    raise InputError(
        f"{root} is not COVID-SemiSeg: looked for {TRAIN} in it, in Dataset and in */Dataset, found {inside}; "
        f"give the folder that holds Dataset, as the archive LungInfection-Train.zip unpacks, or {OWN}"
    )


def _labelled(folder: Path) -> tuple[Slice, ...]:
    images, masks = _pictures(folder / "Imgs"), _pictures(folder / "GT")
    for stem, path in images.items():
        if stem not in masks:
            raise InputError(f"{path} has no mask: {folder / 'GT' / stem}.png is missing; add it or remove the image")
    for stem, path in masks.items():
        if stem not in images:
            raise InputError(f"{path} has no image: {folder / 'Imgs' / stem}.jpg is missing; add it or remove the mask")
    return tuple(Slice(name=stem, path=path, mask_path=masks[stem], scan=stem) for stem, path in images.items())


def _without_labels(folder: Path) -> tuple[Slice, ...]:
    # The names end in the number of the slice within its volume: Data-1_coronacases_org_001_17.
    return tuple(
        Slice(
            name=stem,
            path=path,
            mask_path=None,
            scan=stem.rpartition("_")[0] or stem,
            convert=as_labelled if is_coronacases(stem) else None,
        )
        for stem, path in _pictures(folder).items()
    )


def _pictures(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; COVID-SemiSeg has it beside {folder.parent.name}'s other folders")
    found = image_files(folder)
    if not found:
        raise InputError(f"{folder} is empty: no {', '.join(SUFFIXES)} in it; unpack the archive again")
    return found
