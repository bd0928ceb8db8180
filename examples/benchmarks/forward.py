"""A forward pass of the wrapped network, beside the network's own and one more pass of its encoder."""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from networks import NETWORKS
from results import parser, publish, table
from timing import interleaved, milliseconds, ratio, seconds_of
from torch import Tensor, nn

from relcons import DualEncoderUNet, split_unet

LARGEST = 1.03  # ratio that counts as met


def build(network: str, widths: Sequence[int], seed: int, device: str) -> tuple[nn.Module, nn.Module, DualEncoderUNet]:
    """The network, a second encoder of it, and the network wrapped with a copy of its encoder, in evaluation mode."""
    torch.manual_seed(seed)
    net = NETWORKS[network](widths).to(device).eval()
    return net, copy.deepcopy(split_unet(net).encoder), DualEncoderUNet(copy.deepcopy(net))


def floor(net: nn.Module, encoder: nn.Module, x: Tensor) -> list[object]:
    return [net(x), encoder(x)]


def measure(network: str, options: argparse.Namespace) -> list[object]:
    net, encoder, model = build(network, options.widths, options.seed, options.device)
    x = torch.randn(options.batch_size, 1, *options.size, device=options.device)
    calls: dict[str, Callable[[], object]] = {"floor": partial(floor, net, encoder, x), "relcons": partial(model, x)}
    with torch.inference_mode():
        if not torch.equal(model(x), first(net(x))):
            raise RuntimeError(f"{network}: the wrapped network does not start as the network")
        timed = {name: partial(seconds_of, call, options.device) for name, call in calls.items()}
        seconds = interleaved(timed, options.repeats, warmup=3)
    found = ratio(seconds["relcons"], seconds["floor"])
    return [network, *map(milliseconds, seconds.values()), found, found.against(LARGEST)]


def first(logits: Tensor | list[Tensor]) -> Tensor:
    return logits if isinstance(logits, Tensor) else logits[0]


def main() -> None:
    options = parser(__doc__ or "", repeats=31)
    options.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options.add_argument("--size", nargs=2, type=int, default=[224, 192], help="height and width of the images")
    options.add_argument("--batch-size", type=int, default=4, help="images")
    options.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64, 128, 240, 240], help="of `plain`")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0, help="of weights and images")
    arguments = options.parse_args()
    columns = ["network", "network and encoder, ms", "relcons, ms", "ratio (quartiles)", "target"]
    rows = [measure(network, arguments) for network in arguments.networks]
    publish(
        "forward",
        table(columns, rows),
        ["dynamic_network_architectures", "segmentation_models_pytorch"],
        arguments,
    )


if __name__ == "__main__":
    main()
