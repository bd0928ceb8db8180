"""Networks cut at a named bottleneck: `UNetParts.at`."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relcons import DualEncoderUNet, MultiEncoderUNet, RelationLoss, UNetParts
from relcons.parts.nested import Borrowed, Removed, Stop, Swap
from tests.models.checking import assert_same, perturb, scalar
from tests.models.networks import NestedUNet, TinyDecoder, TinyEncoder, tiny_parts

SMALL = (2, 1, 8, 8)


class Whole(nn.Module):
    """The network of `tiny_parts` as one module."""

    def __init__(self, parts: UNetParts) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = parts.encoder, parts.decoder, parts.head

    def forward(self, x: Tensor) -> Tensor:
        fine = self.encoder.fine(x)
        return self.head(self.decoder([fine, self.encoder.coarse(fine)]))


class Changed(NestedUNet):
    """Base of networks that cannot be cut, or not everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Conv2d(6, 6, 1)


class Twice(Changed):
    def forward(self, x: Tensor) -> Tensor:
        coarse = self.bottom(self.stages[1](self.stages[0](x)))
        return self.stages[2](self.bottom(coarse))


class DeadEnd(Changed):
    def forward(self, x: Tensor) -> Tensor:
        coarse = self.bottom(self.stages[1](self.stages[0](x)))
        self.extra(coarse)
        return self.stages[2](coarse)


class Hidden(Changed):
    """Reaches its bottleneck past the attribute that names it."""

    def __init__(self) -> None:
        super().__init__()
        self.way = [self.bottom]

    def forward(self, x: Tensor) -> Tensor:
        return self.stages[2](self.way[0](self.stages[1](self.stages[0](x))))


class Several(Changed):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.stages[2](self.pair(self.stages[1](self.stages[0](x)))[0])


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x.cos()


class Listing(NestedUNet):
    """Keeps its skip connection in a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.skips: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.skips.append(self.stages[0](x))
        coarse = self.bottom(self.stages[1](self.skips[-1]))
        return self.stages[2](coarse) + self.skips.pop()


class Hooked(NestedUNet):
    """A hook keeps its skip connection in a dictionary of its own, as networks around a backbone of others do."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        kept = self.kept
        self.stages[0].register_forward_hook(lambda *args: kept.update(skip=args[2]))

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.bottom(self.stages[1](self.stages[0](x)))
        return self.stages[2](coarse) + self.kept["skip"]


class Remembering(NestedUNet):
    """Keeps a map of its last pass as an attribute."""

    fine: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.fine = self.stages[0](x)
        return self.stages[2](self.bottom(self.stages[1](self.fine))) + self.fine


class Tokens(Changed):
    """Has a module on the way that returns tokens (B, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.bottom(self.stages[1](self.stages[0](x)))
        tokens = self.norm(coarse.flatten(2).transpose(1, 2))
        return self.stages[2](tokens.transpose(1, 2).view_as(coarse))


class WithAuxiliary(NestedUNet):
    """Has a second output in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        skip = self.stages[0](x)
        coarse = self.bottom(self.stages[1](skip))
        out = self.stages[2](coarse) + skip
        return [out, self.auxiliary(coarse)] if self.training else out


class Wanting(NestedUNet):
    """Takes batches that are more than tensors."""

    def forward(self, x: Any) -> Tensor:
        return super().forward(x.image)


class Elsewhere(NestedUNet):
    """Reaches a module in front of its bottleneck through a function bound to the network that was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.front = self.count

    def count(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.stages[0](x) * self.calls

    def forward(self, x: Tensor) -> Tensor:
        return self.stages[2](self.bottom(self.stages[1](self.front(x))))


class Named(NestedUNet):
    """Returns a dictionary, with nothing in one place."""

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        return {"out": super().forward(x), "auxiliary": None}


class Noisy(NestedUNet):
    """Runs a module in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.noise(x) if self.training else x)


