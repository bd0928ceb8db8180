"""Which parameters a model's outputs depend on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = [
    "evaluating",
    "graph_of",
    "keeping_buffers",
    "probe",
    "reached_parameters",
    "recording",
    "set_branches_to_training",
    "tensors_of",
]

T = TypeVar("T")


def probe(modules: Iterable[nn.Module], run: Callable[[Tensor], T], examples: Iterable[Tensor]) -> T | None:
    """Result of ``run`` on the first example that it takes, with gradients recorded; None if it takes none.

    Modules are in evaluation mode meanwhile, so that no statistics move and one sample suffices.
    """
    modules = list(modules)
    parameter = next((p for module in modules for p in module.parameters()), None)
    with evaluating(modules), torch.random.fork_rng(devices=[]), recording():
        for example in examples:
            if parameter is not None:
                example = example.to(parameter.device, parameter.dtype)
            try:
                # Not a leaf, so that the network may change it in place; with a gradient, so that
                # reentrant checkpoints stay in the graph.
                return run(example.clone().requires_grad_().clone())
            except (RuntimeError, ValueError, AssertionError):
                continue  # some transformers take a single input size only
    return None


def reached_parameters(outputs: Iterable[Tensor]) -> set[Tensor] | None:
    """Leaves that a backward pass from ``outputs`` would reach; None where reentrant checkpoints hide them."""
    nodes = graph_of(outputs)
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes):
        return None
    return {node.variable for node in nodes if hasattr(node, "variable")}


def graph_of(outputs: Iterable[Tensor]) -> set[Any]:
    """Every node of autograd's graph that ``outputs`` came by."""
    nodes = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen: set[Any] = set(nodes)
    while nodes:
        for following, _ in nodes.pop().next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return seen


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in a network's output, of lists, tuples and dictionaries too."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in tensors_of(value)]


def set_branches_to_training(module: nn.Module) -> None:
    """Training mode for what may take another way in it (heads of deep supervision, for one), not for layers."""
    for layer in module.modules():
        own = (
            not type(layer).__module__.startswith("torch.nn.")
            and next(layer.parameters(recurse=False), None) is not None
        )
        layer.training = not isinstance(layer, _NormBase) and (own or next(layer.children(), None) is not None)


@contextmanager
def recording() -> Iterator[None]:
    """Gradients recorded inside, also where the caller has switched them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


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
