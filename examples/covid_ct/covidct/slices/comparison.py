"""What several runs predict of the same slices."""

from collections.abc import Mapping
from pathlib import Path

from covidct.ct.picture import load_slice
from covidct.errors import InputError
from covidct.run.checkpoint import load_run
from covidct.run.config import read_config
from covidct.run.figures import Compared, best_median_worst
from covidct.run.prediction import best_device, binarise
from covidct.slices.data import slices_to_test
from covidct.slices.evaluation import predict_slice, read_metrics


def compare(runs: Mapping[str, Path]) -> list[Compared]:
    """See `Wing.compare`: the best slice of the first run, its median one and its worst."""
    scores = {
        name: {image.name: image.at_half.dice for image in read_metrics(run).images} for name, run in runs.items()
    }
    chosen = best_median_worst(scores, "slice")
    config = read_config(next(iter(runs.values())) / "config.json")
    found = {item.name: item for item in slices_to_test(config)}
    models = {name: load_run(run) for name, run in runs.items()}
    cases = []
    for label, name in chosen:
        item = found[name]
        image, truth = load_slice(item)
        if truth is None:
            raise InputError(f"{item.path} has no mask; only labelled slices can be compared")
        masks = {
            row: binarise(predict_slice(model.to(best_device()), image, of, flips=of.flips, name=str(item.path)))
            for row, (of, model) in models.items()
        }
        cases.append(Compared(f"slice {item.name} ({label})", image, truth, masks))
    return cases
