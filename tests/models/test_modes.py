"""Training and evaluation mode, and frozen general encoders."""

import copy

import pytest
import torch
from torch import nn

from relcons import DualEncoderUNet
from tests.models.networks import BATCH_NORMS, dna_net, smp_net, tiny_parts

SMALL = (2, 1, 8, 8)


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
