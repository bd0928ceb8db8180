"""What one pass of a network shows of its modules."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from relcons.parts.reach import evaluating, graph_of, reached_parameters, recording, tensors_of

__all__ = ["Pass", "as_example", "candidates", "problem_of", "run_once"]

_MOST_CANDIDATES = 12


@dataclass
class Pass:
    """What a pass showed: the outputs of the bottleneck, what ran before it, and whether the result depends on it."""

    outputs: list[Any] = field(default_factory=list)
    before: set[nn.Module] = field(default_factory=set)
    matters: bool = False
    result: Any = None
    maps: dict[nn.Module, list[Any]] = field(default_factory=dict)


def run_once(net: nn.Module, example: Tensor, bottleneck: nn.Module | None) -> Pass:
    """Run ``net`` on ``example`` and watch its modules."""
    passed = Pass()

    def called(module: nn.Module, _: Any) -> None:
        if not passed.outputs:
            passed.before.add(module)

    def returned(module: nn.Module, _: Any, output: Any) -> Any:
        passed.maps.setdefault(module, []).append(output)
        if module is not bottleneck:
            return None
        passed.outputs.append(output)
        # What follows may change it in place.
        return output.clone() if isinstance(output, Tensor) else None

    attributes = {module: dict(vars(module)) for module in net.modules()}
    hooks = [
        hook
        for module in net.modules()
        for hook in (module.register_forward_pre_hook(called), module.register_forward_hook(returned))
    ]
    try:
        with evaluating([net]), _trainable(net), torch.random.fork_rng(devices=[]), recording():
            passed.result = net(example.clone().requires_grad_(example.is_floating_point()))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
        raise ValueError(
            f"example: {type(net).__name__} does not take a batch of shape {tuple(example.shape)} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); pass one that it takes"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        _restore(attributes)
    passed.matters = len(passed.outputs) == 1 and _deciding(passed.result, passed.outputs) == [True]
    return passed


def problem_of(passed: Pass, axes: int) -> str | None:
    """Why a module cannot be the bottleneck of a network whose images have so many axes, or None."""
    if len(passed.outputs) != 1:
        return f"ran {len(passed.outputs)} times for the example, and must run once"
    output = passed.outputs[0]
    if not isinstance(output, Tensor) or output.ndim != axes:
        what = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        return f"must return a map (B, C, *spatial), and returns {what}"
    # Where reentrant checkpoints hide the graph, it cannot be told.
    if not passed.matters and reached_parameters(tensors_of(passed.result)) is not None:
        return "does not decide what the network returns"
    return None


def candidates(net: nn.Module, example: Tensor) -> list[str]:
    """Names of modules that could be the bottleneck: run once, with a map of the coarsest resolution that matters.

    Outermost modules only. Maps of one position, which attention over channels has inside, come last.
    """
    passed = run_once(net, example, None)
    maps = {
        module: outputs[0]
        for module, outputs in passed.maps.items()
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].ndim == example.ndim
    }
    deciding = _deciding(passed.result, maps.values())
    sizes = {
        module: output.shape[2:].numel()
        for (module, output), decides in zip(maps.items(), deciding, strict=True)
        if decides
    }
    coarsest = min((size for size in sizes.values() if size > 1), default=1)
    names: list[str] = []
    for size in sorted({coarsest, 1}, reverse=True):
        for name, module in net.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in names)
            if name and not inside and sizes.get(module) == size:
                names.append(name)
    return names[:_MOST_CANDIDATES]


def as_example(net: nn.Module, example: Tensor | Sequence[int]) -> Tensor:
    """A batch as ``example`` gives it, or zeros of that shape, where and as the network computes."""
    if not isinstance(example, Tensor):
        sizes = tuple(example) if isinstance(example, Sequence) and not isinstance(example, str) else ()
        if len(sizes) < 3 or not all(isinstance(size, Integral) and size > 0 for size in sizes):
            raise ValueError(
                f"example must be a batch (B, C, *spatial) that {type(net).__name__} takes, or its shape, "
                f"got {example!r}"
            )
        example = torch.zeros(sizes)
    parameter = next(net.parameters(), None)
    return example if parameter is None else example.to(parameter.device, parameter.dtype)


def _deciding(result: Any, outputs: Iterable[Any]) -> list[bool]:
    """Whether what the network returned depends on each of ``outputs``."""
    graph = graph_of(tensors_of(result))
    return [isinstance(output, Tensor) and output.grad_fn in graph for output in outputs]


def _restore(attributes: dict[nn.Module, dict[str, Any]]) -> None:
    """Take away what a pass has left in modules: it holds the graph, with which they cannot be copied."""
    for module, before in attributes.items():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value is not before.get(name):
                if name in before:
                    vars(module)[name] = before[name]
                else:
                    del vars(module)[name]


@contextmanager
def _trainable(net: nn.Module) -> Iterator[None]:
    """Every parameter recorded in the graph, frozen ones too."""
    frozen = [parameter for parameter in net.parameters() if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
