import re
from pathlib import Path

import pytest
import torch
import torchvision
from covidct.networks.dense_unet import DenseUNet
from torch import nn
from torch.nn.functional import interpolate


@pytest.fixture(scope="module")
def net() -> DenseUNet:
    torch.manual_seed(1)
    return DenseUNet()


def test_parameters_are_the_published_ones(net: DenseUNet) -> None:
    encoder = sum(p.numel() for p in net.encoder.parameters())
    assert (encoder, sum(p.numel() for p in net.parameters()) - encoder) == (26_472_000, 23_055_713)


def test_step(net: DenseUNet) -> None:
    net.train()
    logits = net(torch.rand(1, 3, 64, 64))
    assert logits.shape == (1, 1, 64, 64)
    logits.sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    net.zero_grad()


def test_decoder_as_written_down(net: DenseUNet) -> None:
    net.eval()
    with torch.no_grad():
        image = torch.rand(1, 1, 32, 64)
        stem, block1, block2, block3, x = net.encoder(image.repeat(1, 3, 1, 1))
        assert [m.shape[1] for m in (stem, block1, block2, block3, x)] == [96, 384, 768, 2112, 2208]
        assert stem.shape[2:] == (16, 32)
        for block, skip in zip(net.blocks, (net.deepest_skip(block3), block2, block1, stem), strict=True):
            x = block(interpolate(x, scale_factor=2, mode="nearest") + skip)
        expected = net.head(net.last(interpolate(x, scale_factor=2, mode="nearest")))
        torch.testing.assert_close(net(image), expected)
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)][-6:] == [768, 384, 96, 96, 64, 1]


def test_dropout_stands_before_the_last_norm(net: DenseUNet) -> None:
    assert [type(m) for m in net.last] == [nn.Conv2d, nn.Dropout, nn.BatchNorm2d, nn.ReLU]
    assert net.last[1].p == 0.3


def test_decoder_starts_as_published(net: DenseUNet) -> None:
    assert net.blocks[0][0].weight.std().item() == pytest.approx(0.05, rel=0.01)
    assert not net.deepest_skip.bias.any()


def test_a_size_that_does_not_fit(net: DenseUNet) -> None:
    with pytest.raises(ValueError, match="image has 48 x 32 pixels; this network takes multiples of 32, such as 64 x"):
        net(torch.rand(1, 1, 48, 32))


@pytest.mark.parametrize("names", ["present", "first"])
def test_reads_torchvisions_weights(names: str, tmp_path: Path) -> None:
    peer = torchvision.models.densenet161(weights=None).eval()
    state = peer.state_dict()
    if names == "first":  # of the file densenet161-8d451a50.pth
        state = {re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", key): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        assert "features.denseblock1.denselayer2.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet161.pth")
    net = DenseUNet(pretrained=tmp_path / "densenet161.pth").eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.encoder(image)[-1], peer.features(image).relu())
