import math
import re
from typing import Any

import monai.networks.nets as nets
import pytest
import torch
from monai.networks.blocks.dynunet_block import UnetUpBlock
from monai.networks.blocks.segresnet_block import get_conv_layer
from monai.networks.blocks.unetr_block import UnetrUpBlock
from monai.networks.nets.segresnet import SegResNetVAE
from monai.networks.nets.unet import CheckpointUNet
from torch import nn

from relcons import DualEncoderUNet, RelationLoss, split_unet
from tests.models.checking import assert_drawn_alike, scalar
from tests.models.networks import monai_net, quiet

SPLIT = ("SegResNet", "FlexibleUNet", "BasicUNet", "DynUNet", "SwinUNETR")
NESTED = ("UNet", "AttentionUnet", "VNet")
SIDES = {"FlexibleUNet": 64, "BasicUNet": 32, "SwinUNETR": 64, "VNet": 32}

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in (*SPLIT, *NESTED)],
    ("SegResNet", {"dropout_prob": 0.2}),
    ("SegResNet", {"upsample_mode": "deconv", "norm": "batch"}),
    ("SegResNet", {"upsample_mode": "pixelshuffle"}),
    ("FlexibleUNet", {"backbone": "efficientnet-b0"}),
    ("FlexibleUNet", {"upsample": "pixelshuffle", "dropout": 0.1}),
    ("FlexibleUNet", {"upsample": "deconv", "is_pad": False}),
    ("BasicUNet", {"upsample": "nontrainable", "norm": "batch", "dropout": 0.1}),
    ("BasicUNet", {"upsample": "pixelshuffle"}),
    ("DynUNet", {"res_block": True, "trans_bias": True, "dropout": 0.1}),
    ("DynUNet", {"strides": [(1, 1), (1, 2), 2, 2], "upsample_kernel_size": [(1, 2), 2, 2]}),
    ("DynUNet", {"deep_supervision": True}),
    ("SwinUNETR", {"normalize": False, "use_v2": True, "drop_rate": 0.1}),
    ("UNet", {"num_res_units": 0, "channels": (4, 6), "strides": (2,)}),
    ("UNet", {"channels": (4, 6, 8, 10), "strides": (2, 1, 2), "act": "relu", "dropout": 0.1}),
    ("AttentionUnet", {"channels": (4, 6), "strides": (2,), "dropout": 0.1}),
    ("VNet", {"dropout_prob_down": None, "dropout_prob_up": (None, 0.5)}),
]
IDS = [f"{name}-{'-'.join(options) or 'plain'}" for name, options in OPTIONS]


