"""What a caller sees of the model: outputs, levels, batches, modes, errors. What holds for every network: contract.py."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relcons import (
    DualEncoderOutput,
    DualEncoderUNet,
    GradientRouter,
    MultiEncoderOutput,
    MultiEncoderUNet,
    RelationLoss,
    UNetParts,
)
from tests.models.contract import assert_same, flat, perturb, scalar
from tests.models.networks import (
    BATCH_NORMS,
    INSTANCE_NORMS,
    TinyDecoder,
    TinyEncoder,
    dna_net,
    smp_net,
    tiny_parts,
)

SMALL = (2, 1, 8, 8)


def different(net: nn.Module | UNetParts, **options: Any) -> DualEncoderUNet:
    """A model whose encoders differ and whose fusion uses both."""
    model = DualEncoderUNet(net, **options)
    perturb(model)
    return model


# Outputs


def test_logits_alone_unless_maps_are_asked_for() -> None:
    model, x = DualEncoderUNet(tiny_parts()), torch.rand(SMALL)
    assert isinstance(model(x), Tensor)
    for given in ({"source": x}, {"unlabelled": x}, {"features": True}):
        output = model(x, **given)
        assert type(output) is DualEncoderOutput
        assert torch.equal(output.logits, model(x))
        assert (output.source is None) == ("source" not in given)


def test_the_three_maps_are_what_their_names_say() -> None:
    """F_T(X^c), F_G(X^c), F_G(X^n): a mix-up would train the wrong encoder in silence."""
    model, x, source = different(tiny_parts()), torch.rand(SMALL), torch.rand(SMALL)
    output = model(x, source=source)
    assert torch.allclose(output.target[0], model.target_encoder(x)[-1], atol=1e-6)
    assert torch.allclose(output.general[0], model.general_encoder(x)[-1], atol=1e-6)
    assert torch.allclose(output.source[0], model.general_encoder(source)[-1], atol=1e-6)


def test_both_bottlenecks_and_the_targets_skips_enter_the_decoder() -> None:
    model, x = different(tiny_parts(), fusion="concat"), torch.rand(SMALL)
    seen: list[list[Tensor]] = []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    target, general = model.target_encoder(x), model.general_encoder(x)
    assert torch.equal(seen[0][0], target[0])
    assert torch.equal(seen[0][1], torch.cat([target[1], general[1]], dim=1))


@pytest.mark.parametrize("levels", [(-1,), (0,), (0, 1), (1, 0), (-2, -1)])
def test_levels(levels: tuple[int, ...]) -> None:
    model, x = DualEncoderUNet(tiny_parts(), levels=levels), torch.rand(SMALL)
    assert model.levels == tuple(level % 2 for level in levels)
    output = model(x, source=x)
    maps = model.target_encoder(x)
    for found in (output.target, output.general, output.source):
        assert [m.shape for m in found] == [maps[level].shape for level in levels]
    assert torch.allclose(output.target[0], maps[levels[0]], atol=1e-6)


def test_a_finer_level_leaves_the_deeper_general_layers_without_a_loss() -> None:
    """Under route paper only the relations move the general encoder: what lies behind the last level is a dead end."""
    model = DualEncoderUNet(dna_net(), levels=(0,))
    deep = [p.requires_grad for name, p in model.general_encoder.named_parameters() if name.startswith("stages.2")]
    first = [p.requires_grad for name, p in model.general_encoder.named_parameters() if name.startswith("stages.0")]
    assert deep and not any(deep)
    assert all(first)
    assert all(p.requires_grad for p in DualEncoderUNet(dna_net(), levels=(0,), route="joint").parameters())


def test_auto_gives_the_full_resolution_tensor_in_evaluation() -> None:
    model, x = DualEncoderUNet(dna_net()).train(), torch.rand(2, 1, 16, 16)
    training = model(x)
    assert [tuple(t.shape[2:]) for t in training] == [(16, 16), (8, 8)]
    for source in (None, x):
        evaluated = model.eval()(x, source=source)
        logits = evaluated if source is None else evaluated.logits
        assert torch.equal(logits, training[0])


def test_native_gives_what_net_gives_in_both_modes() -> None:
    net, x = dna_net(), torch.rand(2, 1, 16, 16)
    model = DualEncoderUNet(net, outputs="native")
    for training in (True, False):
        assert_same(model.train(training)(x), net(x))


def test_classification_head_reads_the_targets_own_bottleneck() -> None:
    net = smp_net(encoder_depth=3, decoder_channels=(8, 8, 8), aux_params={"classes": 3})
    model, x = DualEncoderUNet(net).eval(), torch.rand(2, 1, 64, 64)
    perturb(model.fusion)
    perturb(model.general_encoder)
    masks, labels = model(x)
    expected = net.eval()(x)
    assert torch.equal(labels, expected[1])
    assert not torch.equal(masks, expected[0])
    assert isinstance(model(x, source=x).logits, tuple)


# Batches


def test_unlabelled_rows_follow_and_give_no_logits() -> None:
    model = different(tiny_parts())
    x, unlabelled, source = torch.rand(2, 1, 8, 8), torch.rand(3, 1, 8, 8), torch.rand(1, 1, 8, 8)
    output = model(x, source=source, unlabelled=unlabelled)
    every = torch.cat([x, unlabelled])
    assert torch.allclose(output.target[0], model.target_encoder(every)[-1], atol=1e-6)
    assert torch.allclose(output.general[0], model.general_encoder(every)[-1], atol=1e-6)
    assert output.source[0].shape[0] == 1
    assert torch.equal(output.logits, model(x))


def test_logits_get_no_gradient_from_unlabelled_nor_source() -> None:
    model = different(tiny_parts(), route="joint")
    x, *others = (torch.rand(SMALL, requires_grad=True) for _ in range(3))
    output = model(x, source=others[0], unlabelled=others[1])
    for other in others:  # one pass for all: a gradient may come, but it is 0
        (gradient,) = torch.autograd.grad(output.logits.sum(), other, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any()
        assert torch.autograd.grad(output.general[0].sum() + output.source[0].sum(), other, retain_graph=True)[0].any()


@pytest.mark.parametrize("size", [(3, 1, 8, 8), (2, 1, 12, 8), (1, 1, 4, 16)])
def test_source_and_unlabelled_of_another_size(size: tuple[int, ...]) -> None:
    model, x, source = different(tiny_parts()), torch.rand(SMALL), torch.rand(size)
    output = model(x, source=source)
    assert torch.allclose(output.source[0], model.general_encoder(source)[-1], atol=1e-6)
    (output.logits.sum() + RelationLoss()(output)).backward()
    assert all(p.grad is not None for p in model.parameters())


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
def test_number_of_passes(norm: str, training: bool, passes: int) -> None:
    model = DualEncoderUNet(tiny_parts(norm=NORMS[norm])).train(training)
    calls: list[int] = []
    model.general_encoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(SMALL), source=torch.rand(SMALL))
    assert len(calls) == passes


def test_frozen_batch_norm_shares_a_pass_in_training() -> None:
    model = DualEncoderUNet(UNetParts(TinyEncoder(), TinyDecoder()), general=TinyEncoder(norm=BATCH_NORMS[1])).train()
    calls: list[int] = []
    model.general_encoder.register_forward_hook(lambda *_: calls.append(1))
    for freeze, passes in ((False, 2), (True, 1), (False, 2)):
        model.freeze_general(freeze)
        calls.clear()
        model(torch.rand(SMALL), source=torch.rand(SMALL))
        assert len(calls) == passes


# Modes and freezing


def test_modes_that_the_user_set_survive() -> None:
    net = smp_net(encoder_depth=3, decoder_channels=(8, 8, 8))
    net.encoder.model.layer1.eval()
    net.decoder.blocks[0].eval()
    model = DualEncoderUNet(net)
    assert model.training
    assert not model.target_encoder.model.layer1.training
    assert not model.general_encoder.model.layer1.training
    assert model.target_encoder.model.layer2.training
    assert not model.decoder.blocks[0].training
    assert model.decoder.blocks[1].training


@pytest.mark.parametrize("fusion", ["project", "concat"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_mode_of_the_model_is_that_of_net(training: bool, fusion: str) -> None:
    model = DualEncoderUNet(dna_net().train(training), fusion=fusion)
    assert {layer.training for layer in model.modules()} == {training}
    assert isinstance(model(torch.rand(2, 1, 16, 16)), list) == training


def test_an_encoder_in_evaluation_mode_leaves_the_rest_in_training() -> None:
    """Frozen batch statistics of a pretrained encoder: the decoder trains on."""
    net = smp_net(encoder_depth=3, decoder_channels=(8, 8, 8))
    net.encoder.eval()
    model = DualEncoderUNet(net, fusion="concat")
    assert not model.target_encoder.training
    assert model.decoder.training
    assert model.training


def test_freezing_survives_copies_and_modes() -> None:
    model = DualEncoderUNet(tiny_parts(norm=BATCH_NORMS[1]))
    model.freeze_general()
    twin = copy.deepcopy(model).train()
    assert not twin.general_encoder.coarse[1].training
    assert twin.target_encoder.coarse[1].training
    nn.Sequential(twin).train()
    assert not twin.general_encoder.coarse[1].training
    twin.freeze_general(False)
    assert twin.general_encoder.coarse[1].training
    assert all(p.requires_grad for p in twin.parameters())
    assert not any(p.requires_grad for p in model.general_encoder.parameters())


def test_thawing_restores_what_was_trainable() -> None:
    model = DualEncoderUNet(smp_net("PSPNet", "resnet18", psp_out_channels=16))  # reads three of five levels
    dead = [name for name, p in model.general_encoder.named_parameters() if not p.requires_grad]
    assert dead
    first = next(p for p in model.general_encoder.parameters() if p.requires_grad)
    first.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    model.freeze_general()
    model.freeze_general()
    assert not any(p.requires_grad for p in model.general_encoder.parameters())
    assert all(p.requires_grad == was for p, was in zip(model.target_encoder.parameters(), before, strict=False))
    model.freeze_general(False)
    model.freeze_general(False)
    assert [p.requires_grad for p in model.parameters()] == before


def test_frozen_general_encoder_in_evaluation_stays_in_evaluation_when_thawed() -> None:
    model = DualEncoderUNet(tiny_parts(norm=BATCH_NORMS[1])).eval()
    model.freeze_general()
    model.freeze_general(False)
    assert not any(layer.training for layer in model.modules())


# Own encoders and several of them


def test_own_general_encoder_is_taken_as_it_is() -> None:
    own = TinyEncoder()
    model = DualEncoderUNet(tiny_parts(), general=own)
    assert model.general_encoder is own


def test_multi_encoder_with_a_source_for_one() -> None:
    model = MultiEncoderUNet(tiny_parts(), generals=2, general=["reset", TinyEncoder()], levels=(0, 1))
    perturb(model)
    x, source = torch.rand(SMALL), torch.rand(SMALL)
    output = model(x, source=(None, source))
    assert type(output) is MultiEncoderOutput
    assert output.source[0] is None
    assert torch.allclose(output.source[1][1], model.general_encoders[1](source)[1], atol=1e-6)
    for number, encoder in enumerate(model.general_encoders):
        for level in (0, 1):
            assert torch.allclose(output.general[number][level], encoder(x)[level], atol=1e-6)
    (output.logits.sum() + RelationLoss()(output)).backward()
    first = model.general_encoders[0]
    assert all(p.grad is None for p in first.parameters())  # no source: nothing moves it under route paper


@pytest.mark.parametrize("fusion", ["project", "concat"])
def test_multi_encoder_trains_every_parameter(fusion: str) -> None:
    model = MultiEncoderUNet(dna_net(), generals=2, general="reset", fusion=fusion)
    x, sources = torch.rand(2, 1, 16, 16), [torch.rand(2, 1, 16, 16) for _ in range(2)]
    output = model(x, source=sources)
    (scalar(output.logits) + RelationLoss()(output)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [group["name"] for group in model.parameter_groups()] == ["general", "target", "decoder"]
    router = GradientRouter(torch.optim.SGD(model.parameter_groups(), lr=0.1), model.routes(), model=model)
    output = model(x, source=sources)
    terms = RelationLoss().terms(output)
    losses = {"segmentation": scalar(output.logits), "general": terms.general, "target": terms.target}
    assert not any(router.check(losses).values())
    assert len(flat(model.eval()(x))) == 1


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_model_of_another_type(dtype: torch.dtype) -> None:
    for fusion in ("project", "concat"):
        net = smp_net(encoder_depth=3, decoder_channels=(8, 8, 8)).to(dtype)
        model = DualEncoderUNet(net, general="reset", fusion=fusion)
        assert {p.dtype for p in model.parameters()} == {dtype}
        x = torch.rand(2, 1, 32, 32, dtype=dtype)
        output = model(x, source=x)
        loss = RelationLoss()(output)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        (output.logits.mean() + loss).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_fp16_autocast() -> None:
    model, x = DualEncoderUNet(tiny_parts(norm=BATCH_NORMS[1]), general="reset"), torch.rand(SMALL)
    with torch.autocast("cpu", torch.float16):
        output = model(x, source=torch.rand(SMALL))
        loss = RelationLoss()(output)
    (output.logits.float().mean() + loss).backward()
    assert output.logits.dtype == torch.float16
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fusion": "add"}, ValueError, "fusion must be one of 'project', 'concat', got 'add'"),
        ({"route": "both"}, ValueError, "route must be one of 'paper', 'joint', got 'both'"),
        ({"outputs": "list"}, ValueError, "outputs must be one of 'auto', 'native', got 'list'"),
        ({"general": "new"}, ValueError, "general must be one of 'copy', 'reset', got 'new'"),
        ({"general": 3}, TypeError, 'general must be "copy", "reset" or a module, got int'),
        ({"general": None}, TypeError, 'general must be "copy", "reset" or a module, got NoneType'),
        ({"general": TinyEncoder}, TypeError, 'general must be "copy", "reset" or a module, got type'),
        (
            {"general": TinyEncoder(widths=(4, 8))},
            ValueError,
            "general: the encoder's maps have widths (4, 8), those of net's encoder (4, 6); "
            "relations compare channel with channel, so give an encoder with the same widths",
        ),
        ({"levels": (2,)}, ValueError, "levels must be indices of the encoder's 2 maps, got 2"),
        ({"levels": (-3,)}, ValueError, "levels must be indices of the encoder's 2 maps, got -3"),
        ({"levels": (1.0,)}, ValueError, "levels must be indices of the encoder's 2 maps, got 1.0"),
        ({"levels": (True,)}, ValueError, "levels must be indices of the encoder's 2 maps, got True"),
        ({"levels": (1, -1)}, ValueError, "levels names map 1 twice: (1, -1)"),
        ({"levels": ()}, ValueError, "levels must name at least one of the encoder's maps; (-1,) is the bottleneck"),
    ],
    ids=str,
)
def test_exception(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        DualEncoderUNet(tiny_parts(), **arguments)


def test_shared_parameters_are_refused() -> None:
    message = re.escape(
        'general: encoders must not share parameters with each other or with net\'s; use "copy", "reset", '
        "or build one encoder for each"
    )
    parts, own = tiny_parts(), TinyEncoder()
    with pytest.raises(ValueError, match=message):
        DualEncoderUNet(parts, general=parts.encoder)
    with pytest.raises(ValueError, match=message):
        MultiEncoderUNet(parts, generals=2, general=own)
    with pytest.raises(ValueError, match=message):
        MultiEncoderUNet(parts, generals=2, general=[own, own])
    own.fine = parts.encoder.fine
    with pytest.raises(ValueError, match=message):
        DualEncoderUNet(parts, general=own)


@pytest.mark.parametrize("generals", [0, -1, 1.0, True, "2"])
def test_number_of_general_encoders_is_checked(generals: Any) -> None:
    message = f"generals must be a positive number of general encoders, got {generals!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiEncoderUNet(tiny_parts(), generals=generals)


def test_one_entry_per_general_encoder() -> None:
    message = "general must give one entry for each of 2 general encoders, got 3"
    with pytest.raises(ValueError, match=message):
        MultiEncoderUNet(tiny_parts(), generals=2, general=["copy"] * 3)


def test_one_source_per_general_encoder() -> None:
    model, x = MultiEncoderUNet(tiny_parts(), generals=2), torch.rand(SMALL)
    message = "source must hold one batch or None for each of 2 general encoders, got 1"
    with pytest.raises(ValueError, match=message):
        model(x, source=(x,))


def test_a_bare_source_for_several_general_encoders_is_refused() -> None:
    """Its rows would be taken for batches: two images, two general encoders."""
    model, x = MultiEncoderUNet(tiny_parts(), generals=2), torch.rand(SMALL)
    with pytest.raises((TypeError, ValueError), match="source"):
        model(x, source=x)


def test_concat_without_widen_names_project() -> None:
    message = (
        'fusion="concat" needs a decoder that takes more channels and there is no way to build one here; '
        'use fusion="project", or pass UNetParts(..., widen=function of the extra channels)'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(UNetParts(TinyEncoder(), TinyDecoder()), fusion="concat")


def test_general_encoder_of_other_strides_is_named_at_the_first_batch() -> None:
    own = TinyEncoder()
    own.coarse[0].stride = (1, 1)
    model = DualEncoderUNet(tiny_parts(), general=own)
    with pytest.raises(ValueError, match="the general encoders' bottlenecks must have the target encoder's shape"):
        model(torch.rand(SMALL))


def test_smoke() -> None:
    model = DualEncoderUNet(tiny_parts(), levels=(0, 1))
    assert "levels=(0, 1), route='paper', outputs='auto'" in repr(model)
