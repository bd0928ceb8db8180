import csv
import errno
import hashlib
import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import evaluate
import nibabel as nib
import numpy as np
import pytest
import torch
from covidct.ct.volume import VolumeCase, load_volume
from covidct.errors import InputError
from covidct.run.building import build_model
from covidct.run.checkpoint import load_run, save_weights
from covidct.run.config import Config, read_config
from covidct.sets.splits import volume_fold
from covidct.store.preprocess import Plan
from covidct.volumes import evaluation, report, wing
from covidct.volumes.evaluation import volume_test_cases
from covidct.volumes.plan import read_plan, write_plan
from covidct.volumes.presets import PRESETS as VOLUME_PRESETS
from covidct.volumes.tables import read_volume_metrics
from rich.console import Console
from torch import nn

from tests.covid_ct.plain_demo import DEMO

SPACING = (3.0, 2.0, 2.0)  # of save_volume, (z, y, x)
FOLDS = [("a", "b", "c"), ("b", "c", "d"), ("a", "d"), ("c", "e"), ("e", "a")]


class Bright(nn.Module):
    """Every voxel above HU -200 is a lesion."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 100.0))

    def forward(self, x):
        return self.scale * (x - (1250 - 200) / 1500 * 255)


@pytest.fixture
def cases(tmp_path, save_volume):
    """Name -> (case, DSC of Bright): a blob of HU 0 and a truth that overlaps it more or less, in air."""
    found = {}
    for number, name in enumerate("abcde"):
        hu = np.full((20, 24, 6), -900, dtype=np.int16)
        hu[8:14, 8:16, 1:4] = 0
        truth = np.zeros(hu.shape, dtype=np.uint8)
        truth[8 + number : 14 + number, 8:16, 1:4] = 1
        image = save_volume(tmp_path / "data" / f"{name}.nii.gz", hu, ("LPS", "RAS")[number % 2])
        mask = save_volume(tmp_path / "data" / f"{name}_mask.nii.gz", truth, ("LPS", "RAS")[number % 2])
        found[name] = (VolumeCase(name, image, mask, None, None, (), "hu", patient=name), (6 - number) / 6)
    return found


@pytest.fixture
def bright(monkeypatch):
    """Every run's network is `Bright`."""
    monkeypatch.setattr(report, "load_run", lambda run: (load_run(run)[0], Bright()))


@pytest.fixture
def make_run(tmp_path, monkeypatch, cases):
    def make(name, **changes):
        values = VOLUME_PRESETS["demo"] | {"size": (4, 16, 16), "features_per_stage": (4, 8), "strides": ()}
        values |= {"dataset": "covid-ct-20", "data": "", "source": (), "method": "unet", "preset": "demo"}
        values |= {"kernel_sizes": (), "fold": 0, "seed": 0}
        config = Config(**values | changes)
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config.to_json())
        save_weights(folder, build_model(config))
        write_plan(folder, Plan(spacing=SPACING, patch_size=(4, 16, 16), low=0.0, high=255.0, mean=0.0, std=1.0))
        return folder

    def of_fold(config, data, *, by_patient):
        return tuple(cases[name][0] for name in FOLDS[config.fold])

    monkeypatch.setattr(report, "volume_test_cases", of_fold)
    return make


@pytest.fixture
def call(monkeypatch, capsys):
    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        code = 0
        try:
            evaluate.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return captured.out, code, captured.err

    return with_arguments


def content(path):
    return json.loads(path.read_text())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_run_is_scored_on_its_fold(call, make_run, bright, cases):
    run = make_run("one")
    text, code, _ = call(run)
    assert code == 0
    result = content(run / "metrics.json")
    expected = [cases[name][1] for name in FOLDS[0]]
    assert [item["name"] for item in result["volumes"]] == list(FOLDS[0])
    assert [item["dsc"] for item in result["volumes"]] == pytest.approx(expected)
    # Truths are 2 mm apart from one another, columns of 16 mm: 0, 2 and 4 mm, of which the last is beyond 3 mm.
    nsd = [item["nsd"] for item in result["volumes"]]
    assert nsd[:2] == [1, 1]
    assert 0.5 < nsd[2] < 1
    assert result["summary"]["dsc"]["mean"] == pytest.approx(np.mean(expected))
    assert result["summary"]["dsc"]["deviation"] == pytest.approx(np.std(expected, ddof=1))
    assert result["volumes"][0]["truth_ml"] == pytest.approx(6 * 8 * 3 * 12 / 1000)
    assert (result["count"], result["failed"], result["fold"]) == (3, [], 0)
    assert [float(row["dsc"]) for row in rows_of(run / "metrics.csv")] == pytest.approx(expected, abs=1e-6)
    assert f"{np.mean(expected):.3f}±{np.std(expected, ddof=1):.3f}" in text


