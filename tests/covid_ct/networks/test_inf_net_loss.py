import math

import pytest
import torch
from covidct.networks.inf_net import InfNetOutput
from covidct.networks.inf_net_loss import BceWeighting, inf_net_loss, joint_loss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

WEIGHTINGS: list[BceWeighting] = ["as_released", "as_described"]


def reference(logits: Tensor, mask: Tensor, weighting: str) -> float:
    """The loss in loops, written from its description."""
    batch, _, height, width = logits.shape
    entropies: list[float] = []
    losses = []
    for b in range(batch):
        both = either = weights = weighted = 0.0
        for i in range(height):
            for j in range(width):
                around = 0.0
                for k in range(max(i - 15, 0), min(i + 16, height)):
                    for n in range(max(j - 15, 0), min(j + 16, width)):
                        around += mask[b, 0, k, n].item()
                m, p = mask[b, 0, i, j].item(), 1 / (1 + math.exp(-logits[b, 0, i, j].item()))
                weight = 1 + 5 * abs(around / 961 - m)
                entropy = -m * math.log(p) - (1 - m) * math.log(1 - p)
                entropies.append(entropy)
                weights, weighted = weights + weight, weighted + weight * entropy
                both, either = both + weight * p * m, either + weight * (p + m)
        losses.append(1 - (both + 1) / (either - both + 1) + (weighted / weights if weighting == "as_described" else 0))
    mean = sum(losses) / batch
    return mean if weighting == "as_described" else mean + sum(entropies) / len(entropies)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equals_the_loops(weighting: BceWeighting) -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 1, 7, 18), (torch.rand(2, 1, 7, 18) > 0.6).float()
    assert joint_loss(logits, mask, bce_weighting=weighting).item() == pytest.approx(reference(logits, mask, weighting))


def test_the_weightings_differ() -> None:
    logits, mask = torch.tensor([[[[3.0, 3.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    released, described = (joint_loss(logits, mask, bce_weighting=weighting).item() for weighting in WEIGHTINGS)
    # Weights 1 + 5 * 960/961 and 1 + 5/961; cross entropies log(1 + e^-3) and that plus 3.
    first, second = 1 + 5 * 960 / 961, 1 + 5 / 961
    low = math.log(1 + math.exp(-3))
    expected = (first * low + second * (low + 3)) / (first + second) - (low + 1.5)
    assert described - released == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_pixel_by_hand(weighting: BceWeighting) -> None:
    weight = 1 + 5 * 960 / 961
    expected = math.log(2) + 1 - (0.5 * weight + 1) / (weight + 1)
    found = joint_loss(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), bce_weighting=weighting)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_right_is_no_loss(value: float) -> None:
    mask = torch.full((2, 1, 8, 8), value)
    assert joint_loss(200 * mask - 100, mask).item() == pytest.approx(0, abs=1e-5)


def test_terms_add_up() -> None:
    torch.manual_seed(0)
    output = InfNetOutput(*(torch.randn(2, 1, 8, 8) for _ in range(5)))
    mask, edge = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    terms = inf_net_loss(output, mask, edge, bce_weighting="as_described")
    torch.testing.assert_close(terms.edge, binary_cross_entropy_with_logits(output.edge, edge))
    for name in ("s5", "s4", "s3", "s2"):
        expected = joint_loss(getattr(output, name), mask, bce_weighting="as_described")
        torch.testing.assert_close(getattr(terms, name), expected)
    torch.testing.assert_close(terms.total, torch.stack(terms[1:]).sum())


def test_half_precision_is_left() -> None:
    output = InfNetOutput(*(torch.full((1, 1, 8, 8), 50.0, dtype=torch.float16) for _ in range(5)))
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    terms = inf_net_loss(output, mask, mask)
    assert terms.total.dtype == torch.float32
    assert terms.edge.item() == pytest.approx(50)
