"""Lesion masks of pictures without labels."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import track
from torch import nn

from covidct.ct.content import check_path, reading
from covidct.ct.own_picture import read_any_depth
from covidct.ct.picture import pictures_in
from covidct.errors import InputError, print_error
from covidct.files import replacing, writing
from covidct.run.checkpoint import load_run
from covidct.run.claims import Claims, given, report
from covidct.run.config import Config
from covidct.run.prediction import best_device, binarise, in_memory
from covidct.run.requests import Prediction
from covidct.run.results import make_output
from covidct.sets.names import OWN
from covidct.slices.evaluation import predict_slice
from covidct.slices.inference import read_picture

# Stands in every PNG that predict.py writes, so that it knows them again.
MAKER = "Software"
MADE_BY = "relcons covid_ct predict.py"


def predict(asked: Prediction) -> tuple[int, int, str]:
    """See `Wing.predict`."""
    if asked.lungs or asked.region != "body":
        raise InputError(
            f"--lungs and --region are for runs on volumes, and {asked.run} is one on slices; leave them out"
        )
    targets, faults = plan_pictures(asked.inputs, asked.output, probabilities=asked.probabilities)
    config, model = load_run(asked.run)
    report(faults, targets)
    make_output(asked.output)
    failures = _write_masks(targets, model.to(best_device()), config, flips=asked.flips or config.flips)
    return failures + len(faults), len(targets) + len(faults), "masks"


@dataclass(frozen=True)
class Target:
    """A picture and where its results go."""

    picture: Path
    mask: Path
    probability: Path | None

    @property
    def results(self) -> list[Path]:
        """The mask last: where it is, everything is."""
        return [path for path in (self.probability, self.mask) if path is not None]


def plan_pictures(
    inputs: Iterable[Path], output: Path, *, probabilities: bool
) -> tuple[list[Target], list[InputError]]:
    """What will be read and written, and what is wrong with the inputs that cannot be: see `Claims`."""
    pictures, faults = _pictures(inputs)
    claims = Claims(pictures)
    targets: list[Target] = []
    for picture in pictures:
        probability = output / f"{picture.stem}_probability.png" if probabilities else None
        target = Target(picture, output / f"{picture.stem}.png", probability)
        try:
            claims.take(picture, target.results, ours=all(map(is_mask, filter(os.path.lexists, target.results))))
        except InputError as error:
            faults.append(error)
        else:
            targets.append(target)
    return targets, faults


def is_mask(path: Path) -> bool:
    """Whether `path` is a PNG that predict.py wrote."""
    try:
        check_path(path)
        with reading(path), Image.open(path, formats=("PNG",)) as picture:
            return picture.info.get(MAKER) == MADE_BY
    except InputError:
        return False


def _write_masks(targets: list[Target], model: nn.Module, config: Config, *, flips: bool) -> int:
    """Write the results of every target; one message on stderr for each that fails. Returns how many failed."""
    failures = 0
    errors = Console(stderr=True)
    for target in track(targets, "predicting", console=errors, transient=True, disable=not errors.is_terminal):
        try:
            with in_memory(target.picture):
                _write_mask(target, model, config, flips=flips)
        except InputError as error:
            failures += 1
            print_error(error, errors)
    return failures


def _write_mask(target: Target, model: nn.Module, config: Config, *, flips: bool) -> None:
    image = (read_any_depth if config.dataset == OWN else read_picture)(target.picture)
    probability = predict_slice(model, image, config, flips=flips, name=str(target.picture))
    mask = binarise(probability).astype(np.uint8) * 255
    if target.probability is None:
        _write(target.mask, mask)
        return
    _write(target.probability, (probability * 65535).round().astype(np.uint16))
    try:
        _write(target.mask, mask)
    except InputError:
        # Beside no mask, or one of an earlier call, it would tell nothing.
        target.probability.unlink(missing_ok=True)
        raise


def _pictures(inputs: Iterable[Path]) -> tuple[list[Path], list[InputError]]:
    """The pictures that `inputs` name, each once, and a fault for each input that names none."""
    found: dict[Path, Path] = {}
    faults: list[InputError] = []
    for path in inputs:
        try:
            inside = _pictures_in(path) if os.path.isdir(path) else [path]
        except InputError as error:
            faults.append(error)
            continue
        for picture in inside:
            found.setdefault(given(picture), picture)
    if not (found or faults):
        raise InputError("no INPUT was given; name the pictures or folders to predict")
    return list(found.values()), faults


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures directly inside, without what an earlier call has written there; InputError if there are none."""
    found = pictures_in(folder)
    inside = [path for path in found if not is_mask(path)]
    if not inside:
        what = "no PNG or JPG but those that predict.py wrote" if found else "no PNG or JPG"
        raise InputError(f"{folder} holds {what}; give a folder with pictures directly inside")
    return inside


def _write(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    info = PngInfo()
    info.add_text(MAKER, MADE_BY)
    with writing(path), replacing(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=info)
