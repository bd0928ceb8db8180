"""U-Net, U-Net++, Attention-UNet and Gated-UNet, and what they share with the other networks."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from covidct.networks.attention_unet import AttentionUNet
from covidct.networks.contract import doubled, prepared
from covidct.networks.gated_unet import GatedUNet, GridAttention
from covidct.networks.nested_unet import NestedUNet, logit_of_mean
from covidct.networks.unet import UNet
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

FAMILY = [UNet, NestedUNet, AttentionUNet, GatedUNet]
TINY = (2, 3, 4, 5, 6)


def conv(inputs: int, outputs: int, area: int, *, bias: bool = True, norm: bool = True) -> int:
    return outputs * (inputs * area + bias + 2 * norm)


def as_identity(net: nn.Module) -> None:
    """Let every batch norm of `net` pass its input through unchanged, in evaluation."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
            nn.init.ones_(module.weight)
    net.eval()


def lively(net: nn.Module) -> nn.Module:
    """`net` in evaluation with weights from which its output depends visibly on all its maps."""
    torch.manual_seed(11)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    assert net.eval()(torch.rand(1, 3, 16, 16)).std() > 0.05
    return net


def test_parameters_are_the_published_ones() -> None:
    counts = [sum(p.numel() for p in build().parameters()) for build in (UNet, NestedUNet, AttentionUNet)]
    assert counts == [7_852_545, 9_163_329, 8_726_077]


def test_parameters_of_gated_unet_by_hand() -> None:
    widths = (16, 32, 64, 128, 256)
    expected = conv(256, 128, 1) + conv(16, 1, 1, norm=False)
    for before, width in zip((3, *widths), widths, strict=False):
        expected += conv(before, width, 9) + conv(width, width, 9)
    for fine, coarse in pairwise(widths):
        expected += conv(coarse, fine, 16, norm=False) + conv(2 * fine, fine, 9) + conv(fine, fine, 9)
    for width in (32, 64, 128):
        expected += conv(width, width, 4, bias=False, norm=False) + conv(128, width, 1, norm=False)
        expected += conv(width, 1, 1, norm=False) + conv(width, width, 1)
    assert expected == sum(p.numel() for p in GatedUNet().parameters()) == 2_636_756


@pytest.mark.parametrize("build", FAMILY)
@pytest.mark.parametrize("channels", [1, 3])
def test_step_and_prediction(build: Callable[..., nn.Module], channels: int) -> None:
    net = build(in_channels=3, widths=TINY)
    logits = net(torch.rand(1, channels, 64, 64))
    assert logits.shape == (1, 1, 64, 64)
    logits.sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert net.eval()(torch.rand(2, channels, 16, 48)).shape == (2, 1, 16, 48)


@pytest.mark.parametrize("build", FAMILY)
def test_a_seed_repeats_the_weights(build: Callable[..., nn.Module]) -> None:
    twice = []
    for _ in range(2):
        torch.manual_seed(4)
        twice.append(torch.cat([p.flatten() for p in build(widths=TINY).parameters()]))
    assert torch.equal(*twice)


@pytest.mark.parametrize("build", FAMILY)
def test_grey_is_three_equal_channels(build: Callable[..., nn.Module]) -> None:
    net = build(widths=TINY).eval()
    grey = torch.rand(1, 1, 16, 16)
    assert torch.equal(net(grey), net(grey.repeat(1, 3, 1, 1)))


def test_grey_alone_for_one_channel() -> None:
    assert UNet(in_channels=1, widths=TINY)(torch.rand(2, 1, 16, 16)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 32, 32), r"image has shape \(1, 2, 32, 32\); expected \(B, 1, H, W\) or \(B, 3, H, W\)"),
        ((3, 32, 32), r"image has shape \(3, 32, 32\); expected"),
        ((1, 3, 40, 32), "image has 40 x 32 pixels; this network takes multiples of 16, such as 32 x 32"),
        ((1, 3, 32, 5), "32 x 5 pixels; this network takes multiples of 16, such as 32 x 16"),
    ],
)
def test_wrong_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(torch.rand(shape), 3, 16)


def test_doubling_aligns_the_corners() -> None:
    row = doubled(torch.tensor([[[[0.0, 3.0]]]]))[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 1.0, 2.0, 3.0]))


