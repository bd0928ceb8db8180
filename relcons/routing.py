"""Which loss may move which parameters: routes, and a check that nothing leaks."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["GradientRouter"]

Route = Iterable[nn.Module | nn.Parameter | str] | nn.Module | nn.Parameter | str


class GradientRouter:
    """Sends each loss to its own parameters, and tells where a loss reaches more than it should.

    [`DualEncoderUNet`][relcons.DualEncoderUNet] needs no router to train: its single backward
    already is the paper's three updates. Use the router to check that, or to route the losses of a
    model that has no such stops.

    Args:
        optimizer: the optimiser over all routed parameters (one, with parameter groups as needed).
        routes: loss name -> what that loss may move: modules, parameters, or names of ``model``'s
            submodules or parameters; ``model.routes()`` gives them for relcons models.
        model: the module that names are looked up in and that parameters are named after; give the
            DistributedDataParallel itself, not its ``module``, to be told what it would wait for.
        backward: called as ``backward(loss, inputs=..., retain_graph=...)`` in place of
            ``loss.backward``: ``fabric.backward``, ``accelerator.backward``. One that scales the loss
            itself and ``step(scaler=...)`` exclude each other.

    Raises:
        TypeError: a route holds something else than the above, or a name is given without ``model``.
        ValueError: a route is empty, a name is not in ``model``, or a routed trainable parameter is
            not in the optimiser; parameters are sharded (FSDP2); ``model`` is a
            DistributedDataParallel and a trainable parameter is on no route.

    Source: Zhang et al. 2021, Algorithm 1, lines 9 to 11. The term "gradient routing" is also used
    for data-dependent masks (Cloud et al. 2024, arXiv 2410.04332), which this is not.

    Examples:
        >>> net = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> router = GradientRouter(optimizer, {"fit": ["head"]}, model=net)
        >>> router.check({"fit": net["head"](net["encoder"](torch.ones(1, 2))).sum()})
        {'fit': ['encoder.weight', 'encoder.bias']}
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        routes: Mapping[str, Route],
        *,
        model: nn.Module | None = None,
        backward: Callable[..., Any] | None = None,
    ) -> None:
        self.optimizer = optimizer
        module: Any = model.module if isinstance(model, DistributedDataParallel) else model
        self._model, self._module = model, module
        self._backward = torch.autograd.backward if backward is None else backward
        self._routes = {name: _parameters(name, route, module) for name, route in routes.items()}
        optimised = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        named = dict(module.named_parameters()) if module is not None else {}
        self._names = {parameter: name for name, parameter in named.items()}
        for number, parameter in enumerate(optimised):
            self._names.setdefault(parameter, f"parameter {number} of the optimiser")
        self._check_routes(set(optimised))

    def __repr__(self) -> str:
        """Each loss with the number of parameter tensors on its route."""
        routes = ", ".join(f"{name!r}: {len(route)}" for name, route in self._routes.items())
        return f"{type(self).__name__}({type(self.optimizer).__name__}, parameters by loss: {{{routes}}})"

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Add each loss's gradient to ``.grad`` of the parameters on its route, and of no others.

        Every parameter takes part in one pass only, that of the sum of its losses: what
        DistributedDataParallel asks for, which averages a gradient as soon as it is there.

        Raises:
            ValueError: ``losses`` has a name without a route or is no scalar; ``model`` is a
                DistributedDataParallel, about to average, and a parameter gets no gradient.
        """
        reaching: dict[nn.Parameter, tuple[str, ...]] = {}
        for name, loss in losses.items():
            if loss.numel() != 1:
                raise ValueError(f"loss {name!r} must be a scalar, got {tuple(loss.shape)}; take its mean or sum")
            for parameter in self._route(name):
                if parameter.requires_grad and loss.requires_grad:
                    reaching[parameter] = (*reaching.get(parameter, ()), name)
        if isinstance(self._model, DistributedDataParallel) and self._model.require_backward_grad_sync:
            self._check_complete("losses", reaching, "pass all losses in one call, or accumulate in model.no_sync()")
        passes: dict[tuple[str, ...], list[nn.Parameter]] = {}
        for parameter in reversed(self._names):  # the deepest pass last: it frees the graph
            if parameter in reaching:
                passes.setdefault(reaching[parameter], []).append(parameter)
        for number, (names, inputs) in enumerate(passes.items(), start=1):
            loss = torch.stack([losses[name].reshape(()) for name in names]).sum()
            self._backward(loss, inputs=inputs, retain_graph=number < len(passes))

    def step(
        self,
        losses: Mapping[str, Tensor] | None = None,
        *,
        scaler: Any = None,
        clip: float | None = None,
    ) -> None:
        """Step the optimiser and clear the gradients, after ``backward(losses)`` where losses are given.

        Args:
            losses: loss name -> scalar; None where ``backward`` was called already (accumulation).
            scaler: a ``torch.amp.GradScaler``: losses are scaled, gradients unscaled before clipping,
                and the scaler updated.
            clip: largest gradient norm of each set of routed parameters: those that the model's
                ``clip_sets()`` gives where it has one, as relcons' models have; else each set that
                losses link, all that a loss reaches and what other losses reach with it.

        Raises:
            ValueError: ``clip`` is not positive, or ``losses`` has a name without a route.
        """
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be a positive gradient norm, got {clip!r}")
        if losses is not None:
            self.backward(losses if scaler is None else {k: scaler.scale(loss) for k, loss in losses.items()})
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if clip is not None:
            for parameters in self._clip_sets():
                torch.nn.utils.clip_grad_norm_(parameters, clip)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def check(self, losses: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Name the parameters that each loss reaches outside its route; all lists are empty when nothing leaks.

        Looks at every parameter of the model (of the optimiser where no model was given) and leaves
        the graph and ``.grad`` as they are.

        Raises:
            ValueError: ``losses`` has a name without a route.
        """
        leaks: dict[str, list[str]] = {}
        trainable = [parameter for parameter in self._names if parameter.requires_grad]
        for name, loss in losses.items():
            route = set(self._route(name))
            grads: Iterable[Tensor | None] = [None] * len(trainable)
            if loss.requires_grad and trainable:
                grads = torch.autograd.grad(loss, trainable, retain_graph=True, allow_unused=True)
            leaks[name] = [
                self._names[parameter]
                for parameter, grad in zip(trainable, grads, strict=True)
                if grad is not None and parameter not in route
            ]
        return leaks

    def _check_routes(self, optimised: set[nn.Parameter]) -> None:
        """Refuse routes that no gradient could go, or that leave DistributedDataParallel waiting."""
        for name, parameters in self._routes.items():
            if any(hasattr(parameter, "full_tensor") for parameter in parameters):
                raise ValueError(
                    f"route {name!r} holds sharded parameters: FSDP2 computes with copies of them, which no gradient "
                    "can be routed to; call backward() on the sum of the losses, for models that stop the others "
                    "themselves as DualEncoderUNet does, or use DistributedDataParallel"
                )
            for parameter in set(parameters) - optimised:
                if parameter.requires_grad:
                    raise ValueError(
                        f"route {name!r} holds {self._names.get(parameter, 'a parameter')} of shape "
                        f"{tuple(parameter.shape)}, which the optimiser does not update; give the optimiser "
                        "every routed parameter, or freeze those that should stay"
                    )
        if isinstance(self._model, DistributedDataParallel):
            routed = set().union(*self._routes.values())
            self._check_complete("routes", routed, "put every trainable parameter on a route, or freeze the others")

    def _check_complete(self, what: str, reached: Collection[nn.Parameter], fix: str) -> None:
        """Refuse what DistributedDataParallel would wait for in vain."""
        missed = [
            name for parameter, name in self._names.items() if parameter.requires_grad and parameter not in reached
        ]
        if missed:
            raise ValueError(
                f"{what} leave {len(missed)} trainable parameters without a gradient ({missed[0]} first), for which "
                f"DistributedDataParallel would wait; {fix}"
            )

    def _route(self, name: str) -> list[nn.Parameter]:
        if name not in self._routes:
            raise ValueError(f"losses has {name!r}, for which there is no route; routes are {list(self._routes)}")
        return self._routes[name]

    def _clip_sets(self) -> list[list[nn.Parameter]]:
        """Routed parameters in the model's own sets, or else grouped so that no loss reaches two groups."""
        if hasattr(self._module, "clip_sets"):
            routed = set().union(*self._routes.values())
            return [[parameter for parameter in own if parameter in routed] for own in self._module.clip_sets()]
        sets: list[set[nn.Parameter]] = []
        for parameters in self._routes.values():
            joined = set(parameters).union(*(other for other in sets if not other.isdisjoint(parameters)))
            sets = [other for other in sets if other.isdisjoint(parameters)] + [joined]
        return [[parameter for parameter in self._names if parameter in linked] for linked in sets]


