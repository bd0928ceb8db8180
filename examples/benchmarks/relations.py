"""Value and gradient of the consistency of two maps, by channels, samples or positions, beside a peer's."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read by torch on import: its profiler calls a missing GPU an error

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from memory import peak_bytes
from results import parser, publish, table
from timing import interleaved, milliseconds, ratio, seconds_of
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d, normalize
from torchdistill.losses.mid_level import ChSimLoss, SPKDLoss
from workers import workers

from relcons.functional import Reduction, relation_consistency, relation_matrix, sample_relation, spatial_relation

Shape = tuple[int, ...]
Loss = Callable[[Tensor, Tensor], Tensor]


class Case(NamedTuple):
    relation: Callable[[Tensor], Tensor]
    reduction: Reduction
    peer_name: str
    peer: Loss
    # What the relation is by plain operations, of maps in float64.
    exact: Callable[[Tensor], Tensor]
    # Largest ratio to the peer that counts as met.
    targets: dict[Shape, float]

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return relation_consistency(a, b, relation=self.relation, reduction=self.reduction)

    def exact_loss(self, a: Tensor, b: Tensor) -> Tensor:
        rows = self.exact(a), self.exact(b)
        scale = {"sum": 1, "row_mean": rows[0].shape[-1], "mean": rows[0].shape[-1] ** 2}[self.reduction]
        return (rows[0] - rows[1]).square().sum((-2, -1)).mean() / scale


class Result(NamedTuple):
    value: Tensor
    first: Tensor
    second: Tensor


def spkd(a: Tensor, b: Tensor) -> Tensor:
    loss: Tensor = SPKDLoss("", "", "batchmean").compute_spkd_loss(a, b) / len(a) ** 2
    return loss


def convolution(a: Tensor, b: Tensor) -> Tensor:
    """One 3x3 convolution of one of the maps, its forward pass alone."""
    generator = torch.Generator(a.device).manual_seed(0)
    channels, axes = a.shape[1], a.ndim - 2
    weight = torch.randn(channels, channels, *[3] * axes, generator=generator, device=a.device)
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[axes - 1]
    with torch.no_grad():
        return convolve(a, weight, padding=1)


def channels_exactly(features: Tensor) -> Tensor:
    mean = features.mean(0).flatten(1)
    return normalize(mean @ mean.mT)


def samples_exactly(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return normalize(flat @ flat.mT)


def positions_exactly(features: Tensor) -> Tensor:
    pool = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[features.ndim - 3]
    points = normalize(pool(features, 16).flatten(2))
    return points.mT @ points


CASES = {
    "channels": Case(
        relation_matrix,
        "sum",
        "ICKD",
        ChSimLoss.batch_loss,
        channels_exactly,
        {(2, 32, 448, 384): 0.65, (4, 480, 28, 24): 0.4, (2, 32, 56, 160, 192): 0.75},
    ),
    "samples": Case(
        sample_relation,
        "mean",
        "SPKD",
        spkd,
        samples_exactly,
        {(2, 32, 448, 384): 0.6, (4, 480, 28, 24): 0.6, (2, 32, 56, 160, 192): 0.6},
    ),
    "positions": Case(
        spatial_relation, "mean", "convolution", convolution, positions_exactly, {(2, 32, 448, 384): 1.0}
    ),
}


def value_and_gradient(loss: Loss, a: Tensor, b: Tensor) -> Result:
    value = loss(a, b)
    if not value.requires_grad:
        return Result(value, a, b)
    return Result(value.detach(), *torch.autograd.grad(value, (a, b)))


def errors(case: Case, result: Result, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Relative error of the value, and of the gradients in the L2 norm (the larger of the two)."""
    true = value_and_gradient(case.exact_loss, *(x.detach().double().requires_grad_() for x in (a, b)))
    gradients = zip(result[1:], true[1:], strict=True)
    worst = max(float(torch.linalg.vector_norm(found - exact) / exact.norm()) for found, exact in gradients)
    return float(abs(result.value.double() - true.value) / true.value), worst


