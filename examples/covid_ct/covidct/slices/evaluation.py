"""Scoring a model on labelled slices: metrics.json and metrics.csv of a run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from covidct.ct.picture import Slice, load_slice
from covidct.errors import InputError
from covidct.files import read_json
from covidct.run.config import Config
from covidct.run.precision import inference_precision
from covidct.run.prediction import binarise, check_finite, device_of, in_memory
from covidct.run.results import CSV, JSON, Failed, heading, write_tables
from covidct.slices.inference import predict_probability, predict_stretched
from covidct.slices.metrics import MEASURES, PER_IMAGE, ImageScores, Scores, score_image, summarise

# What metrics.json and metrics.csv say of a slice before its scores.
FACTS = ("name", "height", "width", "truth_pixels", "predicted_pixels")

Progress = Callable[[float], None]


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
    failed: tuple[Failed, ...] = ()


@dataclass(frozen=True)
class ScoredSlice:
    """One evaluated slice: its size, how many pixels are lesion in truth and prediction, and its scores."""

    name: str
    height: int
    width: int
    truth_pixels: int
    predicted_pixels: int
    result: ImageScores


def score_slices(
    model: nn.Module,
    slices: Sequence[Slice],
    config: Config,
    *,
    flips: bool = False,
    progress: Progress | None = None,
) -> tuple[list[ScoredSlice], list[Failed]]:
    """The scores of every slice, in order, and the slices that cannot be scored: the others are done.

    Args:
        model: runs where its parameters are; its mode is restored.
        slices: labelled slices.
        config: the run's; says how slices reach the network.
        flips: test-time mirroring.
        progress: called with the share of all slices that is done, 0 to 1.

    A slice fails if it has no mask or cannot be read, or if the output is not finite.

    Raises InputError if there are no slices.
    """
    if not slices:
        raise InputError("there are no slices to evaluate; check the data folder and the fold")
    scored: list[ScoredSlice] = []
    failed: list[Failed] = []
    for number, item in enumerate(slices, start=1):
        try:
            with in_memory(item.path):
                scored.append(_score(model, item, config, flips=flips))
        except InputError as error:
            failed.append(Failed(item.name, str(error)))
        if progress is not None:
            progress(number / len(slices))
    return scored, failed


def _score(model: nn.Module, item: Slice, config: Config, *, flips: bool) -> ScoredSlice:
    image, truth = load_slice(item)
    if truth is None:
        raise InputError(f"{item.path} has no mask; only labelled slices can be evaluated")
    probability = predict_slice(model, image, config, flips=flips, name=str(item.path))
    return ScoredSlice(
        name=item.name,
        height=image.shape[0],
        width=image.shape[1],
        truth_pixels=int(truth.sum()),
        predicted_pixels=int(binarise(probability).sum()),
        result=score_image(probability, truth),
    )


def predict_slice(
    model: nn.Module, image: NDArray[np.float32], config: Config, *, flips: bool, name: str
) -> NDArray[np.float32]:
    """`predict_probability` as `config` says; InputError, naming the picture, if the output is not finite."""
    precision = inference_precision(config.precision, device_of(model))
    height, width = config.size
    if config.unit_input:
        probability = predict_stretched(model, image, size=(height, width), precision=precision)
    else:
        probability = predict_probability(
            model, image, size=(height, width), resize=config.resize, flips=flips, precision=precision
        )
    check_finite(probability, name, config.precision)
    return probability


def write_metrics(
    output: Path,
    scored: Sequence[ScoredSlice],
    failed: Sequence[Failed],
    config: Config,
    *,
    flips: bool,
    data: Path | None = None,
) -> None:
    """Write metrics.json and metrics.csv, each whole or not at all; InputError if that is impossible."""
    content = heading(config, data) | {
        "flips": flips,
        "count": len(scored),
        "empty_truths": sum(item.truth_pixels == 0 for item in scored),
        "empty_predictions": sum(item.predicted_pixels == 0 for item in scored),
        "summary": summarise([item.result for item in scored]),
        "images": [_facts(item) | item.result.scores for item in scored],
        "failed": [asdict(item) for item in failed],
    }
    write_tables(output / JSON, content, output / CSV, [_row(item) for item in scored])


def read_metrics(run: Path) -> Metrics:
    """What metrics.json of a run says; InputError if it is missing or damaged."""
    return read_json(run / JSON, Metrics, fix=f"write it with evaluate.py {run}")


def _facts(item: ScoredSlice) -> dict[str, Any]:
    return {name: getattr(item, name) for name in FACTS}


def _row(item: ScoredSlice) -> dict[str, Any]:
    scores = {f"{variant}_{name}": item.result.scores[variant][name] for variant in PER_IMAGE for name in MEASURES}
    return _facts(item) | scores
