import json
import math

import numpy as np
import pytest
import torch
from covidct.errors import InputError
from covidct.run import figures
from covidct.run.figures import draw_curves, draw_relations
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from relcons.functional import relation_matrix

NULLS = dict.fromkeys(
    (
        *("lambda", "general", "target", "weighted_general", "weighted_target"),
        *("grad_norm_general", "rank_general", "rank_target", "moved_general"),
    )
)


@pytest.fixture
def run(tmp_path):
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    saved, save = [], figures.save_figure

    def keep(figure, path):
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(figures, "save_figure", keep)
    return saved


def line(step, **changes):
    values = {
        "step": step,
        "loss": 1 - 0.01 * step,
        "segmentation": math.cos(step) - 0.01 * step,
        "lambda": 0.001 * step,
    }
    values |= {"general": 0.2, "target": -0.3, "weighted_general": 0.0002 * step, "weighted_target": -0.0003 * step}
    values |= {"grad_norm_general": 0.01, "grad_norm_target": 1.0, "grad_norm_decoder": 2.0}
    return (
        values
        | {"rank_general": 30.0, "rank_target": 20.0, "moved_general": 1e-4 * step}
        | {
            "learning_rate": 0.01,
            "seconds": 1.0,
        }
        | changes
    )


def write_log(run, lines, end="\n"):
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(item) for item in lines) + end)


def titles(figure):
    return [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes]


def check_png(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 0


def test_curves_of_the_whole_method(run, drawn):
    write_log(run, [line(step) for step in range(0, 300, 10)])
    assert draw_curves(run) == run / "curves.png"
    check_png(run / "curves.png")
    assert titles(drawn[0]) == [panel.title for panel in figures.PANELS]
    assert [path.name for path in run.iterdir() if path.suffix == ".png"] == ["curves.png"]
    assert Gcf.get_all_fig_managers() == []


def test_curves_show_the_logged_values(run, drawn):
    write_log(run, [line(step, segmentation=0.5 * step) for step in range(5)])
    draw_curves(run)
    segmentation = drawn[0].axes[0].lines[0]
    np.testing.assert_array_equal(segmentation.get_xdata(), range(5))
    np.testing.assert_array_equal(segmentation.get_ydata(), [0, 0.5, 1, 1.5, 2])
    added = drawn[0].axes[1]
    assert [text.get_text() for text in added.get_legend().get_texts()] == ["L_seg", "λ L_G", "λ L_T"]
    np.testing.assert_allclose(added.lines[0].get_ydata(), [0.5 * step for step in range(5)])
    np.testing.assert_allclose(added.lines[4].get_ydata(), [-0.0003 * step for step in range(5)])
    moved = next(ax for ax in drawn[0].axes if "w₀" in ax.get_title(loc="left"))
    np.testing.assert_allclose(moved.lines[0].get_ydata(), [1e-4 * step for step in range(5)])


def test_terms_of_any_size_are_seen_beside_each_other(run, drawn):
    """Under the printed sum L_T ends at a hundred times L_seg, and L_G far below it."""
    write_log(run, [line(step, segmentation=0.4, weighted_general=0.02, weighted_target=-24.0) for step in range(5)])
    draw_curves(run)
    added = drawn[0].axes[1]
    heights = [added.transData.transform((0, value))[1] for value in (-24.0, 0, 0.02, 0.4)]
    assert min(np.diff(heights)) > 0.1 * (heights[-1] - heights[0])


def test_curves_of_a_single_network_have_no_relation_panels(run, drawn):
    write_log(run, [line(step, **NULLS) for step in range(30)])
    draw_curves(run)
    assert titles(drawn[0]) == ["segmentation loss", "gradient norm before clipping"]
    legend = drawn[0].axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["target", "decoder"]


def test_one_logged_step_is_drawn(run):
    write_log(run, [line(1)])
    check_png(draw_curves(run))


def test_nan_makes_a_gap_and_a_torn_last_line_is_left_out(run, drawn):
    lines = [line(step) for step in range(30)]
    lines[3]["segmentation"] = float("nan")
    write_log(run, lines, end='\n{"step": 30, "lo')
    draw_curves(run)
    raw, smooth = (part.get_ydata() for part in drawn[0].axes[0].lines[:2])
    assert np.flatnonzero(np.isnan(raw)).tolist() == [3]
    assert len(raw) == 30
    assert np.isfinite(smooth).all()


def test_smoothing_keeps_a_constant_to_its_ends():
    np.testing.assert_allclose(figures._smooth(np.full(50, 2.5)), 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"metrics\.jsonl cannot be read"),
        ("", r"metrics\.jsonl is empty"),
        ('{"step": 1}\nnonsense\n{"step": 2}\n', r"metrics\.jsonl, line 2, is no JSON of a step; remove"),
        ('{"step": 1}\n{}\n{"step": 2}\n', r"metrics\.jsonl, line 2, is no JSON of a step; remove"),
        ('{"step": "one"}\n{"step": 2}\n', r"metrics\.jsonl, line 1, is no JSON of a step; remove"),
        pytest.param('{"step": 1}\n' + "[" * 10**5 + "\n{}\n", r"metrics\.jsonl, line 2, is no JSON", id="nested"),
    ],
)
def test_unusable_log_is_named(run, text, message):
    if text is not None:
        (run / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        draw_curves(run)
    assert not (run / "curves.png").exists()


def write_relations(run, steps, names=("general_source", "general_target", "target")):
    (run / "relations").mkdir()
    for step in steps:
        matrices = {name: relation_matrix(torch.rand(2, 8, 3, 3)).numpy() for name in names}
        np.savez(run / "relations" / f"step_{step:06d}.npz", **matrices)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0], [0]),
        ([0, 40, 80], [0, 40, 80]),
        (range(0, 1001, 100), [0, 200, 500, 800, 1000]),
        ([999_900, 1_000_000, 1_000_100], [999_900, 1_000_000, 1_000_100]),
    ],
)
def test_relations_show_at_most_five_moments_from_first_to_last(run, drawn, steps, expected):
    write_relations(run, steps)
    assert draw_relations(run) == run / "relations.png"
    check_png(run / "relations.png")
    labels = [ax.get_ylabel() for ax in drawn[0].axes if ax.images and ax.get_ylabel()]
    assert labels == [f"step {step}" for step in expected]


