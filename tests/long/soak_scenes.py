"""What the soak kills and starts again: trainings, a preparation and predictions, each on files of its own."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "covid_ct"))

import nibabel as nib
import numpy as np
from covidct.run.config import Config
from covidct.slices.presets import PRESETS
from PIL import Image

from tests.covid_ct.store_cases import begin_run, write_scans, write_target
from tests.long.fuzz_predict import write_run

__all__ = ["SCENES", "Scene"]

LABELLED = Path("Dataset/TrainingSet/LungInfection-Train/Doctor-label")


@dataclass(frozen=True)
class Scene:
    """What is killed: a script with arguments for a folder, and the files that it finds there at first."""

    script: str
    arguments: Callable[[Path], list[str]]
    begin: Callable[[Path], object]


def write_pictures(folder: Path, count: int) -> Path:
    """Pictures in `folder`/Imgs and their masks in `folder`/GT."""
    for name in ("Imgs", "GT"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.integers(20, 120, (40, 36), dtype=np.uint8)
        mask = np.zeros(image.shape, dtype=np.uint8)
        mask[10:20, 7 : 15 + number] = 255
        image[mask > 0] = 230
        Image.fromarray(image).save(folder / "Imgs" / f"{number}.png")
        Image.fromarray(mask).save(folder / "GT" / f"{number}.png")
    return folder


def slices(root: Path) -> Scene:
    """A training of the whole method on slices, of 12 steps."""
    write_pictures(root / "data" / LABELLED, 6)
    hu = np.full((48, 40, 4), -1000, dtype=np.int16)
    hu[4:44, 4:36] = 40
    hu[7:22, 8:32] = hu[28:41, 10:30] = -850
    hu[31:36, 22:28, 1:3] = 0
    (root / "source" / "case").mkdir(parents=True)
    for name, values in (("ct", hu), ("lesion", (hu == 0).astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 3.0, 1.0])), root / "source" / "case" / f"{name}.nii.gz")
    changed: dict[str, Any] = {"steps": 12, "batch_size": 2, "size": (16, 16), "features_per_stage": (4, 6, 8)}
    changed |= {"log_every": 1, "relations_every": 4, "checkpoint_every": 3}
    changed |= {"data": str(root / "data"), "source": (str(root / "source"),)}
    values = PRESETS["demo"] | {"precision": "32"} | changed
    config = Config(dataset="covid_semiseg", method="ours", preset="demo", fold=1, seed=5, **values)

    def begin(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text(config.to_json())

    return Scene("train.py", lambda folder: ["--resume", "--output", str(folder)], begin)


def volumes(root: Path) -> Scene:
    """A training of the whole method on volumes, of 6 steps, and the scores of 16 test volumes."""
    write_target(root)
    changed = {"steps": 6, "checkpoint_every": 2, "workers": 1}
    return Scene(
        "train.py",
        lambda folder: ["--resume", "--output", str(folder)],
        lambda folder: begin_run(root, folder.name, **changed),
    )


def preparation(root: Path) -> Scene:
    """A store of 20 volumes."""
    data = write_scans(root / "data")
    settings = ["--dataset", "covid-ct-20", "--spacing", "2", "1.5", "1.5", "--workers", "1"]
    return Scene("prepare.py", lambda folder: [str(data), "--output", str(folder), *settings], Path.mkdir)


def pictures(root: Path) -> Scene:
    """Masks of 12 pictures."""
    inputs = sorted((write_pictures(root / "data", 12) / "Imgs").iterdir())
    return _prediction(root, "slices", inputs)


def scans(root: Path) -> Scene:
    """Masks of 8 volumes."""
    inputs = sorted((write_scans(root / "data") / "COVID-19-CT-Seg_20cases").iterdir())[:8]
    return _prediction(root, "volumes", inputs)


def _prediction(root: Path, wing: str, inputs: list[Path]) -> Scene:
    run = write_run(root / "run", wing)
    before = [str(run), *map(str, inputs), "--probabilities", "--output"]
    return Scene("predict.py", lambda folder: [*before, str(folder)], Path.mkdir)


SCENES: dict[str, Callable[[Path], Scene]] = {
    "slices": slices,
    "volumes": volumes,
    "preparation": preparation,
    "pictures": pictures,
    "scans": scans,
}
