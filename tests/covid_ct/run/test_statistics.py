import numpy as np
import pytest
from covidct.run import statistics
from covidct.run.statistics import Paired, Summary, case_means, compare, detectable, holm, over_cases, summarise
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

NAN = float("nan")


def test_deviation_has_ddof_1_and_empty_cases_are_counted():
    assert summarise([1.0, 2.0, NAN, 4.0]) == Summary(
        mean=pytest.approx(7 / 3), deviation=pytest.approx(np.sqrt(7 / 3)), count=3, empty=1
    )


def test_pooled_folds_give_the_published_deviation():
    # Five folds of 16 evaluations with the means and deviations that the benchmark prints for its 3D U-Net: the
    # deviation over the 80 is the printed .2227 (DSC) and .2437 (NSD), with ddof 1 and not with 0.
    published = {
        "dsc": ([0.6808, 0.7132, 0.6618, 0.6813, 0.6267], [0.2049, 0.2053, 0.2168, 0.231, 0.2689], 0.6728, 0.2227),
        "nsd": ([0.7088, 0.7182, 0.7171, 0.7084, 0.6493], [0.2130, 0.2296, 0.2415, 0.2706, 0.2823], 0.7004, 0.2437),
    }
    for means, deviations, mean, deviation in published.values():
        values = []
        for m, s in zip(means, deviations, strict=True):
            fold = np.random.default_rng(0).normal(size=16)
            values += list(m + s * (fold - fold.mean()) / fold.std(ddof=1))
        found = summarise(values)
        assert found.count == 80
        assert found.mean == pytest.approx(mean, abs=1e-4)
        assert found.deviation == pytest.approx(deviation, abs=1e-4)


def test_nothing_to_average():
    assert np.isnan([summarise([]).mean, summarise([NAN]).mean, summarise([0.5]).deviation]).all()
    assert (summarise([NAN]).count, summarise([NAN]).empty) == (0, 1)


def test_cases_of_several_folds_are_averaged_first():
    found = over_cases([("a", 0.2), ("b", 0.5), ("a", 0.4), ("c", NAN), ("b", NAN)])
    assert found.mean == pytest.approx((0.3 + 0.5) / 2)
    assert (found.count, found.empty) == (2, 1)


def test_means_of_cases():
    assert case_means([("a", 0.25), ("b", 0.5), ("a", 0.75)]) == {"a": 0.5, "b": 0.5}


def test_paired_t_by_hand():
    # Differences 1 to 5: mean 3, deviation sqrt(2.5), t = 3 / sqrt(2.5 / 5) = 3 sqrt(2). With four degrees of freedom
    # the distribution of t is 1/2 + 3/8 u (1 - u^2 / 12), u^2 = t^2 / (1 + t^2 / 4) = 36/11.
    u = np.sqrt(36 / 11)
    found = compare([11, 12, 13, 14, 15], [10, 10, 10, 10, 10])
    assert (found.count, found.difference) == (5, 3)
    assert found.deviation == pytest.approx(np.sqrt(2.5))
    assert found.t == pytest.approx(3 * np.sqrt(2))
    assert found.t_p == pytest.approx(2 * (1 / 2 - 3 / 8 * u * (1 - u**2 / 12)))
    assert found.t_p == pytest.approx(0.0132, abs=5e-5)


@pytest.mark.parametrize(
    ("differences", "statistic", "p"),
    [
        # No negative rank: of 2^5 choices of signs two are as extreme.
        ([1, 2, 3, 4, 5], 0, 2 / 32),
        # The negative difference has rank 2: no, the first, or the second rank negative are as extreme, on both sides.
        ([0.1, -0.2, 0.3, 0.4, 0.5, 0.6], 2, 2 * 3 / 64),
    ],
)
def test_signed_ranks_by_hand(differences, statistic, p):
    found = compare(differences, [0] * len(differences))
    assert (found.wilcoxon, found.wilcoxon_p) == (statistic, pytest.approx(p))


def test_ranks_do_not_hang_on_the_last_bit():
    # 0.8 - 0.7 and 0.6 - 0.5 differ by rounding, as 0.1 + 0.2 and 0.3 do.
    assert compare([0.8, 0.6, 0.3, 0.9], [0.7, 0.5, 0.1, 0.3]).wilcoxon_p == compare([1, 1, 2, 6], [0] * 4).wilcoxon_p
    zero = compare([0.1 + 0.2, 0.5, 0.9, 0.7], [0.3, 0.4, 0.5, 0.1])
    assert zero.wilcoxon_p == compare([0, 1, 4, 6], [0] * 4).wilcoxon_p