def _parameters(name: str, route: Route, model: nn.Module | None) -> list[nn.Parameter]:
    """Parameters that a route's modules, parameters and names stand for, each once."""
    several = isinstance(route, Iterable) and not isinstance(route, nn.Module | nn.Parameter | str)
    entries: list[Any] = list(route) if several else [route]  # type: ignore[arg-type]
    found: dict[nn.Parameter, None] = {}
    for entry in entries:
        if isinstance(entry, str):
            entry = _look_up(name, entry, model)
        if isinstance(entry, nn.Parameter):
            found[entry] = None
        elif isinstance(entry, nn.Module):
            found.update(dict.fromkeys(entry.parameters()))
        else:
            raise TypeError(
                f"route {name!r} must hold modules, parameters or names, got {type(entry).__name__}: {entry!r:.60}"
            )
    if not found:
        raise ValueError(f"route {name!r} holds no parameter; leave the route out, or name what its loss may move")
    return list(found)


def _look_up(name: str, entry: str, model: nn.Module | None) -> nn.Module | nn.Parameter:
    if model is None:
        raise TypeError(f"route {name!r} holds the name {entry!r}; pass model= to look it up in")
    found: dict[str, nn.Module | nn.Parameter] = {**dict(model.named_modules()), **dict(model.named_parameters())}
    if entry in found:
        return found[entry]
    children = [child for child, _ in model.named_children()]
    raise ValueError(f"route {name!r} names {entry!r}, which {type(model).__name__} lacks; its children are {children}")
