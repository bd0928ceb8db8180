"""Gaps between data sets where there is little of something: images, samples, weights; and what is taken unasked."""

import statistics

import pytest
import torch
from torch import nn

from relcons import relation_gap, relation_gaps


def images(count, seed, channels=3):
    return torch.rand(count, channels, 5, 4, generator=torch.Generator().manual_seed(seed))


def halves(count, seed, channels=3):
    return images(count, seed, channels).split(2)


def ask(**arguments):
    return relation_gap(nn.Identity(), halves(6, 0), halves(6, 1), **arguments)


def test_unasked_are_100_samples_noise_and_seed_0():
    assert ask() == ask(bootstrap=100, noise=True, seed=0)
    assert ask() != ask(seed=1)
    assert ask().noise is not None
    assert ask().moved is None


def test_two_sets_are_enough_and_take_100_samples_and_seed_0():
    sets = {"a": halves(6, 0), "b": halves(6, 1)}
    found = relation_gaps(nn.Identity(), sets)
    assert found == relation_gaps(nn.Identity(), sets, bootstrap=100, seed=0)
    assert found != relation_gaps(nn.Identity(), sets, seed=1)
    alone = ask(bootstrap=0)
    assert found.gap == ((0.0, pytest.approx(alone.gap)), (pytest.approx(alone.gap), 0.0))
    assert found.interval[0][0] is found.interval[1][1] is None
    # Of one set by itself: its own norm is the scale.
    same = relation_gap(nn.Identity(), halves(6, 1), halves(6, 1), bootstrap=0)
    assert found.within[1] == pytest.approx(same.within_a)


def test_an_interval_needs_two_samples():
    assert ask(bootstrap=0).interval is None
    assert ask(bootstrap=1).interval is None
    low, high = ask(bootstrap=2).interval
    assert 0 <= low < high


def test_the_interval_is_as_wide_as_the_gap_varies_from_draw_to_draw():
    random, gaps, widths = torch.Generator().manual_seed(3), [], []
    for seed in range(40):
        a, b = (torch.randn(30, 1, 2, 2, generator=random, dtype=torch.float64) + mean for mean in (1.0, 2.0))
        found = relation_gap(nn.Identity(), [a], [b], relation=nn.Flatten(1, 2), noise=False, seed=seed)
        gaps.append(found.gap)
        widths.append(found.interval[1] - found.interval[0])
    # 95 % of a normal distribution lie within 1.96 standard deviations of its mean.
    assert sum(widths) / 40 == pytest.approx(2 * 1.96 * statistics.stdev(gaps), rel=0.25)


def test_samples_that_are_empty_leave_no_interval():
    """Of two images a sample is empty once in 7, of two sets one once in 4: a seed of which it is both samples."""
    found = [
        relation_gap(nn.Identity(), halves(2, 0), halves(2, 1), bootstrap=2, noise=False, seed=seed).interval
        for seed in range(40)
    ]
    empty = [interval for interval in found if interval[0] != interval[0]]
    assert 0 < len(empty) < 40
    assert all(high != high for _, high in empty)


def test_64_rows_are_not_sketched(monkeypatch):
    def interval(rows):
        return relation_gap(nn.Identity(), halves(8, 0, rows), halves(8, 1, rows), bootstrap=20, noise=False).interval

    exact, sketched = interval(64), interval(65)
    monkeypatch.setattr("relcons.gap.summaries.SKETCH", 65 * 65)
    assert interval(64) == exact
    assert interval(65) != sketched


def test_nothing_to_see_is_no_gap():
    nothing = [torch.zeros(2, 3, 5, 4)] * 2
    found = relation_gap(nn.Identity(), nothing, nothing, bootstrap=0)
    assert (found.gap, found.between, found.within_a, found.within_b, found.rank_a) == (0, 0, 0, 0, 0)


def test_noise_is_of_the_images_type_and_apart_from_the_bootstrap():
    double = [each.double() for each in halves(6, 0)]
    found = relation_gap(nn.Identity(), double, double, bootstrap=0)
    assert found.noise > 0.1
    assert found.between == pytest.approx(relation_gap(nn.Identity(), double, double, noise=False).between)


@pytest.mark.parametrize("start", [0.0, 2.0])
def test_moved_is_a_share_of_the_norm_at_the_start(start):
    encoder = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(start)
    begun = {name: value.clone() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        encoder.weight.add_(1.0)
    found = relation_gap(encoder, halves(4, 0, 1), halves(4, 1, 1), start=begun, bootstrap=0, noise=False)
    # 18 weights that moved by 1; 20 that were 2. From zeros there is no share.
    assert found.moved == pytest.approx((18 / 80) ** 0.5 if start else 0.0)


def test_refuses_a_start_of_another_shape():
    start = nn.Conv2d(1, 2, 5).state_dict()
    with pytest.raises(ValueError, match=r"start is of another network: weight is missing in it or of another shape"):
        relation_gap(nn.Conv2d(1, 2, 3), halves(4, 0, 1), halves(4, 1, 1), start=start, bootstrap=0)


def test_refuses_an_empty_batch_by_its_type():
    with pytest.raises(TypeError, match=r"a must give batches of images: .* got list"):
        relation_gap(nn.Identity(), [[]], halves(4, 1), bootstrap=0)


def test_refuses_sizes_that_differ_from_batch_to_batch_of_one():
    with pytest.raises(ValueError, match="the relations of a set have 4 rows and others 3"):
        relation_gap(nn.Identity(), [images(2, 0), images(1, 0, 4)], halves(4, 1), bootstrap=0, noise=False)