def up(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def test_unet_as_written_down() -> None:
    net = lively(UNet(widths=(6, 7, 8)))
    (down0, down1, down2), (up0, up1) = net.encoder, net.decoder
    image = torch.rand(1, 3, 16, 16)
    x0 = down0(image)
    x1 = down1(max_pool2d(x0, 2))
    x2 = down2(max_pool2d(x1, 2))
    y1 = up1(torch.cat([x1, up(x2)], 1))
    y0 = up0(torch.cat([x0, up(y1)], 1))
    torch.testing.assert_close(net(image), net.head(y0))


def test_nested_unet_as_written_down() -> None:
    net = lively(NestedUNet(widths=(6, 7, 8), deep_supervision=True))
    down0, down1, down2 = net.encoder
    (n01, n11), (n02,) = net.columns
    image = torch.rand(1, 3, 16, 16)
    x00 = down0(image)
    x10 = down1(max_pool2d(x00, 2))
    x20 = down2(max_pool2d(x10, 2))
    x01 = n01(torch.cat([x00, up(x10)], 1))
    x11 = n11(torch.cat([x10, up(x20)], 1))
    x02 = n02(torch.cat([x00, x01, up(x11)], 1))
    finest, other = net.heads[1](x02), net.heads[0](x01)
    mean = (finest.sigmoid() + other.sigmoid()) / 2
    torch.testing.assert_close(net(image), torch.logit(mean))
    net.training = True  # the list, norms as in evaluation
    torch.testing.assert_close(net(image), [finest, other])


def test_deep_supervision_reaches_every_parameter() -> None:
    net = NestedUNet(widths=TINY, deep_supervision=True)
    outputs = net(torch.rand(2, 1, 32, 32))
    assert [tuple(x.shape) for x in outputs] == [(2, 1, 32, 32)] * 4
    torch.stack(outputs).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_logit_of_mean() -> None:
    # Probabilities 0.8 and 0.4: mean 0.6, odds 1.5. Where sigmoid is 1 in float32 the logit stays finite.
    logits = torch.tensor([[math.log(4), 90.0], [math.log(2 / 3), 90.0]])
    torch.testing.assert_close(logit_of_mean(logits), torch.tensor([math.log(1.5), 90.0]))


def test_attention_gate_by_hand() -> None:
    gate = AttentionUNet(widths=(2, 3)).gates[0]
    for part, weight, bias in (("W_g", [[2.0, 0.5]], 1.0), ("W_x", [[3.0, 0.0]], 0.0), ("psi", [[-1.0]], 2.0)):
        convolution = getattr(gate, part)[0].conv
        convolution.weight.data = torch.tensor(weight)[..., None, None]
        convolution.bias.data.fill_(bias)
    as_identity(gate)
    g, x = torch.tensor([1.0, 4.0]).reshape(1, 2, 1, 1), torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)
    # W_g g = 2 + 2 + 1, W_x x = 3, their relu 8, psi -8 + 2.
    expected = x / (1 + math.exp(6))
    torch.testing.assert_close(gate(g=g, x=x), expected)


def test_attention_gates_stand_in_the_skips() -> None:
    widths = (6, 7, 8, 9, 10)
    net = lively(AttentionUNet(widths=widths))
    image = torch.rand(1, 3, 16, 16)
    for gate in net.gates:
        gate.psi[1].bias.data.fill_(-200.0)
    shut = net(image)
    for block, width in zip(net.decoder, widths, strict=False):
        block[0].weight.data[:, :width] += 1
    assert torch.equal(net(image), shut)
    for gate in net.gates:
        gate.psi[1].bias.data.fill_(200.0)
    assert not torch.allclose(net(image), shut)


def test_grid_gate_by_hand() -> None:
    gate = GridAttention(1, 1)
    for convolution, weight in ((gate.theta, 1.0), (gate.phi, 2.0), (gate.psi, 0.1), (gate.out[0], 3.0)):
        convolution.weight.data.fill_(weight)
    for convolution, bias in ((gate.phi, 1.0), (gate.psi, -0.5), (gate.out[0], 0.25)):
        convolution.bias.data.fill_(bias)
    as_identity(gate)
    # theta 4 and 4, phi 1 and 3, psi 0.1 * 5 - 0.5 and 0.1 * 7 - 0.5; then bilinear to four columns.
    first, last = 0.5, 1 / (1 + math.exp(-0.2))
    attention = torch.tensor([first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last])
    found = gate(torch.ones(1, 1, 2, 4), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    torch.testing.assert_close(found, (3 * attention + 0.25).expand(1, 1, 2, 4))


def test_grid_gate_brings_the_signal_to_its_own_resolution_bilinearly() -> None:
    gate = GridAttention(1, 1)
    for convolution, weight, bias in ((gate.phi, 1.0, 0.0), (gate.psi, 1.0, 0.0), (gate.out[0], 1.0, 0.0)):
        convolution.weight.data.fill_(weight)
        convolution.bias.data.fill_(bias)
    gate.theta.weight.data.zero_()
    as_identity(gate)
    found = gate(torch.ones(1, 1, 2, 8), torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2))
    # At half of the skip's resolution 0, 1, 3, 4; the first and last column lie beyond it.
    ends = torch.tensor([0.0, 4.0]).sigmoid()
    torch.testing.assert_close(found[0, 0, 0, [0, 7]], ends)
    one, three = torch.tensor(1.0).sigmoid(), torch.tensor(3.0).sigmoid()
    torch.testing.assert_close(found[0, 0, 0, 3], 0.75 * one + 0.25 * three)


def test_grid_gate_has_a_relu() -> None:
    gate = GridAttention(1, 1).eval()
    gate.theta.weight.data.fill_(-1.0)
    gate.phi.weight.data.fill_(0.0)
    gate.phi.bias.data.fill_(0.0)
    one, two = (gate(x, torch.zeros(1, 1, 1, 1)) for x in (torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)))
    # Both attentions are sigmoid(psi's bias), so that the gate is affine in x.
    zero = gate(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(two - zero, 2 * (one - zero))


def test_one_signal_steers_all_gates_but_the_finest_skip() -> None:
    net = GatedUNet(widths=TINY)
    assert [gate.theta.in_channels for gate in net.gates] == [3, 4, 5]
    assert {gate.phi.in_channels for gate in net.gates} == {5}
    assert (net.gating[0].in_channels, net.gating[0].kernel_size) == (6, (1, 1))


def test_gated_unet_starts_as_published() -> None:
    torch.manual_seed(0)
    net = GatedUNet()
    convolution = net.decoder[3][0]
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    norms = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert norms.mean().item() == pytest.approx(1, abs=0.01)
    assert norms.std().item() == pytest.approx(0.02, rel=0.1)
