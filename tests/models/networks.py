"""Small networks of every supported family, and what a test needs to build and feed them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import monai.networks.nets
import segmentation_models_pytorch as smp
import timm
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn

from relcons import UNetParts, split_unet

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

_NARROW_UNET = {"encoder_depth": 4, "decoder_channels": (16, 12, 8, 8)}
# Every architecture that can be split, with arguments that make its decoder small.
SMP: dict[str, dict[str, Any]] = {
    "Unet": _NARROW_UNET,
    "UnetPlusPlus": _NARROW_UNET,
    "MAnet": {**_NARROW_UNET, "decoder_pab_channels": 8},
    "Linknet": {"encoder_depth": 4},
    "FPN": {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32},
    "PAN": {"decoder_channels": 8},
    "DeepLabV3": {"decoder_channels": 16},
    "DeepLabV3Plus": {"decoder_channels": 16},
    "UPerNet": {"decoder_channels": 16},
    "Segformer": {"decoder_segmentation_channels": 16},
    "PSPNet": {"psp_out_channels": 16},
}
SWIN = {
    "encoder_name": "tu-swin_tiny_patch4_window7_224",
    "img_size": 64,
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 4),
    "window_size": 2,
}


@dataclass(frozen=True)
class Case:
    """A network and the size ``(C, *spatial)`` of an input that it takes."""

    name: str
    build: Callable[[], nn.Module | UNetParts]
    size: tuple[int, ...]

    def parts(self) -> UNetParts:
        net = self.build()
        return net if isinstance(net, UNetParts) else split_unet(net)

    def batch(self, samples: int = 2) -> Tensor:
        return torch.randn(samples, *self.size)

    def __str__(self) -> str:
        return self.name


def smp_net(architecture: str = "Unet", encoder_name: str = "tu-test_resnet", **arguments: Any) -> nn.Module:
    """A network of segmentation_models_pytorch for images of one channel, without pretrained weights."""
    net: nn.Module = getattr(smp, architecture)(encoder_name, encoder_weights=None, in_channels=1, **arguments)
    return net


def smp_case(architecture: str, encoder_name: str = "tu-test_resnet", **arguments: Any) -> Case:
    """A network of that architecture with a narrow decoder."""
    arguments = {**SMP[architecture], **arguments}
    side = 128 if architecture == "PAN" else 64
    return Case(
        f"{architecture}-{encoder_name}", lambda: smp_net(architecture, encoder_name, **arguments), (1, side, side)
    )


def dna_net(
    kind: type[nn.Module] = PlainConvUNet,
    axes: int = 2,
    deep_supervision: bool = True,
    features: tuple[int, ...] = (4, 6, 8),
    **arguments: Any,
) -> nn.Module:
    """A network of dynamic-network-architectures as nnU-Net builds and initialises it, made small."""
    blocks = "n_conv_per_stage" if kind is PlainConvUNet or issubclass(kind, PlainConvUNet) else "n_blocks_per_stage"
    options: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": len(features),
        "features_per_stage": list(features),
        "conv_op": CONVS[axes - 1],
        "kernel_sizes": 3,
        "strides": [1] + [2] * (len(features) - 1),
        blocks: 2,
        "num_classes": 2,
        "n_conv_per_stage_decoder": 1,
        "conv_bias": True,
        "norm_op": INSTANCE_NORMS[axes - 1],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }
    net = kind(**{**options, **arguments})
    net.apply(kind.initialize)  # type: ignore[arg-type]
    return net


def dna_case(kind: type[nn.Module], axes: int, deep_supervision: bool) -> Case:
    name = f"{kind.__name__}-{axes}D" + ("-deep" if deep_supervision else "")
    return Case(name, lambda: dna_net(kind, axes, deep_supervision), (1, *[8 if axes == 3 else 16] * axes))


class TinyEncoder(nn.Module):
    """Two maps, the second of half the size; the norm is of the caller's choice."""

    def __init__(self, axes: int = 2, norm: Callable[[int], nn.Module] = nn.Identity, widths: tuple[int, int] = (4, 6)):
        super().__init__()
        self.out_channels = list(widths)
        self.fine = nn.Sequential(CONVS[axes - 1](1, widths[0], 3, padding=1), norm(widths[0]), nn.LeakyReLU())
        self.coarse = nn.Sequential(
            CONVS[axes - 1](widths[0], widths[1], 3, 2, padding=1), norm(widths[1]), nn.LeakyReLU()
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


class TinyDecoder(nn.Module):
    def __init__(self, axes: int = 2, bottleneck: int = 6, skip: int = 4) -> None:
        super().__init__()
        self.up = TRANSPOSED[axes - 1](bottleneck, skip, 2, 2)
        self.mix = CONVS[axes - 1](2 * skip, skip, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.mix(torch.cat([self.up(maps[-1]), maps[0]], dim=1)).relu()


def tiny_parts(axes: int = 2, norm: Callable[[int], nn.Module] = nn.Identity) -> UNetParts:
    """A network of the user's own."""
    return UNetParts(
        TinyEncoder(axes, norm),
        TinyDecoder(axes),
        head=CONVS[axes - 1](4, 2, 1),
        widen=lambda extra: TinyDecoder(axes, 6 + extra),
    )


class AddingDecoder(nn.Module):
    """Decoder of the user's own for any list of maps: 1x1 to one width, upsampled and added from the coarsest on."""

    def __init__(self, widths: Sequence[int], width: int = 8) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in widths])
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.lateral[-1](maps[-1])
        for lateral, features in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            x = self.up(x) + lateral(features)
        return self.up(x).relu()


