import json
import sys
from dataclasses import replace

import evaluate
import numpy as np
import pytest
from covidct.errors import InputError
from covidct.run.building import build_model
from covidct.run.checkpoint import save_weights
from covidct.run.config import Config
from covidct.slices import report
from covidct.slices.evaluation import ScoredSlice
from covidct.slices.metrics import ImageScores, mean_over_thresholds, threshold_protocol

from tests.covid_ct.plain_demo import DEMO

STEMS = [str(number) for number in range(10)]


@pytest.fixture
def data(tmp_path, write_covid):
    return write_covid(tmp_path / "data", STEMS)


@pytest.fixture
def make_run(tmp_path, data):
    def make(name, **changes):
        values = {"dataset": "covid_semiseg", "data": str(data), "source": (), "method": "unet", "preset": "demo"}
        values |= DEMO | {"size": (32, 32), "features_per_stage": (4, 8), "fold": 0, "seed": 0}
        config = Config(**values | changes)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config.to_json())
        save_weights(folder, build_model(config))
        return folder

    return make


@pytest.fixture
def call(monkeypatch, capsys):
    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()
        return capsys.readouterr().out

    return with_arguments


def content(run):
    return json.loads((run / "metrics.json").read_text())


def test_one_run_is_scored_on_its_fold(call, make_run):
    run = make_run("one")
    text = call(run)
    result = content(run)
    assert len(result["images"]) == result["count"] == 2
    assert (run / "metrics.csv").is_file()
    for variant in ("at_0.5", "table_v_hard", "table_v_soft", "max"):
        assert variant in text
        assert f"{result['summary'][variant]['dice']:.3f}" in text
    assert "±" not in text


def test_folds_cover_every_slice_once(call, make_run):
    runs = [make_run(f"fold{fold}", fold=fold) for fold in range(5)]
    text = call(*runs, "--folds")
    pooled = [image for run in runs for image in content(run)["images"]]
    assert sorted(image["name"] for image in pooled) == STEMS
    dice = [image["at_0.5"]["dice"] for image in pooled]
    row = next(line for line in text.splitlines() if "unet, seed 0, folds 0 1 2 3 4" in line)
    assert row.split()[9:11] == ["10", f"{np.mean(dice):.3f}±{np.std(dice, ddof=1):.3f}"]
    assert "over slices" in text


def test_runs_get_mean_and_sample_deviation(call, make_run):
    runs = [make_run(f"seed{seed}", seed=seed) for seed in range(3)]
    text = call(*runs)
    dice = [content(run)["summary"]["at_0.5"]["dice"] for run in runs]
    row = next(line for line in text.splitlines() if "unet: mean of 3 runs" in line)
    assert row.split()[5] == f"{np.mean(dice):.3f}±{np.std(dice, ddof=1):.3f}"


def test_runs_of_different_methods_are_not_averaged(call, make_run):
    text = call(make_run("one"), make_run("two", steps=7))
    assert "mean of" not in text


def test_another_data_folder_and_flips_are_used_and_recorded(call, make_run, data, tmp_path):
    run = make_run("one", data=str(tmp_path / "gone"))
    with pytest.raises(InputError, match="gone does not exist"):
        call(run)
    call(run, "--data", data, "--flips")
    assert content(run)["data"] == str(data)
    assert content(run)["flips"] is True
    call(run, "--data", data)
    assert content(run)["flips"] is False


def test_flips_of_the_config_stay(call, make_run):
    run = make_run("one", flips=True)
    call(run)
    assert content(run)["flips"] is True


def test_phantom_runs_read_a_given_folder(call, make_run, data):
    run = make_run("one", dataset="phantom", data="")
    call(run, "--data", data)
    assert content(run)["count"] == 2


def test_a_run_named_twice_counts_once(call, make_run):
    run = make_run("one")
    assert "mean of" not in call(run, run.parent / "data" / ".." / "one")


