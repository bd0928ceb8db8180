import pytest
import torch
from covidct.training.segmentation_loss import deep_supervision_weights, dice_cross_entropy, segmentation_loss
from monai.losses import DiceCELoss
from torch.nn.functional import binary_cross_entropy_with_logits

LOGITS = torch.tensor([0.0, 2.0, -1.0, 3.0]).reshape(2, 1, 1, 2)
TARGET = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(2, 1, 1, 2)


def test_equals_monai() -> None:
    logits, target = torch.randn(3, 1, 16, 12), (torch.rand(3, 1, 16, 12) > 0.7).float()
    peer = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
    torch.testing.assert_close(dice_cross_entropy(logits, target), peer(logits, target))


def test_dice_is_taken_over_the_whole_batch() -> None:
    p = LOGITS.sigmoid()
    overlap, sums = p[0, 0, 0, 1] + p[1, 0, 0, 1], p.sum() + 2
    expected = 1 - (2 * overlap + 1e-5) / (sums + 1e-5) + binary_cross_entropy_with_logits(LOGITS, TARGET)
    torch.testing.assert_close(dice_cross_entropy(LOGITS, TARGET), expected)


def test_nothing_to_find_and_nothing_found_is_no_loss() -> None:
    loss = dice_cross_entropy(torch.full((2, 1, 8, 8), -40.0), torch.zeros(2, 1, 8, 8))
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_weights_of_six_outputs() -> None:
    expected = [0.5161, 0.2581, 0.1290, 0.0645, 0.0323, 0.0]
    assert deep_supervision_weights(6) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_weights_add_up_to_one(outputs: int) -> None:
    assert sum(deep_supervision_weights(outputs)) == pytest.approx(1)


def test_outputs_are_weighted_finest_first() -> None:
    target = (torch.rand(2, 1, 16, 16) > 0.5).float()
    outputs = [torch.randn(2, 1, size, size) for size in (16, 8, 4)]
    by_hand = [
        dice_cross_entropy(logits, target[..., step // 2 :: step, step // 2 :: step])
        for logits, step in zip(outputs, (1, 2, 4), strict=True)
    ]
    torch.testing.assert_close(segmentation_loss(outputs, target), 2 / 3 * by_hand[0] + 1 / 3 * by_hand[1])


def test_a_single_output_needs_no_list() -> None:
    logits, target = torch.randn(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(segmentation_loss(logits, target), dice_cross_entropy(logits, target))


def test_every_output_has_a_gradient() -> None:
    # DistributedDataParallel waits for one from every parameter, also from the head with weight 0.
    outputs = [torch.randn(2, 1, size, size, requires_grad=True) for size in (8, 4)]
    segmentation_loss(outputs, torch.ones(2, 1, 8, 8)).backward()
    assert outputs[0].grad is not None
    assert outputs[0].grad.abs().sum() > 0
    assert outputs[1].grad is not None
    assert outputs[1].grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_is_computed_in_float32_under_autocast(dtype: torch.dtype) -> None:
    logits, target = torch.randn(2, 1, 64, 64).to(dtype), (torch.rand(2, 1, 64, 64) > 0.5).float()
    with torch.autocast("cpu", dtype=dtype):
        loss = segmentation_loss([logits], target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, dice_cross_entropy(logits.float(), target))
