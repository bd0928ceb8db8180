"""Which parameters an output depends on, and the probe that finds it out."""

import pytest
import torch
from torch import Tensor, nn

from relcons.models.reach import probe, reached_parameters


def test_reached_are_the_leaves_that_backward_fills() -> None:
    used, shared, unused = (nn.Linear(2, 2) for _ in range(3))
    x = torch.rand(1, 2)
    outputs = [shared(used(x)), shared(x).relu()]
    unused(x)
    sum(output.sum() for output in outputs).backward()
    every = [p for layer in (used, shared, unused) for p in layer.parameters()]
    assert {p for p in every if p.grad is not None} == reached_parameters(outputs) & set(every)
    assert reached_parameters(outputs) == {*used.parameters(), *shared.parameters()}


def test_a_detached_or_frozen_way_reaches_nothing() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    x = torch.rand(1, 2)
    assert reached_parameters([second(first(x).detach())]) == set(second.parameters())
    assert reached_parameters([first(x).detach()]) == set()


def test_probe_takes_the_first_example_that_fits() -> None:
    seen = []

    def run(x: Tensor) -> int:
        seen.append(x.shape[0])
        if x.shape[0] < 2:
            raise RuntimeError("too small")
        return x.shape[0]

    assert probe([], run, (torch.zeros(n) for n in (1, 2, 3))) == 2
    assert seen == [1, 2]
    assert probe([], run, [torch.zeros(1)]) is None


def test_probe_leaves_modes_statistics_random_state_and_grad_mode() -> None:
    layer = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 2).eval())
    state, modes = torch.get_rng_state(), [m.training for m in layer.modules()]
    with torch.no_grad():
        output = probe([layer], lambda x: layer(x + torch.rand(1)), [torch.zeros(1, 2)])
        assert not torch.is_grad_enabled()
    assert output.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in layer.modules()] == modes
    assert layer[0].num_batches_tracked == 0


def test_probe_uses_the_modules_type() -> None:
    layer = nn.Linear(2, 2).double()
    assert probe([layer], layer, [torch.zeros(1, 2)]).dtype == torch.float64


def test_probe_restores_modes_after_a_failure() -> None:
    layer = nn.Linear(2, 2)

    def run(_: Tensor) -> None:
        raise KeyError("not an input of a wrong size")

    with pytest.raises(KeyError):
        probe([layer], run, [torch.zeros(1)])
    assert layer.training
