import math
import pickle
import re
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from torch import nn

from relcons import DualEncoderUNet, split_unet
from tests.models.checking import assert_drawn_alike, assert_same
from tests.models.networks import dna_net

TABLE_1 = {
    "axes": 3,
    "features": (32, 64, 128, 256, 320, 320),
    "kernel_sizes": [(1, 3, 3)] + [(3, 3, 3)] * 5,
    "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)],
}
TABLE_2 = {"axes": 2, "features": (32, 64, 128, 256, 480, 480, 480)}


class Renamed(PlainConvUNet):
    pass


class WithArguments(PlainConvUNet):
    def __init__(self) -> None:
        super().__init__(1, 2, (4, 6), nn.Conv2d, 3, (1, 2), 1, 2, 1)


@pytest.mark.parametrize(
    ("table", "single", "dual"),
    [(TABLE_2, 29_966_118, 43_543_878), (TABLE_1, 30_702_693, 45_118_405)],
    ids=["2D", "3D"],
)
def test_cardinality_of_the_papers_networks(table: dict[str, Any], single: int, dual: int) -> None:
    with torch.device("meta"):
        net = dna_net(**table, n_conv_per_stage=2, n_conv_per_stage_decoder=2, num_classes=1)
        model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert sum(p.numel() for p in net.parameters()) == single
    assert sum(p.numel() for p in model.parameters()) == dual
    assert all(p.requires_grad for p in model.parameters())


def test_the_decoders_first_layer_takes_both_bottlenecks() -> None:
    net = dna_net(features=(4, 6, 8))
    model = DualEncoderUNet(net, fusion="concat")
    assert net.decoder.transpconvs[0].in_channels == 8
    assert model.decoder.transpconvs[0].in_channels == 16
    assert model.decoder.transpconvs[1].in_channels == net.decoder.transpconvs[1].in_channels


def test_decoder_does_not_hold_the_encoder() -> None:
    net = dna_net()
    for fusion in ("project", "concat"):
        model = DualEncoderUNet(net, fusion=fusion)
        assert not set(model.decoder.parameters()) & set(net.encoder.parameters())
        assert not any(name.startswith("encoder") for name in model.decoder.state_dict())
    assert net.decoder.encoder is net.encoder
    assert any(name.startswith("decoder.encoder") for name in net.state_dict())


def test_fresh_encoders_have_fresh_norms() -> None:
    """The networks' own initialiser draws convolutions alone."""
    net = dna_net()
    with torch.no_grad():
        for parameter in net.encoder.parameters():
            parameter.fill_(3.0)
    fresh = dict(DualEncoderUNet(net, general="reset").general_encoder.named_parameters())
    scales = [value for name, value in fresh.items() if name.endswith("norm.weight")]
    assert scales
    assert all(torch.equal(value, torch.ones_like(value)) for value in scales)


@pytest.mark.parametrize("kind", [PlainConvUNet, ResidualEncoderUNet])
def test_fresh_weights_follow_the_networks_own_initialiser(kind: type[nn.Module]) -> None:
    net = dna_net(kind, features=(16, 32, 48))
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert_drawn_alike(model.general_encoder, model.target_encoder)
    assert_drawn_alike(model.decoder, net.decoder)
    if kind is PlainConvUNet:
        weight = model.general_encoder.stages[2][0].convs[1].conv.weight
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 1e-4) / (48 * 9)), rel=0.03)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_conv_per_stage_decoder": [1, 3]},
        {"norm_op": None, "norm_op_kwargs": None},
        {"dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.2}},
        {"conv_bias": False},
        {"nonlin_first": True},
        {"nonlin": nn.GELU, "nonlin_kwargs": {}},
        {"norm_op": nn.BatchNorm2d, "norm_op_kwargs": {"eps": 1e-3}},
        {"kernel_sizes": [(1, 3), (3, 3), (3, 5)], "strides": [(1, 1), (1, 2), (2, 2)]},
        {"deep_supervision": False},
    ],
    ids=str,
)
def test_wider_decoder_keeps_the_networks_arguments(arguments: dict[str, Any]) -> None:
    net = dna_net(**arguments)
    model = DualEncoderUNet(net, fusion="concat")
    for number, (mine, theirs) in enumerate(zip(model.decoder.stages, net.decoder.stages, strict=True)):
        assert repr(mine) == repr(theirs), number
    assert repr(model.decoder.transpconvs[1:]) == repr(net.decoder.transpconvs[1:])
    assert repr(model.decoder.seg_layers) == repr(net.decoder.seg_layers)
    assert model.decoder.deep_supervision == net.decoder.deep_supervision
    first = repr(net.decoder.transpconvs[0]).replace("ConvTranspose2d(8, ", "ConvTranspose2d(16, ")
    assert repr(model.decoder.transpconvs[0]) == first
    x = torch.rand(2, 1, 16, 16)
    for mine, theirs in zip(as_list(model(x)), as_list(net(x)), strict=True):
        assert mine.shape == theirs.shape


def as_list(logits: Any) -> list[torch.Tensor]:
    return logits if isinstance(logits, list) else [logits]


