"""Encoder and decoder of a network that nests them: its own forward pass, stopped or swapped at the bottleneck."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Borrowed", "Loan", "NestedDecoder", "NestedEncoder", "Removed", "Stop", "Swap", "shallow_copy"]

Fuse = Callable[[Tensor], Tensor]


class NestedEncoder(nn.Module):
    """The part of a network in front of its bottleneck: runs it and stops there.

    Args:
        net: copy of the network's structure whose bottleneck is a `Stop`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> list[Tensor]:
        """The bottleneck, as the only map of a list."""
        try:
            self.net(x)
        except _Reached as reached:
            return [reached.args[0]]
        raise RuntimeError(
            f"{type(self.net).__name__} returned without passing its bottleneck, which it did for the example; "
            "a network that takes another way for some inputs cannot be split there"
        )


class Loan(NamedTuple):
    """A tensor that a copy of a module reads from another copy, which alone registers it."""

    borrower: nn.Module
    owner: nn.Module
    name: str

    def take(self) -> None:
        """Read the owner's tensor: loading, sharding and moves may have put another in its place."""
        vars(self.borrower)[self.name] = getattr(self.owner, self.name)  # not registered: setattr would

    def give_back(self) -> None:
        """Leave with the owner what the pass has put in place of a buffer."""
        if self.name in self.owner._buffers:
            setattr(self.owner, self.name, getattr(self.borrower, self.name))


class NestedDecoder(nn.Module):
    """A whole network that holds the parameters behind its bottleneck and borrows those in front of it.

    Args:
        net: copy of the network's structure whose bottleneck is a `Swap`.
        swap: that module.
        loans: tensors that it borrows by themselves, of modules with children on both sides.
    """

    def __init__(self, net: nn.Module, swap: "Swap", loans: Sequence[Loan] = ()) -> None:
        super().__init__()
        self.net = net
        self._swap = (swap,)  # registered in net already
        self._loans = tuple(loans)

    def forward(self, x: Tensor, fuse: Fuse | None = None) -> tuple[Any, Tensor]:
        """What the network returns with ``fuse(bottleneck)`` in place of its bottleneck, and the bottleneck itself."""
        swap = self._swap[0]
        swap.fuse = fuse if fuse is not None else _unchanged
        for loan in self._loans:
            loan.take()
        try:
            output = self.net(x)
            for loan in self._loans:
                loan.give_back()
            return output, swap.bottleneck
        finally:
            # What the pass recorded must not outlive it: it holds the graph, and cannot be copied or pickled.
            swap.fuse = swap.bottleneck = None


class Stop(nn.Module):
    """The bottleneck of an encoder: ends the pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Nothing is returned."""
        raise _Reached(self.module(*args, **kwargs))


class Swap(nn.Module):
    """The bottleneck inside a decoder: records its output and gives back another in its place."""

    fuse: Fuse | None
    bottleneck: Any

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.fuse = self.bottleneck = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What takes the place of the module's output."""
        if self.fuse is None:
            raise RuntimeError(
                "the bottleneck was run outside of the model's forward pass, as activation checkpoints around it do "
                "(checkpoint modules in front of it or behind it instead), or in a copy by nn.DataParallel (take "
                "DistributedDataParallel)"
            )
        self.bottleneck = self.module(*args, **kwargs)
        return self.fuse(self.bottleneck)


class Borrowed(nn.Module):
    """A module that another part of the model holds, so that its parameters have one name and one owner."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._held = (module,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        return self._held[0](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_held":  # asked for while a copy is being made
                raise
            return getattr(self._held[0], name)

    def extra_repr(self) -> str:
        """The module's class, for ``repr``."""
        return type(self._held[0]).__name__


class Removed(nn.Module):
    """In place of a module that a pass ending at the bottleneck does not run."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: the network took another way than for the example."""
        raise RuntimeError(
            "a module behind the bottleneck was run in front of it, which the pass of the example did not do; pass "
            "UNetParts.at another example, or the network's encoder and decoder as UNetParts(encoder, decoder)"
        )


class _Reached(Exception):
    """Carries the bottleneck out of an encoder's pass."""


def shallow_copy(module: nn.Module) -> nn.Module:
    """The same module over again, sharing tensors and children, with dictionaries of its own to change."""
    twin: nn.Module = copy.copy(module)
    # Hooks, parameters and submodules are registered in dictionaries, which a shallow copy would share.
    twin.__dict__ = {
        name: value.copy() if isinstance(value, dict | list) else value for name, value in vars(module).items()
    }
    return twin


def _unchanged(bottleneck: Tensor) -> Tensor:
    return bottleneck.clone()  # what follows may change it in place, as it may a fused one
