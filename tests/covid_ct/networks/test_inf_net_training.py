import math

import pytest
import torch
from covidct.networks.inf_net_training import eight_bits, learning_rate, prediction, scaled, training_sizes


def test_sizes_at_352() -> None:
    assert training_sizes() == [256, 352, 448]


def test_sizes_of_a_small_preset() -> None:
    assert training_sizes(96) == [64, 96, 128]


def test_scaling_aligns_the_corners() -> None:
    batch = torch.tensor([[0.0, 3.0], [0.0, 3.0]]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(scaled(batch, (4, 4))[0, 0, 0], torch.tensor([0.0, 1.0, 2.0, 3.0]))


def test_scaling_to_the_same_size_changes_nothing() -> None:
    batch = torch.rand(1, 1, 4, 4)
    assert scaled(batch, (4, 4)) is batch


@pytest.mark.parametrize(
    ("epoch", "released", "described"),
    [(1, 1e-4, 1e-4), (49, 1e-4, 1e-4), (50, 1e-5, 1e-5), (51, 1e-6, 1e-5), (53, 1e-8, 1e-5), (99, 1e-54, 1e-5)],
)
def test_learning_rate(epoch: int, released: float, described: float) -> None:
    assert learning_rate(epoch) == pytest.approx(released, rel=1e-9, abs=0)
    assert learning_rate(epoch, rule="as_described") == pytest.approx(described, rel=1e-9, abs=0)


def test_learning_rate_of_epoch_100_falls_by_the_square() -> None:
    assert learning_rate(100) / learning_rate(99) == pytest.approx(1e-2)


def test_learning_rate_equals_the_released_loop() -> None:
    rate = 3e-4
    for epoch in range(1, 13):
        rate *= 0.5 ** (epoch // 5)
        assert learning_rate(epoch, 3e-4, decay=0.5, every=5) == pytest.approx(rate)


def test_prediction_is_stretched_image_by_image() -> None:
    logits = torch.tensor([[0.0, math.log(3), -math.log(3)], [5.0, 5.0, 5.0]]).reshape(2, 1, 1, 3)
    found = prediction(logits)[:, 0, 0]
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_prediction_is_resized_before_the_sigmoid() -> None:
    logits = torch.tensor([-4.0, 4.0]).reshape(1, 1, 1, 2)
    ends, inner = (1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))), 1 / (1 + math.exp(2))
    found = prediction(logits, (1, 4))[0, 0, 0]
    assert found[1].item() == pytest.approx((inner - ends[0]) / (ends[1] - ends[0]), rel=1e-5)
    assert found[[0, 3]].tolist() == pytest.approx([0, 1])


def test_eight_bits_are_rounded() -> None:
    assert eight_bits(torch.tensor([0.0, 0.5, 0.4 / 255, 0.6 / 255, 1.0])).tolist() == [0, 128, 0, 1, 255]
