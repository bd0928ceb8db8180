"""A training step of the whole method, beside the least work there is and beside a straightforward port."""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from networks import NETWORKS, Batch, random_batch
from results import parser, publish, table
from steps import floor_step, port_step, relcons_step
from timing import interleaved, milliseconds, ratio
from workers import workers

from relcons import DualEncoderUNet

LARGEST_TO_FLOOR, LARGEST_TO_PORT = 1.08, 0.92  # ratios that count as met
LARGEST_WITH_UNLABELLED = 1.06
FLOORS = ["together", "apart"]  # both batches through the general encoder; the faster one counts


def check_same_update(network: str, widths: Sequence[int], batch: Batch, seed: int) -> None:
    """RuntimeError unless relcons and the port move the same parameters by the same amounts."""
    torch.manual_seed(seed)
    start = DualEncoderUNet(NETWORKS[network](widths), general="reset", fusion="concat")
    moved = [copy.deepcopy(start), copy.deepcopy(start)]
    for step, model in zip((relcons_step, port_step), moved, strict=True):
        step(model)(batch)
    before, *after = (
        torch.cat([p.detach().double().flatten() for p in model.parameters()]) for model in (start, *moved)
    )
    change, difference = (after[0] - before).norm(), (after[0] - after[1]).norm()
    if not difference <= 1e-4 * change:
        raise RuntimeError(f"relcons and the port disagree: updates of norm {change:.3g} differ by {difference:.3g}")


def build(way: str, network: str, widths: Sequence[int], batch: Batch, seed: int, device: str) -> Callable[[], object]:
    """One of the ways to do a step, on a batch; the same seed gives all of them the same network."""
    torch.manual_seed(seed)
    net = NETWORKS[network](widths).to(device)
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    batch = batch.to(device)
    if way in FLOORS:
        return partial(floor_step(net, together=way == "together"), batch)
    return partial({"relcons": relcons_step, "port": port_step}[way](model), batch)


def measure(network: str, keep_pages: bool, options: argparse.Namespace) -> list[object]:
    batch = random_batch(options.size, options.batch_size, options.seed, unlabelled=options.unlabelled)
    check_same_update(network, options.widths, batch, options.seed)
    names = [*FLOORS, "relcons", "port"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.starts):
        args = (network, options.widths, batch, options.seed, options.device)
        with workers(build, names, args, keep_pages) as calls:
            for name, found in interleaved(calls, -(-options.repeats // options.starts), warmup=3).items():
                seconds[name] += found
    floor = min((seconds[name] for name in FLOORS), key=median)
    to_floor, to_port = ratio(seconds["relcons"], floor), ratio(seconds["relcons"], seconds["port"])
    return [
        f"{network}, unlabelled" if options.unlabelled else network,
        "kept" if keep_pages else "default",
        milliseconds(floor),
        milliseconds(seconds["relcons"]),
        milliseconds(seconds["port"]),
        to_floor,
        to_floor.against(LARGEST_WITH_UNLABELLED if options.unlabelled else LARGEST_TO_FLOOR),
        to_port,
        to_port.against(LARGEST_TO_PORT),
    ]


def main() -> None:
    options = parser(__doc__ or "", repeats=9)
    options.add_argument("--starts", type=int, default=3, help="fresh processes per competitor, which share the runs")
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--size", nargs=2, type=int, default=[224, 192], help="height and width of the images")
    options.add_argument("--batch-size", type=int, default=4, help="images of target and of source")
    options.add_argument("--unlabelled", action="store_true", help="as many unlabelled images beside (Ours-2D-UN)")
    options.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64, 128, 240, 240], help="of `plain`")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0, help="of weights and images")
    arguments = options.parse_args()
    columns = [
        "network",
        "pages",
        "floor, ms",
        "relcons, ms",
        "port, ms",
        "to the floor (quartiles)",
        "target",
        "to the port (quartiles)",
        "target",
    ]
    rows = [measure(network, keep, arguments) for network in arguments.networks for keep in (False, True)]
    packages = ["dynamic_network_architectures", "segmentation_models_pytorch"]
    name = "training-step-unlabelled" if arguments.unlabelled else "training-step"
    publish(name, table(columns, rows), packages, arguments)


if __name__ == "__main__":
    main()
