"""What several runs predict of the same slices."""

from collections.abc import Mapping
from pathlib import Path

from covidct.ct.picture import load_slice
from covidct.errors import InputError
from covidct.run.checkpoint import load_run
from covidct.run.config import read_config
from covidct.run.figures import Compared
from covidct.run.prediction import best_device, binarise
from covidct.slices.data import slices_to_test
from covidct.slices.evaluation import predict_slice, read_metrics

# Where the slices lie that are shown, among those sorted from best to worst Dice of the first run.
PLACES = {"best": 0.0, "median": 0.5, "worst": 1.0}


def compare(runs: Mapping[str, Path]) -> list[Compared]:
    """See `Wing.compare`: the best slice of the first run, its median one and its worst."""
    scores = {
        name: {image.name: image.at_half.dice for image in read_metrics(run).images} for name, run in runs.items()
    }
    first = next(iter(scores.values()))
    known = [name for name in first if all(name in each for each in scores.values())]
    if not known:
        raise InputError("the runs have no test slice in common")
    ranked = sorted(known, key=lambda name: -first[name])
    places = {round(share * (len(ranked) - 1)): label for label, share in PLACES.items()}
    config = read_config(next(iter(runs.values())) / "config.json")
    found = {item.name: item for item in slices_to_test(config)}
    chosen = [(label, found[ranked[place]]) for place, label in sorted(places.items())]
    models = {name: load_run(run) for name, run in runs.items()}
    cases = []
    for label, item in chosen:
        image, truth = load_slice(item)
        if truth is None:
            raise InputError(f"{item.path} has no mask; only labelled slices can be compared")
        masks = {
            name: binarise(predict_slice(model.to(best_device()), image, of, flips=of.flips, name=str(item.path)))
            for name, (of, model) in models.items()
        }
        cases.append(Compared(f"slice {item.name} ({label})", image, truth, masks))
    return cases
