"""What a caller sees of the model's outputs; what holds for every network is in contract.py."""

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
    split_unet,
)
from tests.models.checking import assert_same, different, flat, perturb, scalar
from tests.models.networks import BATCH_NORMS, TinyDecoder, TinyEncoder, dna_net, smp_net, tiny_parts

SMALL = (2, 1, 8, 8)


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
    assert deep
    assert not any(deep)
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


class Reversed(TinyDecoder):
    """Its result comes last."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine = super().forward(maps)
        return [fine[..., ::2, ::2], fine]


def test_auto_refuses_outputs_of_which_the_first_is_not_the_finest() -> None:
    parts, x = UNetParts(TinyEncoder(), Reversed()), torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="net returns 2 maps and the first is not finer than all others"):
        DualEncoderUNet(parts)
    assert [tuple(t.shape[2:]) for t in DualEncoderUNet(parts, outputs="native").eval()(x)] == [(4, 4), (8, 8)]


class Auxiliary(nn.Module):
    """A head with a second, coarser output in training; its weight is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Conv2d(4, 2, 1)
        self.weight = nn.Parameter(torch.randn(2, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return [self.main(x), nn.functional.conv2d(x[..., ::2, ::2], self.weight)] if self.training else self.main(x)


class Leaf(Auxiliary):
    """The same without a child."""

    def __init__(self) -> None:
        super().__init__()
        del self.main

    def main(self, x: Tensor) -> Tensor:
        return x[:, :2]


@pytest.mark.parametrize("head", [Auxiliary, Leaf])
def test_what_a_head_runs_in_training_alone_is_trained(head: type[nn.Module]) -> None:
    model = DualEncoderUNet(UNetParts(TinyEncoder(), TinyDecoder(), head()))
    assert model.training
    sum(output.sum() for output in model(torch.rand(2, 1, 8, 8))).backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert isinstance(model.eval()(torch.rand(2, 1, 8, 8)), Tensor)


def test_net_stays_trainable_where_gradients_are_off() -> None:
    parts = tiny_parts()
    with torch.inference_mode():
        model = DualEncoderUNet(parts, general="reset", fusion="concat")
    x = torch.rand(2, 1, 8, 8)
    output = model(x, source=x)
    (output.logits.sum() + RelationLoss()(output)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Skipping(TinyEncoder):
    """Stochastic depth: in training a block may be skipped, here always."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(6, 6, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine, coarse = super().forward(x)
        return [fine, coarse if self.training else self.block(coarse)]


def test_what_is_skipped_in_training_at_random_is_no_dead_end() -> None:
    model = DualEncoderUNet(UNetParts(Skipping(), TinyDecoder(), nn.Conv2d(4, 1, 1)))
    assert all(parameter.requires_grad for parameter in model.parameters())


class Named(TinyEncoder):
    def forward(self, x: Tensor) -> dict[int, Tensor]:
        return dict(enumerate(super().forward(x)))


class Single(TinyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[-1]


class Starred(TinyDecoder):
    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return super().forward([fine, coarse])


@pytest.mark.parametrize(
    ("encoder", "decoder", "reason"),
    [
        (Named, TinyDecoder, r"net: encoder\(x\) must return a list of maps \(B, C, \*spatial\), .*, got dict"),
        (Single, TinyDecoder, r"net: encoder\(x\) must return a list of maps .*, got Tensor"),
        (TinyEncoder, Starred, r"net: .*head\(decoder\(encoder\(x\)\)\) \(.*argument: 'coarse'\); decoder takes"),
    ],
)
def test_parts_that_do_not_run_one_after_another_are_refused(
    encoder: type[nn.Module], decoder: type[nn.Module], reason: str
) -> None:
    with pytest.raises(TypeError, match=reason):
        DualEncoderUNet(UNetParts(encoder(), decoder(), nn.Conv2d(4, 1, 1)))


def test_an_own_general_encoder_without_a_list_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"general: encoder\(x\) must return a list of maps .*, got dict"):
        DualEncoderUNet(tiny_parts(), general=Named())


def test_a_list_of_sources_is_refused_by_the_dual_model() -> None:
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(TypeError, match=r"source must be a batch \(B, C, \*spatial\), got list; one per general"):
        DualEncoderUNet(tiny_parts())(x, source=[x])


def test_widths_that_the_encoder_does_not_have_are_refused() -> None:
    parts = UNetParts(TinyEncoder(), TinyDecoder(), channels=(4, 8))
    with pytest.raises(ValueError, match=r"channels says .* have widths \(4, 8\), and they have \(4, 6\)"):
        DualEncoderUNet(parts)


def test_own_general_encoder_follows_the_mode_of_net() -> None:
    own = TinyEncoder(norm=BATCH_NORMS[1]).eval()
    model = DualEncoderUNet(tiny_parts(), general=own)
    assert model.training
    assert all(module.training for module in model.general_encoder.modules())


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


@pytest.mark.parametrize("net", [dna_net(), dna_net(axes=3), smp_net()], ids=["dna-2D", "dna-3D", "smp"])
def test_skips_join_where_fuse_levels_names_them(net: nn.Module) -> None:
    parts = split_unet(net)
    axes = next(p.ndim for p in net.parameters() if p.ndim > 2) - 2
    levels = tuple(level for level, width in enumerate(parts.widths) if width > 1)
    x, source = (torch.rand(2, 1, *[64 if parts.widths[0] == 1 else 8] * axes) for _ in range(2))
    single = head_of(parts)(parts.decoder(parts.encoder(x)))
    model = MultiEncoderUNet(net, generals=2, fuse_levels=levels)
    assert_same(model(x), single)  # starts as the single network, as with the bottleneck alone
    for fusion in ("project", "concat"):
        model = MultiEncoderUNet(net, generals=2, general="reset", fusion=fusion, fuse_levels=levels)
        seen: list[list[int]] = []
        model.decoder.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append([m.shape[1] for m in inputs[0]])
        )
        output = model(x, source=(source, source))
        factor = 3 if fusion == "concat" else 1
        assert seen == [[width * (factor if n in levels else 1) for n, width in enumerate(parts.widths)]]
        (scalar(output.logits) + RelationLoss()(output)).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert not [p for p in model.fusion.parameters() if not p.requires_grad]


def head_of(parts: UNetParts) -> nn.Module:
    return nn.Identity() if parts.head is None else parts.head


def test_every_fused_level_reads_the_general_encoder() -> None:
    x = torch.rand(2, 1, 16, 16)
    for level in (0, 1, 2):
        model = DualEncoderUNet(dna_net(), fuse_levels=(level,)).eval()
        perturb(model.fusion)
        before = model(x)
        perturb(model.general_encoder)
        assert not torch.equal(model(x), before)
        assert list(dict(model.fusion.named_parameters())) == [f"{level}.weight", f"{level}.bias"]


@pytest.mark.parametrize("route", ["paper", "joint"])
def test_fused_skips_keep_the_route(route: str) -> None:
    model = DualEncoderUNet(
        dna_net(), general="reset", fusion="concat", levels=(0, -1), fuse_levels=(0, 1, 2), route=route
    )
    router = GradientRouter(torch.optim.SGD(model.parameter_groups(), lr=0.1), model.routes(), model=model)
    output = model(torch.rand(2, 1, 16, 16), source=torch.rand(2, 1, 16, 16))
    terms = RelationLoss().terms(output)
    losses = {"segmentation": scalar(output.logits), "general": terms.general, "target": terms.target}
    assert not any(router.check(losses).values())
    narrow = GradientRouter(router.optimizer, {"segmentation": ["decoder"]}, model=model)
    reached = narrow.check({"segmentation": losses["segmentation"]})["segmentation"]
    assert any(name.startswith("general_encoders") for name in reached) == (route == "joint")


@pytest.mark.parametrize("route", ["paper", "joint"])
def test_the_router_clips_by_the_models_sets(route: str) -> None:
    """They are those that the routes link, whether the router knows the model or the routes alone."""
    model = MultiEncoderUNet(tiny_parts(), generals=2, route=route)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = [
        {frozenset(parameters) for parameters in GradientRouter(optimizer, model.routes(), model=known)._clip_sets()}
        for known in (model, None)
    ]
    assert found[0] == found[1] == {frozenset(parameters) for parameters in model.clip_sets()}
    assert len(found[0]) == (1 if route == "joint" else 2)


def test_the_router_clips_what_is_routed_alone() -> None:
    model = DualEncoderUNet(tiny_parts())
    router = GradientRouter(torch.optim.SGD(model.parameters(), lr=0.1), {"target": ["target_encoder"]}, model=model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in model.parameters()]
    router.step(clip=1e-3)
    moved = {id(p): (p - b).abs().max().item() for p, b in zip(model.parameters(), before, strict=True)}
    assert max(moved[id(p)] for p in model.target_encoder.parameters()) < 1e-4
    assert all(moved[id(p)] == pytest.approx(0.1, rel=1e-4) for p in model.decoder.parameters())


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


def test_smoke() -> None:
    model = DualEncoderUNet(tiny_parts(), levels=(0, 1))
    assert "levels=(0, 1), fuse_levels=(1,), route='paper', outputs='auto'" in repr(model)
