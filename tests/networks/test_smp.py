import inspect
import re
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import nn

from relcons import DualEncoderUNet, GradientRouter, RelationLoss, split_unet
from relcons.networks.smp import DECODERS
from tests.models.networks import SMP, SWIN, smp_net

NARROW = {"encoder_depth": 3, "decoder_channels": (8, 8, 8)}
ATTENTION = {"encoder_depth": 3, "decoder_channels": (16, 16, 16), "decoder_attention_type": "scse"}
# Arguments other than the defaults: a decoder built anew must have them too.
OPTIONS = [
    ("Unet", {**ATTENTION, "decoder_interpolation": "bilinear"}),
    ("Unet", {**NARROW, "decoder_use_norm": {"type": "instancenorm", "affine": True, "eps": 1e-3}}),
    ("Unet", {**NARROW, "decoder_use_norm": False, "encoder_name": "vgg11"}),
    ("UnetPlusPlus", {**ATTENTION, "decoder_interpolation": "bilinear"}),
    ("MAnet", {**NARROW, "decoder_pab_channels": 8, "decoder_use_norm": False}),
    ("Linknet", {"encoder_depth": 3, "decoder_use_norm": False}),
    ("FPN", {"decoder_merge_policy": "cat", "decoder_dropout": 0.3, "decoder_pyramid_channels": 16}),
    ("FPN", {"decoder_interpolation": "bilinear", "decoder_segmentation_channels": 32}),
    ("PAN", {"decoder_channels": 8, "decoder_interpolation": "nearest", "encoder_output_stride": 32}),
    ("PSPNet", {"psp_out_channels": 16, "psp_dropout": 0.4, "decoder_use_norm": False, "encoder_depth": 2}),
    ("DeepLabV3", {"decoder_channels": 8, "decoder_atrous_rates": (2, 3, 4), "decoder_aspp_separable": True}),
    ("DeepLabV3Plus", {"decoder_channels": 8, "decoder_aspp_dropout": 0.2, "encoder_output_stride": 8}),
    ("UPerNet", {"decoder_channels": 16, "encoder_depth": 4, "decoder_use_norm": False}),
    ("Segformer", {"decoder_segmentation_channels": 16, "encoder_depth": 4}),
]


class WithArguments(smp.Unet):
    """A subclass with the arguments of its own, as users write them."""

    def __init__(self, width: int) -> None:
        super().__init__(
            "tu-test_resnet", encoder_depth=2, decoder_channels=(width, 8), encoder_weights=None, in_channels=1
        )


class Renamed(smp.Unet):
    pass


def settings_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """What layers hold beside widths: flags, names, rates."""
    return {
        f"{name} {type(layer).__name__}": {k: v for k, v in vars(layer).items() if isinstance(v, bool | str | float)}
        for name, layer in module.named_modules()
    }


def test_every_decoder_of_the_library_is_known_to_its_last_argument() -> None:
    """Fails when a release of the library adds an architecture or gives a decoder one more argument."""
    built_here = {"encoder_channels", "in_channels", "add_center_block", "center"}
    left_at_their_defaults = {"reduction", "prefinal_channels"}  # the networks give them no value either
    architectures = {kind.__name__ for kind in SegmentationModel.__subclasses__()} & set(dir(smp))
    assert architectures == {*SMP, "DPT"}
    found = {}
    for architecture, arguments in SMP.items():
        decoder = type(smp_net(architecture, **arguments).decoder)
        found[decoder.__name__] = set(inspect.signature(decoder).parameters) - built_here - left_at_their_defaults
        known = set(inspect.signature(getattr(smp, architecture)).parameters)
        assert set(DECODERS[decoder.__name__].values()) <= known, architecture
    assert found == {name: set(arguments) for name, arguments in DECODERS.items()}


@pytest.mark.parametrize(("architecture", "arguments"), OPTIONS, ids=str)
def test_wider_decoder_keeps_the_networks_arguments(architecture: str, arguments: dict[str, Any]) -> None:
    net = smp_net(architecture, **arguments)
    model = DualEncoderUNet(net, fusion="concat").eval()
    assert settings_of(model.decoder) == settings_of(net.eval().decoder)
    side = 256 if arguments.get("encoder_output_stride") == 32 else 128
    x = torch.rand(1, 1, side, side)
    assert model(x).shape == net(x).shape


