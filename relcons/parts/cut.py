"""Cutting a network at a named bottleneck, into copies of its structure that share its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from relcons.parts.nested import Borrowed, Loan, NestedDecoder, NestedEncoder, Removed, Stop, Swap, shallow_copy
from relcons.parts.observing import Pass, candidates, problem_of, run_once
from relcons.parts.reach import evaluating, reached_parameters, tensors_of

__all__ = ["Cut", "cut_at"]

Side = Literal["target", "general", "decoder"]

# Rebuilt rather than wrapped: their owners iterate over them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Cut:
    """A network cut at its bottleneck; ``general`` is the encoder with all that it runs in its own name, to copy."""

    encoder: NestedEncoder
    general: NestedEncoder
    decoder: NestedDecoder
    bottleneck: Tensor


def cut_at(net: nn.Module, name: str, example: Tensor) -> Cut:
    """Encoder and decoder of ``net``, cut behind its module ``name``; see `UNetParts.at`."""
    modules = dict(net.named_modules())
    if name not in modules or name == "":
        raise ValueError(
            f"{type(net).__name__} has no module {name!r}; of its modules these give its coarsest maps for the "
            f"example: {', '.join(map(repr, candidates(net, example))) or 'none'}"
        )
    passed = run_once(net, example, modules[name])
    problem = problem_of(passed, example.ndim)
    if problem is not None:
        raise ValueError(
            f"module {name!r} of {type(net).__name__} {problem}; modules that give the coarsest maps for the "
            f"example: {', '.join(map(repr, candidates(net, example))) or 'none'}"
        )
    encoding = reached_parameters([passed.outputs[0]]) if passed.matters else None
    if encoding is None:
        raise ValueError(
            f"{type(net).__name__} hides its graph in reentrant checkpoints; switch them off, or use "
            "torch.utils.checkpoint(..., use_reentrant=False)"
        )
    target, general = (_Rebuild(side, modules[name], encoding, passed.before) for side in ("target", "general"))
    encoders = NestedEncoder(target(net)), NestedEncoder(general(net))
    decoder = _Rebuild("decoder", modules[name], encoding, passed.before, target.made)
    whole = decoder(net)
    swap = next(module for module in whole.modules() if isinstance(module, Swap))
    cut = Cut(*encoders, NestedDecoder(whole, swap, decoder.loans), passed.outputs[0].detach())
    # Another batch: for the same, what a module has kept of the first pass would be taken for the copy's own.
    other = example + torch.linspace(0.5, 1, example.numel()).view_as(example).to(example)
    _check_copies(cut, name, net, other, run_once(net, other, modules[name]))
    return cut


class _Rebuild:
    """Copy of a network's structure for one side of its bottleneck.

    Modules that hold parameters of one side only are shared as they are, borrowed or removed; those that hold both,
    and all containers, are rebuilt around their children. Of what these hold themselves, the decoder's copy borrows
    the encoder's parameters and all buffers from the target's copy.
    """

    def __init__(
        self,
        side: Side,
        bottleneck: nn.Module,
        encoding: set[Tensor],
        before: set[nn.Module],
        lenders: Mapping[nn.Module, nn.Module] | None = None,
    ) -> None:
        self.side, self.bottleneck, self.encoding, self.before = side, bottleneck, encoding, before
        self.lenders = lenders or {}
        self.made: dict[nn.Module, nn.Module] = {}
        self.loans: list[Loan] = []

    def __call__(self, module: nn.Module) -> nn.Module:
        if module not in self.made:
            self.made[module] = self._make(module)
        return self.made[module]

    def _make(self, module: nn.Module) -> nn.Module:
        if module is self.bottleneck:
            return Swap(Borrowed(module)) if self.side == "decoder" else Stop(module)
        inside = set(module.modules())
        if self.bottleneck in inside or isinstance(module, _CONTAINERS):
            return self._around_children(module)
        # Whether they are the encoder's, of all parameters that the module holds.
        owners = {parameter in self.encoding for parameter in module.parameters()}
        # One without parameters may run in training mode alone, which the probe does not see.
        if self.side != "decoder" and owners == {False} and not inside & self.before:
            return Removed()
        if not owners or self.side == "general":
            return module
        if len(owners) == 2:
            return self._around_children(module)
        return module if self._owns(next(module.parameters())) else Borrowed(module)

    def _around_children(self, module: nn.Module) -> nn.Module:
        twin = shallow_copy(module)
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else self(child)
        for name, parameter in module._parameters.items():
            if parameter is not None and not self._owns(parameter):
                del twin._parameters[name]
                if self.side == "decoder":
                    self.loans.append(Loan(twin, self.lenders[module], name))
                else:  # the bottleneck does not depend on it, so that any value will do
                    vars(twin)[name] = parameter
        if self.side == "decoder":
            self.loans += [Loan(twin, self.lenders[module], name) for name in twin._buffers]
            twin._buffers.clear()
        return twin

    def _owns(self, parameter: nn.Parameter) -> bool:
        return self.side == "general" or (parameter in self.encoding) == (self.side == "target")


def _check_copies(cut: Cut, name: str, net: nn.Module, example: Tensor, passed: Pass) -> None:
    """The copies must give what the network gives, by way of what stands for the bottleneck, and keep nothing."""
    problem = None
    before = _kept(cut)
    with evaluating([cut.encoder, cut.general, cut.decoder]), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            result, bottleneck = cut.decoder(example)
            if bottleneck is None:
                problem = "it calls that module by another way than the attribute that names it"
            else:
                maps = [bottleneck, *cut.encoder(example), *cut.general(example)]
                found = [*tensors_of(result), *maps]
                expected = [*tensors_of(passed.result), *[passed.outputs[0]] * len(maps)]
                if not all(
                    torch.allclose(one, other, rtol=1e-2, atol=1e-4, equal_nan=True)
                    for one, other in zip(found, expected, strict=True)
                ):
                    problem = "a copy of it does not give what it gives, since it reaches modules by other ways"
            if _kept(cut) != before:
                problem = (
                    "it keeps maps in lists or dictionaries of its own, which an encoder's pass would leave behind"
                )
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            problem = f"a copy of it does not run ({error})"
    if problem is not None:
        raise ValueError(
            f"{type(net).__name__} cannot be cut at {name!r}: {problem}; write its encoder and decoder as modules and "
            "pass UNetParts(encoder, decoder)"
        )


def _kept(cut: Cut) -> list[int]:
    """Lengths of all lists and dictionaries that modules hold as plain attributes."""
    modules = (module for part in (cut.encoder, cut.general, cut.decoder) for module in part.modules())
    return [len(value) for module in modules for value in vars(module).values() if isinstance(value, list | dict)]
