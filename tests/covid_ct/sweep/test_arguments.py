"""What a command line becomes: data sets, source sets, presets, folders."""

from pathlib import Path

import numpy as np
import pytest
import sweep
import torch
from covidct import arguments as training
from covidct.errors import InputError
from covidct.run.study import read_study
from covidct.store.store import StoreSettings, begin_store
from covidct.sweep import arguments as module
from covidct.sweep.arguments import Arguments, make_plan, parsed
from PIL import Image

from tests.covid_ct.fabricated_runs import config


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that plans; phantoms are not generated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kinds = tuple(Path("/p") / f"phantom-{kind}" for kind in ("nodules", "masses"))
    monkeypatch.setattr(module, "phantom_root", lambda progress: None)
    monkeypatch.setattr(module, "phantom_sources", lambda progress: kinds)
    monkeypatch.setattr(module, "make_phantom_volumes", lambda stages, stores: None)
    stores = []
    for name in ("msd-lung", "nsclc-pe"):
        begin_store(tmp_path / name, StoreSettings(name, (3.0, 1.0, 1.0)))
        stores.append(tmp_path / name)
    monkeypatch.setattr(module, "phantom_stores", lambda: (tmp_path / "target", tuple(stores)))

    def plan(*args, **values):
        return make_plan(Arguments(*args, **values), lambda name: lambda done, total: None)

    return plan


def runs(plan):
    return [one.run for one in plan[0].trainings]


def test_tables_of_folds_are_of_phantom_volumes_without_data(made):
    found = made("IV", methods=("finetune",), folds=(2,))
    assert runs(found) == [
        *(f"phantom-volumes-pretrain-{part}fold2-seed0" for part in ("msd-lung-", "nsclc-pe-", "")),
        *(f"phantom-volumes-finetune-{part}fold2-seed0" for part in ("msd-lung-", "nsclc-pe-", "")),
    ]
    assert found[1] == ("Phantoms stand in for the paper's source sets: msd-lung, nsclc-pe",)
    assert "--source" not in found[0].trainings[2].arguments


def test_phantom_slices_come_with_a_source_set_of_each_kind(made):
    plan, notes = made("III", dataset="phantom", folds=(0,), methods=("ours",), seeds=(4, 4))
    (ours,) = plan.trainings
    assert ours.run == "phantom-ours-fold0-seed4"
    assert ours.arguments[-3:] == ("--source", "/p/phantom-nodules", "/p/phantom-masses")
    assert notes == ("Phantoms stand in for the paper's source sets: phantom-nodules, phantom-masses",)


def test_stores_say_what_they_are_of_and_folders_of_slices_are_known_by_their_names(made, tmp_path, write_covid):
    volumes = made("IV", Path("d"), store=Path("s"), source=(Path("nsclc-pe"),), methods=("finetune",), folds=(0,))
    assert runs(volumes)[1] == "covid-ct-20-finetune-fold0-seed0"
    assert volumes[1][-2:] == (
        "No runs of row 'Pre-train on MSD': --source names no set msd-lung.",
        "No runs of row 'Pre-train on Multi-lesion*': --source names no set msd-lung.",
    )
    data = write_covid(tmp_path / "data", [str(number) for number in range(6)])
    folders = (Path("Task06_Lung"), Path("lidc"))
    slices = made("IV", data, "covid_semiseg", source=folders, methods=("finetune",), folds=(0,))
    assert runs(slices)[3:] == [
        *(f"covid_semiseg-finetune-{name}-fold0-seed0" for name in ("msd-lung", "lidc")),
        "covid_semiseg-finetune-fold0-seed0",
    ]


def test_all_runs_have_the_preset_that_this_machine_would_take(made, monkeypatch):
    def presets():
        real = {"store": Path("s"), "source": (Path("msd-lung"),), "methods": ("unet",)}
        found = made("III", Path("d"), **real)[0].trainings
        return {one.arguments[one.arguments.index("--preset") + 1] for one in found}

    assert presets() == {"cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert presets() == {"paper"}


def test_a_store_that_is_none_is_named(made):
    with pytest.raises(InputError, match="nowhere"):
        made("III", Path("d"), store=Path("s"), source=(Path("nowhere"),))


def test_tables_of_the_same_runs_share_a_folder():
    roots = {table: Arguments(table).root for table in ("III", "IV", "V", "VI")}
    assert roots["III"] == roots["IV"] == Path("runs/tables-III-IV")
    assert len(set(roots.values())) == 3


def test_every_system_of_the_study_here_is_one_that_train_py_takes(made, tmp_path, write_covid):
    data = write_covid(tmp_path / "semi", [str(number) for number in range(20)], unlabelled=["a_1", "a_2"])
    (tmp_path / "lidc").mkdir()
    study = Path(sweep.__file__).parent / "studies/borrowing.toml"
    plan, _ = made(data=data, study=study, preset="demo", source=(tmp_path / "lidc",), folds=(0,), seeds=(3,))
    systems = read_study(study).systems
    assert {one.run.split("-labels")[0].removesuffix("-seed3") for one in plan.trainings} == set(systems)
    assert len(plan.trainings) == 2 + 2 * (len(systems) - 2)
    for one in plan.trainings:
        # Those that start from a run as well, which the plan does not try before that is there.
        words = [*one.arguments, *(("--init", str(start(tmp_path, one.start))) if one.start else ())]
        config = training.resolve(parsed(words)).config
        assert (config.optimizer, config.seed) == ("adamw", 3)


def start(folder, name):
    """A folder with the config of a run that others start from."""
    run = folder / name
    run.mkdir(exist_ok=True)
    method = "reconstruct" if name.startswith("hidden") else "pretrain"
    (run / "config.json").write_text(config(volumes=False, method=method).to_json())
    return run


def test_a_study_of_ones_own_pictures(made, tmp_path):
    data = tmp_path / "mine"
    for folder in ("images", "masks", "source"):
        (data / folder).mkdir(parents=True)
        for name in ("a", "b", "c"):
            grey = np.random.default_rng(ord(name)).integers(0, 255, (40, 40))
            Image.fromarray(np.uint8(255 * (grey > 200) if folder == "masks" else grey)).save(
                data / folder / f"{name}.png"
            )
    (tmp_path / "own.toml").write_text('question = "?"\nfolds = [1]\n[systems.ours]\ntitle = "ours"\nmethod = "ours"\n')
    (one,) = made(data=data, study=tmp_path / "own.toml", preset="demo")[0].trainings
    assert one.arguments == (
        *("--dataset", "own", "--data", str(data), "--method", "ours", "--preset", "demo", "--seed", "0"),
        *("--fold", "1", "--source", str(data / "source")),
    )


def test_a_study_takes_the_place_of_a_table(made, tmp_path, write_covid):
    data = write_covid(tmp_path / "semi", [str(number) for number in range(10)])
    (tmp_path / "own.toml").write_text(
        'question = "?"\nfolds = [1]\n[systems.wide]\ntitle = "wide"\nmethod = "unet"\noptions = ["--width", "1.5"]\n'
    )
    asked = {"data": data, "study": tmp_path / "own.toml", "preset": "demo"}
    assert runs(made(**asked)) == ["wide-labelsall-fold1-seed0"]
    assert Arguments(**asked).root == Path("runs/study-own")
    with pytest.raises(InputError, match="--table and --study name two things"):
        made("V", **asked)
    with pytest.raises(InputError, match="--target-cases is for --table; give it in the options or labels of"):
        made(**asked, target_cases=3)
    with pytest.raises(InputError, match="give --table III, IV, V or VI, or --study"):
        made(data=data)
