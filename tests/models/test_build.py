"""Arguments that are refused, and in which words."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from relcons import DualEncoderUNet, MultiEncoderUNet, UNetParts
from relcons.models.build import check_finest_first
from tests.models.networks import TinyDecoder, TinyEncoder, tiny_parts

SMALL = (2, 1, 8, 8)


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
        ({"fuse_levels": (2,)}, ValueError, "fuse_levels must be indices of the encoder's 2 maps, got 2"),
        ({"fuse_levels": (1, -1)}, ValueError, "fuse_levels names map 1 twice: (1, -1)"),
        ({"fuse_levels": ()}, ValueError, "fuse_levels must name at least one of the encoder's maps"),
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
    message = "source must be a sequence with one batch or None per general encoder, got a tensor"
    with pytest.raises(TypeError, match=message):
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
    with pytest.raises(ValueError, match="the general encoders' maps must have the target encoder's shape"):
        model(torch.rand(SMALL))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        pytest.param(
            nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
        ),
    ],
    ids=["prune", "weight_norm"],
)
@pytest.mark.parametrize("general", ["copy", "reset"])
def test_computed_weights_are_named_with_the_fix(change, general):
    parts = tiny_parts()
    layers = parts.encoder.named_modules()
    name, layer = next((name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d))
    change(layer)
    message = rf"layer '{name}' computes its 'weight' at every pass.*prune\.remove.*general="
    with pytest.raises(ValueError, match=message):
        DualEncoderUNet(parts, general=general)


def test_one_general_encoder_unless_more_are_asked_for():
    model = MultiEncoderUNet(tiny_parts())
    assert len(model.general_encoders) == 1


def test_outputs_of_no_space_are_no_maps():
    """A classification head's (B, C) says nothing of which map is the finest."""
    check_finest_first([torch.zeros(2, 1, 8, 8), torch.zeros(2, 500), torch.zeros(2, 1, 4, 4)])
    with pytest.raises(ValueError, match="net returns 2 maps and the first is not finer than all others"):
        check_finest_first([torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 3)])


def test_only_a_module_can_be_cut():
    with pytest.raises(TypeError, match=r"net must be a torch\.nn\.Module, got str"):
        UNetParts.at("net", "down", example=(1, 1, 8, 8))
