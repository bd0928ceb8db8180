import numpy as np
import pytest
from covidct.slices.metrics import (
    THRESHOLDS,
    at_threshold,
    best_threshold,
    binarise,
    mean_curves,
    mean_over_thresholds,
    score_image,
    summarise,
    threshold_protocol,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def literal_protocol(values, truth):
    """The toolbox's two functions as loops: main.m's scaling and Fmeasure_calu.m."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    values = (values - low) / (high - low) if high > low else values * 0
    dice, sensitivity, specificity = [], [], []
    for step in range(256):
        threshold = (255 - step) / 255
        label = np.zeros(values.shape, dtype=bool)
        label[values >= threshold] = True
        num_rec = np.count_nonzero(label)
        num_no_rec = np.count_nonzero(~label)
        overlap = label & truth
        num_and = np.count_nonzero(overlap)
        num_obj = np.count_nonzero(truth)
        fn = num_obj - num_and
        fp = num_rec - num_and
        tn = num_no_rec - fn
        if num_and == 0:
            dice.append(0.0)
            sensitivity.append(0.0)
            specificity.append(0.0)
        else:
            sensitivity.append(num_and / num_obj)
            specificity.append(tn / (tn + fp) if tn + fp else 0.0)
            dice.append(2 * num_and / (num_obj + num_rec))
    return np.array(dice), np.array(sensitivity), np.array(specificity), np.abs(values - truth).mean()


def assert_same(curves, literal):
    np.testing.assert_array_equal(curves.dice, literal[0])
    np.testing.assert_array_equal(curves.sensitivity, literal[1])
    np.testing.assert_allclose(curves.specificity, literal[2], rtol=1e-15)
    assert curves.mae == pytest.approx(literal[3], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["uniform", "eight_bit", "hard", "peaked"])
def test_protocol_equals_literal_loop(kind, seed):
    random = np.random.default_rng(seed)
    values = random.random((37, 23)).astype(np.float32)
    if kind == "eight_bit":
        values = (random.integers(0, 256, (37, 23)) / 255).astype(np.float64)
    elif kind == "hard":
        values = (values > 0.7).astype(np.float32)
    elif kind == "peaked":
        values = values**9
    truth = random.random((37, 23)) > 0.8
    assert_same(threshold_protocol(values, truth), literal_protocol(values, truth))


@given(
    values=arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
    truth=arrays(np.bool_, (4, 5)),
)
def test_protocol_equals_literal_loop_on_any_input(values, truth):
    assert_same(threshold_protocol(values, truth), literal_protocol(values, truth))


def hard_mask_with_dice_900():
    # 100 pixels of truth, 100 predicted, 90 shared: Dice 180/200. The picture has 1000 pixels.
    truth, mask = np.zeros(1000, bool), np.zeros(1000, np.float32)
    truth[:100] = True
    mask[10:110] = 1
    return mask.reshape(20, 50), truth.reshape(20, 50)


def test_hard_mask_of_dice_900_scores_897():
    curves = threshold_protocol(*hard_mask_with_dice_900())
    value_at_zero = 2 * 100 / (1000 + 100)
    assert curves.dice[-1] == pytest.approx(value_at_zero)
    scores = mean_over_thresholds(curves)
    assert scores["dice"] == pytest.approx((255 * 0.9 + value_at_zero) / 256, abs=1e-12)
    assert round(scores["dice"], 3) == 0.897
    assert scores["sensitivity"] == pytest.approx((255 * 0.9 + 1) / 256, abs=1e-12)
    assert scores["specificity"] == pytest.approx(255 * (890 / 900) / 256, abs=1e-12)
    assert scores["mae"] == pytest.approx(20 / 1000)


def test_thresholds_are_256_from_one_to_zero():
    assert THRESHOLDS.shape == (256,)
    assert THRESHOLDS[0] == 1
    assert THRESHOLDS[1] == 254 / 255
    assert THRESHOLDS[-1] == 0


def test_no_hit_zeroes_specificity_too():
    truth = np.array([[True, False, False, False]])
    curves = threshold_protocol(np.array([[0.0, 0.0, 0.0, 1.0]]), truth)
    # TN/(TN+FP) at t = 1 would be 2/3.
    assert not curves.specificity.any()
    assert not curves.sensitivity[:-1].any()
    assert curves.sensitivity[-1] == 1


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_constant_map_counts_as_zeros(constant):
    truth = np.array([[True, False], [False, False]])
    curves = threshold_protocol(np.full((2, 2), constant), truth)
    assert not curves.dice[:-1].any()
    assert curves.dice[-1] == pytest.approx(2 / 5)
    assert curves.mae == 0.25


def test_scaling_of_map_changes_nothing():
    random = np.random.default_rng(0)
    values, truth = random.random((9, 9)), random.random((9, 9)) > 0.5
    one, two = threshold_protocol(values, truth), threshold_protocol(values * 0.25 + 0.5, truth)
    np.testing.assert_allclose(one.dice, two.dice)
    assert one.mae == pytest.approx(two.mae)


def test_empty_truth_scores_zero_in_table_v():
    scores = mean_over_thresholds(threshold_protocol(np.eye(3), np.zeros((3, 3), bool)))
    assert scores == {"dice": 0, "sensitivity": 0, "specificity": 0, "mae": pytest.approx(1 / 3)}


def test_full_truth_stays_finite():
    scores = mean_over_thresholds(threshold_protocol(np.eye(2), np.ones((2, 2), bool)))
    assert scores["specificity"] == 0
    assert scores["dice"] == pytest.approx((255 * 2 / 3 + 1) / 256)


def test_at_half_by_hand():
    probability = np.array([[0.9, 0.6, 0.5, 0.1], [0.8, 0.2, 0.2, 0.2]])
    truth = np.array([[True, True, True, False], [False, False, False, False]])
    # Hits 2 (0.5 is not above 0.5: missed 1), one false alarm, four right.
    assert at_threshold(probability, truth) == {
        "dice": pytest.approx(4 / 6),
        "sensitivity": pytest.approx(2 / 3),
        "specificity": pytest.approx(4 / 5),
        "mae": pytest.approx(2 / 8),
    }


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (0, 0, (1, 1, 1, 0)),
        (1, 0, (0, 1, 0, 1)),
        (0, 1, (0, 0, 1, 1)),
        (1, 1, (1, 1, 1, 0)),
    ],
)
def test_at_half_with_empty_and_full_masks(predicted, true, expected):
    scores = at_threshold(np.full((3, 3), float(predicted)), np.full((3, 3), bool(true)))
    assert tuple(scores.values()) == expected


def test_mean_over_images_then_thresholds_equals_means_of_images():
    random = np.random.default_rng(3)
    pairs = [(random.random((8, 7)), random.random((8, 7)) > 0.6) for _ in range(4)]
    curves = [threshold_protocol(*pair) for pair in pairs]
    over_curves = mean_over_thresholds(mean_curves(curves))
    summary = summarise([score_image(*pair) for pair in pairs])
    assert summary["table_v_soft"] == pytest.approx(over_curves)


def test_max_is_of_the_mean_curve():
    # Each image alone reaches Dice 1, at different thresholds: the mean curve does not.
    truth = np.array([[True, True, False, False]])
    low = np.array([[1.0, 0.2, 0.1, 0.0]])
    high = np.array([[1.0, 0.9, 0.8, 0.0]])
    images = [score_image(low, truth), score_image(high, truth)]
    assert all(best_threshold(image.soft)["dice"] == 1 for image in images)
    best = summarise(images)["max"]
    mean = (images[0].soft.dice + images[1].soft.dice) / 2
    assert best["dice"] == mean.max() < 1
    index = list(THRESHOLDS).index(best["threshold"])
    assert best["sensitivity"] == pytest.approx(
        (images[0].soft.sensitivity[index] + images[1].soft.sensitivity[index]) / 2
    )


def test_hard_and_soft_variants_differ_and_hard_is_the_mask():
    random = np.random.default_rng(4)
    probability, truth = random.random((16, 16)), random.random((16, 16)) > 0.5
    scores = score_image(probability, truth).scores
    mask = binarise(probability).astype(float)
    assert scores["table_v_hard"] == mean_over_thresholds(threshold_protocol(mask, truth))
    assert scores["table_v_soft"] != scores["table_v_hard"]
    assert scores["table_v_hard"]["mae"] == scores["at_0.5"]["mae"]


@pytest.mark.parametrize(
    ("values", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), r"got \(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "boolean, got float64"),
        (np.zeros((0, 2)), np.zeros((0, 2), bool), "not be empty"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), bool), "NaN"),
    ],
)
@pytest.mark.parametrize("function", [at_threshold, threshold_protocol])
def test_wrong_input_is_refused(function, values, truth, message):
    with pytest.raises(ValueError, match=message):
        function(values, truth)


@pytest.mark.parametrize("function", [summarise, mean_curves])
def test_no_images_are_refused(function):
    with pytest.raises(ValueError, match="at least one"):
        function([])