def batch(name: str, axes: int = 2, samples: int = 2) -> torch.Tensor:
    return torch.randn(samples, 1, *[SIDES.get(name, 16)] * axes)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_reference_is_the_networks_own_forward_pass(name: str, options: dict[str, Any]) -> None:
    net, x = monai_net(name, **options), batch(name)
    quiet(net)
    model = DualEncoderUNet(net, outputs="native")
    for training in (False, True):
        net.train(training)
        model.train(training)
        assert torch.equal(model(x), net(x))


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_parameters_are_the_networks_each_once(name: str, options: dict[str, Any]) -> None:
    net = monai_net(name, **options)
    model = DualEncoderUNet(net)
    added = {*model.general_encoder.parameters(), *model.fusion.parameters()}
    own = [p for p in model.parameters() if p not in added]
    assert len(own) == len(set(own))
    assert set(own) == set(net.parameters())


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n, o in OPTIONS if n in SPLIT], ids=[i for i in IDS if i.split("-")[0] in SPLIT]
)
def test_fresh_and_wider_parts_keep_the_networks_arguments(name: str, options: dict[str, Any]) -> None:
    net, x = monai_net(name, **options), batch(name)
    model = DualEncoderUNet(net, general="reset", fusion="concat")
    assert repr(model.general_encoder) == repr(model.target_encoder)
    assert_drawn_alike(model.general_encoder, model.target_encoder)
    assert_drawn_alike(model.decoder, split_unet(net).decoder)
    output = model(x, source=x)
    assert (
        torch.stack([*output.logits]).shape
        == torch.stack([*net(x)]).transpose(0, 1 if isinstance(output.logits, list) else 0).shape
    )
    (scalar(output.logits) + RelationLoss()(output)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("number", [1, 2])
def test_deep_supervision_is_a_list_finest_first_or_stacked(number: int) -> None:
    net, x = monai_net("DynUNet", deep_supervision=True, deep_supr_num=number), batch("DynUNet")
    model, native = DualEncoderUNet(net).train(), DualEncoderUNet(net, outputs="native").train()
    expected = net.train()(x)
    assert expected.shape[1] == number + 1
    outputs = model(x)
    assert isinstance(outputs, list)
    assert len(outputs) == number + 1
    assert all(torch.equal(one, other) for one, other in zip(outputs, expected.unbind(1), strict=True))
    assert torch.equal(native(x), expected)
    for each in (model, native):
        assert torch.equal(each.eval()(x), net.eval()(x))
    assert all(p.requires_grad for p in model.parameters())


def test_deep_supervision_with_a_decoder_in_evaluation_mode() -> None:
    net, x = monai_net("DynUNet", deep_supervision=True, deep_supr_num=2), batch("DynUNet")
    model = DualEncoderUNet(net).train()
    model.decoder.eval()
    assert model(x).shape == (2, 2, *x.shape[2:])


@pytest.mark.parametrize("fusion", ["project", "concat"])
@pytest.mark.parametrize("name", ["FlexibleUNet", "BasicUNet", "DynUNet", "SwinUNETR"])
def test_skips_are_fused_on_request(name: str, fusion: str) -> None:
    model = DualEncoderUNet(monai_net(name), fusion=fusion, fuse_levels=(1, -1))
    x = batch(name)
    assert model(x).shape == (2, 2, *x.shape[2:])


def test_skips_that_are_added_cannot_be_concatenated() -> None:
    net = monai_net("SegResNet")
    assert DualEncoderUNet(net, fuse_levels=(0, -1))(batch("SegResNet")).shape[1] == 2
    message = 'fusion="concat": the decoder of SegResNet does not concatenate all of these maps'
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DualEncoderUNet(net, fusion="concat", fuse_levels=(0, -1))
    assert 'use fusion="project", or leave skip connections out of fuse_levels' in str(caught.value)


def test_wider_first_layers_are_those_that_monai_builds() -> None:
    dyn = DualEncoderUNet(monai_net("DynUNet"), fusion="concat").decoder.upsamples[0]
    norm = ("INSTANCE", {"affine": True})
    assert repr(dyn) == repr(UnetUpBlock(2, 20, 8, 3, 2, 2, norm))
    swin = DualEncoderUNet(monai_net("SwinUNETR"), fusion="concat").decoder.decoder5
    assert repr(swin) == repr(UnetrUpBlock(2, 2 * 16 * 12, 8 * 12, 3, 2, "instance", res_block=True))
    seg = DualEncoderUNet(monai_net("SegResNet"), fusion="concat").decoder.up_samples[0][0]
    assert repr(seg) == repr(get_conv_layer(2, 2 * 32, 16, kernel_size=1))


def test_weights_are_drawn_as_monai_draws_them() -> None:
    dyn = DualEncoderUNet(
        monai_net("DynUNet", filters=[16, 24, 32, 64], trans_bias=True), general="reset", fusion="concat"
    )
    weight = dyn.general_encoder.bottleneck.conv2.conv.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (1 + 1e-4) / (64 * 9)), rel=0.03)
    assert dyn.decoder.upsamples[0].transp_conv.conv.bias.count_nonzero() == 0
    swin = DualEncoderUNet(monai_net("SwinUNETR", window_size=4, num_heads=(3, 6, 12, 24)), general="reset")
    tables = [p for name, p in swin.general_encoder.named_parameters() if name.endswith("bias_table")]
    assert torch.cat([table.flatten() for table in tables]).std().item() == pytest.approx(0.02, rel=0.1)
    shuffling = DualEncoderUNet(monai_net("BasicUNet", upsample="pixelshuffle"), fusion="concat")
    shuffled = shuffling.decoder.upcat_4.upsample.pixelshuffle.conv_block.weight
    assert shuffled.shape[1] == 16
    for group in shuffled.split(4):  # the four outputs that one pixel becomes start alike
        assert all(torch.equal(kernel, group[0]) for kernel in group)


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("UNet", {}, 8),
        ("UNet", {"channels": (4, 6), "strides": (2,)}, 6),
        ("UNet", {"channels": (4, 6, 8, 10), "strides": (2, 2, 2)}, 10),
        ("AttentionUnet", {}, 8),
        ("AttentionUnet", {"channels": (4, 6, 8, 10), "strides": (2, 2, 2)}, 10),
        ("VNet", {}, 256),
    ],
)
def test_nested_networks_are_cut_at_their_bottleneck(name: str, options: dict[str, Any], width: int) -> None:
    net = monai_net(name, **options)
    assert split_unet(net).widths == (width,)
    net_strides = options.get("strides", (2,) * 4 if name == "VNet" else (2, 2))
    model, x = DualEncoderUNet(net), batch(name)
    coarse = x.shape[2] // math.prod(net_strides)
    assert model(x, features=True).target[0].shape == (2, width, coarse, coarse)


