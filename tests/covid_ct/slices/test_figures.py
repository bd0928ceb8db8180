import numpy as np
import pytest
import torch
from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.run import figures
from covidct.run.config import Config
from covidct.slices import figures as module
from covidct.slices.evaluation import score_slices, write_metrics
from covidct.slices.figures import draw_predictions
from PIL import Image
from torch import nn

from tests.covid_ct.plain_demo import DEMO


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

    monkeypatch.setattr(module, "save_figure", keep)
    return saved


def check_png(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 0


class Bright(nn.Module):
    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return 20 * (x - self.level)


@pytest.fixture
def config():
    values = DEMO | {"size": (40, 36), "features_per_stage": (4, 8)}
    return Config("phantom", "", (), "unet", "demo", fold=0, seed=0, **values)


@pytest.fixture
def slices(tmp_path, write_pair):
    """Slice k has k of eight parts of its lesion hidden, so the later the worse."""
    found = []
    for k in range(8):
        image, mask = write_pair(tmp_path / "data", f"s{k}")
        with Image.open(image) as picture:
            pixels = np.array(picture)
        pixels[10 : 10 + k, 7:18] = 60
        Image.fromarray(pixels).save(image)
        found.append(Slice(f"s{k}", image, mask, f"s{k}"))
    return found


def evaluate(model, slices, config, run):
    write_metrics(run, *score_slices(model, slices, config), config, flips=False)


def test_predictions_show_best_to_worst(run, drawn, config, slices):
    evaluate(Bright(), slices, config, run)
    assert draw_predictions(run, Bright(), slices, config) == run / "predictions.png"
    check_png(run / "predictions.png")
    heads = [ax.get_title().splitlines() for ax in drawn[0].axes[:5]]
    assert [head[0] for head in heads] == [
        *("best: slice s0", "upper quartile: slice s2", "median: slice s4", "lower quartile: slice s5"),
        "worst: slice s7",
    ]
    dice = [float(head[1].removeprefix("Dice ")) for head in heads]
    assert dice == sorted(dice, reverse=True)
    assert dice[0] == 1
    # Rows 10 to 16 of 10 to 19 are hidden: 3 of 10 found.
    assert dice[4] == pytest.approx(2 * 3 / 13, abs=1e-3)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        *("lesion (truth)", "found (true positive)", "false alarm (false positive)", "missed (false negative)"),
    ]


def test_colours_are_the_outcomes(run, drawn, config, slices):
    with Image.open(slices[7].path) as picture:
        pixels = np.array(picture)
    pixels[30:33, 20:24] = 230
    Image.fromarray(pixels).save(slices[7].path)
    evaluate(Bright(), slices, config, run)
    draw_predictions(run, Bright(), slices, config)
    image, truth, prediction = (np.asarray(drawn[0].axes[row * 5 + 4].images[0].get_array()) for row in range(3))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])

    def painted(picture, colour):
        paint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        expected = (1 - figures.OPACITY) * image + figures.OPACITY * paint
        return np.isclose(picture, expected).all(axis=2)

    lesion, hidden, false = np.zeros((3, 40, 36), bool)
    lesion[10:20, 7:18] = True
    hidden[10:17, 7:18] = True
    false[30:33, 20:24] = True
    np.testing.assert_array_equal(painted(truth, figures.PURPLE), lesion)
    np.testing.assert_array_equal(painted(prediction, figures.GREEN), lesion & ~hidden)
    np.testing.assert_array_equal(painted(prediction, figures.BLUE), hidden)
    np.testing.assert_array_equal(painted(prediction, figures.ORANGE), false)
    np.testing.assert_array_equal(prediction[~lesion & ~false], image[~lesion & ~false])


def test_fewer_slices_than_columns(run, drawn, config, slices):
    evaluate(Bright(), slices[:2], config, run)
    draw_predictions(run, Bright(), slices[:2], config)
    assert len(drawn[0].axes) == 6  # two columns of three
    assert [ax.get_title().split(":")[0] for ax in drawn[0].axes[:2]] == ["best", "worst"]


def test_predictions_need_scores_of_these_slices(run, config, slices):
    with pytest.raises(InputError, match=r"metrics\.json is missing"):
        draw_predictions(run, Bright(), slices, config)
    evaluate(Bright(), slices[:2], config, run)
    with pytest.raises(InputError, match="scores other slices than these"):
        draw_predictions(run, Bright(), slices[2:], config)