def test_five_folds_are_joined(call, make_run, bright, cases, tmp_path):
    runs = [make_run(f"fold{fold}", fold=fold) for fold in range(5)]
    text, code, _ = call(*runs, "--folds")
    assert code == 0
    every = [cases[name][1] for fold in FOLDS for name in fold]
    means = [np.mean([cases[name][1] for name in fold]) for fold in FOLDS]
    # Bright is the same in all folds: over cases it is the mean of the five.
    by_case = [dsc for _, dsc in cases.values()]
    line = next(line for line in text.splitlines() if "unet, seed 0" in line)
    assert line.split()[3:] == [
        *(f"{mean:.3f}" for mean in means),
        f"{np.mean(every):.3f}±{np.std(every, ddof=1):.3f}",
        "12",
        f"{np.mean(by_case):.3f}±{np.std(by_case, ddof=1):.3f}",
        "5",
    ]
    joined = content(tmp_path / "runs" / "folds.json")[0]
    assert joined["all"]["dsc"] == {
        "mean": pytest.approx(np.mean(every)),
        "deviation": pytest.approx(np.std(every, ddof=1)),
        "count": 12,
        "empty": 0,
    }
    assert [joined["folds"][str(fold)]["dsc"]["mean"] for fold in range(5)] == pytest.approx(means)
    nsd = [item["nsd"] for run in runs for item in content(run / "metrics.json")["volumes"]]
    assert joined["all"]["nsd"]["mean"] == pytest.approx(np.mean(nsd))
    (row,) = rows_of(tmp_path / "runs" / "folds.csv")
    assert float(row["dsc_fold3"]) == pytest.approx(means[3], abs=1e-6)
    assert float(row["nsd_all_deviation"]) == pytest.approx(np.std(nsd, ddof=1), abs=1e-6)


def test_folds_of_two_methods_are_two_rows_and_go_where_asked(call, make_run, tmp_path):
    runs = [make_run(f"{method}{fold}", method=method, fold=fold) for method in ("unet", "ours") for fold in (0, 2)]
    text, _, _ = call(*runs, "--folds", "--output", tmp_path / "out")
    assert [row["method"] for row in rows_of(tmp_path / "out" / "folds.csv")] == ["unet", "ours"]
    assert rows_of(tmp_path / "out" / "folds.csv")[0]["dsc_fold1"] == ""
    assert next(line for line in text.splitlines() if "ours, seed 0" in line).split()[4] == "-"


