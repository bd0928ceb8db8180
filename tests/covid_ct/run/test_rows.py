import json
from pathlib import Path

import pytest
from covidct.errors import InputError
from covidct.run.paper import TABLES
from covidct.run.rows import assign, source_sets

from tests.covid_ct.fabricated_runs import config, write_run


def titles(rows):
    return {row.title: [run.name for run in runs] for row, runs in rows.rows if runs}


def named(**configs):
    return {Path(name): value for name, value in configs.items()}


def of(table, configs):
    return assign(TABLES[table], configs, kinds(configs), set(configs))


def kinds(configs):
    return {run: "volumes" if one.axes == 3 else "slices" for run, one in configs.items()}


def test_rows_by_method():
    rows = of(
        "III",
        named(
            b=config(volumes=True, method="ours", seed=1),
            a=config(volumes=True, method="ours", fold=3),
            c=config(volumes=True, method="target"),
        ),
    )
    assert titles(rows) == {"Ours (L_G + L_T)": ["a", "b"], "Ours (L_T)": ["c"]}
    assert [row.title for row, _ in rows.rows] == [row.title for row in TABLES["III"].rows]


@pytest.mark.parametrize(
    ("folders", "title"),
    [
        (("/stores/msd",), "Pre-train on MSD"),
        (("/data/Task06_Lung/imagesTr",), "Pre-train on MSD"),
        (("/stores/nsclc",), "Pre-train on NSCLC"),
        (("/stores/nsclc", "/stores/MSD"), "Pre-train on Multi-lesion*"),
        (("/stores/lidc",), "finetune on lidc (not in the paper)"),
    ],
)
def test_rows_by_what_a_run_started_from(tmp_path, folders, title):
    start = write_run(tmp_path / "start", config(volumes=True, method="pretrain", source=folders), None)
    assert titles(of("IV", named(one=config(volumes=True, method="finetune", init=str(start))))) == {title: ["one"]}


def test_sets_that_a_run_has_noted_count_more_than_names(tmp_path):
    run = write_run(tmp_path / "run", config(volumes=True, method="pretrain", source=("/stores/msd",)), None)
    noted = [{"dataset": "nsclc-pe", "cases": []}, {"dataset": "lits", "cases": []}]
    (run / "sources.json").write_text(json.dumps(noted))
    assert source_sets(run, config(volumes=True, method="pretrain", source=("/stores/msd",))) == {"nsclc-pe", "lits"}


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("/x/LiTS17", "lits"),
        ("/x/splits", "splits"),
        ("/x/Task03_Liver", "lits"),
        ("/x/COVID-19-20_v2", "covid-19-20"),
        ("/x/NSCLC-PE", "nsclc-pe"),
        ("/x/lung1", "lung1"),
    ],
)
def test_sets_by_the_names_of_their_folders(tmp_path, folder, known):
    assert source_sets(tmp_path, config(volumes=False, method="ours", source=(folder,))) == {known}


def test_table_vi_by_source():
    rows = of(
        "VI",
        named(
            a=config(volumes=False, method="ours", source=("/x/lits",)),
            b=config(volumes=False, method="ours", source=("/x/msd",)),
            c=config(volumes=False, method="ours", source=("/x/lits", "/x/msd")),
            d=config(volumes=False),
        ),
    )
    assert titles(rows) == {
        "LiTS / liver tumor": ["a"],
        "MSD Lung / lung nodules": ["b"],
        "None / COVID only": ["d"],
        "ours on lits + msd-lung (not in the paper)": ["c"],
    }


def test_another_start_is_another_row(tmp_path):
    start = write_run(tmp_path / "start", config(volumes=True, method="reconstruct"), None)
    one = config(volumes=True, method="multi-encoder", init=str(start))
    assert titles(of("IV", named(one=one))) == {"multi-encoder after reconstruct (not in the paper)": ["one"]}


def test_what_departs_from_the_paper_has_rows_of_its_own(tmp_path):
    """The paper's own row is of the paper's own choices, and of a general encoder that starts at random."""
    start = write_run(tmp_path / "start", config(volumes=True, method="pretrain", source=("/stores/lidc",)), None)
    ours = {"volumes": True, "method": "ours", "source": ("/stores/msd",)}
    configs = named(
        a=config(**ours),
        b=config(**ours, relation_reduction="row_mean"),
        c=config(**ours, init=str(start)),
        d=config(volumes=True, width=1.2),
        e=config(volumes=True, relation_reduction="row_mean"),
    )
    assert titles(of("III", configs)) == {
        "3D nnUNet": ["e"],
        "Ours (L_G + L_T)": ["a"],
        "ours, reduction row_mean on msd-lung (not in the paper)": ["b"],
        "ours after pretrain on lidc + msd-lung (not in the paper)": ["c"],
        "unet, width 1.2 (not in the paper)": ["d"],
    }


def test_own_rows_of_one_method_are_told_apart():
    rows = of(
        "V",
        named(
            a=config(volumes=False, method="supervised-general"),
            b=config(volumes=False, method="supervised-general", steps=7),
        ),
    )
    assert titles(rows) == {
        "supervised-general, steps 600 (not in the paper)": ["a"],
        "supervised-general, steps 7 (not in the paper)": ["b"],
    }


def test_other_tables_runs_and_pretrainings_are_left_out():
    configs = named(
        one=config(volumes=True),
        two=config(volumes=True, method="finetune", init="/gone"),
        three=config(volumes=True, method="pretrain"),
    )
    rows = assign(TABLES["III"], configs, kinds(configs), {Path("one"), Path("two")})
    assert titles(rows) == {"3D nnUNet": ["one"]}
    assert rows.left_out == (
        "two is left out: no row of Table III is of method finetune",
        "three is left out: it has no metrics.json",
    )


@pytest.mark.parametrize(
    ("table", "configs", "message"),
    [
        ("V", named(a=config(volumes=True)), "a is a run on volumes and Table V is of slices; leave it out"),
        (
            "III",
            named(a=config(volumes=True), b=config(volumes=False)),
            "a is a run on volumes and b one on slices; make a table of each, with another --output",
        ),
        (
            "III",
            named(a=config(volumes=True), b=config(volumes=True, steps=7)),
            r"row '3D nnUNet' is of runs of one setting, and a \(unet, steps 300\) and b \(unet, steps 7\) differ",
        ),
        (
            "III",
            named(a=config(volumes=True), b=config(volumes=True)),
            "a and b are both fold 0 and seed 0 of row '3D nnUNet'; leave one out",
        ),
        (
            "V",
            named(a=config(volumes=False), b=config(volumes=False)),
            "a and b are both the published split and seed 0 of row '2D nnUNet'; leave one out",
        ),
        (
            "III",
            named(a=config(volumes=True, method="finetune", init="/gone")),
            "none of the 1 runs is in a row of Table III, whose methods are unet, baseline, general, target, ours;",
        ),
        (
            "IV",
            named(a=config(volumes=True, method="finetune", init="/gone")),
            "a started from /gone, and what that learned from decides its row: .*bring the folder back, or leave a out",
        ),
    ],
)
def test_refuses(table, configs, message):
    with pytest.raises(InputError, match=message):
        of(table, configs)


def test_run_without_scores_is_refused():
    configs = named(a=config(volumes=True))
    with pytest.raises(InputError, match=r"a has no metrics\.json: end its training with train\.py --resume"):
        assign(TABLES["III"], configs, kinds(configs), set())
