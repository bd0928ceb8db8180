"""The runs of each table, written down from the paper's tables by hand."""

from pathlib import Path

import pytest
import tyro
from covidct.arguments import Arguments
from covidct.errors import InputError
from covidct.run.paper import TABLES
from covidct.run.plan import Images, Settings, SourceSet, Training, plan
from covidct.run.systems import SYSTEMS

MSD, NSCLC = SourceSet("msd-lung", ("/s/msd",)), SourceSet("nsclc-pe", ("/s/nsclc",))
LITS, ROUND = SourceSet("lits", ("/s/lits",)), SourceSet("phantom-nodules", ("/p/nodules",))
VOLUMES = Images("covid-ct-20", "volumes", ("--dataset", "covid-ct-20", "--data", "/d"), (MSD, NSCLC))
SLICES = Images("covid_semiseg", "slices", ("--dataset", "covid_semiseg", "--data", "/d"), (MSD, NSCLC))


def names(table, images, **settings):
    return [one.run for one in plan(table, images, Settings("demo", **settings)).trainings]


def of(table, images, run, **settings):
    (found,) = (one for one in plan(table, images, Settings("demo", **settings)).trainings if one.run == run)
    return found


def after(arguments, option):
    """What follows an option, up to the next one."""
    rest = arguments[arguments.index(option) + 1 :]
    end = next((place for place, value in enumerate(rest) if value.startswith("--")), len(rest))
    return rest[:end]


def test_table_three_is_five_rows_of_five_folds():
    found = names("III", VOLUMES)
    assert len(found) == 25
    assert found[:6] == [
        "covid-ct-20-unet-fold0-seed0",
        "covid-ct-20-baseline-fold0-seed0",
        "covid-ct-20-general-fold0-seed0",
        "covid-ct-20-target-fold0-seed0",
        "covid-ct-20-ours-fold0-seed0",
        "covid-ct-20-unet-fold1-seed0",
    ]


def test_sources_go_to_the_methods_that_learn_from_them():
    taken = {
        one.run.split("-")[3]: "--source" in one.arguments
        for one in plan("III", VOLUMES, Settings("paper", folds=(2,))).trainings
    }
    assert taken == {"unet": False, "baseline": False, "general": True, "target": False, "ours": True}
    ours = of("III", VOLUMES, "covid-ct-20-ours-fold2-seed0", folds=(2,))
    assert ours == Training(
        "covid-ct-20-ours-fold2-seed0",
        (
            *("--dataset", "covid-ct-20", "--data", "/d", "--method", "ours", "--preset", "demo", "--seed", "0"),
            *("--fold", "2", "--source", "/s/msd", "/s/nsclc"),
        ),
    )


def test_table_four_pre_trains_on_each_source_and_on_both_for_every_fold_of_volumes():
    found = plan("IV", VOLUMES, Settings("demo", folds=(0, 3), seeds=(7,))).trainings
    assert [(one.run.removeprefix("covid-ct-20-"), one.start.removeprefix("covid-ct-20-")) for one in found] == [
        ("pretrain-msd-lung-fold0-seed7", ""),
        ("pretrain-nsclc-pe-fold0-seed7", ""),
        ("pretrain-fold0-seed7", ""),
        ("pretrain-msd-lung-fold3-seed7", ""),
        ("pretrain-nsclc-pe-fold3-seed7", ""),
        ("pretrain-fold3-seed7", ""),
        ("unet-fold0-seed7", ""),
        ("finetune-msd-lung-fold0-seed7", "pretrain-msd-lung-fold0-seed7"),
        ("finetune-nsclc-pe-fold0-seed7", "pretrain-nsclc-pe-fold0-seed7"),
        ("finetune-fold0-seed7", "pretrain-fold0-seed7"),
        ("multi-encoder-fold0-seed7", "pretrain-fold0-seed7"),
        ("ours-fold0-seed7", ""),
        ("unet-fold3-seed7", ""),
        ("finetune-msd-lung-fold3-seed7", "pretrain-msd-lung-fold3-seed7"),
        ("finetune-nsclc-pe-fold3-seed7", "pretrain-nsclc-pe-fold3-seed7"),
        ("finetune-fold3-seed7", "pretrain-fold3-seed7"),
        ("multi-encoder-fold3-seed7", "pretrain-fold3-seed7"),
        ("ours-fold3-seed7", ""),
    ]
    by_run = {one.run: one.arguments for one in found}
    assert after(by_run["covid-ct-20-pretrain-nsclc-pe-fold3-seed7"], "--source") == ("/s/nsclc",)
    assert "--source" not in by_run["covid-ct-20-finetune-fold3-seed7"]


