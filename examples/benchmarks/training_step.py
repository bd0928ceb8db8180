"""A training step of the whole method, beside the least work there is and beside a straightforward port."""

import argparse
import copy

import torch
from networks import NETWORKS, Batch, random_batch
from results import parser, publish, table
from steps import floor_step, port_step, relcons_step
from timing import interleaved, milliseconds, ratio

from relcons import DualEncoderUNet

TARGET_FLOOR, TARGET_PORT = 1.08, 0.92


def check_same_update(model: DualEncoderUNet, batch: Batch) -> None:
    """RuntimeError unless port and relcons move the same parameters by the same amounts."""
    moved = [copy.deepcopy(model), copy.deepcopy(model)]
    for step, copied in zip((relcons_step, port_step), moved, strict=True):
        step(copied)(batch)
    start = dict(model.named_parameters())
    after = [dict(copied.named_parameters()) for copied in moved]
    change, difference = (
        torch.stack([(a[name] - b[name]).double().square().sum() for name in start]).sum().sqrt()
        for a, b in ((after[0], start), (after[0], after[1]))
    )
    if not difference <= 1e-4 * change:
        raise RuntimeError(f"relcons and the port disagree: updates of norm {change:.3g} differ by {difference:.3g}")


def measure(network: str, options: argparse.Namespace) -> list[object]:
    torch.manual_seed(options.seed)
    net = NETWORKS[network](options.widths).to(options.device)
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    batch = random_batch(options.size, options.batch_size, options.seed, options.device)
    check_same_update(model, batch)
    steps = {
        "together": floor_step(net, together=True),
        "apart": floor_step(net, together=False),
        "relcons": relcons_step(copy.deepcopy(model)),
        "port": port_step(copy.deepcopy(model)),
    }
    calls = {name: lambda step=step: step(batch) for name, step in steps.items()}
    seconds = interleaved(calls, options.repeats, warmup=2, device=options.device)
    floor = min(seconds["together"], seconds["apart"], key=sum)
    to_floor, to_port = ratio(seconds["relcons"], floor), ratio(seconds["relcons"], seconds["port"])
    return [
        network,
        milliseconds(floor),
        milliseconds(seconds["relcons"]),
        milliseconds(seconds["port"]),
        to_floor,
        f"{TARGET_FLOOR} ({'met' if to_floor.median <= TARGET_FLOOR else 'missed'})",
        to_port,
        f"{TARGET_PORT} ({'met' if to_port.median <= TARGET_PORT else 'missed'})",
    ]


def main() -> None:
    options = parser(__doc__ or "", repeats=11)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--size", nargs=2, type=int, default=[224, 192], help="height and width of the images")
    options.add_argument("--batch-size", type=int, default=4, help="images of target and of source")
    options.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64, 128, 240, 240], help="of `plain`")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0, help="of weights and images")
    arguments = options.parse_args()
    columns = [
        "network",
        "floor, ms",
        "relcons, ms",
        "port, ms",
        "to the floor (quartiles)",
        "target",
        "to the port (quartiles)",
        "target",
    ]
    rows = [measure(network, arguments) for network in arguments.networks]
    packages = ["dynamic_network_architectures", "segmentation_models_pytorch"]
    publish("training-step", table(columns, rows), packages, arguments)


if __name__ == "__main__":
    main()
