"""Lesion masks for pictures of CT slices, by a trained run."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from covidct.checkpoint import load_run
from covidct.config import Config
from covidct.data.slices import image_files
from covidct.errors import InputError, exit_on_input_error
from covidct.evaluation import best_device, check_writable, predict_slice
from covidct.files import replacing
from covidct.inference import read_picture
from covidct.metrics import binarise
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.text import Text
from torch import nn


@dataclass(frozen=True)
class Arguments:
    """Write a lesion mask (0 and 255, PNG) of the same size and stem for every picture.

    The pictures must look like those of the run's training set: axial slices in the lung window (black at HU -1250,
    white at HU 250), cropped to the lungs. COVID-SemiSeg's are also rotated by 90 degrees, the front of the body to the
    left: rotate yours likewise, or the masks will be poor. Colours are turned to grey; in 16-bit grey, white is 65535.
    A file that cannot be used is reported, the others are still done, and the exit code is then 2.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder written by train.py."""
    inputs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """PNG or JPG files, or folders of them (all pictures directly inside, sorted)."""
    output: Path
    """Folder for the masks; made if absent."""
    probabilities: bool = False
    """Also write STEM_probability.png: 16-bit grey, 65535 for probability 1."""
    flips: bool = False
    """Average over the four mirrorings (runs of presets cpu and paper always do)."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    targets = plan(arguments.inputs, arguments.output, probabilities=arguments.probabilities)
    config, model = load_run(arguments.run)
    _make(arguments.output)
    model.to(best_device())
    failures = predict(targets, model, config, flips=arguments.flips or config.flips)
    done = len(targets) - failures
    Console(markup=False, highlight=False).print(
        f"{done} of {len(targets)} masks written to {arguments.output}", soft_wrap=True
    )
    if failures:
        sys.exit(2)


@dataclass(frozen=True)
class Target:
    """A picture and where its results go."""

    picture: Path
    mask: Path
    probability: Path | None


def plan(inputs: Iterable[Path], output: Path, *, probabilities: bool) -> list[Target]:
    """What will be read and written; InputError if two results would share a file or replace a file of the inputs."""
    targets, owners = [], {}
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


def predict(targets: list[Target], model: nn.Module, config: Config, *, flips: bool) -> int:
    """Write the results of every target; one message on stderr for each that fails. Returns how many failed."""
    failures = 0
    errors = Console(stderr=True)
    for target in track(targets, "predicting", console=errors, transient=True, disable=not errors.is_terminal):
        try:
            image = read_picture(target.picture)
            probability = predict_slice(model, image, config, flips=flips, name=str(target.picture))
        except InputError as error:
            failures += 1
            errors.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
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


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output} cannot be made ({error.strerror}); give another folder") from None
    check_writable(output)


def _write(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    try:
        with replacing(path) as temporary:
            Image.fromarray(values).save(temporary, format="PNG")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); free space there") from None


if __name__ == "__main__":
    exit_on_input_error(main)
