"""Scoring a model on labelled slices: metrics.json and metrics.csv of a run."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.files import read_json, write_text, writing
from covidct.run.config import Config
from covidct.slices.inference import predict_probability
from covidct.slices.metrics import MEASURES, PER_IMAGE, ImageScores, Scores, binarise, score_image, summarise

JSON, CSV = "metrics.json", "metrics.csv"
# The fields of the config that a result cannot be read without.
NAMED = (
    *("dataset", "method", "preset", "fold", "split_seed", "seed", "steps"),
    *("relation_reduction", "relation_peak", "relation_power", "precision"),
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AtHalf:
    """Scores of the mask at probability 0.5."""

    dice: float


@dataclass(frozen=True)
class ImageMetrics:
    """A slice in metrics.json."""

    name: str
    at_half: Annotated[AtHalf, Field(alias="at_0.5")]


@dataclass(frozen=True)
class Metrics:
    """Of metrics.json, what is read again; `summary`: variant -> measure -> mean."""

    summary: dict[str, Scores]
    images: list[ImageMetrics]


@dataclass(frozen=True)
class ScoredSlice:
    """One evaluated slice: its size, how many pixels are lesion in truth and prediction, and its scores."""

    name: str
    height: int
    width: int
    truth_pixels: int
    predicted_pixels: int
    result: ImageScores


def evaluate(
    model: nn.Module,
    slices: Sequence[Slice],
    config: Config,
    output: Path,
    *,
    flips: bool = False,
    progress: Progress | None = None,
) -> dict[str, Scores]:
    """Score `model` on `slices` and write metrics.json and metrics.csv into the folder `output`.

    Args:
        model: runs where its parameters are; its mode is restored.
        slices: labelled slices.
        config: the run's; says how slices reach the network and heads the results.
        output: the run folder; it must exist.
        flips: test-time mirroring.
        progress: called as progress(done, total) after every slice.

    Returns:
        The means over the slices: variant -> measure -> value, as `covidct.slices.metrics` names them.

    Raises InputError if there are no slices, one has no mask or cannot be read, the network's output is not
    finite, or the results cannot be written.
    """
    scored = score_slices(model, slices, config, flips=flips, progress=progress)
    write_metrics(output, scored, config, flips=flips)
    return summarise([item.result for item in scored])


def score_slices(
    model: nn.Module,
    slices: Sequence[Slice],
    config: Config,
    *,
    flips: bool = False,
    progress: Progress | None = None,
) -> list[ScoredSlice]:
    """The scores of every slice, in order; writes nothing."""
    if not slices:
        raise InputError("there are no slices to evaluate; check the data folder and the fold")
    scored = []
    for item in slices:
        image, truth = load_slice(item)
        if truth is None:
            raise InputError(f"{item.path} has no mask; only labelled slices can be evaluated")
        probability = predict_slice(model, image, config, flips=flips, name=str(item.path))
        scored.append(
            ScoredSlice(
                name=item.name,
                height=image.shape[0],
                width=image.shape[1],
                truth_pixels=int(truth.sum()),
                predicted_pixels=int(binarise(probability).sum()),
                result=score_image(probability, truth),
            )
        )
        if progress is not None:
            progress(len(scored), len(slices))
    return scored


def predict_slice(
    model: nn.Module, image: NDArray[np.float32], config: Config, *, flips: bool, name: str
) -> NDArray[np.float32]:
    """`predict_probability` as `config` says; InputError, naming the picture, if the output is not finite.

    A model trained in 16-bit floats computes in 32 bits on the CPU, which is no faster in 16.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    precision = "32" if on_cpu and config.precision == "16" else config.precision
    probability = predict_probability(
        model, image, size=config.size, resize=config.resize, flips=flips, precision=precision
    )
    if not np.isfinite(probability).all():
        raise InputError(
            f"{name}: the network's output is NaN; the training has diverged "
            f"(precision {config.precision}): train again with --precision 32 or another --seed"
        )
    return probability


def write_metrics(
    output: Path, scored: Sequence[ScoredSlice], config: Config, *, flips: bool, data: str | None = None
) -> None:
    """Write metrics.json and metrics.csv, each whole or not at all; InputError if that is impossible."""
    results = [item.result for item in scored]
    content: dict[str, Any] = {name: getattr(config, name) for name in NAMED}
    content |= {
        "data": config.data if data is None else data,
        "flips": flips,
        "count": len(scored),
        "empty_truths": sum(item.truth_pixels == 0 for item in scored),
        "empty_predictions": sum(item.predicted_pixels == 0 for item in scored),
        "summary": summarise(results),
        "images": [_facts(item) | item.result.scores for item in scored],
    }
    with writing(f"{output}: the results"):
        write_text(output / JSON, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_text(output / CSV, _table(scored))


def read_metrics(run: Path) -> Metrics:
    """What metrics.json of a run says; InputError if it is missing or damaged."""
    return read_json(run / JSON, Metrics, fix=f"write it with evaluate.py {run}")


def check_writable(folder: Path) -> None:
    """InputError unless a file can be made in `folder`: better said before an hour of computing than after."""
    with writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


def make_output(folder: Path) -> None:
    """Make `folder`, the value of --output, unless it is there; InputError if results cannot be written to it."""
    with writing(f"--output {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)


def best_device() -> torch.device:
    """CUDA where PyTorch finds it, the CPU elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _facts(item: ScoredSlice) -> dict[str, Any]:
    return {
        "name": item.name,
        "height": item.height,
        "width": item.width,
        "truth_pixels": item.truth_pixels,
        "predicted_pixels": item.predicted_pixels,
    }


def _table(scored: Iterable[ScoredSlice]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{variant}_{measure}" for variant in PER_IMAGE for measure in MEASURES]
    writer.writerow(["name", "height", "width", "truth_pixels", "predicted_pixels", *names])
    for item in scored:
        values = [item.result.scores[variant][measure] for variant in PER_IMAGE for measure in MEASURES]
        writer.writerow([*_facts(item).values(), *(f"{value:.6f}" for value in values)])
    return text.getvalue()
