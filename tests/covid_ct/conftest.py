"""Small data sets in the published layouts, written by the tests, and the real data where it is."""

import locale
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

TRAIN = Path("Dataset/TrainingSet/LungInfection-Train/Doctor-label")
TEST = Path("Dataset/TestingSet/LungInfection-Test")
UNLABELLED = Path("Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs")


@pytest.fixture(autouse=True)
def keep_locale() -> Iterator[None]:
    """SimpleITK sets the process's locale to "C" when it writes DICOM; the output of later processes is UTF-8."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT data: RELCONS_DATA, else ../shared/data beside the repository; skips where it is absent."""
    root = Path(os.environ.get("RELCONS_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "covid_semiseg").is_dir():
        pytest.skip(f"real CT data not found at {root}: set RELCONS_DATA to the folder that holds covid_semiseg")
    return root


@pytest.fixture
def write_pair() -> Callable[..., tuple[Path, Path]]:
    """A function that writes a random picture and its 0/255 mask, a bright rectangle off the centre, as PNG."""

    def write(folder: Path, stem: str, size: tuple[int, int] = (40, 36)) -> tuple[Path, Path]:
        rng = np.random.default_rng(sum(stem.encode()))
        image = rng.integers(20, 120, size, dtype=np.uint8)
        mask = np.zeros(size, dtype=np.uint8)
        mask[size[0] // 4 : size[0] // 2, size[1] // 5 : size[1] // 2] = 255
        image[mask > 0] = 230
        for name in ("Imgs", "GT"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        image_path, mask_path = folder / "Imgs" / f"{stem}.png", folder / "GT" / f"{stem}.png"
        Image.fromarray(image).save(image_path)
        Image.fromarray(mask).save(mask_path)
        return image_path, mask_path

    return write


@pytest.fixture
def write_covid(write_pair: Callable[..., tuple[Path, Path]]) -> Callable[..., Path]:
    """A function that writes a data set in COVID-SemiSeg's layout and gives its root."""

    def write(root: Path, train: list[str], test: list[str] = [], unlabelled: list[str] = []) -> Path:  # noqa: B006
        for part, stems in ((TRAIN, train), (TEST, test)):
            for stem in stems:
                write_pair(root / part, stem)
        for stem in unlabelled:
            image_path, mask_path = write_pair(root / "made", stem)
            (root / UNLABELLED).mkdir(parents=True, exist_ok=True)
            image_path.replace(root / UNLABELLED / image_path.name)
            mask_path.unlink()
        return root

    return write


@pytest.fixture
def chest() -> Callable[[], tuple[NDArray[np.int16], NDArray[np.uint8]]]:
    """A function that makes a chest in HU and its lesion, indexed [right to left, anterior to posterior, feet to head].

    48 x 40 x 4 voxels: a body with two lungs of -850, the right one the larger, a vertebra of 600 at the back, and a
    lesion of 0 in the left lung on slices 1 and 2.
    """

    def make() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        hu = np.full((48, 40, 4), -1000, dtype=np.int16)
        hu[4:44, 4:36] = 40
        hu[7:22, 8:32] = -850
        hu[28:41, 10:30] = -850
        hu[22:28, 29:35] = 600
        lesion = np.zeros(hu.shape, dtype=np.uint8)
        lesion[31:36, 22:28, 1:3] = 1
        hu[lesion > 0] = 0
        return hu, lesion

    return make


@pytest.fixture
def save_volume() -> Callable[..., Path]:
    """A function that saves an array indexed as `chest`'s are, stored along the axes `codes` (LPS: as it is)."""

    def save(path: Path, values: NDArray[np.generic], codes: str = "LPS", shift: float = 0.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        affine[0, 3] = shift
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(codes)
        )
        turned = nib.orientations.apply_orientation(values, turn)
        own = affine @ nib.orientations.inv_ornt_aff(turn, values.shape)
        nib.save(nib.Nifti1Image(turned, own), path)
        return path

    return save