def test_pairs_with_nan_are_left_out():
    with_nan = compare([0.2, NAN, 0.6, 0.9, 0.5], [0.1, 0.3, 0.3, 0.7, NAN])
    assert with_nan == compare([0.2, 0.6, 0.9], [0.1, 0.3, 0.7])
    assert with_nan.count == 3


def test_first_minus_second():
    a, b = [0.2, 0.6, 0.9, 0.4], [0.1, 0.3, 0.7, 0.5]
    one, other = compare(a, b), compare(b, a)
    assert one.difference == pytest.approx(0.125)
    assert (other.difference, other.t) == (pytest.approx(-one.difference), pytest.approx(-one.t))
    assert (one.t_p, one.wilcoxon_p, one.detectable) == pytest.approx((other.t_p, other.wilcoxon_p, other.detectable))


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [([], [], NAN), ([0.3], [0.2], 0.1), ([0.2, 0.5, 0.9], [0.1, 0.4, 0.8], 0.1), ([0.2, 0.5], [0.2, 0.5], 0)],
)
def test_without_spread_there_is_no_test(first, second, difference):
    found = compare(first, second)
    assert found.count == len(first)
    np.testing.assert_allclose(found.difference, difference, atol=1e-12)
    rest = (found.low, found.high, found.t, found.t_p, found.wilcoxon, found.wilcoxon_p, found.detectable)
    assert np.isnan(rest).all()


def test_two_pairs_are_enough_for_a_test():
    found = compare([1, 2], [1, 3])
    assert isinstance(found, Paired)
    assert (found.t, found.t_p) == (pytest.approx(-1), pytest.approx(0.5))


def test_scores_of_other_images_are_refused():
    with pytest.raises(ValueError, match=r"same images, got \(2,\) and \(3,\)"):
        compare([1, 2], [1, 2, 3])


def test_interval_covers_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 499)
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        b = random.normal(size=40)
        found = compare(b + 0.1 + random.normal(scale=0.2, size=40), b)
        covered += found.low <= 0.1 <= found.high
    # 190 expected; a binomial of 200 trials with 0.95 leaves 180 to 198 once in a thousand times.
    assert 180 <= covered <= 198


def test_interval_is_of_pairs_and_seeded():
    random = np.random.default_rng(1)
    b = random.normal(scale=10, size=80)
    a = b + random.normal(scale=0.1, size=80)
    found = compare(a, b)
    # Resampled apart, the two would make it a hundred times as wide as the t interval.
    wide = 2 * stats.t.ppf(0.975, 79) * found.deviation / np.sqrt(80)
    assert found.high - found.low == pytest.approx(wide, rel=0.1)
    assert compare(a, b) == found
    assert compare(a, b, seed=1).low != found.low


def test_detectable_differences_of_the_textbook():
    # A paired t test finds half a deviation with power 0.8 from 34 pairs on (G*Power: 34, and 0.6604 for 20 pairs).
    assert detectable(1, 34) < 0.5 < detectable(1, 33)
    assert detectable(1, 20) == pytest.approx(0.6604, abs=1e-4)
    assert detectable(0.2, 20) == pytest.approx(0.2 * 0.6604, abs=1e-4)


def test_detectable_difference_is_found_four_times_of_five():
    random = np.random.default_rng(0)
    draws = random.normal(loc=detectable(1, 16), size=(20_000, 16))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    # Four standard errors of a share of 20,000.
    assert found.mean() == pytest.approx(0.8, abs=0.0113)


def test_one_pair_has_no_power():
    with pytest.raises(ValueError, match="count must be 2 or more, got 1"):
        detectable(0.1, 1)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04; the last must not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_comparisons_that_exist():
    assert holm([0.02, NAN, 0.7, 0.6]) == pytest.approx([0.06, NAN, 1, 1], nan_ok=True)
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_none_and_bonferroni(values):
    found = np.array(holm(values))
    given_values = np.array(values)
    assert (found >= given_values).all()
    assert (found <= np.minimum(len(values) * given_values, 1)).all()
    # The order of evidence stays.
    assert (np.diff(found[np.argsort(given_values, kind="stable")]) >= 0).all()
