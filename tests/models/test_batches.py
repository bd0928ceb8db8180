"""Source, unlabelled and labelled batches: their rows, their gradients, their batch statistics."""

import copy

import pytest
import torch
from torch import nn

from relcons import DualEncoderUNet, RelationLoss, UNetParts
from relcons.models import batching
from tests.models.checking import assert_same, different
from tests.models.networks import BATCH_NORMS, INSTANCE_NORMS, TinyDecoder, TinyEncoder, tiny_parts

SMALL = (2, 1, 8, 8)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches share a pass wherever they may, as on a GPU; on a CPU it does not pay."""
    monkeypatch.setattr(batching, "_one_pass_pays", lambda x: True)


@pytest.mark.usefixtures("joined")
def test_unlabelled_rows_follow_and_give_no_logits() -> None:
    model = different(tiny_parts())
    x, unlabelled, source = torch.rand(2, 1, 8, 8), torch.rand(3, 1, 8, 8), torch.rand(1, 1, 8, 8)
    output = model(x, source=source, unlabelled=unlabelled)
    every = torch.cat([x, unlabelled])
    assert torch.allclose(output.target[0], model.target_encoder(every)[-1], atol=1e-6)
    assert torch.allclose(output.general[0], model.general_encoder(every)[-1], atol=1e-6)
    assert output.source[0].shape[0] == 1
    assert torch.equal(output.logits, model(x))


@pytest.mark.usefixtures("joined")
def test_logits_get_no_gradient_from_unlabelled_nor_source() -> None:
    model = different(tiny_parts(), route="joint")
    x, *others = (torch.rand(SMALL, requires_grad=True) for _ in range(3))
    output = model(x, source=others[0], unlabelled=others[1])
    for other in others:  # one pass for all: a gradient may come, but it is 0
        (gradient,) = torch.autograd.grad(output.logits.sum(), other, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any()
        assert torch.autograd.grad(output.general[0].sum() + output.source[0].sum(), other, retain_graph=True)[0].any()


@pytest.mark.parametrize("size", [(3, 1, 8, 8), (2, 1, 12, 8), (1, 1, 4, 16)])
@pytest.mark.usefixtures("joined")
def test_source_and_unlabelled_of_another_size(size: tuple[int, ...]) -> None:
    model, x, source = different(tiny_parts()), torch.rand(SMALL), torch.rand(size)
    output = model(x, source=source)
    assert torch.allclose(output.source[0], model.general_encoder(source)[-1], atol=1e-6)
    (output.logits.sum() + RelationLoss()(output)).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.usefixtures("joined")
def test_batch_statistics_are_those_of_separate_passes() -> None:
    model = different(tiny_parts(norm=BATCH_NORMS[1])).train()
    twin = copy.deepcopy(model)
    x, unlabelled, source = (torch.randn(n, 1, 8, 8) for n in (2, 3, 4))
    output = model(x, source=source, unlabelled=unlabelled)
    target = torch.cat([twin.target_encoder(batch)[-1] for batch in (x, unlabelled)])
    general = [twin.general_encoder(batch)[-1] for batch in (x, unlabelled, source)]
    assert torch.equal(output.target[0], target)
    assert torch.equal(output.general[0], torch.cat(general[:2]))
    assert torch.equal(output.source[0], general[2])
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))


NORMS = {
    "none": lambda width: nn.Identity(),
    "batch": BATCH_NORMS[1],
    "batch without running statistics": lambda width: nn.BatchNorm2d(width, track_running_stats=False),
    "sync batch": nn.SyncBatchNorm,
    "instance": INSTANCE_NORMS[1],
    "instance with running statistics": lambda width: nn.InstanceNorm2d(width, track_running_stats=True),
    "group": lambda width: nn.GroupNorm(2, width),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.usefixtures("joined")
def test_batches_share_a_pass_only_where_that_changes_nothing(norm: str, training: bool) -> None:
    if norm == "sync batch" and training:
        pytest.skip("needs a GPU in training mode")
    model = different(tiny_parts(norm=NORMS[norm])).train(training)
    twin = copy.deepcopy(model)
    x, source = torch.randn(2, 1, 8, 8), 3 + 2 * torch.randn(2, 1, 8, 8)
    output = model(x, source=source)
    assert torch.allclose(output.general[0], twin.general_encoder(x)[-1], atol=1e-5)
    assert torch.allclose(output.source[0], twin.general_encoder(source)[-1], atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "training", "passes"),
    [("none", True, 1), ("instance", True, 1), ("group", True, 1), ("batch", True, 2), ("batch", False, 1)],
)
@pytest.mark.usefixtures("joined")
def test_number_of_passes(norm: str, training: bool, passes: int) -> None:
    model = DualEncoderUNet(tiny_parts(norm=NORMS[norm])).train(training)
    calls: list[int] = []
    model.general_encoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(SMALL), source=torch.rand(SMALL))
    assert len(calls) == passes


@pytest.mark.usefixtures("joined")
def test_frozen_batch_norm_shares_a_pass_in_training() -> None:
    model = DualEncoderUNet(UNetParts(TinyEncoder(), TinyDecoder()), general=TinyEncoder(norm=BATCH_NORMS[1])).train()
    calls: list[int] = []
    model.general_encoder.register_forward_hook(lambda *_: calls.append(1))
    for freeze, passes in ((False, 2), (True, 1), (False, 2)):
        model.freeze_general(freeze)
        calls.clear()
        model(torch.rand(SMALL), source=torch.rand(SMALL))
        assert len(calls) == passes


def test_a_cpu_takes_batches_one_after_the_other() -> None:
    model = DualEncoderUNet(tiny_parts())
    calls: list[torch.Size] = []
    model.general_encoder.register_forward_hook(lambda module, inputs, _: calls.append(inputs[0].shape))
    model(torch.rand(SMALL), source=torch.rand(SMALL))
    assert calls == [torch.Size(SMALL)] * 2
    calls.clear()
    meta = model.to("meta")
    meta(torch.empty(SMALL, device="meta"), source=torch.empty(SMALL, device="meta"))
    assert calls == [torch.Size((4, *SMALL[1:]))]


@pytest.mark.usefixtures("joined")
def test_modes_put_back_without_a_call_of_train() -> None:
    """As Lightning does after a validation: batch norm must see each batch alone all the same."""
    model = different(tiny_parts(norm=BATCH_NORMS[1])).train()
    x, source = torch.rand(SMALL), torch.rand(SMALL) + 5
    expected = copy.deepcopy(model)(x, source=source).general[0]
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    for layer, mode in modes.items():
        layer.training = mode
    assert torch.equal(model(x, source=source).general[0], expected)
