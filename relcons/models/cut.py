"""Cutting a network at a named bottleneck, into copies of its structure that share its tensors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relcons.models.nested import Borrowed, Loan, NestedDecoder, NestedEncoder, Removed, Stop, Swap, shallow_copy
from relcons.models.reach import evaluating, reached_parameters, tensors_of

__all__ = ["Cut", "as_example", "cut_at"]

Side = Literal["target", "general", "decoder"]

# Rebuilt rather than wrapped: their owners iterate over them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_MOST_CANDIDATES = 12


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
            f"example: {', '.join(map(repr, _candidates(net, example))) or 'none'}"
        )
    passed = _run(net, example, modules[name])
    problem = _problem(passed, modules[name])
    if problem is not None:
        raise ValueError(
            f"module {name!r} of {type(net).__name__} {problem}; modules that give the coarsest maps for the "
            f"example: {', '.join(map(repr, _candidates(net, example))) or 'none'}"
        )
    encoding = reached_parameters([passed.outputs[0]])
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
    _check_copies(cut, name, net, example, passed)
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


@dataclass
class _Pass:
    """What a pass showed: the outputs of the bottleneck, what ran before it, and whether the result depends on it."""

    outputs: list[Any] = field(default_factory=list)
    before: set[nn.Module] = field(default_factory=set)
    matters: bool = False
    result: Any = None
    maps: dict[nn.Module, list[Any]] = field(default_factory=dict)


def _run(net: nn.Module, example: Tensor, bottleneck: nn.Module | None) -> _Pass:
    """Run ``net`` on ``example`` and watch its modules."""
    passed = _Pass()

    def called(module: nn.Module, _: Any) -> None:
        if not passed.outputs:
            passed.before.add(module)

    def returned(module: nn.Module, _: Any, output: Any) -> None:
        passed.maps.setdefault(module, []).append(output)
        if module is bottleneck:
            passed.outputs.append(output)

    hooks = [
        hook
        for module in net.modules()
        for hook in (module.register_forward_pre_hook(called), module.register_forward_hook(returned))
    ]
    try:
        with evaluating([net]), _trainable(net), torch.random.fork_rng(devices=[]), torch.enable_grad():
            passed.result = net(example.clone().requires_grad_(example.is_floating_point()))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ValueError(
            f"example: {type(net).__name__} does not take a batch of shape {tuple(example.shape)} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); pass one that it takes"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if len(passed.outputs) == 1 and isinstance(passed.outputs[0], Tensor) and passed.outputs[0].requires_grad:
        tensors = [tensor for tensor in tensors_of(passed.result) if tensor.requires_grad]
        grads = torch.autograd.grad([t.sum() for t in tensors], passed.outputs, retain_graph=True, allow_unused=True)
        passed.matters = grads[0] is not None
    return passed


def _problem(passed: _Pass, bottleneck: nn.Module) -> str | None:
    """Why a module cannot be the bottleneck, or None."""
    if len(passed.outputs) != 1:
        return f"ran {len(passed.outputs)} times for the example, and must run once"
    output = passed.outputs[0]
    if not isinstance(output, Tensor) or not 3 <= output.ndim <= 5:
        what = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        return f"must return a map (B, C, *spatial), and returns {what}"
    if not passed.matters:
        return "does not decide what the network returns"
    return None


def _candidates(net: nn.Module, example: Tensor) -> list[str]:
    """Names of modules that could be the bottleneck: run once, with a map of the coarsest resolution."""
    passed = _run(net, example, None)
    maps = {
        module: outputs[0]
        for module, outputs in passed.maps.items()
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].ndim == example.ndim
    }
    sizes = {module: output.shape[2:].numel() for module, output in maps.items()}
    coarsest = min(sizes.values(), default=0)
    names = [name for name, module in net.named_modules() if name and sizes.get(module) == coarsest]
    return names[:_MOST_CANDIDATES]


def _check_copies(cut: Cut, name: str, net: nn.Module, example: Tensor, passed: "_Pass") -> None:
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
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
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


def as_example(net: nn.Module, example: Tensor | Sequence[int]) -> Tensor:
    """A batch as ``example`` gives it, or zeros of that shape, where and as the network computes."""
    if not isinstance(example, Tensor):
        sizes = tuple(example) if isinstance(example, Sequence) and not isinstance(example, str) else ()
        if len(sizes) < 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                f"example must be a batch (B, C, *spatial) that {type(net).__name__} takes, or its shape, "
                f"got {example!r}"
            )
        example = torch.zeros(sizes)
    parameter = next(net.parameters(), None)
    return example if parameter is None else example.to(parameter.device, parameter.dtype)


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