@pytest.mark.parametrize("old", ["decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode"])
def test_arguments_under_their_old_names(old: str) -> None:
    architecture, value, arguments = {
        "decoder_use_batchnorm": ("Unet", False, NARROW),
        "psp_use_batchnorm": ("PSPNet", False, {}),
        "upscale_mode": ("PAN", "nearest", {}),
    }[old]
    with pytest.warns(DeprecationWarning, match=old):
        net = smp_net(architecture, **arguments, **{old: value})
    model = DualEncoderUNet(net, fusion="concat")
    assert settings_of(model.decoder) == settings_of(net.decoder)


def test_split_shares_the_modules() -> None:
    net = smp_net(**NARROW, aux_params={"classes": 3})
    parts = split_unet(net)
    assert (parts.encoder, parts.decoder, parts.head) == (net.encoder, net.decoder, net.segmentation_head)
    assert parts.classification_head is net.classification_head
    assert parts.channels == tuple(net.encoder.out_channels)
    assert split_unet(smp_net(**NARROW)).classification_head is None


def renamed() -> smp.Unet:
    return Renamed("tu-test_resnet", encoder_weights=None)


@pytest.mark.parametrize(
    ("build", "general"), [(lambda: WithArguments(16), "copy"), (renamed, "copy"), (renamed, "reset")]
)
def test_subclasses_are_split(build: Any, general: str) -> None:
    net = build()
    model = DualEncoderUNet(net, general=general).eval()
    x = torch.rand(1, net.encoder._in_channels, 64, 64)
    assert torch.equal(model(x), net.eval()(x))


def test_subclass_that_keeps_its_signature_takes_concat() -> None:
    net = Renamed("tu-test_resnet", encoder_weights=None, **NARROW)
    assert DualEncoderUNet(net, fusion="concat").decoder.blocks[0].conv1[0].in_channels == 2 * 48 + 32