def timm_case(name: str, side: int = 64) -> Case:
    def build() -> UNetParts:
        encoder = timm.create_model(name, features_only=True, pretrained=False, in_chans=1)
        for layer in encoder.modules():  # timm draws by another rule than general="reset", which knows layers only
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        widths = encoder.feature_info.channels()
        return UNetParts(
            encoder,
            AddingDecoder(widths),
            head=nn.Conv2d(8, 1, 1),
            widen=lambda extra: AddingDecoder([*widths[:-1], widths[-1] + extra]),
        )

    return Case(f"timm-{name}", build, (1, side, side))


def monai_net(name: str, axes: int = 2, **arguments: Any) -> nn.Module:
    """A small network of MONAI."""
    levels = {"channels": (4, 6, 8), "strides": (2, 2)}
    strided = {
        "kernel_size": [3] * 4,
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2] * 3,
        "filters": [4, 6, 8, 10],
    }
    options: dict[str, dict[str, Any]] = {
        "SegResNet": {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1), "norm": "instance"},
        "FlexibleUNet": {"backbone": "resnet10", "decoder_channels": (8, 8, 8, 4, 4)},
        "BasicUNet": {"features": (4, 4, 6, 6, 8, 4)},
        "DynUNet": strided,
        "SwinUNETR": {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2},
        "UNet": {**levels, "num_res_units": 1},
        "AttentionUnet": levels,
        "VNet": {"dropout_dim": axes},
    }
    net: nn.Module = getattr(monai.networks.nets, name)(
        **{"spatial_dims": axes, "in_channels": 1, "out_channels": 2, **options[name], **arguments}
    )
    return net


def monai_case(name: str, axes: int, side: int = 16, **arguments: Any) -> Case:
    """Twice as long along the first axis, so that the bottleneck has positions for instance norm."""
    label = f"{name}-{axes}D" + "".join(
        f"-{value if isinstance(value, str) else key}" for key, value in arguments.items()
    )
    return Case(label, lambda: monai_net(name, axes, **arguments), (1, 2 * side, *[side] * (axes - 1)))


def own_case(axes: int) -> Case:
    return Case(f"own-{axes}D", lambda: tiny_parts(axes, BATCH_NORMS[axes - 1]), (1, *[8] * axes))


class NestedUNet(nn.Module):
    """Encoder and decoder nested in each other, with what makes cutting hard.

    A skip convolution that runs before the bottleneck and does not feed it, one list for stages of both sides,
    parameters of both sides in one module, and a module that only the decoder runs.
    """

    def __init__(self, axes: int = 2, norm: Callable[[int], nn.Module] = BATCH_NORMS[1]) -> None:
        super().__init__()
        conv, up = CONVS[axes - 1], TRANSPOSED[axes - 1]
        self.stages = nn.ModuleList([conv(1, 4, 3, padding=1), conv(4, 6, 3, 2, padding=1), up(6, 4, 2, 2)])
        self.norms = nn.ModuleDict({"down": norm(6), "up": norm(4)})
        self.skip = nn.Sequential(conv(4, 4, 1), nn.LeakyReLU())
        self.bottom = nn.Sequential(conv(6, 6, 3, padding=1), nn.LeakyReLU())
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))
        self.last = conv(8, 2, 1)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stages[0](x).relu() * self.scale
        skip = self.skip(fine) + self.shift
        coarse = self.bottom(self.norms["down"](self.stages[1](fine)))
        return self.last(torch.cat([self.norms["up"](self.stages[2](coarse)), skip], dim=1))


def nested_case(axes: int) -> Case:
    def build() -> UNetParts:
        return UNetParts.at(NestedUNet(axes, BATCH_NORMS[axes - 1]), "bottom", example=(1, 1, *[8] * axes))

    return Case(f"nested-{axes}D", build, (1, *[8] * axes))


def quiet(module: nn.Module) -> None:
    """No dropout of any kind, so that two passes in training mode can be compared."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
        for name in ("drop_prob", "drop_connect_rate"):
            if hasattr(layer, name):
                setattr(layer, name, 0.0)
