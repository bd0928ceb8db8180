"""Operations of a training step of each method at preset `paper`, and the hours that follow from them."""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from results import parser, publish, table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

with warnings.catch_warnings():
    # timm, which the networks' library imports, uses what torch has deprecated.
    warnings.filterwarnings("ignore", message=".*torch.jit.interface.*", category=FutureWarning)
    from covidct.run.building import build_model
    from covidct.run.config import Config
    from covidct.run.systems import SYSTEMS, system
    from covidct.slices.presets import PRESETS
    from covidct.training.segmentation_loss import segmentation_loss
    from covidct.volumes.presets import PRESETS as VOLUME_PRESETS


# Trainings of Tables III and IV, five folds a row: `finetune` has three rows, each with a `pretrain` of its own.
METHODS = [name for name, entry in SYSTEMS.items() if not entry.slices_alone]
TABLES = {name: 15 if name in ("pretrain", "finetune") else 5 for name in METHODS}


def step_flops(config: Config) -> int:
    """Operations of one step, a multiplication and an addition as two, on the meta device, which computes nothing.

    The relation losses stand in as means of the maps that they read: the same passes through the encoders, less the
    losses' own operations, which are fewer than one in a thousand.
    """
    chosen = system(config.method)
    with torch.device("meta"):
        model = build_model(config).train()
        images, masks, source = (torch.zeros(config.batch_size, 1, *config.size) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        relations: list[Tensor] = []
        if not (chosen.general or chosen.target):
            logits = model(images)
        else:
            output = model(images, source=source if chosen.general else None, features=True)
            logits = output.logits
            relations += output.target if chosen.target else ()
            relations += (*output.general, *output.source) if chosen.general else ()
        (segmentation_loss(logits, masks) + sum(maps.mean() for maps in relations)).backward()
    return int(counter.get_total_flops())


def cells(name: str, axes: int, flops: float, options: argparse.Namespace, steps: int) -> list[object]:
    size = " x ".join(map(str, (VOLUME_PRESETS if axes == 3 else PRESETS)["paper"]["size"]))
    hours = [f"{flops * steps / (speed * 1e12) / 3600:,.1f}" for speed in options.speeds]
    return [name, f"{axes}D", size, f"{flops / 1e12:.2f}", *hours]


def rows(axes: int, options: argparse.Namespace) -> list[list[object]]:
    preset = (VOLUME_PRESETS if axes == 3 else PRESETS)["paper"]
    flops = {
        method: step_flops(
            Config(dataset="", data="", source=(), method=method, preset="paper", fold=0, seed=0, **preset)
        )
        for method in options.methods
        if axes == 3 or system(method).tested
    }
    found = [cells(method, axes, count, options, preset["steps"]) for method, count in flops.items()]
    if axes == 3 and set(flops) == set(TABLES):
        total = sum(flops[method] * number for method, number in TABLES.items())
        name = f"**Tables III and IV**, {sum(TABLES.values())} trainings"
        found.append(cells(name, axes, total, options, preset["steps"]))
    return found


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--methods", nargs="+", choices=list(TABLES), default=list(TABLES))
    options.add_argument("--axes", nargs="+", type=int, choices=(2, 3), default=[3, 2])
    options.add_argument("--speeds", nargs="+", type=float, default=[10, 30, 100], help="sustained TFLOP/s of a GPU")
    arguments = options.parse_args()
    hours = [f"hours for 250,000 steps at {speed:g} TFLOP/s" for speed in arguments.speeds]
    columns = ["method", "", "patch, batches of 2", "TFLOP a step", *hours]
    body = [line for axes in arguments.axes for line in rows(axes, arguments)]
    publish("step-cost", table(columns, body), ["dynamic_network_architectures"], arguments)


if __name__ == "__main__":
    main()