def test_phantoms_and_real_scans_are_not_pooled(call, make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(wing, "make_phantoms", lambda *_, **__: None)
    folds = [(dataset, fold) for dataset in ("covid-ct-20", "phantom-volumes") for fold in (0, 1)]
    runs = [make_run(f"{dataset}-{fold}", dataset=dataset, fold=fold) for dataset, fold in folds]
    call(*runs, "--folds")
    joined = content(tmp_path / "runs" / "folds.json")
    assert [row["label"] for row in joined] == [
        "unet, dataset covid-ct-20, seed 0",
        "unet, dataset phantom-volumes, seed 0",
    ]
    assert [list(row["runs"].values()) for row in joined] == [[*map(str, runs[:2])], [*map(str, runs[2:])]]


def test_folds_that_start_from_runs_of_their_own_are_one_row(call, make_run, tmp_path):
    runs = []
    for source in ("msd", "nsclc"):
        for fold in (0, 2):
            start = make_run(f"start-{source}{fold}", method="pretrain", fold=fold, source=(f"/stores/{source}",))
            runs.append(make_run(f"{source}{fold}", method="finetune", fold=fold, init=str(start), store=f"/{fold}"))
    call(*runs, "--folds")
    joined = content(tmp_path / "runs" / "folds.json")
    assert [row["missing"] for row in joined] == [[f"fold {fold} is missing" for fold in (1, 3, 4)]] * 2
    assert [row["label"] for row in joined] == [
        f"finetune, init pretrain on {source}, {VOLUME_PRESETS['demo']['steps']} steps, seed 0"
        for source in ("msd", "nsclc")
    ]
    assert [list(row["folds"]) for row in joined] == [["0", "2"], ["0", "2"]]


def test_volume_without_lesion_and_without_prediction_is_left_out_and_counted(
    call, make_run, bright, save_volume, cases
):
    case = cases["b"][0]
    hu = np.full((20, 24, 6), -900, dtype=np.int16)
    hu[0] = -1000
    save_volume(case.image, hu)
    save_volume(case.mask, np.zeros((20, 24, 6), dtype=np.uint8))
    run = make_run("one")
    text, code, _ = call(run)
    assert code == 0
    result = content(run / "metrics.json")
    expected = [cases[name][1] for name in ("a", "c")]
    assert result["summary"]["dsc"] == {
        "mean": pytest.approx(np.mean(expected)),
        "deviation": pytest.approx(np.std(expected, ddof=1)),
        "count": 2,
        "empty": 1,
    }
    assert (result["empty_truths"], result["empty_predictions"]) == (1, 1)
    assert result["volumes"][1]["dsc"] is None
    assert rows_of(run / "metrics.csv")[1]["dsc"] == ""
    assert "2 (+1 empty)" in text


def test_volume_that_cannot_be_used_is_reported_and_the_others_scored(call, make_run, bright, cases):
    cut = cases["b"][0].image
    cut.write_bytes(cut.read_bytes()[:100])
    run = make_run("one")
    _, code, err = call(run)
    assert code == 2
    assert err.startswith("error: ")
    assert f"{cut} cannot be read" in err
    result = content(run / "metrics.json")
    assert [item["name"] for item in result["volumes"]] == ["a", "c"]
    assert [item["name"] for item in result["failed"]] == ["b"]
    console = Console(record=True, width=200)
    assert wing.show(run, read_config(run / "config.json"), console) == 1
    assert f"not scored: b: {cut} cannot be read" in console.export_text()
    text, _, _ = call(run, "--folds", "--by-patient")
    words = " ".join(text.split())
    assert (
        "incomplete: unet, seed 0: fold 1 is missing, fold 2 is missing, fold 3 is missing, fold 4 is missing, "
        in words
    )
    assert "fold 0 lacks b" in words
    assert result["by_patient"] is False
    assert content(run / "metrics.json")["by_patient"] is True
    assert content(run.parent / "folds.json")[0]["by_patient"] is True


def test_results_say_how_they_came_about(call, make_run, bright):
    run = make_run("one")
    text, _, _ = call(run, "--folds")
    assert "not the published protocol" not in text
    for options in ((), ("--folds",)):
        text, _, _ = call(run, "--by-patient", "--region", "all", "--flips", *options)
        assert "without scans of the training patients: not the published protocol" in text
    inference = {"flips": True, "precision": "32", "overlap": 0.5, "region": "all"}
    assert content(run.parent / "folds.json")[0]["inference"] == inference
    for path in (run / "metrics.csv", run.parent / "folds.csv"):
        for row in rows_of(path):
            assert [row[name] for name in ("by_patient", "region", "flips")] == ["True", "all", "True"]


def test_lungs_are_read_only_where_they_are_asked_for(call, make_run, bright, cases, tmp_path):
    for name, (case, dsc) in cases.items():
        cases[name] = (replace(case, lungs=(tmp_path / "no_lungs.nii.gz",)), dsc)
    run = make_run("one")
    assert call(run)[1] == 0
    _, code, err = call(run, "--region", "lungs")
    assert code == 2
    assert "no_lungs.nii.gz" in err


def test_another_plan_is_scored_anew(call, make_run, bright, monkeypatch):
    run = make_run("one")
    call(run)
    write_plan(run, Plan(spacing=SPACING, patch_size=(4, 16, 16), low=0.0, high=255.0, mean=1.0, std=1.0))
    seen = []
    monkeypatch.setattr(evaluation, "load_volume", lambda case: seen.append(case.name) or load_volume(case))
    call(run)
    assert seen == list(FOLDS[0])


def test_what_is_scored_is_not_scored_again(call, make_run, monkeypatch):
    run = make_run("one")
    segment, counted = evaluation.segment, []

    def interrupted(model, volume, *rest, **kwargs):
        counted.append(volume.case.name)
        if len(counted) == 2:
            raise KeyboardInterrupt
        return segment(model, volume, *rest, **kwargs)

    monkeypatch.setattr(evaluation, "segment", interrupted)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run)])
    with pytest.raises(KeyboardInterrupt):
        evaluate.main()
    assert not (run / "metrics.json").exists()
    call(run)
    assert counted == ["a", "b", "b", "c"]
    first = (run / "metrics.json").read_bytes()
    call(run)
    assert len(counted) == 4
    assert (run / "metrics.json").read_bytes() == first
    call(run, "--flips")
    assert counted[4:] == ["a", "b", "c"]
    assert content(run / "metrics.json")["inference"]["flips"] is True


