"""From a volume of any geometry to lesion probabilities on its own grid: preprocess, predict, and back."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from covidct.ct.volume import WINDOW, Volume, VolumeCase
from covidct.errors import InputError
from covidct.run.config import Config
from covidct.run.precision import inference_precision
from covidct.run.prediction import check_finite
from covidct.run.requests import Region
from covidct.store.preprocess import Plan, preprocess
from covidct.volumes.inference import predict_volume

# HU -400 in the window's values 0..255: between lung and soft tissue.
TISSUE = (-400 - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 255


@dataclass(frozen=True)
class Settings:
    """What decides a prediction beside weights, plan and volume.

    region: where windows are laid: over the body's box, the lung masks' box, or everywhere. The others are as
    `predict_volume` has them.
    """

    flips: bool = False
    precision: str = "32"
    overlap: float = 0.5
    region: Region = "body"


def settings_of(config: Config, device: torch.device, *, flips: bool = False, region: Region = "body") -> Settings:
    """Settings for a run on `device`: its mirroring (or `flips`) and precision."""
    precision = inference_precision(config.precision, device)
    return Settings(flips=flips or config.flips, precision=precision, region=region)


def with_lungs(case: VolumeCase, settings: Settings) -> VolumeCase:
    """`case` with its lung masks only where `settings` ask for them: a fault in one then spoils nothing else."""
    return case if settings.region == "lungs" else replace(case, lungs=())


def segment(
    model: nn.Module,
    volume: Volume,
    plan: Plan,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Probability of lesion for every voxel of the volume's (z, y, x) grid; 0 outside of the region.

    Args:
        model: of the run that has the plan; see `predict_volume`.
        volume: as read; of its lungs only ``settings.region == "lungs"`` makes use.
        plan: the run's grid, window size and normalisation.
        settings: of the inference.
        progress: called as progress(done, total) after every window.

    Raises InputError, naming the file, if the lungs are asked for and there is no mask of them, or it is empty, or if
    the network's output is not finite.
    """
    if settings.region == "lungs" and (volume.lungs is None or not volume.lungs.any()):
        what = "no lung mask" if volume.lungs is None else "an empty lung mask"
        raise InputError(f"{volume.case.image} has {what}; give one, or take --region body")
    prepared = preprocess(volume, plan.spacing)
    placement = prepared.placement
    region = placement.forth(volume.lungs) if settings.region == "lungs" and volume.lungs is not None else None
    image = plan.normalise(prepared.image)
    # A float32 copy of the volume: not needed while the windows run.
    del prepared
    found = predict_volume(
        model,
        image,
        patch_size=plan.patch_size,
        overlap=settings.overlap,
        flips=settings.flips,
        precision=settings.precision,
        region=region,
        body=settings.region == "body",
        tissue=float(plan.normalise(np.array([TISSUE], dtype=np.float32))[0]),
        progress=progress,
    )
    check_finite(found, volume.case.image, settings.precision)
    return placement.back(found)
