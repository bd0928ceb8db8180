"""Lesion masks for pictures of CT slices, or for CT volumes, by a trained run."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from covidct.ct.picture import image_files
from covidct.errors import InputError, exit_on_input_error, print_error
from covidct.files import replacing, writing
from covidct.run.checkpoint import load_run
from covidct.run.config import Config, read_config
from covidct.slices.evaluation import best_device, make_output, predict_slice
from covidct.slices.inference import read_picture
from covidct.slices.metrics import binarise
from covidct.store.preprocess import Plan
from covidct.volumes.plan import read_plan
from covidct.volumes.prediction import Job, describe, plan_volumes, predict_volume_file
from covidct.volumes.segmentation import Region, Settings, settings_of
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, track
from rich.text import Text
from torch import nn


@dataclass(frozen=True)
class Arguments:
    """Write a lesion mask for every input: of pictures by a run on slices, of volumes by a run on volumes.

    Pictures get a PNG (0 and 255) of the same size and stem. They must look like those of the run's training set: axial
    slices in the lung window (black at HU -1250, white at HU 250), cropped to the lungs. COVID-SemiSeg's are also
    rotated by 90 degrees, the front of the body to the left: rotate yours likewise, or the masks will be poor. Colours
    are turned to grey; in 16-bit grey, white is 65535.

    Volumes (NIfTI, NRRD, MHA, or the folder of a DICOM series; HU, or HU -1250 to 250 as 0 to 255) get STEM.nii.gz (0
    and 1) with the same grid and affine, STEM.png with the slices of most lesion, STEM.json with the lesion's volume in
    ml and, where a lung mask is known, in percent of the lung. For the folder of a DICOM series, and for one with
    ct.nii.gz or image.nii.gz in it, STEM is the folder's name. What is there already from the same weights, settings
    and files is not computed again.

    A file that cannot be used is reported, the others are still done, and the exit code is then 2.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder written by train.py."""
    inputs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """PNG or JPG files, volumes, or folders of them (all that lie directly inside, sorted)."""
    output: Path
    """Folder for the masks; made if absent."""
    probabilities: bool = False
    """Also write STEM_probability.png: 16-bit grey, 65535 for probability 1; of volumes STEM_probability.nii.gz."""
    flips: bool = False
    """Average over the mirrorings of all axes (runs of presets cpu and paper always do)."""
    lungs: tuple[Path, ...] = ()
    """Volumes only: lung masks of a single input, or a folder of masks with the inputs' names. Without, masks beside
    the input are taken: STEM_lung*, and lung* in a folder whose only case is ct.nii.gz or bears the folder's name."""
    region: Region = "body"
    """Volumes only: where windows are laid. body: its box; lungs: the lung masks' box; all: everywhere."""


def main() -> None:
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagCreatePairsOff,))
    if read_config(arguments.run / "config.json").axes == 3:
        failures, what, total = _predict_volumes(arguments)
    else:
        failures, what, total = _predict_pictures(arguments)
    Console(markup=False, highlight=False).print(
        f"{total - failures} of {total} {what} written to {arguments.output}", soft_wrap=True
    )
    if failures:
        sys.exit(2)


def _predict_pictures(arguments: Arguments) -> tuple[int, str, int]:
    if arguments.lungs or arguments.region != "body":
        raise InputError(
            f"--lungs and --region are for runs on volumes, and {arguments.run} is one on slices; leave them out"
        )
    targets = plan(arguments.inputs, arguments.output, probabilities=arguments.probabilities)
    config, model = load_run(arguments.run)
    make_output(arguments.output)
    model.to(best_device())
    failures = predict(targets, model, config, flips=arguments.flips or config.flips)
    return failures, "masks", len(targets)


def _predict_volumes(arguments: Arguments) -> tuple[int, str, int]:
    jobs = plan_volumes(
        arguments.inputs,
        arguments.output,
        lungs=arguments.lungs,
        probabilities=arguments.probabilities,
    )
    config, model = load_run(arguments.run)
    volume_plan = read_plan(arguments.run)
    make_output(arguments.output)
    device = best_device()
    settings = settings_of(config, on_cpu=device.type == "cpu", flips=arguments.flips, region=arguments.region)
    failures = predict_volumes(arguments.run, model.to(device), volume_plan, jobs, settings)
    return failures, "volumes", len(jobs)


def predict_volumes(run: Path, model: nn.Module, volume_plan: Plan, jobs: Sequence[Job], settings: Settings) -> int:
    """Write the results of every job, say what was found, and on stderr what fails. Returns how many failed."""
    failures = 0
    screen, errors = Console(markup=False, highlight=False), Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=None)
        for job in jobs:
            bar.reset(task, description=escape(job.case.name))
            try:
                report, computed = predict_volume_file(
                    *(run, model, volume_plan, job, settings),
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
            except InputError as error:
                failures += 1
                print_error(error, errors)
                continue
            for note in report.notes:
                errors.print(Text.assemble(("note: ", "bold yellow"), note), soft_wrap=True)
            screen.print(f"{describe(report)}{'' if computed else ' (was there already)'}", soft_wrap=True)
    return failures


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


if __name__ == "__main__":
    exit_on_input_error(main)
