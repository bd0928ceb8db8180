"""Which parameters a model's outputs depend on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["evaluating", "keeping_buffers", "probe", "reached_parameters", "tensors_of"]

T = TypeVar("T")


def probe(modules: Iterable[nn.Module], run: Callable[[Tensor], T], examples: Iterable[Tensor]) -> T | None:
    """Result of ``run`` on the first example that it takes, with gradients recorded; None if it takes none.

    Modules are in evaluation mode meanwhile, so that no statistics move and one sample suffices.
    """
    modules = list(modules)
    parameter = next((p for module in modules for p in module.parameters()), None)
    with evaluating(modules), torch.random.fork_rng(devices=[]), torch.enable_grad():
        for example in examples:
            if parameter is not None:
                example = example.to(parameter.device, parameter.dtype)
            try:
                # Not a leaf, so that the network may change it in place; with a gradient, so that
                # reentrant checkpoints stay in the graph.
                return run(example.requires_grad_().clone())
            except (RuntimeError, ValueError, AssertionError):
                continue  # some transformers take a single input size only
    return None


def reached_parameters(outputs: Iterable[Tensor]) -> set[Tensor] | None:
    """Leaves that a backward pass from ``outputs`` would reach; None where reentrant checkpoints hide them."""
    found: set[Tensor] = set()
    nodes = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node.name() == "CheckpointFunctionBackward":
            return None
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(leaf)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return found


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in a network's output, of lists, tuples and dictionaries too."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in tensors_of(value)]


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Buffers inside as they were afterwards, whether a pass changes them in place or puts others there."""
    before = [(m, name, buffer) for m in module.modules() for name, buffer in m._buffers.items() if buffer is not None]
    values = [buffer.clone() for _, _, buffer in before]
    try:
        yield
    finally:
        with torch.no_grad():
            for (owner, name, buffer), value in zip(before, values, strict=True):
                owner._buffers[name] = buffer.copy_(value)


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Every module in evaluation mode inside, and as it was afterwards."""
    modes = {layer: layer.training for module in modules for layer in module.modules()}
    try:
        for layer in modes:
            layer.training = False
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
