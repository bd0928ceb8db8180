import pytest
import torch
from covidct.networks.inf_net import (
    InfNet,
    InfNetOutput,
    PartialDecoder,
    ReceptiveField,
    ReverseAttention,
    conv_norm,
    resized,
    reversed_by,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate


@pytest.fixture(scope="module")
def net() -> InfNet:
    torch.manual_seed(2)
    return InfNet()


def as_identity(net: nn.Module) -> None:
    """Let every batch norm of `net` pass its input through unchanged, in evaluation."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)  # type: ignore[union-attr]
    net.eval()


def fill(net: nn.Module, value: float) -> None:
    """Let every convolution of `net` multiply its inputs by `value`, the middle of each kernel, channel by channel."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.zero_()
            rows, columns = (size // 2 for size in module.kernel_size)
            for channel in range(module.out_channels):
                module.weight.data[channel, channel, rows, columns] = value


def test_parameters(net: InfNet) -> None:
    # Res2Net-50 v1b has 25,718,352 with its classifier of 2048 x 1000 weights and 1000 biases, which is not here.
    assert sum(p.numel() for p in net.encoder.parameters()) == 25_718_352 - 2_049_000
    assert sum(p.numel() for p in net.parameters()) == 31_072_721


def test_encoder_shapes_at_352(net: InfNet) -> None:
    with torch.no_grad():
        maps = net.eval().encoder(torch.rand(1, 3, 352, 352))
    assert [tuple(x.shape[1:]) for x in maps] == [(256, 88, 88), (512, 44, 44), (1024, 22, 22), (2048, 11, 11)]


def test_encoder_is_version_1b(net: InfNet) -> None:
    stem = [m.out_channels for m in net.encoder.conv1 if isinstance(m, nn.Conv2d)]
    assert stem == [32, 32, 64]
    assert isinstance(net.encoder.layer2[0].downsample[0], nn.AvgPool2d)
    assert [m.out_channels for m in net.encoder.layer1[0].convs] == [26, 26, 26]


def test_step(net: InfNet) -> None:
    output = net.train()(torch.rand(1, 3, 64, 64))
    assert isinstance(output, InfNetOutput)
    assert output._fields == ("s5", "s4", "s3", "s2", "edge")
    assert {tuple(x.shape) for x in output} == {(1, 1, 64, 64)}
    torch.stack(output).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    net.zero_grad()


def test_prediction_is_s2_for_grey(net: InfNet) -> None:
    image = torch.rand(1, 1, 32, 64)
    with torch.no_grad():
        logits = net.eval()(image)
        net.training = True  # all outputs, norms as in evaluation
        output = net(image.repeat(1, 3, 1, 1))
    assert logits.shape == (1, 1, 32, 64)
    assert torch.equal(logits, output.s2)


def test_every_map_corrects_the_one_above(net: InfNet) -> None:
    lasts = [refine.last[1] for refine in (net.refine4, net.refine3, net.refine2)]
    before = [(norm.weight.data.clone(), norm.bias.data.clone()) for norm in lasts]
    for norm, correction in zip(lasts, (4.0, 30.0, 200.0), strict=True):
        norm.weight.data.zero_()
        norm.bias.data.fill_(correction)
    seen: list[Tensor] = []
    hook = net.partial_decoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net.eval()
    net.training = True
    with torch.no_grad():
        output = net(torch.rand(1, 3, 64, 64))
    hook.remove()
    for norm, (weight, bias) in zip(lasts, before, strict=True):
        norm.weight.data, norm.bias.data = weight, bias
    (s5,) = seen

    def to(x: Tensor, side: int) -> Tensor:
        return interpolate(x, (side, side), mode="bilinear", align_corners=False)

    assert s5.shape == (1, 1, 8, 8)
    s4 = to(s5, 2) + 4
    s3 = to(s4, 4) + 30
    s2 = to(s3, 8) + 200
    for found, expected in zip(output, (s5, s4, s3, s2), strict=False):
        torch.testing.assert_close(found, to(expected, 64))


def test_a_size_that_does_not_fit(net: InfNet) -> None:
    with pytest.raises(ValueError, match="image has 64 x 350 pixels; this network takes multiples of 32, such as 64 x"):
        net(torch.rand(1, 1, 64, 350))


@pytest.fixture
def field() -> ReceptiveField:
    field = ReceptiveField(1, 1)
    as_identity(field)
    for module in field.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.fill_(1.0)
    return field


def impulse(value: float = 1.0) -> Tensor:
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 20] = value
    return image


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        # The branches make of one pixel itself and squares of 9, 15 and 21 pixels; the join adds all within one step.
        ((0, 0), 1 + 9 + 9 + 9 + 1),  # and the residual
        ((0, 1), 1 + 9 + 9 + 9),
        ((0, 4), 6 + 9 + 9),
        ((5, 0), 3 + 9 + 9),
        ((0, 8), 3 + 9),
        ((10, 10), 4),
        ((11, -11), 1),
        ((12, 0), 0),
    ],
)
def test_receptive_field_by_hand(field: ReceptiveField, offset: tuple[int, int], expected: int) -> None:
    assert field(impulse())[0, 0, 20 + offset[0], 20 + offset[1]].item() == pytest.approx(expected, rel=1e-5)


