"""Networks of segmentation_models_pytorch."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from relcons.checks import needing
from relcons.parts.layers import in_place_of
from relcons.parts.parts import Extra, UNetParts, wider

with needing("smp", "relcons.networks.smp"):
    import segmentation_models_pytorch as smp
    import timm
    from segmentation_models_pytorch.base import SegmentationModel
    from segmentation_models_pytorch.base.initialization import initialize_decoder

__all__ = ["SmpParts", "build", "describe", "split"]

# Decoder argument -> argument of the network, per architecture; all decoders take encoder_channels too.
_UNET = {
    "decoder_channels": "decoder_channels",
    "n_blocks": "encoder_depth",
    "use_norm": "decoder_use_norm",
    "interpolation_mode": "decoder_interpolation",
}
_DEEPLAB = {
    "out_channels": "decoder_channels",
    "atrous_rates": "decoder_atrous_rates",
    "aspp_separable": "decoder_aspp_separable",
    "aspp_dropout": "decoder_aspp_dropout",
}
DECODERS: dict[str, dict[str, str]] = {
    "UnetDecoder": {**_UNET, "attention_type": "decoder_attention_type"},
    "UnetPlusPlusDecoder": {**_UNET, "attention_type": "decoder_attention_type"},
    "MAnetDecoder": {**_UNET, "pab_channels": "decoder_pab_channels"},
    "LinknetDecoder": {"n_blocks": "encoder_depth", "use_norm": "decoder_use_norm"},
    "FPNDecoder": {
        "encoder_depth": "encoder_depth",
        "pyramid_channels": "decoder_pyramid_channels",
        "segmentation_channels": "decoder_segmentation_channels",
        "dropout": "decoder_dropout",
        "merge_policy": "decoder_merge_policy",
        "interpolation_mode": "decoder_interpolation",
    },
    "PANDecoder": {
        "encoder_depth": "encoder_depth",
        "decoder_channels": "decoder_channels",
        "interpolation_mode": "decoder_interpolation",
    },
    "PSPDecoder": {
        "use_norm": "decoder_use_norm",
        "out_channels": "psp_out_channels",
        "dropout": "psp_dropout",
    },
    "DeepLabV3Decoder": _DEEPLAB,
    "DeepLabV3PlusDecoder": {
        **_DEEPLAB,
        "encoder_depth": "encoder_depth",
        "output_stride": "encoder_output_stride",
    },
    "UPerNetDecoder": {
        "encoder_depth": "encoder_depth",
        "decoder_channels": "decoder_channels",
        "use_norm": "decoder_use_norm",
    },
    "SegformerDecoder": {
        "encoder_depth": "encoder_depth",
        "segmentation_channels": "decoder_segmentation_channels",
    },
}

# What a configuration may name.
NETWORKS = (
    "DeepLabV3",
    "DeepLabV3Plus",
    "FPN",
    "Linknet",
    "MAnet",
    "PAN",
    "PSPNet",
    "Segformer",
    "UPerNet",
    "Unet",
    "UnetPlusPlus",
)


@dataclass(frozen=True, eq=False)
class SmpParts(UNetParts):
    """Parts of a segmentation_models_pytorch network, which is kept to rebuild its encoder."""

    net: Any = field(kw_only=True)

    @property
    def classification_head(self) -> nn.Module | None:
        """Head of ``aux_params``, where the network has one."""
        head: nn.Module | None = self.net.classification_head
        return head

    @property
    def training(self) -> bool:
        """Mode of the network."""
        return bool(self.net.training)

    @property
    def divisors(self) -> tuple[int, ...] | None:
        """Output stride of the encoder, where the network insists on it."""
        stride = int(self.net.encoder.output_stride)
        return (stride, stride) if self.net.requires_divisible_input_shape else None

    def examples(self) -> Iterator[Tensor]:
        """Squares of common sizes: some transformers take only the size they were built for."""
        size = _arguments(self.net).get("img_size")
        built_for = [size] if isinstance(size, int) else []
        for side in [*built_for, 64, 128, 224, 256, 384, 512]:
            yield torch.zeros(1, self.net.encoder._in_channels, side, side)

    def describe(self) -> dict[str, Any] | None:
        """The library's own configuration."""
        return describe(self.net)

    def fresh_encoder(self) -> nn.Module:
        """Encoder built anew by the library, without pretrained weights."""
        config = _arguments(self.net)
        if "encoder_weights" not in config:
            raise ValueError(
                f'general="reset": {type(self.net).__name__} takes no encoder_weights, so building it anew may load '
                'pretrained ones; pass an encoder as general=, or use general="copy"'
            )
        config["encoder_weights"] = None
        return in_place_of(self.encoder, type(self.net)(**config).encoder, f"{type(self.net).__name__}(**net.config)")