def test_subclass_with_arguments_of_its_own_names_project() -> None:
    message = (
        "fusion=\"concat\": WithArguments does not tell ['decoder_attention_type', 'decoder_channels', "
        "'decoder_interpolation', 'decoder_use_norm', 'encoder_depth'], which its decoder was built with; "
        'use fusion="project"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(WithArguments(16), fusion="concat")


def test_changed_decoder_names_project() -> None:
    net = smp_net(**NARROW)
    net.decoder.blocks[1].conv1[2] = nn.GELU()
    message = (
        'fusion="concat": the decoder that the arguments of Unet give is not like net\'s, which was changed '
        'after it was built; use fusion="project"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(net, fusion="concat")
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(DualEncoderUNet(net).eval()(x), net.eval()(x))


def test_changed_encoder_is_not_reset() -> None:
    net = smp_net(**NARROW)
    net.encoder.model.layer1 = nn.Sequential(net.encoder.model.layer1, nn.GELU())
    message = (
        'general="reset": the encoder that Unet(**net.config) builds is not like net\'s, which was changed '
        'after it was built; pass a freshly built encoder as general=, or use general="copy"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(net, general="reset")
    assert DualEncoderUNet(net).general_encoder is not net.encoder


def test_reset_loads_no_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    net = smp_net("Unet", "resnet18", **NARROW)
    net._hub_mixin_config["encoder_weights"] = "imagenet"

    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", download)
    model = DualEncoderUNet(net, general="reset")
    assert not torch.equal(model.general_encoder.conv1.weight, net.encoder.conv1.weight)


class WithoutArguments(smp.Unet):
    def __init__(self) -> None:
        super().__init__("resnet18", encoder_weights=None, in_channels=1, **NARROW)


def test_subclass_without_arguments() -> None:
    net, x = WithoutArguments().eval(), torch.rand(1, 1, 32, 32)
    assert torch.equal(DualEncoderUNet(net)(x), net(x))
    with pytest.raises(ValueError, match=r'does not tell .* use fusion="project"'):
        DualEncoderUNet(net, fusion="concat")


def test_reset_refuses_a_subclass_that_may_load_weights_itself() -> None:
    with pytest.raises(ValueError, match='general="reset": WithoutArguments takes no encoder_weights'):
        DualEncoderUNet(WithoutArguments(), general="reset")


def test_dpt_is_refused() -> None:
    net = smp.DPT("tu-test_vit", encoder_weights=None, dynamic_img_size=True)
    message = (
        "cannot split DPT: its decoder DPTDecoder takes more than a list of feature maps or is not known; "
        f"supported are networks with {', '.join(DECODERS)}"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        DualEncoderUNet(net)


def test_other_networks_are_refused() -> None:
    message = (
        "cannot split Linear: supported are networks of dynamic_network_architectures, monai, "
        "segmentation_models_pytorch; pass any other as relcons.UNetParts(encoder, decoder, head, channels=...), or as "
        "relcons.UNetParts.at(net, name of its bottleneck module, example=...)"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        split_unet(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["x", "source", "unlabelled"])
def test_sizes_that_do_not_divide(name: str) -> None:
    model = DualEncoderUNet(smp_net("Linknet", encoder_depth=4))
    batches = {"x": torch.rand(2, 1, 32, 32), "source": torch.rand(2, 1, 32, 32), name: torch.rand(2, 1, 60, 32)}
    message = (
        f"{name} must have spatial sizes that are multiples of (16, 16), got (60, 32); "
        "pad or crop it, for example to (64, 32)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**batches)
    if name == "x":
        with pytest.raises(ValueError, match=re.escape(message)):
            model(batches["x"])


def test_input_without_its_channel_axis() -> None:
    model = DualEncoderUNet(smp_net("Linknet", encoder_depth=4))
    message = "x must be (B, C, *spatial) with 2 spatial axes, got (2, 32, 32)"
    with pytest.raises(ValueError, match=re.escape(message)):
        model(torch.rand(2, 32, 32))


def test_a_transformer_built_for_one_size_is_tried_with_it() -> None:
    parts = split_unet(smp_net("FPN", **{**SWIN, "img_size": 96}, **SMP["FPN"]))
    assert next(parts.examples()).shape == (1, 1, 96, 96)


def test_unet_takes_sizes_that_do_not_divide() -> None:
    net = smp_net(**NARROW).eval()
    x = torch.rand(1, 1, 37, 50)
    assert torch.equal(DualEncoderUNet(net)(x), net(x))


@pytest.mark.parametrize("level", [0, -4])
def test_the_input_is_no_level(level: int) -> None:
    message = "levels: map 0 is the input itself, which no encoder can change; leave it out"
    with pytest.raises(ValueError, match=message):
        DualEncoderUNet(smp_net(**NARROW), levels=(-1, level))
    with pytest.raises(ValueError, match=f"fuse_{message}"):
        DualEncoderUNet(smp_net(**NARROW), fuse_levels=(-1, level))


@pytest.mark.parametrize("level", [1, -5])
def test_a_map_without_channels_is_no_level(level: int) -> None:
    net = smp_net("Unet", "tu-test_convnext")
    message = f"levels: map {level} has 0 channels; widths are (1, 0, 24, 32, 48, 64)"
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(net, levels=(level,))
    with pytest.raises(ValueError, match=re.escape(f"fuse_{message}")):
        DualEncoderUNet(net, fuse_levels=(level,))


def test_first_map_of_vgg_is_a_level() -> None:
    model = DualEncoderUNet(smp_net("Unet", "vgg11", **NARROW), levels=(0,))
    x = torch.rand(1, 1, 32, 32)
    assert model(x, features=True).target[0].shape == (1, 64, 32, 32)


def test_classification_head_trains_with_the_decoder() -> None:
    model = DualEncoderUNet(smp_net(**NARROW, aux_params={"classes": 3}), general="reset")
    head = set(model.classification_head.parameters())
    assert head <= set(model.parameter_groups()[2]["params"])
    router = GradientRouter(torch.optim.SGD(model.parameter_groups(), lr=0.1), model.routes(), model=model)
    x = torch.rand(2, 1, 32, 32)
    output = model(x, source=x)
    _, labels = output.logits
    assert labels.shape == (2, 3)
    assert router.check({"segmentation": labels.sum()}) == {"segmentation": []}
    (labels.sum() + output.logits[0].mean() + RelationLoss()(output)).backward()
    assert all(p.grad is not None for p in head)


def test_dead_ends_are_not_trainable() -> None:
    """PSPNet reads three levels; the encoder keeps the layers of all five."""
    model = DualEncoderUNet(smp_net("PSPNet", "resnet18", psp_out_channels=16))
    for encoder in (model.target_encoder, model.general_encoder):
        flags = {name: p.requires_grad for name, p in encoder.named_parameters()}
        assert all(flags[name] == (not name.startswith(("layer3", "layer4"))) for name in flags)
        assert any(name.startswith("layer3") for name in flags)