def test_relations_are_the_matrices_of_their_step(run, drawn):
    write_relations(run, [0, 5])
    draw_relations(run)
    panels = [ax for ax in drawn[0].axes if ax.images]
    with np.load(run / "relations" / "step_000005.npz") as content:
        for panel, name in zip(panels[6:8], ("general_source", "general_target"), strict=True):
            np.testing.assert_allclose(np.asarray(panel.images[0].get_array()), content[name], atol=1e-6)
        np.testing.assert_allclose(np.asarray(panels[10].images[0].get_array()), content["target"], atol=1e-6)


def test_relations_without_source(run, drawn):
    write_relations(run, [0, 1], names=("general_target", "target"))
    draw_relations(run)
    assert len([ax for ax in drawn[0].axes if ax.images]) == 6


def test_missing_and_damaged_relations_are_named(run):
    with pytest.raises(InputError, match=r"relations holds no step_\*\.npz"):
        draw_relations(run)
    write_relations(run, [0])
    (run / "relations" / "step_000000.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"step_000000\.npz cannot be read"):
        draw_relations(run)


def test_failed_drawing_leaves_the_old_picture(run, monkeypatch):
    write_log(run, [line(1)])
    (run / "curves.png").write_bytes(b"old")

    def full(figure, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.Figure, "savefig", full)
    with pytest.raises(InputError, match=r"curves\.png cannot be written \(No space left on device\)"):
        draw_curves(run)
    assert (run / "curves.png").read_bytes() == b"old"
    assert sorted(path.name for path in run.iterdir()) == ["curves.png", "metrics.jsonl"]