def test_weights_are_hashed_once_a_run(call, make_run, bright, monkeypatch):
    run = make_run("one")
    hashed, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, how: hashed.append(file.name) or digest(file, how))
    call(run)
    assert hashed == [str(run / "model.safetensors")]
    kept = content(run / "evaluation" / "a.json")["origin"]["weights"]
    assert kept == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    save_weights(run, build_model(replace(read_config(run / "config.json"), seed=1)))
    call(run)
    assert hashed == 2 * [str(run / "model.safetensors")]
    assert content(run / "evaluation" / "a.json")["origin"]["weights"] != kept


def test_the_picture_takes_the_mask_that_was_scored(make_run, cases, monkeypatch):
    run = make_run("one")
    config = read_config(run / "config.json")
    data = SimpleNamespace(plan=read_plan(run), test=[cases[name][0] for name in "abc"])
    segment, counted, drawn = evaluation.segment, [], []
    monkeypatch.setattr(evaluation, "segment", lambda *a, **k: counted.append(1) or segment(*a, **k))

    def draw(path, image, mask, spacing, *, truth, title):
        drawn.append((mask, truth, title))

    monkeypatch.setattr(wing, "draw_lesions", draw)
    for _ in range(2):
        wing.score(run, config, Bright(), data, Console(file=io.StringIO()))
        wing.draw(run, config, Bright(), data)
    assert len(counted) == 3
    for mask, truth, title in drawn:
        assert title == f"b: DSC {cases['b'][1]:.3f}, the median of 3 test volumes"
        volume = load_volume(cases["b"][0])
        np.testing.assert_array_equal(mask, volume.image > (1250 - 200) / 1500 * 255)
        np.testing.assert_array_equal(truth, volume.mask)
    given, kept = nib.load(cases["b"][0].image), nib.load(run / "evaluation" / "b.nii.gz")
    np.testing.assert_array_equal(given.affine, kept.affine)
    np.testing.assert_array_equal(np.asarray(given.dataobj) > -200, np.asarray(kept.dataobj))
    (run / "evaluation" / "c.nii.gz").unlink()
    (run / "evaluation" / ".c.nii.gz.99999999-0.nii.gz").touch()
    wing.score(run, config, Bright(), data, Console(file=io.StringIO()))
    assert len(counted) == 4
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == sorted(
        f"{name}{ending}" for name in "abc" for ending in (".json", ".nii.gz")
    )


def test_a_mask_that_is_being_replaced_is_not_taken_for_the_old_one(call, make_run, bright, monkeypatch):
    run = make_run("one")
    call(run)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "record", dies)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), "--flips"])
    with pytest.raises(KeyboardInterrupt):
        evaluate.main()
    assert content(run / "evaluation" / "a.json")["result"] is None


def test_a_full_disk_is_said(call, make_run, bright, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("covidct.ct.files.Grid.save_mask", full)
    run = make_run("one")
    _, code, err = call(run)
    assert code == 2
    assert f"{run / 'evaluation' / 'a.nii.gz'} cannot be written (No space left on device); free space there" in err


def test_progress_outside_of_a_terminal_is_lines(call, make_run, bright, monkeypatch):
    run = make_run("one")
    assert "evaluating" not in call(run)[2]
    monkeypatch.setattr("covidct.progress.PLAIN_SECONDS", 0.0)
    lines = call(run, "--flips")[2].splitlines()
    shares = [float(line.split()[2].removesuffix("%")) for line in lines]
    assert all(line.startswith("evaluating one  ") for line in lines)
    assert shares == sorted(shares)
    assert {33, 67, 100} <= set(shares)


def test_the_whole_run_on_an_own_network(call, make_run):
    text, code, _ = call(make_run("one"), "--region", "all")
    assert code == 0
    assert "NSD at 3 mm" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "both fold 0 of one method and seed"),
        ({"fold": None}, "published split; --folds takes runs of --fold 0 to 4"),
    ],
)
def test_folds_that_do_not_fit_are_refused_before_computing(make_run, monkeypatch, changes, message):
    runs = [make_run("one"), make_run("two", **changes)]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, runs), "--folds"])
    with pytest.raises(InputError, match=message):
        evaluate.main()
    assert not (runs[0] / "metrics.json").exists()


