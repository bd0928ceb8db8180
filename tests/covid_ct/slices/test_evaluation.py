import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from covidct.ct.picture import Slice
from covidct.errors import InputError
from covidct.run import results
from covidct.run.config import Config
from covidct.run.results import check_writable
from covidct.slices.evaluation import predict_slice, read_metrics, score_slices, write_metrics
from covidct.slices.metrics import MEASURES, PER_IMAGE, summarise
from PIL import Image
from torch import nn

from tests.covid_ct.plain_demo import DEMO


class Bright(nn.Module):
    """Calls lesion what is far brighter than the mean, as the written masks are."""

    def __init__(self, gain=20.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.autocast = []

    def forward(self, x):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return self.gain * (x - 1.5)


@pytest.fixture
def config():
    values = DEMO | {"size": (40, 36), "features_per_stage": (4, 8)}
    return Config("phantom", "data/folder", (), "unet", "demo", fold=3, seed=7, **values)


@pytest.fixture
def slices(tmp_path, write_pair):
    pairs = {stem: write_pair(tmp_path / "data", stem) for stem in ("a", "b", "c")}
    return [Slice(stem, image, mask, stem) for stem, (image, mask) in pairs.items()]


@pytest.fixture
def output(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def empty_mask(item):
    with Image.open(item.mask_path) as mask:
        Image.new("L", mask.size).save(item.mask_path)
    return item


def evaluate(model, slices, config, output, *, flips=False, progress=None):
    """Scores and files as a run has them; the means."""
    scored, failed = score_slices(model, slices, config, flips=flips, progress=progress)
    write_metrics(output, scored, failed, config, flips=flips)
    return summarise([item.result for item in scored])


def test_perfect_model_scores_one(slices, config, output):
    summary = evaluate(Bright(), slices, config, output)
    assert summary["at_0.5"] == {"dice": 1, "sensitivity": 1, "specificity": 1, "mae": 0}
    assert summary["max"]["dice"] == 1
    # At threshold 0 all is foreground: even a perfect mask stays below 1.
    share = 0.25 * 11 / 36
    assert summary["table_v_hard"]["dice"] == pytest.approx((255 + 2 * share / (1 + share)) / 256)
    assert summary["table_v_hard"]["specificity"] == pytest.approx(255 / 256)


def test_files_agree_with_each_other_and_the_summary(slices, config, output):
    # Another gain for a soft map whose scores all differ.
    summary = evaluate(Bright(gain=0.5), [*slices[:2], empty_mask(slices[2])], config, output, flips=True)
    content = json.loads((output / "metrics.json").read_text())
    assert content["summary"] == summary
    assert [image["name"] for image in content["images"]] == ["a", "b", "c"]
    for variant in PER_IMAGE:
        for measure in MEASURES:
            mean = np.mean([image[variant][measure] for image in content["images"]])
            assert summary[variant][measure] == pytest.approx(mean)
    with (output / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, image in zip(rows, content["images"], strict=True):
        assert (row["name"], int(row["height"]), int(row["width"])) == (image["name"], 40, 36)
        assert int(row["truth_pixels"]) == image["truth_pixels"] == (0 if row["name"] == "c" else 110)
        assert int(row["predicted_pixels"]) == image["predicted_pixels"] > 0
        for variant in PER_IMAGE:
            for measure in MEASURES:
                assert float(row[f"{variant}_{measure}"]) == pytest.approx(image[variant][measure], abs=1e-6)
    assert sorted(path.name for path in output.iterdir()) == ["metrics.csv", "metrics.json"]


def test_result_names_what_it_depends_on(slices, config, output):
    evaluate(Bright(), slices, config, output, flips=True)
    content = json.loads((output / "metrics.json").read_text())
    named = ("dataset", "method", "preset", "fold", "split_seed", "seed", "steps", "relation_reduction", "precision")
    assert {name: content[name] for name in named} == {name: getattr(config, name) for name in named}
    assert (content["data"], content["flips"], content["count"]) == ("data/folder", True, 3)


def test_empty_truths_and_predictions_are_counted(slices, config, output):
    evaluate(Bright(gain=0.0), [empty_mask(slices[0]), *slices[1:]], config, output)
    content = json.loads((output / "metrics.json").read_text())
    assert (content["empty_truths"], content["empty_predictions"]) == (1, 3)
    # Empty for empty counts as right at 0.5, and scores 0 in Table V's protocol.
    assert content["images"][0]["at_0.5"]["dice"] == 1
    assert content["images"][0]["table_v_hard"]["dice"] == 0


def test_progress_and_mode(slices, config, output):
    calls, model = [], Bright().train()
    evaluate(model, slices, config, output, progress=calls.append)
    assert calls == [1 / 3, 2 / 3, 1]
    assert model.training


def test_flips_reach_the_network(slices, config):
    counts = []
    for flips in (False, True):
        model = Bright()
        score_slices(model, slices, config, flips=flips)
        counts.append(len(model.autocast))
    assert counts == [3, 12]


@pytest.mark.parametrize(("precision", "used"), [("32", False), ("bf16", True), ("16", False)])
def test_16_bit_runs_compute_in_32_bits_on_the_cpu(config, precision, used):
    model = Bright()
    image = np.random.default_rng(0).uniform(0, 255, (40, 36)).astype(np.float32)
    predict_slice(model, image, replace(config, precision=precision), flips=False, name="x")
    assert model.autocast == [used]


def test_no_slices_are_refused(config, output):
    with pytest.raises(InputError, match="no slices to evaluate"):
        evaluate(Bright(), [], config, output)
    assert list(output.iterdir()) == []


def test_slices_that_cannot_be_scored_are_told_and_the_others_done(slices, config, output):
    slices[0].path.write_bytes(b"no picture")
    bare = replace(slices[1], mask_path=None)
    summary = evaluate(Bright(), [slices[0], bare, slices[2]], config, output)
    assert summary["at_0.5"]["dice"] == 1
    metrics = read_metrics(output)
    assert [image.name for image in metrics.images] == ["c"]
    assert [item.name for item in metrics.failed] == ["a", "b"]
    assert "a.png cannot be read" in metrics.failed[0].message
    assert "b.png has no mask" in metrics.failed[1].message


def test_diverged_model_is_named(slices, config):
    scored, failed = score_slices(Bright(gain=float("nan")), slices, config)
    assert scored == []
    for item in failed:
        assert f"{item.name}.png: the network's output is NaN; the training has diverged" in item.message


def test_full_disk_leaves_the_old_results(slices, config, output, monkeypatch):
    evaluate(Bright(), slices, config, output)
    before = (output / "metrics.json").read_bytes()

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_text", full)
    with pytest.raises(InputError, match=r"run: the results cannot be written \(No space left on device\)"):
        evaluate(Bright(gain=0.1), slices, config, output)
    assert (output / "metrics.json").read_bytes() == before


def test_read_metrics_says_what_is_missing(output):
    with pytest.raises(InputError, match=r"metrics\.json is missing; write it with evaluate\.py"):
        read_metrics(output)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"summary": {}}', '{"summary": 1, "images": []}'])
def test_damaged_metrics_are_refused(output, text):
    (output / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json is damaged"):
        read_metrics(output)


def test_check_writable(tmp_path):
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="none cannot be written"):
        check_writable(tmp_path / "none")