@pytest.mark.parametrize("name", NESTED)
def test_nested_networks_name_project(name: str) -> None:
    with pytest.raises(ValueError, match='use fusion="project"'):
        DualEncoderUNet(monai_net(name), fusion="concat")


@pytest.mark.parametrize("name", [*SPLIT, *NESTED])
def test_mode_type_and_subclasses_are_followed(name: str) -> None:
    kind = getattr(nets, name)
    net = monai_net(name)
    net.__class__ = type("Mine", (kind,), {})
    net.double().eval()
    for fusion in ("project",) if name in NESTED else ("project", "concat"):
        model = DualEncoderUNet(net, general="reset", fusion=fusion)
        # Where a network is cut, what stands in for its other side has no mode that matters.
        layers = [m for m in model.modules() if name in SPLIT or not type(m).__module__.startswith("relcons")]
        assert not any(layer.training for layer in layers)
        assert model(batch(name).double()).dtype == torch.float64


def unsupported(name: str) -> nn.Module:
    if name == "SegResNetDS":
        return nets.SegResNetDS(spatial_dims=2, init_filters=8, blocks_down=(1, 1))
    if name == "SegResNetVAE":
        return SegResNetVAE((16, 16), spatial_dims=2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,))
    return type("Doubled", (nets.SegResNet,), {"encode": lambda self, x: nets.SegResNet.encode(self, 2 * x)})(
        spatial_dims=2
    )


@pytest.mark.parametrize("name", ["SegResNetDS", "SegResNetVAE", "Doubled"])
def test_other_networks_are_refused(name: str) -> None:
    message = (
        f"cannot split {name}: supported of MONAI are SegResNet, FlexibleUNet, BasicUNet, DynUNet, SwinUNETR, UNet, "
        "AttentionUnet, VNet and their subclasses with the same forward pass; pass any other as "
        "relcons.UNetParts(encoder, decoder, head, channels=...), or as relcons.UNetParts.at(net, name of its "
        "bottleneck module, example=...)"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        split_unet(unsupported(name))


def test_a_bottleneck_that_is_computed_again_is_refused() -> None:
    net = CheckpointUNet(2, 1, 2, channels=(4, 6, 8), strides=(2, 2))
    with pytest.raises(TypeError, match="cannot split CheckpointUNet: it runs its bottleneck "):
        split_unet(net)


def test_changed_backbone_is_not_reset() -> None:
    net = monai_net("FlexibleUNet")
    net.encoder.layer1[0].act = nn.GELU()
    with pytest.raises(
        ValueError, match=re.escape("general=\"reset\": the backbone that 'resnet10' names is not like")
    ):
        DualEncoderUNet(net, general="reset")
    assert isinstance(DualEncoderUNet(net).general_encoder.layer1[0].act, nn.GELU)


def test_backbone_is_rebuilt_for_its_own_network() -> None:
    """MONAI keeps the arguments of the network that it built last in a table."""
    net = monai_net("FlexibleUNet", in_channels=3)
    monai_net("FlexibleUNet", 3)
    model = DualEncoderUNet(net, general="reset")
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 2, 64, 64)


@pytest.mark.parametrize(
    ("name", "options", "divisors"),
    [
        ("SegResNet", {}, (4, 4)),
        ("DynUNet", {"strides": [(1, 1), (1, 2), 2, 2], "upsample_kernel_size": [(1, 2), 2, 2]}, (4, 8)),
        ("SwinUNETR", {}, (32, 32)),
        ("FlexibleUNet", {"is_pad": False}, (32, 32)),
    ],
)
def test_sizes_that_a_network_insists_on(name: str, options: dict[str, Any], divisors: tuple[int, ...]) -> None:
    net = monai_net(name, **options)
    parts = split_unet(net)
    assert parts.divisors == divisors
    odd = torch.randn(2, 1, 71, 75)
    with pytest.raises((RuntimeError, ValueError)):
        net(odd)
    with pytest.raises(ValueError, match=re.escape(f"x must have spatial sizes that are multiples of {divisors}")):
        DualEncoderUNet(net)(odd)


@pytest.mark.parametrize(("name", "side"), [("BasicUNet", 67), ("FlexibleUNet", 63)])
def test_networks_that_pad_take_other_sizes(name: str, side: int) -> None:
    net, odd = monai_net(name).eval(), torch.randn(1, 1, side, side)
    assert split_unet(net).divisors is None
    assert torch.equal(DualEncoderUNet(net)(odd), net(odd))


def test_final_convolution_that_is_left_out() -> None:
    net = monai_net("SegResNet", use_conv_final=False).eval()
    parts, x = split_unet(net), batch("SegResNet")
    assert parts.head is None
    assert torch.equal(DualEncoderUNet(parts)(x), net(x))
