"""Which parameters an output depends on, and the probe that finds it out."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relcons import DualEncoderUNet, RelationLoss, UNetParts
from relcons.parts.reach import probe, reached_parameters
from tests.models.networks import TinyDecoder, TinyEncoder

ENCODERS = ("target_encoder", "general_encoders.0")


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


class DeadEnd(TinyEncoder):
    """A stage that leads nowhere, as in encoders that keep their classifier's last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(4, 4, 1)


def test_dead_ends_of_own_parts_are_not_trainable() -> None:
    model = DualEncoderUNet(UNetParts(DeadEnd(), TinyDecoder()))
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert fixed == [f"{encoder}.unused.{name}" for encoder in ENCODERS for name in ("weight", "bias")]
    x = torch.rand(2, 1, 8, 8)
    output = model(x, source=x.flip(0) + 1)
    (output.logits.sum() + RelationLoss()(output)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


class Checkpointed(TinyEncoder):
    def forward(self, x: Tensor) -> list[Tensor]:
        # Of the results of a reentrant checkpoint only a tuple's tensors carry gradients.
        return list(checkpoint(lambda y: tuple(TinyEncoder.forward(self, y)), x, use_reentrant=True))


def test_reentrant_checkpoints_hide_nothing_for_good() -> None:
    model = DualEncoderUNet(UNetParts(Checkpointed(), TinyDecoder()))
    assert all(parameter.requires_grad for parameter in model.parameters())


class WithInput(TinyEncoder):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, *super().forward(x)]


class LastOnly(TinyDecoder):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return super().forward(maps[-2:])


def test_the_input_as_level_of_own_parts_is_refused() -> None:
    parts = UNetParts(WithInput(), LastOnly(), channels=(1, 4, 6))
    with pytest.raises(ValueError, match="levels: map 0 is the input itself"):
        DualEncoderUNet(parts, levels=(0,))
    assert DualEncoderUNet(parts, levels=(1, 2)).levels == (1, 2)
