"""Value and gradient of the general consistency, beside torchdistill's ICKD loss."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read by torch on import: its profiler calls a missing GPU an error

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from memory import peak_bytes
from results import parser, publish, table
from timing import interleaved, milliseconds, ratio, seconds_of
from torch import Tensor
from torchdistill.losses.mid_level import ChSimLoss

from relcons.functional import general_consistency

# Shape -> largest ratio to the peer that counts as met.
TARGETS = {(2, 32, 448, 384): 0.65, (4, 480, 28, 24): 0.4, (2, 32, 56, 160, 192): 0.75}
Loss = Callable[[Tensor, Tensor], Tensor]


class Result(NamedTuple):
    value: Tensor
    source: Tensor
    general: Tensor


def value_and_gradient(loss: Loss, source: Tensor, general: Tensor) -> Result:
    value = loss(source, general)
    return Result(value.detach(), *torch.autograd.grad(value, (source, general)))


def exact(source: Tensor, general: Tensor) -> Result:
    """The formula in float64, of the batch means; every sample has a B-th of their gradient."""
    means = [x.detach().mean(0, dtype=torch.float64).flatten(1).requires_grad_() for x in (source, general)]
    grams = [mean @ mean.mT for mean in means]
    rows = [gram / gram.norm(dim=1, keepdim=True) for gram in grams]
    value = (rows[0] - rows[1]).square().sum()
    gradients = torch.autograd.grad(value, means)
    shapes = [x.shape for x in (source, general)]
    return Result(value.detach(), *((g / s[0]).view(s[1:]) for g, s in zip(gradients, shapes, strict=True)))


def errors(result: Result, reference: Result) -> tuple[float, float]:
    """Relative error of the value, and of the gradients in the L2 norm (the larger of the two)."""
    value = abs(result.value.double() - reference.value) / reference.value
    worst = 0.0
    for gradient, true in zip(result[1:], reference[1:], strict=True):
        worst = max(worst, *(float((sample - true).norm() / true.norm()) for sample in gradient))
    return float(value), worst


def beyond_gradients(loss: Loss, source: Tensor, general: Tensor, larger_than: int = 0) -> int:
    """Peak bytes beyond the inputs and their gradients: of the forward pass, or of both passes less the gradients."""
    device = source.device.type
    forward = peak_bytes(lambda: loss(source, general), device, larger_than)
    both = peak_bytes(lambda: value_and_gradient(loss, source, general), device, larger_than)
    return max(forward, both - source.nbytes - general.nbytes)


def measure(shape: tuple[int, ...], options: argparse.Namespace) -> list[object]:
    generator = torch.Generator(options.device).manual_seed(options.seed)
    source, general = (
        torch.randn(shape, generator=generator, device=options.device, requires_grad=True) for _ in range(2)
    )
    losses = {"relcons": general_consistency, "ickd": ChSimLoss.batch_loss}
    calls = {name: partial(value_and_gradient, loss, source, general) for name, loss in losses.items()}
    timed = {name: partial(seconds_of, call, options.device) for name, call in calls.items()}
    seconds = interleaved(timed, options.repeats, warmup=2)
    ours = beyond_gradients(general_consistency, source, general)
    peer = beyond_gradients(ChSimLoss.batch_loss, source, general)
    large = beyond_gradients(general_consistency, source, general, larger_than=4 * shape[1] ** 2)
    value, gradient = errors(calls["relcons"](), exact(source, general))
    maps = large / (2 * 4 * source[0].numel())
    speed = ratio(seconds["relcons"], seconds["ickd"])
    return [
        "x".join(map(str, shape)),
        milliseconds(seconds["relcons"]),
        milliseconds(seconds["ickd"]),
        speed,
        speed.against(TARGETS.get(shape)),
        f"{ours / 2**20:.1f}",
        f"{peer / 2**20:.1f}",
        f"{maps:.2f}",
        f"1 ({'met' if maps <= 1 else 'missed'})",
        f"{value:.0e}",
        f"{gradient:.0e}",
    ]


def main() -> None:
    options = parser(__doc__ or "", repeats=9)
    options.add_argument("--shapes", nargs="+", type=_shape, default=list(TARGETS), help="such as 4x480x28x24")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--seed", type=int, default=0, help="of the features, which are normally distributed")
    arguments = options.parse_args()
    columns = [
        "features",
        "relcons, ms",
        "ICKD, ms",
        "ratio (quartiles)",
        "target",
        "relcons' memory, MiB",
        "ICKD's memory, MiB",
        "relcons' maps per input",
        "target",
        "error of the value",
        "error of the gradient",
    ]
    rows = [measure(shape, arguments) for shape in arguments.shapes]
    publish("relations", table(columns, rows), ["torchdistill"], arguments)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


if __name__ == "__main__":
    main()
