import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf

from relcons import RelationGaps, plot
from relcons.functional import relation_matrix
from relcons.plot import plot_relation, plot_relations


def relation(seed, channels=12):
    generator = torch.Generator().manual_seed(seed)
    return relation_matrix(torch.rand(2, channels, 5, 4, generator=generator))


def panels(figure):
    """Axes with a picture, without the colour bars."""
    return [ax for ax in figure.axes if ax.images]


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_smoke():
    matrix = relation(0)
    assert drawn(plot_relation(matrix)).std() > 0
    assert drawn(plot_relations(matrix, relation(1), relation(2))).std() > 0


def test_public_names():
    assert plot.__all__ == sorted(plot.__all__) == ["plot_relation", "plot_relations", "relation_gaps"]


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m,
        lambda m: m.requires_grad_(),
        lambda m: m.bfloat16(),
        lambda m: m.numpy(),
        lambda m: m.tolist(),
    ],
    ids=["tensor", "with_gradient", "bf16", "array", "nested_lists"],
)
def test_tensors_and_arrays(convert):
    (ax,) = panels(plot_relation(convert(relation(0))))
    np.testing.assert_allclose(shown(ax), relation(0), atol=4e-3)


def test_own_axes_title_and_limits():
    assert len(plot_relation(relation(0)).axes) == 2
    first = plot_relation(relation(0), title="R", limits=(-1, 2), colorbar=False)
    assert len(first.axes) == 1
    assert first.axes[0].get_title() == "R"
    assert first.axes[0].images[0].get_clim() == (-1, 2)
    ax = first.add_subplot()
    assert plot_relation(relation(1), ax) is first
    np.testing.assert_allclose(shown(ax), relation(1))


def test_strong_diagonal_does_not_set_the_scale():
    matrix = np.full((40, 40), 0.1) + 5 * np.eye(40)[:, ::-1] * (np.arange(40) < 4)
    low, high = panels(plot_relation(matrix))[0].images[0].get_clim()
    assert (low, high) == (0, pytest.approx(0.1))


def test_zero_matrix_is_drawn_on_a_scale_of_its_own():
    figure = plot_relation(torch.zeros(4, 4))
    assert panels(figure)[0].images[0].get_clim() == (0, 1)
    assert drawn(figure).std() > 0


def test_difference_writes_the_mean():
    (ax,) = panels(plot_relation(torch.full((3, 3), 0.125), difference=True))
    assert ax.get_xlabel() == "mean 0.12"


def test_columns_are_the_two_pairs_and_their_differences():
    source, general, target = relation(0), relation(1), relation(2)
    axes = panels(plot_relations(source, general, target))
    expected = [source, general, (source - general).abs(), general, target, (general - target).abs()]
    assert len(axes) == 6
    for ax, matrix in zip(axes, expected, strict=True):
        np.testing.assert_allclose(shown(ax), matrix, atol=1e-7)
    titles = [ax.get_title().splitlines()[-1] for ax in axes]
    assert titles == ["$R_G(X^n)$", "$R_G(X^c)$", "|difference|", "$R_G(X^c)$", "$R_T(X^c)$", "|difference|"]
    assert axes[2].get_xlabel() == f"mean {(source - general).abs().mean():#.2g}"
    assert axes[5].get_xlabel() == f"mean {(general - target).abs().mean():#.2g}"


def test_one_scale_for_relations_and_one_for_differences():
    rows = [relation(seed) for seed in range(6)]
    axes = panels(plot_relations(rows[:2], rows[2:4], [rows[4], 3 * rows[5]], labels=["step 0", "step 9"]))
    scales = [ax.images[0].get_clim() for ax in axes]
    relations = {scale for place, scale in enumerate(scales) if place % 3 != 2}
    differences = {scale for place, scale in enumerate(scales) if place % 3 == 2}
    assert len(relations) == len(differences) == 1
    assert relations != differences
    bars = {ax.get_ylabel(): ax.get_ylim() for ax in axes[0].figure.axes if ax not in axes}
    assert bars == {"relation": relations.pop(), "|difference|": differences.pop()}
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == ["step 0", "step 9"]
    assert axes[6].get_ylabel() == "step 9"


def test_stacks_and_sequences_draw_alike():
    stack = torch.stack([relation(0), relation(1)])
    one, two = plot_relations(stack, stack, stack), plot_relations(list(stack), list(stack), list(stack))
    assert len(panels(one)) == 12
    np.testing.assert_array_equal(drawn(one), drawn(two))


def test_without_source_the_first_columns_are_left_out():
    axes = panels(plot_relations(None, [relation(0)] * 2, [relation(1)] * 2, labels=["a", "b"]))
    assert len(axes) == 6
    np.testing.assert_allclose(shown(axes[0]), relation(0))
    np.testing.assert_allclose(shown(axes[1]), relation(1))
    assert axes[1].get_title().splitlines() == ["general and target encoder, target images", "$R_T(X^c)$"]
    assert [ax.get_ylabel() for ax in axes] == ["a", "", "", "b", "", ""]


def test_colours_tell_relations_from_differences():
    axes = panels(plot_relations(relation(0), relation(1), relation(2)))
    assert [ax.images[0].get_cmap().name for ax in axes] == ["viridis", "viridis", "Reds"] * 2
    assert [ax.get_xlabel() == "" for ax in axes] == [True, True, False] * 2
    assert plot_relation(relation(0), difference=True).axes[0].images[0].get_cmap().name == "Reds"