def beyond_gradients(loss: Loss, a: Tensor, b: Tensor, larger_than: int = 0) -> int:
    """Peak bytes beyond the inputs and their gradients: of the forward pass, or of both passes less the gradients."""
    device = a.device.type
    forward = peak_bytes(lambda: loss(a, b), device, larger_than)
    both = peak_bytes(lambda: value_and_gradient(loss, a, b), device, larger_than)
    return max(forward, both - a.nbytes - b.nbytes)


def maps_of(shape: Shape, seed: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, device=device, requires_grad=True) for _ in range(2))
    return a, b


def build(name: str, relation: str, shape: Shape, seed: int, device: str) -> Callable[[], Result]:
    loss = CASES[relation].loss if name == "relcons" else CASES[relation].peer
    return partial(value_and_gradient, loss, *maps_of(shape, seed, device))


@contextmanager
def timed(shape: Shape, pages: str, options: argparse.Namespace) -> Iterator[dict[str, Callable[[], float]]]:
    """Seconds of a run of either competitor, in this process or in one for each."""
    args = (options.relation, shape, options.seed, options.device)
    names = ["relcons", "peer"]
    if pages == "shared":
        yield {name: partial(seconds_of, build(name, *args), options.device) for name in names}
        return
    with workers(build, names, args, pages == "kept", time.process_time) as calls:
        yield calls


def measure(case: Case, shape: Shape, pages: str, options: argparse.Namespace) -> list[object]:
    with timed(shape, pages, options) as calls:
        seconds = interleaved(calls, options.repeats, warmup=2)
    speed = ratio(seconds["relcons"], seconds["peer"])
    a, b = maps_of(shape, options.seed, options.device)
    value, gradient = errors(case, value_and_gradient(case.loss, a, b), a, b)
    maps = beyond_gradients(case.loss, a, b, larger_than=4 * shape[1] ** 2) / (2 * 4 * a[0].numel())
    return [
        "x".join(map(str, shape)),
        *([pages] if options.apart else []),
        milliseconds(seconds["relcons"]),
        milliseconds(seconds["peer"]),
        speed,
        speed.against(case.targets.get(shape)),
        f"{beyond_gradients(case.loss, a, b) / 2**20:.1f}",
        f"{beyond_gradients(case.peer, a, b) / 2**20:.1f}",
        f"{maps:.2f}",
        f"1 ({'met' if maps <= 1 else 'missed'})",
        f"{value:.0e}",
        f"{gradient:.0e}",
    ]


def main() -> None:
    options = parser(__doc__ or "", repeats=9)
    options.add_argument("--relation", choices=list(CASES), default="channels", help="what is related")
    options.add_argument("--shapes", nargs="+", type=_shape, help="such as 4x480x28x24")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0, help="of the features, which are normally distributed")
    options.add_argument(
        "--apart", action="store_true", help="either competitor in a process of its own, its CPU time; see workers.py"
    )
    arguments = options.parse_args()
    case = CASES[arguments.relation]
    columns = [
        "features",
        *(["pages"] if arguments.apart else []),
        "relcons, ms",
        f"{case.peer_name}, ms",
        "ratio (quartiles)",
        "target",
        "relcons' memory, MiB",
        f"{case.peer_name}'s memory, MiB",
        "relcons' maps per input",
        "target",
        "error of the value",
        "error of the gradient",
    ]
    ways = ["default", "kept"] if arguments.apart else ["shared"]
    rows = [measure(case, shape, pages, arguments) for shape in arguments.shapes or case.targets for pages in ways]
    name = "relations" if arguments.relation == "channels" else f"relations-{arguments.relation}"
    publish(f"{name}-apart" if arguments.apart else name, table(columns, rows), ["torchdistill"], arguments)


def _shape(text: str) -> Shape:
    return tuple(int(size) for size in text.split("x"))


if __name__ == "__main__":
    main()
