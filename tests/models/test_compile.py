"""The model under torch.compile: the same numbers, one graph for all steps."""

import copy
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from relcons import DualEncoderUNet, GaussianRampUp, RelationLoss
from tests.models.checking import flat, scalar
from tests.models.networks import (
    BATCH_NORMS,
    SMP,
    SWIN,
    Case,
    dna_case,
    dna_net,
    monai_case,
    nested_case,
    own_case,
    quiet,
    smp_case,
    smp_net,
    tiny_parts,
)

STEPS = 3


@pytest.fixture(autouse=True)
def fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def train(model: nn.Module, forward: Any, batches: list[Any], loss: RelationLoss) -> list[torch.Tensor]:
    """Losses of a few steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for x, source in batches:
        optimizer.zero_grad()
        out = forward(x, source=source)
        total = scalar(out.logits) + loss(out)
        total.backward()
        optimizer.step()
        loss.step()
        losses.append(total.detach())
    return losses


def compare(model: nn.Module, case: Case, fullgraph: bool) -> CompileCounterWithBackend:
    quiet(model)
    model.double().train()  # in float32 batch norm over few values amplifies rounding from step to step
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    batches = [(case.batch().double(), case.batch().double()) for _ in range(STEPS)]
    schedule = GaussianRampUp(total_steps=STEPS)
    compiled = torch.compile(model, backend=counter, fullgraph=fullgraph)
    found = train(model, compiled, batches, RelationLoss(weight=schedule))
    expected = train(twin, twin, batches, RelationLoss(weight=schedule))
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-8)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(parameter, other, rtol=1e-6, atol=1e-8), name
    return counter


FULL = [
    smp_case("Unet", encoder_depth=3, decoder_channels=(8, 8, 8)),
    Case("plain-2D", dna_net, (1, 16, 16)),
    Case("own-instance", tiny_parts, (1, 8, 8)),
]


@pytest.mark.parametrize("case", FULL, ids=str)
def test_one_graph_for_all_steps(case: Case) -> None:
    model = DualEncoderUNet(case.build(), general="reset", fusion="concat")
    assert compare(model, case, fullgraph=True).frame_count == 1


def test_the_whole_step_is_one_graph_while_the_weight_ramps_up() -> None:
    model = DualEncoderUNet(tiny_parts(norm=BATCH_NORMS[1]), general="reset")
    loss = RelationLoss(weight=GaussianRampUp(total_steps=5))
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def step(x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        out = model(x, source=source)
        return out.logits.mean() + loss(out)

    for _ in range(4):
        step(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)).backward()
        loss.step()
    assert counter.frame_count == 1


EVERY = [
    *[smp_case(architecture) for architecture in SMP],
    smp_case("FPN", "tu-test_convnext"),
    smp_case("Segformer", "mit_b0"),
    smp_case("UPerNet", **SWIN),
    *[dna_case(kind, axes, axes == 3) for kind in (PlainConvUNet, ResidualEncoderUNet) for axes in (2, 3)],
    own_case(1),
    own_case(3),
    nested_case(2),
    *[monai_case(name, 2) for name in ("SegResNet", "DynUNet", "UNet", "AttentionUnet", "VNet")],
    monai_case("SwinUNETR", 2, side=32),
    monai_case("DynUNet", 3, deep_supervision=True, deep_supr_num=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_training_is_free_of_graph_breaks(case: Case) -> None:
    counter = compare(DualEncoderUNet(case.build(), general="reset"), case, fullgraph=True)
    assert counter.frame_count <= 2  # a graph anew for every one of the steps would be at least 3


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_inference_is_free_of_graph_breaks(case: Case) -> None:
    model = DualEncoderUNet(case.build(), general="reset").double().eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = case.batch().double()
    with torch.inference_mode():
        assert torch.allclose(compiled(x), model(x), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Online softmax is disabled on the fly:UserWarning")  # inductor's own
@pytest.mark.parametrize(
    "case",
    [
        smp_case("Unet", encoder_depth=2, decoder_channels=(8, 8)),
        Case("PlainConvUNet", lambda: dna_net(features=(4, 6)), (1, 8, 8)),
    ],
    ids=str,
)
def test_inductor(case: Case) -> None:
    model = DualEncoderUNet(case.build(), general="reset")
    quiet(model)
    twin = copy.deepcopy(model)
    batches = [(case.batch(), case.batch()) for _ in range(STEPS)]
    found = train(model, torch.compile(model, fullgraph=True), batches, RelationLoss())
    expected = train(twin, twin, batches, RelationLoss())
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=1e-3)
    model.eval()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(batches[0][0])
        assert torch.allclose(compiled, model(batches[0][0]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
# Where a graph ends in the middle of a pass, the compiler asks maps for gradients that they do not keep.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("case", [monai_case("BasicUNet", 2), monai_case("FlexibleUNet", 2, side=32)], ids=str)
def test_compiles_in_pieces(case: Case) -> None:
    """MONAI's UpCat calls torch.jit.isinstance, which ends a graph also in the network alone."""
    model = DualEncoderUNet(case.build(), general="reset")
    compare(model, case, fullgraph=False)
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="isinstance"):
        torch.compile(model.eval(), backend="aot_eager", fullgraph=True)(case.batch().double())


def test_every_way_of_calling_in_evaluation() -> None:
    net = smp_net(encoder_depth=3, decoder_channels=(8, 8, 8))
    model = DualEncoderUNet(net, general="reset").eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        for given in ({}, {"source": x}, {"unlabelled": x}, {"features": True}):
            for one, other in zip(flat_present(compiled(x, **given)), flat_present(model(x, **given)), strict=True):
                assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def flat_present(output: Any) -> list[torch.Tensor]:
    return flat(output if isinstance(output, torch.Tensor) else [part for part in output if part is not None])