def test_runs_of_one_name_are_told_apart(call, make_run):
    text = call(make_run("a/same"), make_run("b/same", method="baseline"))
    lines = text.replace("\n", "").replace(" ", "")
    assert "a/same" in lines
    assert "b/same" in lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "both fold 0 of one method and seed"),
        ({"fold": None}, "published split; --folds takes runs of --fold 0 to 4"),
    ],
)
def test_folds_that_do_not_fit_are_refused_before_computing(call, make_run, changes, message):
    runs = [make_run("one"), make_run("two", **changes)]
    with pytest.raises(InputError, match=message):
        call(*runs, "--folds")
    assert not (runs[0] / "metrics.json").exists()


def test_an_unfinished_run_ends_nothing(call, make_run, capsys):
    runs = [make_run("one"), make_run("two", seed=1), make_run("three", seed=2)]
    (runs[1] / "model.safetensors").unlink()
    (runs[2] / "config.json").write_text("{")
    with pytest.raises(SystemExit) as stop:
        call(*runs)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "model.safetensors is missing: the training has not ended" in captured.err
    assert "three/config.json is damaged: it is not JSON" in captured.err
    assert "1 of 3 runs evaluated, 2 not: see above" in captured.out
    assert (runs[0] / "metrics.json").exists()
    with pytest.raises(InputError, match=r"model\.safetensors is missing: the training has not ended"):
        call(runs[1])


def test_no_run_is_refused(call):
    with pytest.raises(InputError, match="no RUN was given"):
        call()


def test_folder_that_is_no_run_is_refused(call, tmp_path):
    with pytest.raises(InputError, match=r"config\.json is missing"):
        call(tmp_path)


def scored(name, seed):
    random = np.random.default_rng(seed)
    soft = threshold_protocol(random.random((8, 8)), random.random((8, 8)) > 0.5)
    scores = mean_over_thresholds(soft)
    result = ImageScores({"at_0.5": scores, "table_v_hard": scores, "table_v_soft": scores}, soft)
    return ScoredSlice(name, 8, 8, 1, 1, result)


@pytest.fixture
def config():
    return Config("covid_semiseg", "", (), "unet", "demo", fold=0, seed=0, **DEMO)


def test_pooling_over_folds_then_seeds(config, tmp_path):
    evaluated, dice = [], {}
    for seed in (0, 1):
        for fold in (0, 1):
            slices = [scored(f"{fold}{k}", seed=100 * seed + 10 * fold + k) for k in range(3 if fold else 1)]
            dice.setdefault(seed, []).extend(item.result.scores["at_0.5"]["dice"] for item in slices)
            run = report.Evaluated(tmp_path / f"{seed}{fold}", replace(config, seed=seed, fold=fold), slices)
            evaluated.append(run)
    rows, _ = report.pooled_rows(evaluated)
    assert [row.label for row in rows] == [
        "unet, seed 0, folds 0 1",
        "unet, seed 1, folds 0 1",
        "unet: mean of 2 seeds",
    ]
    assert [row.count for row in rows] == ["4", "4", ""]
    for row, values in zip(rows, dice.values(), strict=False):
        # Every slice weighs the same, although the folds differ in size.
        assert row.cells["at_0.5"][0] == f"{np.mean(values):.3f}±{np.std(values, ddof=1):.3f}"
    means = [np.mean(values) for values in dice.values()]
    assert rows[2].cells["at_0.5"][0] == f"{np.mean(means):.3f}±{np.std(means, ddof=1):.3f}"


def test_slice_tested_by_two_folds_is_refused(config, tmp_path):
    evaluated = [
        report.Evaluated(tmp_path / str(fold), replace(config, fold=fold), [scored("x", seed=0)]) for fold in (0, 1)
    ]
    with pytest.raises(InputError, match="slice x is tested by both"):
        report.pooled_rows(evaluated)


def test_groups_are_labelled_by_what_sets_them_apart(config, tmp_path):
    configs = [config, replace(config, method="ours"), replace(config, method="ours", relation_reduction="row_mean")]
    evaluated = [
        report.Evaluated(tmp_path / f"{k}{seed}", replace(one, seed=seed), [scored("x", seed=k)])
        for k, one in enumerate(configs)
        for seed in (0, 1)
    ]
    labels = [row.label for row in report.run_rows(evaluated)[0] if "mean" in row.label]
    assert labels == [
        "unet: mean of 2 runs",
        "ours, relation_reduction sum: mean of 2 runs",
        "ours, relation_reduction row_mean: mean of 2 runs",
    ]
