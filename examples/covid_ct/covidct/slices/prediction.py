"""Lesion masks of pictures without labels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import nn

from covidct.ct.picture import image_files
from covidct.errors import InputError, print_error
from covidct.files import replacing, writing
from covidct.run.checkpoint import load_run
from covidct.run.config import Config
from covidct.run.prediction import best_device, binarise
from covidct.run.requests import Prediction
from covidct.run.results import make_output
from covidct.slices.evaluation import predict_slice
from covidct.slices.inference import read_picture


def predict(asked: Prediction) -> tuple[int, int, str]:
    """See `Wing.predict`."""
    if asked.lungs or asked.region != "body":
        raise InputError(
            f"--lungs and --region are for runs on volumes, and {asked.run} is one on slices; leave them out"
        )
    targets = plan_pictures(asked.inputs, asked.output, probabilities=asked.probabilities)
    config, model = load_run(asked.run)
    make_output(asked.output)
    failures = _write_masks(targets, model.to(best_device()), config, flips=asked.flips or config.flips)
    return failures, len(targets), "masks"


@dataclass(frozen=True)
class Target:
    """A picture and where its results go."""

    picture: Path
    mask: Path
    probability: Path | None


def plan_pictures(inputs: Iterable[Path], output: Path, *, probabilities: bool) -> list[Target]:
    """What will be read and written; InputError if two results would share a file or replace a file of the inputs."""
    targets: list[Target] = []
    owners: dict[Path, Path] = {}
    pictures = _pictures(inputs)
    folders = {picture.resolve().parent for picture in pictures}
    for picture in pictures:
        mask = output / f"{picture.stem}.png"
        probability = output / f"{picture.stem}_probability.png" if probabilities else None
        targets.append(Target(picture, mask, probability))
        for path in (mask, probability):
            if path is None:
                continue
            if path in owners:
                raise InputError(
                    f"{owners[path]} and {picture} would both be written to {path}; rename one or run them apart"
                )
            owners[path] = picture
            if path.exists() and output.resolve() in folders:
                raise InputError(f"{path} lies beside the inputs and would be replaced; give another --output")
    return targets


def _write_masks(targets: list[Target], model: nn.Module, config: Config, *, flips: bool) -> int:
    """Write the results of every target; one message on stderr for each that fails. Returns how many failed."""
    failures = 0
    errors = Console(stderr=True)
    for target in track(targets, "predicting", console=errors, transient=True, disable=not errors.is_terminal):
        try:
            image = read_picture(target.picture)
            probability = predict_slice(model, image, config, flips=flips, name=str(target.picture))
        except InputError as error:
            failures += 1
            print_error(error, errors)
            continue
        # The mask last: where it is, everything is.
        if target.probability is not None:
            _write(target.probability, (probability * 65535).round().astype(np.uint16))
        _write(target.mask, binarise(probability).astype(np.uint8) * 255)
    return failures


def _pictures(inputs: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in inputs:
        inside = list(image_files(path).values()) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path} holds no PNG or JPG; give a folder with pictures directly inside")
        for picture in inside:
            found.setdefault(picture.resolve(), picture)
    if not found:
        raise InputError("no INPUT was given; name the pictures or folders to predict")
    return list(found.values())


def _write(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    with writing(path), replacing(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")
