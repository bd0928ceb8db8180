import re
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from relcons import DualEncoderUNet, UNetParts
from relcons.parts.layers import small_inputs
from tests.models.networks import BATCH_NORMS, TinyDecoder, TinyEncoder, tiny_parts


class Silent(nn.Module):
    """An encoder that tells no widths."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


def telling(**attributes: Any) -> nn.Module:
    encoder = Silent()
    for name, value in attributes.items():
        setattr(encoder, name, value)
    return encoder


def test_smoke() -> None:
    parts = tiny_parts()
    assert parts.head is not None
    assert parts.channels == parts.widths == (4, 6)
    assert parts.classification_head is None
    assert parts.divisors is None
    assert [tuple(x.shape) for x in parts.examples()] == [(1, 1, n, n) for n in (32, 64, 128, 224, 256)]
    assert list(UNetParts(nn.Linear(2, 2), nn.Identity(), channels=[2]).examples()) == []


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (telling(out_channels=[3, 0, 8]), (3, 0, 8)),
        (telling(output_channels=(4, 8)), (4, 8)),
        (telling(feature_info=SimpleNamespace(channels=lambda: [5, 6])), (5, 6)),
        (telling(out_channels=7, output_channels=[4, 8]), (4, 8)),
    ],
    ids=["smp", "dna", "timm", "a number is not a list"],
)
def test_widths_are_read_from_the_encoder(encoder: nn.Module, expected: tuple[int, ...]) -> None:
    assert UNetParts(encoder, nn.Identity()).channels == expected


def test_widths_of_a_timm_backbone() -> None:
    encoder = timm.create_model("test_resnet", features_only=True, pretrained=False)
    assert UNetParts(encoder, nn.Identity()).widths == tuple(encoder.feature_info.channels())


def test_given_channels_come_first() -> None:
    assert UNetParts(telling(out_channels=[1, 2]), nn.Identity(), channels=[4, 6]).channels == (4, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoder": print}, TypeError, "encoder must be a torch.nn.Module, got builtin_function_or_method"),
        ({"decoder": None}, TypeError, "decoder must be a torch.nn.Module, got NoneType"),
        ({"head": "sigmoid"}, TypeError, "head must be a torch.nn.Module, got str"),
        ({"widen": 3}, TypeError, "widen must be a function from a number of channels to a decoder, got 3"),
        (
            {"encoder": Silent()},
            ValueError,
            "channels is needed: Silent has none of out_channels, output_channels and feature_info; "
            "pass channels=, the widths of the encoder's maps, finest first",
        ),
        (
            {"channels": []},
            ValueError,
            "channels must be the widths of the encoder's maps, bottleneck last, got ()",
        ),
        ({"channels": [4, 0]}, ValueError, "bottleneck last, got (4, 0)"),
        ({"channels": [-1, 6]}, ValueError, "bottleneck last, got (-1, 6)"),
    ],
    ids=["encoder", "decoder", "head", "widen", "silent", "no width", "empty bottleneck", "negative"],
)
def test_exception(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    options: dict[str, Any] = {"encoder": TinyEncoder(), "decoder": TinyDecoder(), **arguments}
    with pytest.raises(error, match=re.escape(message)):
        UNetParts(**options)


def test_fresh_encoder_resets_every_layer_and_leaves_the_original() -> None:
    parts = tiny_parts(norm=BATCH_NORMS[1])
    with torch.no_grad():
        for parameter in parts.encoder.parameters():
            parameter.fill_(5)
    parts.encoder.fine[1].running_mean.fill_(5)
    fresh = parts.fresh_encoder()
    assert all((p == 5).all() for p in parts.encoder.parameters())
    assert not any((p == 5).any() for p in fresh.parameters())
    assert fresh.fine[1].weight.eq(1).all()
    assert fresh.fine[1].running_mean.eq(0).all()


def test_two_fresh_encoders_differ() -> None:
    parts = tiny_parts()
    assert not torch.equal(parts.fresh_encoder().coarse[0].weight, parts.fresh_encoder().coarse[0].weight)


def test_reset_of_attention_uses_its_private_method() -> None:
    encoder = nn.Sequential(nn.MultiheadAttention(4, 2))
    with torch.no_grad():
        encoder[0].in_proj_weight.fill_(5)
    fresh = UNetParts(encoder, nn.Identity(), channels=[4]).fresh_encoder()
    assert not (fresh[0].in_proj_weight == 5).any()


def test_reset_refuses_a_layer_that_cannot_be_reset() -> None:
    encoder = TinyEncoder()
    encoder.coarse.register_parameter("scale", nn.Parameter(torch.ones(1)))
    parts = UNetParts(encoder, TinyDecoder())
    message = (
        "general=\"reset\": layer 'coarse' (Sequential) holds parameters and has no reset_parameters(); "
        'pass a freshly built encoder as general=, or use general="copy"'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        DualEncoderUNet(parts, general="reset")


def test_reset_refuses_a_weight_that_is_computed_from_others() -> None:
    """reset_parameters() of such a layer writes into the computed weight, so that nothing is reset."""
    encoder = TinyEncoder()
    nn.utils.spectral_norm(encoder.coarse[0])
    with pytest.raises(ValueError, match='general="reset"'):
        DualEncoderUNet(UNetParts(encoder, TinyDecoder()), general="reset")


def test_without_a_head_the_decoder_gives_the_logits() -> None:
    parts = UNetParts(TinyEncoder(), TinyDecoder())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(DualEncoderUNet(parts)(x), parts.decoder(parts.encoder(x)))


@pytest.mark.parametrize(("kind", "halvings"), [(nn.Conv1d, 5), (nn.Conv2d, 5), (nn.Conv3d, 4)])
def test_small_inputs_can_be_halved_as_often_as_networks_do(kind: type[nn.Module], halvings: int) -> None:
    layer = kind(3, 2, 1)
    shapes = [tuple(example.shape) for example in small_inputs(nn.Sequential(nn.Identity(), layer))]
    assert {shape[:2] for shape in shapes} == {(1, 3)}
    assert {len(shape) for shape in shapes} == {layer.weight.ndim}
    assert all(side % 2**halvings == 0 for shape in shapes for side in shape[2:])
    assert list(small_inputs(nn.Linear(2, 2))) == []
