"""What several runs predicted of the same volumes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from covidct.ct.volume import VolumeCase, load_mask, load_volume
from covidct.errors import InputError
from covidct.run.config import read_config
from covidct.run.figures import Compared, best_median_worst
from covidct.volumes.evaluation import predicted_mask, volume_test_cases
from covidct.volumes.tables import read_volume_metrics


def compare(runs: Mapping[str, Path]) -> list[Compared]:
    """See `Wing.compare`: of the first run's best volume, its median one and its worst, the slice with most lesion."""
    scores = {
        name: {one.name: one.dsc for one in read_volume_metrics(run).volumes if one.dsc is not None}
        for name, run in runs.items()
    }
    chosen = best_median_worst(scores, "volume")
    config = read_config(next(iter(runs.values())) / "config.json")
    cases = {case.name: case for case in volume_test_cases(config)}
    return [_compared(label, cases[name], runs) for label, name in chosen]


def _compared(label: str, case: VolumeCase, runs: Mapping[str, Path]) -> Compared:
    volume = load_volume(replace(case, lungs=()))
    if volume.mask is None:
        raise InputError(f"{case.image} has no mask; only labelled volumes can be compared")
    z = int(volume.mask.sum((1, 2)).argmax())
    masks = {name: load_mask(predicted_mask(run, case), volume)[z][::-1, ::-1] for name, run in runs.items()}
    # Rows run from back to front and columns from left to right: both are turned.
    image, truth = volume.image[z][::-1, ::-1], volume.mask[z][::-1, ::-1]
    aspect = volume.spacing[1] / volume.spacing[2]
    return Compared(f"{case.name}, slice {z}\n({label})", image, truth, masks, aspect)