def test_receptive_field_has_one_relu_at_its_end(field: ReceptiveField) -> None:
    assert not field(impulse(-1.0)).any()
    field.join[0].weight.data.neg_()
    field.residual[0].weight.data.neg_()
    # With a ReLU after any earlier convolution the negative pixel would be lost.
    assert field(impulse(-1.0))[0, 0, 20, 20].item() == pytest.approx(29, rel=1e-5)


def test_partial_decoder_by_hand() -> None:
    decoder = PartialDecoder(1)
    as_identity(decoder)
    factors = {
        "coarse_times_middle": 2,
        "coarse_times_fine": 3,
        "middle_times_fine": 5,
        "coarse_beside_middle": 7,
        "join_middle": 11,
        "middle_beside_fine": 13,
        "join_fine": 17,
        "last": 19,
    }
    for name, factor in factors.items():
        fill(getattr(decoder, name), factor)
    decoder.head.weight.data = torch.tensor([1.0, 0.1, 0.01]).reshape(1, 3, 1, 1)
    decoder.head.bias.data.fill_(0.5)
    fine, middle, coarse = 0.5, 1.5, 0.25
    logits = decoder(*(torch.full((1, 1, n, n), x) for n, x in ((16, fine), (8, middle), (4, coarse))))
    middle_product, beside = 2 * coarse * middle, 7 * coarse
    fine_product = 3 * coarse * 5 * middle * fine
    expected = 17 * 19 * (fine_product + 11 * 13 * (0.1 * middle_product + 0.01 * beside)) + 0.5
    torch.testing.assert_close(logits, torch.full((1, 1, 16, 16), expected))


def test_reverse_attention_by_hand() -> None:
    stage = ReverseAttention(2, 1, convolutions=2, kernel=3, last_kernel=3)
    as_identity(stage)
    stage.squeeze[0].weight.data = torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1)
    for convolution, factor in zip(stage.convolutions, (2.0, -3.0), strict=True):
        fill(convolution, factor)
    fill(stage.last, 5.0)
    features = torch.tensor([4.0, 0.8]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    edge = torch.ones(1, 64, 8, 8)
    # Logits of log 3 are a probability of 3/4: a quarter of 4 + 8 is left, 3; edges add through their own weights.
    guide = torch.full((1, 1, 2, 2), 3.0).log()
    stage.convolutions[0][0].weight.data[0, 1:, 1, 1] = 1 / 64
    # relu(2 * 3 + 1) = 7, relu(-3 * 7) = 0: only the guide is left.
    torch.testing.assert_close(stage(features, guide, edge), torch.full((1, 1, 4, 4), 3.0).log())
    fill(stage.convolutions[1], 3.0)
    torch.testing.assert_close(stage(features, guide, edge), 5 * 21.0 + torch.full((1, 1, 4, 4), 3.0).log())


@pytest.mark.parametrize(
    ("part", "convolutions", "kernel", "last"),
    [("refine4", 3, (5, 5), (1, 1)), ("refine3", 2, (3, 3), (3, 3)), ("refine2", 2, (3, 3), (3, 3))],
)
def test_reverse_attention_stages(
    net: InfNet, part: str, convolutions: int, kernel: tuple[int, int], last: tuple[int, int]
) -> None:
    stage = getattr(net, part)
    assert [m[0].kernel_size for m in stage.convolutions] == [kernel] * convolutions
    assert stage.last[0].kernel_size == last


def test_reversed_by() -> None:
    features = torch.tensor([8.0, 2.0]).reshape(1, 2, 1, 1)
    left = reversed_by(torch.tensor([3.0]).log().reshape(1, 1, 1, 1), features)
    torch.testing.assert_close(left, torch.tensor([2.0, 0.5]).reshape(1, 2, 1, 1))


def test_resizing_does_not_align_the_corners() -> None:
    row = resized(torch.tensor([[[[0.0, 4.0]]]]), torch.zeros(1, 1, 1, 4))[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_convolution_and_norm_without_relu_as_released() -> None:
    block = conv_norm(1, 1, 1)
    as_identity(block)
    fill(block, 1.0)
    torch.testing.assert_close(block(torch.tensor([[[[-2.0]]]])), torch.tensor([[[[-2.0]]]]))
    assert block[0].bias is None


@pytest.mark.parametrize("kernel", [1, 3, 5, (1, 7), (7, 1)])
@pytest.mark.parametrize("dilation", [1, 3])
def test_convolutions_keep_the_resolution(kernel: int | tuple[int, int], dilation: int) -> None:
    assert conv_norm(2, 3, kernel, dilation)(torch.rand(1, 2, 9, 11)).shape == (1, 3, 9, 11)


def test_a_seed_repeats_the_weights() -> None:
    twice = []
    for _ in range(2):
        torch.manual_seed(4)
        twice.append(torch.cat([p.flatten() for p in InfNet(channels=2).parameters()]))
    assert torch.equal(*twice)