def split(net: SegmentationModel) -> UNetParts:
    """Parts of ``net``; TypeError for DPT, whose decoder takes more than feature maps."""
    if type(net.decoder).__name__ not in DECODERS:
        raise TypeError(
            f"cannot split {type(net).__name__}: its decoder {type(net.decoder).__name__} takes more than a list "
            f"of feature maps or is not known; supported are networks with {', '.join(DECODERS)}. Others are passed as "
            "relcons.UNetParts(encoder, decoder, head, channels=...)"
        )
    return SmpParts(
        encoder=net.encoder,
        decoder=net.decoder,
        head=net.segmentation_head,
        channels=tuple(net.encoder.out_channels),
        widen=_widener(net),
        net=net,
    )


def describe(net: nn.Module) -> dict[str, Any] | None:
    """Class and arguments of ``net``; None for classes that are not the library's own."""
    name = type(net).__name__
    if name not in NETWORKS or type(net) is not getattr(smp, name, None):
        return None
    arguments = {key: copy.deepcopy(value) for key, value in _arguments(net).items() if not key.startswith("_")}
    arguments["encoder_weights"] = None
    return {"family": "segmentation_models_pytorch", "class": name, "arguments": arguments}


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Network of a configuration, from the tables of the library and of timm; it fetches and reads no file."""
    if name not in NETWORKS:
        raise ValueError(f"network {name!r}; known of segmentation_models_pytorch are {', '.join(NETWORKS)}")
    encoder = arguments.get("encoder_name", "resnet34")
    # timm takes a name with a scheme for a place to fetch from.
    if not isinstance(encoder, str) or not (
        encoder in smp.encoders.encoders or (encoder.startswith("tu-") and timm.is_model(encoder[3:]))
    ):
        raise ValueError(f"encoder_name {encoder!r} is neither in segmentation_models_pytorch's table nor in timm's")
    # Arguments of that function that fetch weights or open files reach it through the encoder's.
    loading = set(inspect.signature(timm.create_model).parameters) & set(arguments)
    loading |= {argument for argument in arguments if argument.startswith("pretrained")}
    if loading:
        raise ValueError(f"argument {min(loading)!r} would load something beside the network")
    net: nn.Module = getattr(smp, name)(**{**arguments, "encoder_weights": None})
    return net


def _widener(net: SegmentationModel) -> Callable[[Extra], nn.Module]:
    def widen(extra: Extra) -> nn.Module:
        channels = tuple(net.encoder.out_channels)
        if repr(_build_decoder(net, channels)) != repr(net.decoder):
            raise ValueError(
                f'fusion="concat": the decoder that the arguments of {type(net).__name__} give is not like '
                'net\'s, which was changed after it was built; use fusion="project"'
            )
        decoder = _build_decoder(net, wider(channels, extra))
        if "DeepLab" not in type(net).__name__:  # these two keep PyTorch's own initialisation
            initialize_decoder(decoder)
        return decoder

    return widen


def _build_decoder(net: SegmentationModel, channels: Sequence[int]) -> nn.Module:
    kind, config = type(net.decoder), _config(net)
    names = DECODERS[kind.__name__]
    missing = sorted(set(names.values()) - set(config))
    if missing:
        raise ValueError(
            f'fusion="concat": {type(net).__name__} does not tell {missing}, which its decoder was built with; '
            'use fusion="project"'
        )
    arguments: dict[str, Any] = {ours: config[theirs] for ours, theirs in names.items()}
    vgg = str(config.get("encoder_name", "")).startswith("vgg")
    if kind.__name__ == "UnetDecoder":
        arguments["add_center_block"] = vgg
    elif kind.__name__ == "UnetPlusPlusDecoder":
        arguments["center"] = vgg
    if kind.__name__ == "DeepLabV3Decoder":
        arguments["in_channels"] = channels[-1]
    else:
        arguments["encoder_channels"] = channels
    decoder: nn.Module = kind(**arguments)
    return decoder


def _arguments(net: Any) -> dict[str, Any]:
    """Arguments that ``net`` was built with; the library keeps None where there were none."""
    return dict(net.config or {})


def _config(net: SegmentationModel) -> dict[str, Any]:
    """Arguments of ``net``, with those of older versions of the library under their present names."""
    config = _arguments(net)
    for old, new in (
        ("decoder_use_batchnorm", "decoder_use_norm"),
        ("psp_use_batchnorm", "decoder_use_norm"),
        ("upscale_mode", "decoder_interpolation"),
    ):
        if config.get(old) is not None:
            config[new] = config[old]
    return config