class Running(NestedUNet):
    """Keeps statistics in buffers of the module around both sides: one updated in place, one assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
            self.mean = 0.5 * (self.mean + x.detach().mean())
        return super().forward(x - self.mean) / (1 + self.seen)


class Bundled(NestedUNet):
    """Layers of both sides in one module that is no container of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Module()
        self.layers.front = nn.Conv2d(1, 1, 1)
        self.layers.back = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.bottom(self.stages[1](self.stages[0](self.layers.front(x))))
        return self.stages[2](self.layers.back(coarse))


class InPlace(Changed):
    """The bottleneck and what follows as pix2pix has them: a convolution, then a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True))


class Attending(Changed):
    """Squeeze and excitation before the bottleneck: modules with maps of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())
        self.deep = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.LeakyReLU())

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.stages[1](self.stages[0](x))
        return self.stages[2](self.deep(coarse * self.squeeze(coarse)))


class Flat(nn.Module):
    """No module of it returns a map."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean((1, 2)))


class Checkpointed(NestedUNet):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.stages[1](self.stages[0](x))
        return self.stages[2](checkpoint(self.bottom, coarse, use_reentrant=self.reentrant))


class Reentrant(Checkpointed):
    reentrant = True


def at(net: nn.Module, name: str = "bottom", example: Any = (1, 1, 8, 8)) -> UNetParts:
    return UNetParts.at(net, name, example=example)


def test_smoke() -> None:
    for example in ((1, 1, 8, 8), [2, 1, 8, 8], torch.rand(SMALL), torch.Size(SMALL)):
        parts = at(NestedUNet(), example=example)
        assert parts.channels == (6,)
        assert parts.resolution == (4, 4)
        assert parts.widen is None
    output = DualEncoderUNet(parts)(torch.rand(SMALL), source=torch.rand(SMALL), unlabelled=torch.rand(3, 1, 8, 8))
    assert [tuple(maps[0].shape) for maps in (output.target, output.general, output.source)] == [
        (5, 6, 4, 4),
        (5, 6, 4, 4),
        (2, 6, 4, 4),
    ]


def test_reference() -> None:
    """Outputs and gradients are those of the same network split by hand."""
    for route in ("paper", "joint"):
        by_hand = DualEncoderUNet(tiny_parts(), route=route)
        perturb(by_hand)
        parts = tiny_parts()
        for name in ("encoder", "decoder", "head"):
            getattr(parts, name).load_state_dict(
                getattr(by_hand, {"encoder": "target_encoder"}.get(name, name)).state_dict()
            )
        cut = DualEncoderUNet(at(Whole(parts), "encoder.coarse"), route=route)
        # Names begin with the network's own; what comes after the model's four parts is the same.
        general = {f"net.encoder.{k}": v for k, v in by_hand.general_encoder.state_dict().items()}
        general = {k.replace("coarse.", "coarse.module."): v for k, v in general.items()}
        cut.general_encoder.load_state_dict(general)
        cut.fusion["0"].load_state_dict(by_hand.fusion["1"].state_dict())
        x, source, unlabelled = torch.rand(3, *SMALL)
        found = []
        for model in (by_hand, cut):
            output = model(x, source=source, unlabelled=unlabelled)
            (scalar(output.logits) + RelationLoss(weight=0.5, target=0.3)(output)).backward()
            found.append((output, sorted(float(p.grad.norm()) for p in model.parameters())))
        for one, other in zip(found[0][0], found[1][0], strict=True):
            assert_same(other[0] if isinstance(other, tuple) else other, one[0] if isinstance(one, tuple) else one)
        assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)


def test_parts_of_the_network_on_each_side() -> None:
    net = NestedUNet()
    model = DualEncoderUNet(at(net))
    assert {name for name, _ in model.target_encoder.named_parameters()} == {
        "net.scale",
        *(f"net.{name}.{kind}" for name in ("stages.0", "stages.1", "norms.down") for kind in ("weight", "bias")),
        *(f"net.bottom.module.0.{kind}" for kind in ("weight", "bias")),
    }
    assert {name for name, _ in model.decoder.named_parameters()} == {
        "net.shift",
        *(f"net.{name}.{kind}" for name in ("stages.2", "norms.up", "skip.0", "last") for kind in ("weight", "bias")),
    }
    general = model.general_encoder
    # What runs before the bottleneck stays, what runs behind it is gone, what the bottleneck ignores is not trained.
    assert isinstance(general.net.last, Removed)
    assert isinstance(general.net.stages[2], Removed)
    assert isinstance(general.net.norms["up"], Removed)
    assert {name for name, p in general.named_parameters() if not p.requires_grad} == {
        "net.shift",
        "net.skip.0.weight",
        "net.skip.0.bias",
    }
    assert isinstance(model.decoder.net.bottom, Swap)
    assert isinstance(model.decoder.net.stages[0], Borrowed)
    assert isinstance(model.target_encoder.net.bottom, Stop)
    assert type(net.bottom) is nn.Sequential


def test_a_module_with_layers_of_both_sides_is_divided() -> None:
    model = DualEncoderUNet(at(Bundled()))
    for part, there, away in ((model.target_encoder, "front", "back"), (model.decoder, "back", "front")):
        names = {name for name, _ in part.named_parameters()}
        assert {f"net.layers.{there}.weight", f"net.layers.{there}.bias"} <= names
        assert not any(f"layers.{away}" in name for name in names)


def test_net_is_left_alone() -> None:
    net = NestedUNet()
    net.scale.requires_grad_(False)
    net.stages[0].eval()
    before = {name: (id(m), m.training, len(m._forward_hooks)) for name, m in net.named_modules()}
    state = {name: (id(p), p.requires_grad) for name, p in net.named_parameters()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    at(net)
    assert {name: (id(m), m.training, len(m._forward_hooks)) for name, m in net.named_modules()} == before
    assert {name: (id(p), p.requires_grad) for name, p in net.named_parameters()} == state
    assert_same(dict(net.named_buffers()), buffers)


def test_a_frozen_encoder_is_still_the_encoder() -> None:
    net = NestedUNet()
    for layer in (net.stages[0], net.stages[1], net.bottom, net.norms["down"]):
        layer.requires_grad_(False)
    names = {name for name, _ in DualEncoderUNet(at(net)).target_encoder.named_parameters()}
    assert "net.stages.1.weight" in names
    assert "net.stages.2.weight" not in names


def test_the_network_runs_once() -> None:
    net = NestedUNet()
    model = DualEncoderUNet(at(net))
    calls: list[int] = []
    net.stages[0].register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(SMALL), source=torch.rand(SMALL))
    assert len(calls) == 1  # the general encoder has a first stage of its own


def test_what_follows_the_bottleneck_may_change_it_in_place() -> None:
    net, x = InPlace().eval(), torch.rand(SMALL)
    model = DualEncoderUNet(at(net, "bottom.0"), general="reset")
    output = model(x, source=x)
    assert torch.equal(output.logits, net(x))
    assert torch.equal(model(x), net(x))
    (target,) = output.target
    (single,) = model.target_encoder(x)
    assert torch.equal(target, single)
    assert target.min() < 0


def test_candidates_are_outermost_and_those_of_attention_last() -> None:
    with pytest.raises(ValueError, match=r"example: 'stages\.1', 'deep', 'squeeze'$"):
        at(Attending(), "nothing")


def test_where_gradients_are_off() -> None:
    net = NestedUNet()
    with torch.inference_mode():
        parts = at(net)
    assert parts.widths == (6,)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_nothing_outlives_the_pass() -> None:
    model = DualEncoderUNet(at(NestedUNet()))
    copies = [copy.deepcopy(model)]
    model(torch.rand(SMALL), source=torch.rand(SMALL)).logits.sum().backward()
    copies.append(copy.deepcopy(model))
    model.general_encoder.net.stages[1].stride = (1, 1)
    with pytest.raises(ValueError, match="maps must have the target encoder's shape"):
        model(torch.rand(SMALL))
    copies.append(copy.deepcopy(model))
    for twin in copies:
        swap = next(module for module in twin.modules() if isinstance(module, Swap))
        assert swap.fuse is None
        assert swap.bottleneck is None


def test_nothing_is_left_in_net() -> None:
    net = Remembering()
    at(net)
    assert net.fine is None
    copy.deepcopy(net)


def test_outputs_of_training_alone_keep_their_heads() -> None:
    net = WithAuxiliary()
    model = DualEncoderUNet(at(net)).train()
    assert all(parameter.requires_grad for parameter in net.auxiliary.parameters())
    outputs = model(torch.rand(SMALL))
    outputs[1].sum().backward()
    assert net.auxiliary.weight.grad is not None


def test_several_general_encoders() -> None:
    model = MultiEncoderUNet(at(NestedUNet()), generals=2)
    perturb(model)
    x, source = torch.rand(2, *SMALL)
    output = model(x, source=(source, None))
    assert [maps[0].shape[1] for maps in output.general] == [6, 6]
    assert not torch.equal(output.general[0][0], output.general[1][0])
    assert output.source[1] is None


def test_a_list_that_the_network_keeps_is_left_alone() -> None:
    net = Listing()
    with pytest.raises(ValueError, match="keeps maps in lists"):
        at(net)
    assert net.skips == []


def test_outputs_of_any_structure() -> None:
    net = Named()
    model = DualEncoderUNet(at(net)).eval()
    x = torch.rand(SMALL)
    assert torch.equal(model(x)["out"], net.eval()(x)["out"])
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_a_module_of_training_alone_stays() -> None:
    model = DualEncoderUNet(at(Noisy())).train()
    model(torch.rand(SMALL), source=torch.rand(SMALL), unlabelled=torch.rand(SMALL)).logits.sum().backward()
    assert isinstance(model.general_encoder.net.noise, nn.Dropout)


def test_tensors_of_a_module_with_both_sides_are_read_where_they_are_registered() -> None:
    """Loading with `assign=True`, as sharding and quantisation do, puts other parameters in their place."""
    model, other = (DualEncoderUNet(at(NestedUNet()), general="reset").eval() for _ in range(2))
    x = torch.rand(SMALL)
    model(x)
    perturb(other)
    model.load_state_dict(other.state_dict(), assign=True)
    for each in (model, copy.deepcopy(model)):
        assert torch.equal(each(x), other(x))
    model(x).sum().backward()
    assert model.target_encoder.net.scale.grad.abs() > 0


def test_buffers_of_a_module_with_both_sides_are_one() -> None:
    model, net = DualEncoderUNet(at(Running()), general="reset").double(), Running().double()
    for _ in range(3):
        x = torch.rand(SMALL).double()
        model(x)
        net(x)
    names = [name for name, _ in model.named_buffers() if name.endswith((".seen", "net.mean"))]
    assert names == [
        f"{part}.net.{name}" for part in ("target_encoder", "general_encoders.0") for name in ("seen", "mean")
    ]
    assert model.target_encoder.net.seen == net.seen == 3
    assert torch.equal(model.target_encoder.net.mean, net.mean)
    model.eval()
    before = model(x)
    model.target_encoder.net.seen.fill_(0)
    torch.testing.assert_close(model(x), 4 * before)


def test_average_of_weights() -> None:
    """A copy for an exponential moving average runs on its own weights."""
    model = DualEncoderUNet(at(NestedUNet()), general="reset").eval()
    x = torch.rand(SMALL)
    expected = model(x)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    perturb(model)
    assert torch.equal(average.eval()(x), expected)
    assert not torch.equal(model(x), expected)


def test_moves_to_another_type() -> None:
    model = DualEncoderUNet(at(NestedUNet()), general="reset").double()
    output = model(torch.rand(SMALL).double(), source=torch.rand(SMALL).double())
    assert output.logits.dtype == output.general[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("net", "name", "message"),
    [
        (
            NestedUNet(),
            "bottm",
            "NestedUNet has no module 'bottm'; of its modules these give its coarsest maps for the example: "
            "'stages.1', 'norms.down', 'bottom'",
        ),
        (NestedUNet(), "", "NestedUNet has no module ''"),
        (NestedUNet(), "stages", "module 'stages' of NestedUNet ran 0 times for the example, and must run once"),
        (Twice(), "bottom", "module 'bottom' of Twice ran 2 times for the example, and must run once"),
        (DeadEnd(), "extra", "module 'extra' of DeadEnd does not decide what the network returns"),
        (
            Several(),
            "pair",
            "module 'pair' of Several must return a map (B, C, *spatial), and returns tuple; modules that give the",
        ),
        (
            Hidden(),
            "bottom",
            "Hidden cannot be cut at 'bottom': it calls that module by another way than the attribute that names it",
        ),
        (Hooked(), "bottom", "Hooked cannot be cut at 'bottom': "),
        (
            Tokens(),
            "norm",
            "module 'norm' of Tokens must return a map (B, C, *spatial), and returns of shape (1, 16, 6)",
        ),
        (Wanting(), "bottom", "example: Wanting does not take a batch of shape"),
        (Listing(), "bottom", "Listing cannot be cut at 'bottom': it keeps maps in lists or dictionaries of its own"),
        (Elsewhere(), "bottom", "Elsewhere cannot be cut at 'bottom': a copy of it does not give what it gives"),
        (
            Flat(),
            "bottom",
            "Flat has no module 'bottom'; of its modules these give its coarsest maps for the example: none",
        ),
        (Reentrant(), "bottom", "Reentrant hides its graph in reentrant checkpoints; switch them off, or use"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_exception(net: nn.Module, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        at(net, name)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((1, 3, 8, 8), "example: NestedUNet does not take a batch of shape (1, 3, 8, 8) ("),
        ((8, 8), "example must be a batch (B, C, *spatial) that NestedUNet takes, or its shape, got (8, 8)"),
        ((1, 1, 0, 8), "or its shape, got (1, 1, 0, 8)"),
        (64, "or its shape, got 64"),
    ],
)
def test_exception_of_the_example(example: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        at(NestedUNet(), example=example)


def test_exception_of_what_is_no_network() -> None:
    with pytest.raises(TypeError, match=r"net must be a torch\.nn\.Module, got UNetParts"):
        at(tiny_parts())  # type: ignore[arg-type]


def test_exception_of_concatenation() -> None:
    with pytest.raises(ValueError, match='use fusion="project"'):
        DualEncoderUNet(at(NestedUNet()), fusion="concat")


def test_exception_of_a_checkpoint_around_the_bottleneck() -> None:
    model = DualEncoderUNet(at(Checkpointed()))
    with pytest.raises(RuntimeError, match="run outside of the model's forward pass, as activation checkpoints"):
        model(torch.rand(SMALL)).sum().backward()


def test_exception_of_another_way_through_the_network() -> None:
    class Moody(TinyEncoder):
        short = False

        def forward(self, x: Tensor) -> Tensor:
            fine = self.fine(x)
            return fine if self.short else TinyDecoder.forward(self.rest, [fine, self.coarse(fine)])

    net = Moody()
    net.rest = TinyDecoder()
    model = DualEncoderUNet(at(net, "coarse"))
    model.general_encoder.net.short = True
    with pytest.raises(RuntimeError, match="returned without passing its bottleneck"):
        model(torch.rand(SMALL))
