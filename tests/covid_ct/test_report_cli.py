import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import report
from covidct.errors import InputError
from covidct.run.paper import HEADING

from tests.covid_ct.fabricated_runs import config, slice_content, volume_content, write_run

EXPECTED = Path(__file__).parent / "expected_tables"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def with_arguments(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        report.main()
        return capsys.readouterr().out

    return with_arguments


@pytest.fixture
def volume_run(tmp_path):
    def make(method, fold, scores, seed=0, changes=None, **content):
        of = config(volumes=True, method=method, fold=fold, seed=seed, **changes or {})
        return write_run(tmp_path / f"{method}-{fold}-{seed}", of, volume_content(of, scores, **content))

    return make


@pytest.fixture
def slice_run(tmp_path):
    def make(method, dice, seed=0, changes=None, **content):
        of = config(volumes=False, method=method, seed=seed, **changes or {})
        return write_run(tmp_path / f"{method}-{seed}-{of.fold}", of, slice_content(of, dice, **content))

    return make


@pytest.fixture
def ablation(volume_run):
    """Two methods on two folds: four pairs of DSC, three of NSD, of three cases."""
    return [
        volume_run("unet", 0, {"a": (0.5, 0.4), "b": (0.6, 0.3)}),
        volume_run("unet", 1, {"a": (0.4, 0.5), "c": (0.7, None)}),
        volume_run("ours", 0, {"a": (0.6, 0.5), "b": (0.8, 0.7)}),
        volume_run("ours", 1, {"a": (0.74, 0.65), "c": (0.85, None)}),
    ]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ending", [".md", ".tex", ".csv", "-differences.csv"])
def test_files_are_as_expected(call, ablation, tmp_path, ending):
    call(*ablation, "--table", "III", "--output", tmp_path / "out")
    name = f"table-III{ending}"
    assert (tmp_path / "out" / name).read_text(encoding="utf-8") == (EXPECTED / name).read_text(encoding="utf-8")


def test_numbers_by_hand(call, ablation, tmp_path):
    call(*ablation, "--table", "III")
    rows = {(one["measure"], one["row"]): one for one in rows_of(tmp_path / "tables" / "table-III.csv")}
    ours = rows["dsc", "Ours (L_G + L_T)"]
    # DSC .6 .8 .74 .85, by case .67 .8 .85.
    assert float(ours["mean"]) == pytest.approx(0.7475)
    assert float(ours["deviation"]) == pytest.approx(np.sqrt(0.035075 / 3), rel=1e-5)
    assert (float(ours["fold_0"]), float(ours["fold_1"]), ours["fold_2"]) == (0.7, 0.795, "")
    assert float(ours["case_mean"]) == pytest.approx(2.32 / 3, rel=1e-5)
    assert (ours["count"], ours["case_count"], rows["nsd", "3D nnUNet"]["empty"]) == ("4", "3", "1")
    assert ours["paper_not_measured_here_mean"] == "0.703"
    differences = {(one["measure"], one["unit"]): one for one in rows_of(tmp_path / "tables/table-III-differences.csv")}
    # DSC differs by .1 .2 .34 .15; of cases by .22 .2 .15: mean .19, deviation .0361, t = 9.127 with two degrees of
    # freedom, whose p is 1 - t / sqrt(2 + t^2).
    every, cases = differences["dsc", "evaluations"], differences["dsc", "cases"]
    assert float(every["difference"]) == pytest.approx(0.1975)
    t = 0.19 / np.sqrt(0.0013 / 3)
    assert float(cases["t"]) == pytest.approx(t, rel=1e-5)
    assert float(cases["t_p"]) == pytest.approx(1 - t / np.sqrt(2 + t**2), rel=1e-4)
    # No negative rank among four: 2 of 2^4.
    assert float(every["wilcoxon_p"]) == 0.125
    # NSD differs by .1 .4 .15; the smaller p of the two measures counts twice.
    nsd = differences["nsd", "evaluations"]
    assert float(nsd["t"]) == pytest.approx((0.65 / 3) / np.sqrt(0.155 / 6 / 3), rel=1e-5)
    assert float(every["t_p_holm"]) == pytest.approx(2 * float(every["t_p"]), rel=1e-4)
    assert float(nsd["t_p_holm"]) == pytest.approx(float(nsd["t_p"]), rel=1e-4)
    assert float(every["paper_not_measured_here_difference"]) == pytest.approx(0.03)


def test_what_is_missing_is_said(call, ablation, volume_run):
    volume_run("ours", 2, {"d": (0.5, 0.5)}, failed=[{"name": "e", "message": "damaged"}])
    text = call(*ablation, ablation[0].parent / "ours-2-0", "--table", "III")
    assert "Incomplete: no runs of Ours (baseline), Ours (L_G), Ours (L_T)." in text
    assert "Incomplete: 3D nnUNet, seed 0: folds 2 3 4 are missing." in text
    assert "Incomplete: Ours (L_G + L_T), seed 0: folds 3 4 are missing." in text
    assert "Incomplete: Ours (L_G + L_T), seed 0, fold 2: e could not be scored." in text
    assert "Ours (L_G + L_T) (5) and 3D nnUNet (4) have 4 evaluations in common" in text
    assert "preset demo on covid-ct-20, not the paper's training on its data" in text


def test_runs_of_the_papers_training_are_held_against_its_figures(call, volume_run):
    runs = [volume_run(method, 0, {"a": (0.5, 0.5)}, changes={"preset": "paper"}) for method in ("unet", "ours")]
    assert "not the paper's training" not in call(*runs, "--table", "III")


def test_without_the_row_that_all_are_compared_with(call, ablation, tmp_path):
    text = call(*ablation[:2], "--table", "III")
    assert "No differences: every row is compared with Ours (L_G + L_T), which has no runs." in text
    assert rows_of(tmp_path / "tables" / "table-III-differences.csv") == []
    assert "0.550" in text


def test_printed_figures_stand_under_their_heading(call, ablation, tmp_path):
    call(*ablation, "--table", "III")
    text = (tmp_path / "tables" / "table-III.md").read_text(encoding="utf-8")
    header, row = (next(line for line in text.splitlines() if line.startswith(start)) for start in ("|  |", "| 3D nn"))
    columns = dict(zip(header.split("|"), row.split("|"), strict=True))
    assert HEADING == "paper (Zhang et al. 2021), not measured here"
    assert columns[f" {HEADING}: mean ± SD "] == " 0.673±0.223 "
    # No figure of the paper stands anywhere else.
    assert [name for name, cell in columns.items() if "0.673" in cell or "0.681" in cell] == [
        f" {HEADING}: mean ± SD ",
        f" {HEADING}: folds 0 to 4 ",
    ]


def test_latex_is_well_formed(call, ablation, tmp_path):
    call(*ablation, "--table", "III")
    text = (tmp_path / "tables" / "table-III.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 4
    body = text.split("\n", 1)[1]
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    for lines in (part.split(r"\end{tabular}")[0].splitlines() for part in text.split(r"\begin{tabular}")[1:]):
        columns = len(lines[0].strip("{}"))
        plain = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
        assert plain
        assert {line.replace(r"\&", "").count("&") + 1 for line in plain} == {columns}
    assert "±" not in body
    assert r"Ours (L\_G + L\_T)" in body


def test_seeds_are_joined(call, slice_run, tmp_path):
    runs = [slice_run("unet", {"1": 0.25, "2": 0.75}), slice_run("unet", {"1": 0.75, "2": 0.5}, seed=4)]
    call(*runs, slice_run("ours", {"1": 0.6, "2": 0.8}), "--table", "V")
    found = {(one["protocol"], one["measure"], one["row"]): one for one in rows_of(tmp_path / "tables" / "table-V.csv")}
    dice = found["published", "dice", "2D nnUNet"]
    # Means of the slices .5 .625, of the seeds .5 .625.
    assert (dice["seeds"], dice["count"], dice["seed_count"]) == ("0 4", "2", "2")
    assert float(dice["mean"]) == 0.5625
    assert float(dice["seed_deviation"]) == pytest.approx(0.125 / np.sqrt(2), rel=1e-5)
    assert found["published", "dice", "Inf-Net"]["mean"] == ""
    assert found["published", "dice", "Inf-Net"]["paper_not_measured_here_mean"] == "0.682"


def test_systems_are_fed_as_in_the_paper_and_alike(call, slice_run, tmp_path):
    dice = {"1": 0.5, "2": 0.75}
    text = call(*(slice_run(method, dice) for method in ("u-net", "unet", "ours")), "--table", "V")
    found = {(one["protocol"], one["row"]): one for one in rows_of(tmp_path / "tables" / "table-V.csv")[::-1]}
    assert [float(found["published", row]["mean"]) for row in ("U-Net", "2D nnUNet", "Ours-2D")] == [
        *(0.375, 0.625, 0.625),
    ]
    assert float(found["at_0.5", "U-Net"]["mean"]) == 0.625
    assert found["at_0.5", "U-Net"]["paper_not_measured_here_mean"] == ""
    assert "Dice, Table V's protocol" in text
    assert "Dice at probability 0.5" in text


def test_sources_are_compared_with_none(call, slice_run, tmp_path):
    runs = [
        slice_run("unet", {"1": 0.5, "2": 0.6, "3": 0.5}),
        slice_run("ours", {"1": 0.6, "2": 0.9, "3": 0.5}, changes={"source": ("/x/lits",)}),
        slice_run("ours", {"1": 0.6, "2": 0.9, "3": 0.5}, seed=1, changes={"source": ("/x/lidc",)}),
    ]
    call(*runs, "--table", "VI")
    first = rows_of(tmp_path / "tables" / "table-VI-differences.csv")
    assert [(one["first"], one["second"]) for one in first[:2]] == [
        ("LiTS / liver tumor", "None / COVID only"),
        ("ours on lidc (not in the paper)", "None / COVID only"),
    ]
    assert float(first[0]["difference"]) == pytest.approx(0.4 / 3, rel=1e-5)
    assert first[1]["paper_not_measured_here_difference"] == ""


def test_ablation_on_slices_has_no_printed_figures(call, slice_run):
    text = call(slice_run("unet", {"1": 0.5, "2": 0.6}), slice_run("ours", {"1": 0.6, "2": 0.9}), "--table", "III")
    assert "The paper has this table on volumes alone" in text
    assert HEADING not in text
    assert "2D nnUNet" in text


def test_folds_of_slices(call, slice_run):
    runs = [slice_run("unet", {str(k): 0.5}, changes={"fold": k}) for k in range(4)]
    text = call(*runs, "--table", "V")
    assert "Incomplete: 2D nnUNet, seed 0: fold 4 is missing." in text
    assert "by case" not in text


def test_rows_of_other_settings_are_told(call, slice_run):
    text = call(
        slice_run("unet", {"1": 0.5, "2": 0.6}, flips=True),
        slice_run("ours", {"1": 0.6, "2": 0.9}, changes={"steps": 7}),
        "--table",
        "V",
    )
    assert "Rows differ in steps: 600 (2D nnUNet); 7 (Ours-2D)." in text
    assert "Rows differ in flips: yes (2D nnUNet); no (Ours-2D)." in text
    assert "steps" not in next(line for line in text.splitlines() if line.startswith("Made of 2 runs"))


def test_files_and_runs_named_twice_do_not_count(call, ablation, tmp_path):
    (tmp_path / "folds.csv").write_text("")
    text = call(*ablation, tmp_path / "folds.csv", ablation[0].parent / "ours-0-0", "--table", "III")
    assert "Made of 4 runs" in text


def test_refuses_runs_that_do_not_compare(call, ablation, volume_run):
    with pytest.raises(InputError, match=r"is of preset demo and .*target-2-0 of preset cpu: these do not compare"):
        call(*ablation, volume_run("target", 2, {"a": (1, 1)}, changes={"preset": "cpu"}), "--table", "III")


def test_refuses_other_data(call, ablation, volume_run):
    other = volume_run("target", 2, {"a": (1, 1)}, changes={"dataset": "phantom-volumes"})
    with pytest.raises(InputError, match=r"is of dataset covid-ct-20 and .*target-2-0 of dataset phantom-volumes"):
        call(*ablation, other, "--table", "III")


def test_refuses_other_cases(call, ablation, volume_run):
    with pytest.raises(InputError, match="scored on other cases, one with --by-patient and one without"):
        call(*ablation, volume_run("target", 2, {"a": (1, 1)}, by_patient=True), "--table", "III")


def test_refuses_the_published_split_beside_folds(call, slice_run):
    runs = [slice_run("unet", {"1": 0.5}), slice_run("ours", {"1": 0.5}, changes={"fold": 2})]
    with pytest.raises(InputError, match=r"unet-0-None was tested on the published split and .*ours-0-2 on fold 2"):
        call(*runs, "--table", "V")


def test_refuses_a_row_of_several_inferences(call, slice_run):
    runs = [slice_run("unet", {"1": 0.5}), slice_run("unet", {"1": 0.5}, seed=1, flips=True)]
    with pytest.raises(InputError, match=r"one row and were predicted with other settings, \{'flips': False\}"):
        call(*runs, "--table", "V")


def test_refuses_an_unfinished_run_and_writes_nothing(call, ablation, tmp_path):
    (ablation[3] / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"ours-1-0 has no metrics\.json: end its training"):
        call(*ablation, "--table", "III")
    assert not (tmp_path / "tables").exists()


def test_refuses_no_run_and_a_folder_that_is_none(call, tmp_path):
    with pytest.raises(InputError, match="no RUN was given"):
        call("--table", "III")
    with pytest.raises(InputError, match=r"config\.json is missing"):
        call(tmp_path, "--table", "III")


def test_refuses_an_output_that_cannot_be_made(call, ablation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output .*file/tables cannot be written"):
        call(*ablation, "--table", "III", "--output", tmp_path / "file" / "tables")


def test_unknown_table_ends_with_code_2(call, ablation, capsys):
    with pytest.raises(SystemExit) as error:
        call(*ablation, "--table", "VII")
    assert error.value.code == 2
    assert "VII" in capsys.readouterr().err