def test_the_whole_of_table_four_is_nine_trainings_a_fold():
    assert len(names("IV", VOLUMES)) == 5 * (3 + 6)


def test_tables_three_and_four_share_runs():
    assert len({*names("III", VOLUMES), *names("IV", VOLUMES)}) == 60


def test_folds_of_slices_start_from_one_pre_training():
    found = plan("IV", SLICES, Settings("demo", methods=("multi-encoder",))).trainings
    assert [(one.run, one.start) for one in found] == [
        ("covid_semiseg-pretrain-seed0", ""),
        *((f"covid_semiseg-multi-encoder-fold{k}-seed0", "covid_semiseg-pretrain-seed0") for k in range(5)),
    ]
    assert "--fold" not in found[0].arguments


def test_table_five_is_ten_systems_on_the_published_split_and_100_source_slices():
    found = plan("V", SLICES, Settings("demo")).trainings
    methods = [after(one.arguments, "--method")[0] for one in found]
    assert methods == [
        *("u-net", "attention-unet", "gated-unet", "dense-unet", "u-net++", "inf-net", "semi-inf-net"),
        *("unet", "ours", "ours-un"),
    ]
    for one, method in zip(found, methods, strict=True):
        assert "--fold" not in one.arguments
        drawn = after(one.arguments, "--source-cases") if "--source-cases" in one.arguments else None
        assert drawn == (("100",) if method in ("ours", "ours-un") else None), method
    assert found[-1].run == "covid_semiseg-ours-un-source100-published-seed0"


def test_unlabelled_slices_go_to_the_two_methods_that_take_them():
    images = Images("covid_semiseg", "slices", sources=(MSD,), unlabelled="/u")
    found = plan("V", images, Settings("demo")).trainings
    takes = {after(one.arguments, "--method")[0] for one in found if "--unlabelled" in one.arguments}
    assert takes == {"semi-inf-net", "ours-un"}


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (Settings("demo"), ("--pseudo-groups", "2", "--pseudo-epochs", "1")),
        (Settings("demo", pseudo_groups=7), ("--pseudo-groups", "7", "--pseudo-epochs", "1")),
        (Settings("paper"), ()),
        (Settings("paper", pseudo_groups=40, pseudo_epochs=3), ("--pseudo-groups", "40", "--pseudo-epochs", "3")),
    ],
    ids=["demo", "demo-7", "paper", "paper-40"],
)
def test_the_demo_takes_few_groups_of_unlabelled_slices(settings, asked):
    for one in plan("V", SLICES, settings).trainings:
        given = tuple(word for place, word in enumerate(one.arguments) if "--pseudo" in one.arguments[place - 1] + word)
        assert given == (asked if "semi-inf-net" in one.arguments else ())


def test_table_six_is_60_slices_of_each_source_beside_10_of_the_target():
    images = Images("covid_semiseg", "slices", sources=(LITS, MSD, NSCLC, SourceSet("covid-19-20", ("/c", "/c2"))))
    found = plan("VI", images, Settings("demo")).trainings
    assert [one.run.removeprefix("covid_semiseg-").removesuffix("-published-seed0") for one in found] == [
        "unet-target10",
        "ours-lits-source60-target10",
        "ours-msd-lung-source60-target10",
        "ours-nsclc-pe-source60-target10",
        "ours-covid-19-20-source60-target10",
    ]
    assert "--source" not in found[0].arguments
    assert after(found[4].arguments, "--source") == ("/c", "/c2")
    assert all(after(one.arguments, "--source-cases") == ("60",) for one in found[1:])
    assert all(after(one.arguments, "--target-cases") == ("10",) for one in found)


def test_other_numbers_of_cases_and_all_of_them():
    few = plan("VI", SLICES, Settings("demo", source_cases=4, target_cases=0)).trainings[1]
    assert few.run == "covid_semiseg-ours-msd-lung-source4-published-seed0"
    assert "--target-cases" not in few.arguments
    assert names("V", SLICES, source_cases=0, methods=("ours",)) == ["covid_semiseg-ours-published-seed0"]