def test_folds_on_different_grids_are_refused(make_run, tmp_path, monkeypatch):
    runs = [make_run("one"), make_run("two", fold=1)]
    write_plan(runs[1], replace(read_plan(runs[1]), spacing=(6.0, 2.0, 2.0)))
    monkeypatch.setattr(report, "_evaluated", None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, runs), "--folds"])
    message = r"one was trained at spacing \(3\.0, 2\.0, 2\.0\) mm .*two at \(6\.0, .* folds of one row share both"
    with pytest.raises(InputError, match=message):
        evaluate.main()


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ((), "--output .*out is for the table of --folds of volumes; leave it out"),
        (("--folds",), r"--output .*out cannot be written \(File exists\); a file stands in its place"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_scoring(make_run, tmp_path, monkeypatch, folds, message):
    (tmp_path / "out").touch()
    monkeypatch.setattr(report, "_evaluated", None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(make_run("one")), *folds, "--output", str(tmp_path / "out")])
    with pytest.raises(InputError, match=message):
        evaluate.main()


def test_slices_and_volumes_together_are_refused(make_run, tmp_path, monkeypatch):
    run = make_run("one")
    slices = tmp_path / "runs" / "slices"
    slices.mkdir()
    config = Config("phantom", "", (), "unet", "demo", fold=0, seed=0, **DEMO)
    (slices / "config.json").write_text(config.to_json())
    (slices / "model.safetensors").touch()
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), str(slices)])
    with pytest.raises(InputError, match=r"one is a run on volumes and .*slices one on slices; evaluate them apart"):
        evaluate.main()


def test_fold_without_a_single_score_is_refused(call, make_run, cases, monkeypatch):
    run = make_run("one")
    for name in FOLDS[0]:
        cases[name][0].image.write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run), "--folds"])
    with pytest.raises(InputError, match="one has no volume that could be scored"):
        evaluate.main()


def test_unlabelled_volume_is_reported(make_run, cases, call, monkeypatch):
    run = make_run("one")
    bare = tuple(replace(cases[name][0], mask=None) for name in "ab")
    monkeypatch.setattr(report, "volume_test_cases", lambda *_, **__: bare)
    _, code, err = call(run)
    assert code == 2
    assert err.count("has no mask; only labelled volumes can be evaluated") == 2


def test_cases_are_those_of_the_published_fold(tmp_path, save_volume):
    train, test = volume_fold("covid-ct-20", 2)
    for name in (*train, *test):
        for folder in ("COVID-19-CT-Seg_20cases", "Infection_Mask"):
            save_volume(tmp_path / folder / f"{name}.nii.gz", np.zeros((3, 3, 3), dtype=np.uint8))
    config = Config("covid-ct-20", str(tmp_path), (), "unet", "demo", fold=2, seed=0, **VOLUME_PRESETS["demo"])
    assert [case.name for case in volume_test_cases(config)] == list(test)
    assert "radiopaedia_10_85902_3" in test
    other = volume_test_cases(replace(config, data=""), tmp_path, by_patient=True)
    assert [case.name for case in other] == [name for name in test if name != "radiopaedia_10_85902_3"]
    (tmp_path / "COVID-19-CT-Seg_20cases" / f"{test[3]}.nii.gz").unlink()
    with pytest.raises(InputError, match=f"lacks 1 of the 16 test volumes of fold 2: {test[3]}"):
        volume_test_cases(config)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{}", "count is missing; volumes is missing; summary is missing"),
        (
            '{"count": 1, "volumes": [], "summary": {"dsc": {"mean": 1, "deviation": null, "empty": 0}}}',
            "summary lacks nsd",
        ),
        (
            '{"count": 1, "volumes": [], "summary": {"dsc": {"mean": "1"}}}',
            r"summary\.dsc\.mean must be a valid number, got '1'",
        ),
    ],
)
def test_damaged_metrics_of_volumes_are_refused(tmp_path, text, what):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=rf"metrics\.json is damaged: {what}; write it with evaluate\.py"):
        read_volume_metrics(tmp_path)