def test_panels_are_apart_and_large_enough_to_be_looked_at():
    figure = plot_relations([relation(0)] * 2, [relation(1)] * 2, [relation(2)] * 2, labels=["a", "b"])
    drawn(figure)
    boxes = [ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted()) for ax in panels(figure)]
    assert all(1.2 < box.width < 2 and box.height == pytest.approx(box.width, rel=0.01) for box in boxes)
    assert [round(box.y0, 3) for box in boxes[:6]] == [round(boxes[0].y0, 3)] * 6
    assert boxes[0].y0 > boxes[6].y1
    for left, right in pairwise(boxes[:6]):
        assert left.x1 < right.x0 < left.x1 + 1
    # The two pairs are further from each other than the three panels of one are.
    assert boxes[3].x0 - boxes[2].x1 > 1.2 * (boxes[2].x0 - boxes[1].x1)


def test_entries_below_zero_widen_the_scale_and_colour_bars_say_what_lies_beyond():
    matrix = np.linspace(-1, 1, 400).reshape(20, 20)
    low, high = panels(plot_relation(matrix))[0].images[0].get_clim()
    assert (low, high) == (pytest.approx(-0.99), pytest.approx(0.99))
    ends = {(-2, 2): "neither", (-0.5, 2): "min", (-2, 0.5): "max", (-0.5, 0.5): "both", (-1, 1): "neither"}
    for limits, extend in ends.items():
        assert plot_relation(matrix, limits=limits).axes[0].images[0].colorbar.extend == extend


def test_bars_of_both_pairs_say_what_lies_beyond():
    spike = np.full((20, 20), 0.1)
    spike[0, 0] = 1
    axes = panels(plot_relations(spike, spike, spike))
    assert axes[1].images[0].colorbar is axes[2].images[0].colorbar is None
    assert axes[-3].images[0].colorbar.extend == "max"
    assert axes[-1].images[0].colorbar.extend == "neither"


def test_gaps_are_written_with_their_intervals_in_a_colour_that_can_be_read():
    between, nothing = (0.1, 0.3), None
    gaps = RelationGaps(
        names=("a", "b"),
        gap=((0.0, 0.25), (0.1, 0.0)),
        interval=((nothing, between), (nothing, nothing)),
        within=(0.5, 0.4),
    )
    figure = plot.relation_gaps(gaps)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == [
        "within\n0.50",
        "0.250\n0.100 to 0.300",
        "0.100",
        "within\n0.40",
    ]
    assert [text.get_position() for text in ax.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [text.get_color() for text in ax.texts] == ["black", "white", "black", "black"]
    assert [[label.get_text() for label in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis)] == [["a", "b"]] * 2
    assert ax.images[0].get_clim() == (0, 0.25)
    assert ax.images[0].get_cmap().name == "Reds"
    np.testing.assert_array_equal(shown(ax), gaps.gap)
    assert drawn(figure).std() > 0
    box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    assert min(box.width, box.height) > 2 * 0.8  # inches, for the text of two cells
    assert plot.relation_gaps(gaps, figure.add_subplot()) is figure


def test_sets_without_a_gap_are_drawn():
    figure = plot.relation_gaps(RelationGaps(("a",), ((0.0,),), ((None,),), (0.5,)))
    low, high = figure.axes[0].images[0].get_clim()
    assert low == 0 < high
    assert figure.axes[0].texts[0].get_color() == "black"


def test_pyplot_knows_no_figure():
    plot_relation(relation(0))
    plot_relations(relation(0), relation(1), relation(2))
    plot.relation_gaps(RelationGaps(("a",), ((0.0,),), ((None,),), (0.5,)))
    assert Gcf.get_all_fig_managers() == []


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3, 4), r"matrix must be square, \(C, C\), got \(3, 4\)"),
        (torch.zeros(2, 3, 3), r"got \(2, 3, 3\)"),
        (torch.zeros(0, 0), r"got \(0, 0\)"),
        (torch.full((2, 2), float("nan")), "matrix holds NaN"),
    ],
)
def test_exception_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        plot_relation(matrix)


def test_exception_counts_and_shapes():
    r, small = relation(0), relation(0, channels=6)
    with pytest.raises(ValueError, match=r"'general_source': 2, 'general_target': 1, 'target': 1"):
        plot_relations([r, r], r, r)
    with pytest.raises(ValueError, match=r"'labels': 2"):
        plot_relations(r, r, r, labels=["a", "b"])
    with pytest.raises(ValueError, match=r"'target': 0"):
        plot_relations([], [], [])
    with pytest.raises(ValueError, match=r"general_source \(12, 12\), general_target \(12, 12\), target \(6, 6\)"):
        plot_relations(r, r, small)
    with pytest.raises(ValueError, match=r"target must be square, \(C, C\), got \(2, 3\)"):
        plot_relations(r, r, r[:2, :3])


@pytest.mark.parametrize("call", [lambda r: plot_relation(r), lambda r: plot_relations(r, r, r)])
def test_exception_without_matplotlib(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'relcons.plot needs matplotlib .*; pip install "relcons\[plot\]"'):
        call(relation(0))