def test_other_slices_of_the_scans_make_runs_of_their_own():
    found = plan("V", SLICES, Settings("demo", source_policy="max_area")).trainings
    largest, target_alone = (next(one for one in found if method in one.run) for method in ("-ours-source", "-unet-"))
    assert largest.run == "covid_semiseg-ours-source100-source-max_area-published-seed0"
    assert after(largest.arguments, "--source-policy") == ("max_area",)
    assert "--source-policy" not in target_alone.arguments


def test_rows_whose_source_is_not_given_are_named():
    found = plan("VI", SLICES, Settings("demo"))
    assert len(found.trainings) == 3
    assert found.notes == (
        "No runs of row 'LiTS / liver tumor': --source names no set lits.",
        "No runs of row 'COVID-19-20 / groundglass opacities': --source names no set covid-19-20.",
    )


def test_sets_that_the_paper_has_not_get_runs_of_their_own():
    phantoms = (ROUND, SourceSet("phantom-masses", ("/p/masses",)))
    images = Images("phantom", "slices", sources=phantoms, phantoms=True)
    found = plan("VI", images, Settings("demo"))
    assert [one.run for one in found.trainings[1:]] == [
        "phantom-ours-phantom-nodules-source60-target10-published-seed0",
        "phantom-ours-phantom-masses-source60-target10-published-seed0",
    ]
    assert found.notes == ()
    fine_tuned = names("IV", images, methods=("finetune",), folds=(0,))
    assert fine_tuned[3:] == [
        "phantom-finetune-phantom-nodules-fold0-seed0",
        "phantom-finetune-phantom-masses-fold0-seed0",
        "phantom-finetune-fold0-seed0",
    ]


def test_sources_that_train_py_finds_itself_are_named_where_only_some_are_taken():
    images = Images("phantom-volumes", "volumes", ("--dataset", "phantom-volumes"), (MSD, NSCLC), implied=True)
    found = {one.run: one.arguments for one in plan("IV", images, Settings("demo", folds=(0,))).trainings}
    assert "--source" not in found["phantom-volumes-pretrain-fold0-seed0"]
    assert "--source" not in found["phantom-volumes-ours-fold0-seed0"]
    assert after(found["phantom-volumes-pretrain-msd-lung-fold0-seed0"], "--source") == ("/s/msd",)


def test_seeds_come_one_after_the_other_and_steps_are_for_all():
    found = plan("III", VOLUMES, Settings("demo", seeds=(3, 1), folds=(4,), steps=9)).trainings
    assert [after(one.arguments, "--seed") for one in found] == [("3",)] * 5 + [("1",)] * 5
    assert all(after(one.arguments, "--steps") == ("9",) for one in found)


def test_the_whole_command():
    one = of("IV", VOLUMES, "covid-ct-20-finetune-fold1-seed0", folds=(1,))
    assert one.command(Path("/o"))[-5:] == [
        *("--init", "/o/covid-ct-20-pretrain-fold1-seed0", "--output", "/o/covid-ct-20-finetune-fold1-seed0"),
        "--resume",
    ]


@pytest.mark.parametrize(
    ("table", "images", "methods", "message"),
    [
        ("V", VOLUMES, (), "Table V is of slices and --dataset covid-ct-20 of volumes"),
        ("III", VOLUMES, ("best",), "--methods best is in no row of Table III; take some of unet, baseline, gen"),
        ("III", Images("covid-ct-20", "volumes"), (), r"other lesions \(general, ours\): give --source"),
    ],
    ids=["volumes", "method", "no-source"],
)
def test_what_cannot_be_planned(table, images, methods, message):
    with pytest.raises(InputError, match=message):
        plan(table, images, Settings("demo", methods=methods))


def test_without_source_the_other_methods_can_be_planned():
    images = Images("covid-ct-20", "volumes")
    assert names("III", images, methods=("unet", "target"), folds=(0,)) == [
        "covid-ct-20-unet-fold0-seed0",
        "covid-ct-20-target-fold0-seed0",
    ]


@pytest.mark.parametrize("table", TABLES)
def test_every_call_is_one_that_train_py_takes(table):
    images = Images("covid_semiseg", "slices", ("--data", "/d"), (MSD, NSCLC, LITS), unlabelled="/u")
    found = plan(table, images, Settings("demo", steps=2)).trainings
    assert len({one.run for one in found}) == len(found)
    for one in found:
        command = one.command(Path("/o"))
        method = after(command, "--method")[0]
        assert method in SYSTEMS
        given = tyro.cli(Arguments, args=command)
        assert (given.method, given.output) == (method, Path("/o") / one.run)