def test_changed_decoder_names_project() -> None:
    net = dna_net()
    net.decoder.stages[0].convs[0].nonlin = net.decoder.stages[0].convs[0].all_modules[2] = nn.GELU()
    message = (
        'fusion="concat": the decoder of this PlainConvUNet is not the one that the library builds for its '
        'encoder; use fusion="project"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(net, fusion="concat")
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(DualEncoderUNet(net).eval()(x), net.eval()(x)[0])


def test_changed_segmentation_layers_name_project() -> None:
    """A head replaced for fine-tuning to another number of classes."""
    net = dna_net()
    net.decoder.seg_layers[-1] = nn.Conv2d(4, 5, 1)
    x = torch.rand(1, 1, 16, 16)
    assert DualEncoderUNet(net).eval()(x).shape[1] == 5
    with pytest.raises(ValueError, match="project"):
        DualEncoderUNet(net, fusion="concat")


@pytest.mark.parametrize("fusion", ["project", "concat"])
@pytest.mark.parametrize("build", [lambda: dna_net(Renamed), WithArguments])
def test_subclasses_are_split(build: Any, fusion: str) -> None:
    net = build().train()
    model = DualEncoderUNet(net, general="reset", fusion=fusion)
    x = torch.rand(2, 1, 16, 16)
    assert [m.shape for m in as_list(model(x))] == [m.shape for m in as_list(net(x))]


def test_networks_without_a_known_decoder_are_refused() -> None:
    net = ResidualUNet(1, 2, (4, 6), nn.Conv2d, 3, (1, 2), 1, 2, 1, norm_op=nn.InstanceNorm2d, nonlin=nn.ReLU)
    message = (
        "cannot split ResidualUNet: supported of dynamic-network-architectures are networks with an encoder that "
        "returns its skips and a UNetDecoder (PlainConvUNet, ResidualEncoderUNet)"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        DualEncoderUNet(net)
    net = dna_net()
    net.encoder.return_skips = False
    with pytest.raises(TypeError, match=re.escape("cannot split PlainConvUNet: supported of")):
        split_unet(net)


def test_residual_networks_become_picklable_and_stay_what_they_were() -> None:
    net, x = dna_net(ResidualEncoderUNet, features=(4, 4, 6)), torch.rand(2, 1, 16, 16)
    before = [output.clone() for output in net(x)]
    model = DualEncoderUNet(net)
    assert_same(net(x), before)
    assert_same(pickle.loads(pickle.dumps(model))(x), model(x))
    assert_same(pickle.loads(pickle.dumps(net))(x), before)


@pytest.mark.parametrize("name", ["x", "source", "unlabelled"])
def test_sizes_that_do_not_divide(name: str) -> None:
    model = DualEncoderUNet(dna_net(axes=3, strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)]))
    good = torch.rand(2, 1, 4, 8, 8)
    batches = {"x": good, "source": good, name: torch.rand(2, 1, 5, 10, 8)}
    message = (
        f"{name} must have spatial sizes that are multiples of (2, 4, 4), got (5, 10, 8); "
        "pad or crop it, for example to (6, 12, 8)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**batches)


def test_a_slice_for_a_network_of_volumes() -> None:
    message = "x must be (B, C, *spatial) with 3 spatial axes, got (2, 1, 16, 16)"
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(dna_net(axes=3))(torch.rand(2, 1, 16, 16))


def test_first_map_is_a_level() -> None:
    model = DualEncoderUNet(dna_net(), levels=(0, -1))
    assert [m.shape[1] for m in model(torch.rand(2, 1, 16, 16), features=True).target] == [4, 8]


def test_outputs_that_deep_supervision_leaves_out_are_not_trainable() -> None:
    model = DualEncoderUNet(dna_net(deep_supervision=False))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"}
    assert all(p.requires_grad for p in DualEncoderUNet(dna_net(deep_supervision=True)).parameters())


def test_deep_supervision_is_switched_as_nnunet_does() -> None:
    model, x = DualEncoderUNet(dna_net()).train(), torch.rand(2, 1, 16, 16)
    model.decoder.deep_supervision = False
    single = model(x)
    model.decoder.deep_supervision = True
    assert torch.equal(model(x)[0], single)


def test_fresh_parts_train_although_net_was_frozen() -> None:
    """A frozen pretrained network: its encoder stays frozen, what is drawn anew must learn."""
    net = dna_net()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert not any(p.requires_grad for p in model.target_encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())
    assert all(p.requires_grad for p in model.general_encoder.parameters())


def test_hooks_on_the_model_do_not_land_on_net() -> None:
    net, calls = dna_net(), []
    model = DualEncoderUNet(net)
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    net(torch.rand(2, 1, 16, 16))
    assert calls == []


def test_two_models_of_one_net_share_net_and_nothing_else() -> None:
    net = dna_net()
    first, second = DualEncoderUNet(net, general="reset"), DualEncoderUNet(net)
    assert set(first.parameters()) & set(second.parameters()) == set(net.parameters())
