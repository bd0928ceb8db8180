"""Runs on phantoms, whose cache may move or go."""

import io
import shutil
import sys
from pathlib import Path

import covidct.phantoms.volume_set as generator
import evaluate
import pytest
import train
from covidct.arguments import Arguments, resolve
from covidct.errors import InputError
from covidct.phantoms import slice_set
from covidct.phantoms.sets import MANIFEST
from covidct.progress import stages_shown
from covidct.results import wing_of
from covidct.run.folder import run_name
from covidct.sets.splits import source_split, volume_fold
from covidct.slices.data import read_run_data
from covidct.store import phantoms
from covidct.store.store import StoreSettings, begin_store
from covidct.volumes import wing
from covidct.volumes.data import read_volume_data
from covidct.volumes.evaluation import volume_test_cases
from rich.console import Console

from tests.covid_ct.store_cases import SPACING, save, store, volume, write_scans, write_target


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What was generated and prepared, in order; the phantoms are small ones."""
    calls = []

    def volumes(root, *, seed, progress):
        calls.append("volumes")
        write_scans(root / "target")
        (root / MANIFEST).touch()
        if progress is not None:
            progress(1, 2)

    def stores(root, folder, progress):
        calls.append("stores")
        write_target(folder)
        for name, dataset in (("msd", "msd-lung"), ("nsclc", "nsclc-pe")):
            begin_store(folder / name, StoreSettings(dataset, SPACING))
            save(folder / name, source_split(dataset)[0][0], volume(0))
        (folder / MANIFEST).touch()
        if progress is not None:
            progress(1, 2)

    monkeypatch.setattr(generator, "write_volume_phantoms", volumes)
    monkeypatch.setattr(phantoms, "_prepare", stores)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def config(made):
    return resolve(Arguments(dataset="covid-ct-20", preset="demo", fold=2)).config


def paths(config):
    """Every folder and file that a run takes."""
    data = read_volume_data(config)
    return [case.folder for case in (*data.train, *data.source)] + [case.image for case in data.test]


def test_phantom_volumes_are_a_data_set_of_their_own(config, made):
    assert config == resolve(Arguments(dataset="phantom-volumes", fold=2)).config
    assert (config.dataset, config.data, config.store, config.source) == ("phantom-volumes", "", "", ())
    assert run_name(config) == "phantom-volumes-ours-fold2-seed0"
    assert made == []
    data = read_volume_data(config)
    assert [case.name for case in data.train] == list(volume_fold("covid-ct-20", 2)[0])
    assert [case.name for case in data.test] == list(volume_fold("covid-ct-20", 2)[1])
    assert [case.name for case in data.source] == [source_split(name)[0][0] for name in ("msd-lung", "nsclc-pe")]
    # There are few phantoms: nothing is missing.
    assert [source.missing for source in data.taken] == [(), ()]


def test_a_moved_cache(config, made, tmp_path, monkeypatch):
    plan = read_volume_data(config).plan
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    for path in paths(config):
        assert path.is_relative_to(tmp_path / "elsewhere")
        assert path.exists()
    assert sorted(made) == ["stores", "volumes"]
    shutil.rmtree(tmp_path / "elsewhere")
    assert all(path.exists() for path in paths(config))
    assert len(made) == 4
    assert read_volume_data(config).plan == plan
    shutil.rmtree(tmp_path / "elsewhere")
    assert all(case.image.exists() for case in volume_test_cases(config))
    assert made[4:] == ["volumes"]


def test_own_sources_stay(config, tmp_path):
    store(tmp_path / "own", 1, "own")
    own = resolve(Arguments(dataset="covid-ct-20", source=(Path("own"),))).config
    assert [case.name for case in read_volume_data(own).source] == ["own_0"]


def test_a_run_on_phantoms_is_resumed_by_either_name(config, tmp_path):
    run = tmp_path / "runs" / run_name(config)
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    for name in ("covid-ct-20", "phantom-volumes"):
        for output in (None, run):
            task = resolve(Arguments(dataset=name, fold=2, output=output, resume=True))
            assert (task.config, task.run.resolve()) == (config, run)
    with pytest.raises(InputError, match="dataset is 'phantom-volumes' in the run, 'covid-ct-20' was asked for"):
        resolve(Arguments(dataset="covid-ct-20", data=tmp_path, store=tmp_path, output=run, resume=True))


def test_each_stage_is_named(config, made):
    console = Console(file=io.StringIO(), width=120)
    with stages_shown(console) as stages:
        wing_of(config.dataset).make_phantoms(config, stages)
    assert console.file.getvalue() == "generating phantom volumes (once)\npreparing phantom volumes (once)\n"
    with stages_shown(console) as stages:
        wing_of(config.dataset).make_phantoms(config, stages)
    assert len(made) == 2
    assert console.file.getvalue().count("\n") == 2


def test_the_bar_names_the_stage(config, made):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with stages_shown(console) as stages:
        wing_of(config.dataset).make_phantoms(config, stages)
    shown = console.file.getvalue()
    assert 0 < shown.index("generating phantom volumes") < shown.index("preparing phantom volumes")


def test_slices_are_found_where_the_cache_is(tmp_path, monkeypatch):
    config = resolve(Arguments()).config
    assert (config.dataset, config.data, config.source) == ("phantom", "", ())
    taken = []
    monkeypatch.setattr("covidct.slices.data.read_volume_slices", lambda folders, _: taken.extend(folders) or ())
    monkeypatch.setattr(
        "covidct.slices.data.split", lambda *_: type("Split", (), {"train": (), "test": (), "name": ""})
    )
    monkeypatch.setattr("covidct.slices.data.read_covid_semiseg", taken.append)
    for place in ("one", "two"):
        root = tmp_path / place
        monkeypatch.setattr(slice_set, "phantom_root", lambda root=root: root)
        read_run_data(config)
    assert taken == [tmp_path / place / part for place in ("one", "two") for part in ("target", "source")]


def test_evaluation_generates_volumes_and_no_stores(config, made, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    monkeypatch.setattr(wing, "evaluate", lambda *_: 0)
    monkeypatch.setattr(evaluate, "_check_run", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run)])
    evaluate.main()
    assert made == ["volumes"]


def test_a_finished_run_needs_no_phantoms(config, made, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    monkeypatch.setattr(train, "is_finished", lambda *_: True)
    monkeypatch.setattr(train, "show_result", lambda *_: 0)
    monkeypatch.setattr(sys, "argv", ["train.py", "--dataset", "covid-ct-20", "--resume", "--output", "run"])
    train.main()
    assert "This run is finished" in capsys.readouterr().out
    assert made == []
