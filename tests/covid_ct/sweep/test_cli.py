"""sweep.py as users call it, with a train.py that does what the test tells it."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import time

import pytest
import report
import sweep
from covidct.errors import exit_on_input_error
from covidct.run.config import Config
from covidct.run.lock import locked
from covidct.sweep import schedule

from tests.covid_ct.fabricated_runs import config, slice_content
from tests.covid_ct.plain_demo import DEMO

# In a group of its own, as in a terminal; with the test's train.py.
LAUNCH = """
import os, sys
from pathlib import Path

os.setsid()
output = os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(output, 1)
import sweep
from covidct.errors import exit_on_input_error

sweep.TRAIN = Path("train.py")
exit_on_input_error(sweep.main)
"""
SLICES = ("--data", "data", "--dataset", "covid_semiseg", "--source", "msd", "--preset", "demo")


@pytest.fixture
def here(tmp_path, place, write_covid, monkeypatch):
    """The current folder: it holds `data` (6 slices), a source folder, a train.py, and an empty folder `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "TRAIN", place.script)
    monkeypatch.setattr(schedule, "PAUSE", 0.01)
    (tmp_path / "msd").mkdir()
    write_covid(tmp_path / "data", [str(number) for number in range(6)])
    return tmp_path


@pytest.fixture
def call(here, monkeypatch, capsys):
    """A function that runs sweep.py in this process, and gives its exit code, its output and its errors."""

    def run(*arguments, executor="debug"):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments, "--output", "runs", "--cluster", executor])
        code = 0
        try:
            exit_on_input_error(sweep.main)
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_table_whose_runs_all_finish(call, here):
    code, out, _ = call("--table", "III", *SLICES, "--methods", "unet", "baseline", "--folds", "0", "1")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "Table III: 4 runs in runs"
    assert "covid_semiseg-baseline-fold1-seed0 finished" in lines
    assert lines[-2:] == ["4 of 4 runs are finished.", "The table: python report.py runs/* --table III"]
    found = json.loads((here / "covid_semiseg-baseline-fold1-seed0.json").read_text())["arguments"]
    assert found == [
        *("--dataset", "covid_semiseg", "--data", str(here / "data"), "--method", "baseline", "--preset", "demo"),
        *("--seed", "0", "--fold", "1", "--output", str(here / "runs/covid_semiseg-baseline-fold1-seed0"), "--resume"),
    ]


STUDY = """
question = "?"
folds = [0]
[systems.plain]
title = "plain"
method = "unet"
[systems.hidden]
title = "hidden"
method = "reconstruct"
[systems.started]
title = "started"
method = "finetune"
start = "hidden"
against = ["plain"]
"""
# What a run of the study leaves, beside what train.py of these tests does.
SCORED = """
import json, pathlib
place = pathlib.Path(run.parent.parent)
better = 0.125 if "started" in run.name else 0
content = json.loads((place / "content.json").read_text())
for number, item in enumerate(content["images"]):
    item["at_0.5"]["dice"] += better * (number + 1) / 2
(run / "metrics.json").write_text(json.dumps(content | {"method": method}))
text = (run / "config.json").read_text().replace('"method": "unet"', f'"method": "{method}"')
(run / "config.json").write_text(text)
(run / "metrics.jsonl").write_text('{"step": 600, "seconds": 30.0}\\n')
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_study_ends_with_the_scores_of_its_runs_and_their_table(call, here, monkeypatch, capsys):
    of = config(volumes=False)
    content = slice_content(of, {"1": 0.5, "2": 0.25, "3": 0.5}, parameters=1000)
    (here / "content.json").write_text(json.dumps(content))
    (here / "own.toml").write_text(STUDY)
    script = here / "train.py"
    script.write_text(script.read_text().replace('print("done")', SCORED))
    code, out, err = call("--study", "own.toml", *SLICES)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "Study own.toml: 3 runs in runs"
    assert out.splitlines()[-1] == (
        "Every slice's score: runs/scores.csv. The table: python report.py runs/scores.csv --study own.toml"
    )
    lines = (here / "runs/scores.csv").read_text().splitlines()
    assert lines[0] == "system,labels,fold,seed,image,dice,parameters,milliseconds"
    assert lines[1:] == [
        *(f"plain,all,0,0,{name},{dice},1000,50.0" for name, dice in (("1", 0.5), ("2", 0.25), ("3", 0.5))),
        *(f"started,all,0,0,{name},{dice},1000,50.0" for name, dice in (("1", 0.5625), ("2", 0.375), ("3", 0.6875))),
    ]
    monkeypatch.setattr(sys, "argv", ["report.py", "runs/scores.csv", "--study", "own.toml", "--output", "tables"])
    report.main()
    table = (here / "tables/study-own.md").read_text()
    assert "| started | 0.542 | 1 | 0.00 | 50 | plain | +12.5 (" in table
    assert (here / "tables/study-own.png").stat().st_size > 0
    assert "Written to tables: study-own.md, study-own.png" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_run_is_reported_at_the_end_and_the_others_are_done(call):
    code, out, err = call("--table", "III", *SLICES, "--methods", "target", "unet", "--folds", "0")
    assert code == 2
    assert err.startswith("error: covid_semiseg-target-fold0-seed0: it cannot be trained (all of it: runs/.sweep/")
    lines = out.splitlines()
    assert lines[-3] == "1 of 2 runs are finished."
    assert lines[-1] == "The table: python report.py runs/covid_semiseg-unet-fold0-seed0 --table III"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_starts_from_a_failed_run_is_reported_too(call, here):
    (here / "train.py").write_text("import sys; sys.exit('error: no lung in any slice')")
    code, _, err = call("--table", "IV", *SLICES, "--methods", "finetune", "--folds", "0")
    assert code == 2
    assert "covid_semiseg-pretrain-seed0: no lung in any slice" in err
    assert "finetune-fold0-seed0: it starts from covid_semiseg-pretrain-seed0, which failed" in err


@pytest.fixture
def earlier(here, fill):
    """The folder of a finished run of seed 0, fold 0, of 600 steps."""
    run = fill(here / "runs" / "covid_semiseg-unet-fold0-seed0")
    data = {"dataset": "covid_semiseg", "data": str(here / "data"), "source": ()}
    of = Config(**data, method="unet", preset="demo", fold=0, seed=0, **DEMO)
    (run / "config.json").write_text(of.to_json())
    return run


def test_what_is_finished_is_skipped(call, earlier):
    code, out, _ = call("--table", "III", *SLICES, "--methods", "unet", "--folds", "0")
    assert (code, out.splitlines()[1:3]) == (0, ["1 of 1 runs are finished already", "1 of 1 runs are finished."])


def test_a_run_of_other_settings_is_not_taken_for_this_one(call, earlier):
    code, _, err = call("--table", "III", *SLICES, "--methods", "unet", "--folds", "0", "--steps", "9")
    assert code == 2
    assert err == (
        f"error: {earlier} is a run with other settings: steps is 600 in the run, 9 was asked for; give another "
        "--output, or the arguments that it was begun with\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--table", "V", "--data", "data", "--preset", "cpu"), "data has no test slices for the published split; "),
        (("--table", "V", "--data", "nowhere"), "nowhere does not exist; give the folder"),
        (("--table", "III", "--data", "data"), "--data is there and --store is not"),
        (("--table", "III", "--data", "data", "--dataset", "covid_semiseg"), "give --source with their sets"),
        (("--table", "III", *SLICES, "--folds", "7"), "--fold must be 0 to 4, got 7"),
        (("--table", "III", *SLICES, "--preset", "large"), "--preset 'large' is unknown; take one of demo, cpu, paper"),
        (("--table", "III", *SLICES, "--steps", "0"), "--steps must be 1 or more, got 0"),
        (("--table", "III", *SLICES, "--at-once", "0"), "--at-once must be 1 or more, got 0"),
        (("--table", "III", *SLICES, "--seeds"), "--seeds names no seed"),
        (("--table", "III", *SLICES, "--partition", "long"), "--partition is for --cluster slurm"),
        (("--table", "VI", "--dataset", "covid-ct-20"), "Table VI is of slices and --dataset phantom-volumes of v"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(call, here, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not [*here.glob("*.json"), *here.glob("cache")]


def test_a_cluster_needs_a_preset(call):
    code, _, err = call("--table", "V", "--data", "data", executor="slurm")
    assert (code, err.startswith("error: --cluster slurm needs --preset")) == (2, True)


def test_a_second_sweep_is_told_of_the_first(call, place):
    with locked(place.own):
        code, _, err = call("--table", "III", *SLICES, "--methods", "unet")
    assert code == 2
    assert f"runs/.sweep is used by process {os.getpid()} on" in err


@pytest.fixture
def start(here, monkeypatch):
    """A function that starts sweep.py as a process of its own, forked from one that has torch already."""
    # The server is told no other way what it shall import.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["covidct.sweep.arguments", "covidct.sweep.workers"])
    (here / "launch.py").write_text(LAUNCH)
    begun = []

    def begin(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments, "--output", "runs"])
        process = context.Process(
            target=runpy.run_path, args=(str(here / "launch.py"),), kwargs={"run_name": "__main__"}
        )
        process.start()
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.join()


def wait_for(true):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def trains(here):
    """A function that waits until a run is trained in, and gives its process."""

    def process(run):
        wait_for((here / f"{run}.json").exists)
        log = here / "runs" / ".sweep" / f"{run}.log"
        wait_for(lambda: log.exists() and "waiting" in log.read_text())
        return json.loads((here / f"{run}.json").read_text())["process"]

    return process


def is_over(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


OURS = ("--table", "III", *SLICES, "--methods", "ours", "--folds", "0", "1")


def test_interrupted_it_stops_what_runs_and_says_how_to_go_on(start, trains, here):
    process = start(*OURS, "--at-once", "2")
    running = [trains(f"covid_semiseg-ours-fold{fold}-seed0") for fold in (0, 1)]
    os.killpg(process.pid, signal.SIGINT)
    process.join()
    assert all(map(is_over, running))
    assert process.exitcode == 130
    out = (here / "out").read_text()
    assert re.search(r"last checkpoint, is kept\. To go on: python \S+ --table III --data data ", out)
    assert "Traceback" not in out


def test_killed_it_leaves_nothing_running(start, trains):
    process = start(*OURS, "--at-once", "1")
    running = trains("covid_semiseg-ours-fold0-seed0")
    process.kill()
    wait_for(lambda: is_over(running))
