"""Operations of a training step of each method at preset `paper`, and the hours that follow from them."""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from results import parser, publish, table
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "covid_ct"))

with warnings.catch_warnings():
    # timm, which the networks' library imports, uses what torch has deprecated.
    warnings.filterwarnings("ignore", message=".*torch.jit.interface.*", category=FutureWarning)
    from covidct.config import PRESETS, VOLUME_PRESETS, Config
    from covidct.segmentation_loss import segmentation_loss
    from covidct.systems import SYSTEMS, build_model, system


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
        relations = []
        if not (chosen.general or chosen.target):
            logits = model(images)
        else:
            output = model(images, source=source if chosen.general else None, features=True)
            logits = output.logits
            relations += output.target if chosen.target else ()
            relations += (*output.general, *output.source) if chosen.general else ()
        (segmentation_loss(logits, masks) + sum(maps.mean() for maps in relations)).backward()
    return counter.get_total_flops()


def row(method: str, axes: int, options: argparse.Namespace) -> list[object]:
    preset = (VOLUME_PRESETS if axes == 3 else PRESETS)["paper"]
    config = Config(dataset="", data="", source=(), method=method, preset="paper", fold=0, seed=0, **preset)
    flops = step_flops(config)
    hours = [f"{flops * config.steps / (speed * 1e12) / 3600:.0f}" for speed in options.speeds]
    return [method, f"{axes}D", " x ".join(map(str, config.size)), f"{flops / 1e12:.2f}", *hours]


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--methods", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    options.add_argument("--axes", nargs="+", type=int, choices=(2, 3), default=[3, 2])
    options.add_argument("--speeds", nargs="+", type=float, default=[10, 30, 100], help="sustained TFLOP/s of a GPU")
    arguments = options.parse_args()
    hours = [f"hours for 250,000 steps at {speed:g} TFLOP/s" for speed in arguments.speeds]
    columns = ["method", "", "patch, batches of 2", "TFLOP a step", *hours]
    rows = [row(method, axes, arguments) for axes in arguments.axes for method in arguments.methods]
    publish("step-cost", table(columns, rows), ["dynamic_network_architectures"], arguments)


if __name__ == "__main__":
    main()
