"""What does the decoder do with the general encoder's maps? Dice of trained runs with these taken away.

A row is the mean over the runs that a pattern names. Every run's test slices are segmented as they are, with all maps
of the general encoder at zero, and with those of another test slice in their place. Dice is at probability 0.5 and at
the size of the network's input, mean over slices.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from results import parser, publish, table
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

from covidct.run.building import two_encoders
from covidct.run.checkpoint import load_run
from covidct.run.config import Config
from covidct.slices.data import slices_to_test
from covidct.slices.sampling import SliceSamples

Maps = Sequence[Tensor]
WAYS: dict[str, Callable[[Maps], Maps]] = {
    "as trained": lambda maps: maps,
    "F_G zero": lambda maps: [torch.zeros_like(each) for each in maps],
    "F_G of another slice": lambda maps: [each.roll(1, 0) for each in maps],
}


def batch_of(config: Config) -> dict[str, Tensor]:
    """The run's test slices and masks, each once, as its network takes them."""
    items = slices_to_test(config)
    found = [_first(config, item) for item in items]
    return {name: torch.stack([each[name] for each in found]) for name in ("image", "mask")}


def _first(config: Config, item: object) -> dict[str, Tensor]:
    size = (config.size[0], config.size[1])
    drawn = {"stream": "probe", "size": size, "resize": config.resize, "joined_batch": 1, "seed": 0}
    return SliceSamples([item], augment="none", **drawn)[0]  # type: ignore[list-item, arg-type]


def dice(model: nn.Module, batch: dict[str, Tensor], way: Callable[[Maps], Maps]) -> float:
    """Mean over the slices, with what the general encoder gives changed."""
    dual = two_encoders(model)
    if dual is None:
        raise SystemExit("the run has one encoder; give runs of baseline, general, target, ours or multi-encoder")
    hook = dual.general_encoder.register_forward_hook(lambda module, inputs, maps: way(maps))
    with torch.inference_mode():
        found = dual.eval()(batch["image"]) > 0
    hook.remove()
    truth = batch["mask"] > 0.5
    axes = (1, 2, 3)
    both = (found & truth).sum(axes)
    return fmean((2 * both / (found.sum(axes) + truth.sum(axes)).clamp_min(1)).tolist())


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("patterns", nargs="+", help="of run folders, such as 'runs/study-borrowing/ours-labels10-*'")
    arguments = options.parse_args()
    rows = []
    for pattern in arguments.patterns:
        runs = sorted(path.parent for path in Path().glob(f"{pattern}/model.safetensors"))
        if not runs:
            raise SystemExit(f"no finished run is called {pattern}; give patterns of run folders below this one")
        found = [scores(run) for run in runs]
        means = [fmean(each) for each in zip(*found, strict=True)]
        rows.append([Path(pattern).name, len(runs), *(f"{value:.3f}" for value in means)])
    publish("borrowed", table(["runs", "number", *WAYS], rows), [], arguments)


def scores(run: Path) -> list[float]:
    """Of one run, in the order of `WAYS`."""
    config, model = load_run(run)
    batch = batch_of(config)
    return [dice(model, batch, way) for way in WAYS.values()]


if __name__ == "__main__":
    main()
