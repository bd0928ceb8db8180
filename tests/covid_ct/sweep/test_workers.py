"""The same trainings through each of submitit's executors; the cluster's commands are the test's own."""

import json
import os
import re
import signal
import stat
import time

import pytest
from covidct.errors import InputError
from covidct.sweep import workers as workers_module
from covidct.sweep.schedule import carry_out
from covidct.sweep.workers import DebugWorkers, LocalWorkers, SlurmWorkers, _without_interrupts

ASKED = {"nodes": 1, "ntasks_per_node": 1, "time": 1440, "gpus_per_node": 1, "cpus_per_task": 8, "partition": "long"}
# `jobs` holds a file a job: what was asked for, its process, its state.
COMMANDS = {
    "sbatch": """
        number=$(( $(ls $JOBS/*.sh 2>/dev/null | wc -l) + 1 ))
        grep -q partition=refused $1 && { echo "invalid partition specified: refused" >&2; exit 1; }
        cp $1 $JOBS/$number.sh
        $JOBS/../bin/begin $number
        echo "Submitted batch job $number"
    """,
    "begin": """
        echo RUNNING > $JOBS/$1.state
        (export SLURM_JOB_ID=$1 SLURM_NTASKS=1 SLURM_PROCID=0
         bash $JOBS/$1.sh >$JOBS/$1.out 2>&1; grep -q RUNNING $JOBS/$1.state && echo COMPLETED > $JOBS/$1.state) \\
        >/dev/null 2>&1 &
    """,
    "srun": """
        while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done
        echo $$ > $JOBS/$SLURM_JOB_ID.process
        exec "$@"
    """,
    "sacct": """
        echo "JobID|State|NodeList"
        for file in $JOBS/*.state; do echo "$(basename $file .state)|$(cat $file)|node"; done
    """,
    "scontrol": """
        [[ $1 == requeue ]] || exit 1
        echo REQUEUED > $JOBS/$2.state
        (while kill -0 $(cat $JOBS/$2.process) 2>/dev/null; do sleep 0.05; done
         $JOBS/../bin/begin $2) >/dev/null 2>&1 &
    """,
    "scancel": """
        echo CANCELLED > $JOBS/$1.state
        touch $JOBS/$1.cancelled
        kill -KILL $(cat $JOBS/$1.process)
    """,
}


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The cluster, and the folder of its jobs."""
    folder, commands = tmp_path / "jobs", tmp_path / "bin"
    for made in (folder, commands):
        made.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}")
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(folder))
    monkeypatch.setattr(workers_module, "LOOK", 0.0)
    return folder


def asked(jobs, number):
    """The options in a job's batch file."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", (jobs / f"{number}.sh").read_text(), re.MULTILINE)
    return dict(lines)


def go(trainings, place, workers, at_once=2):
    return carry_out(trainings, place.root, workers, at_once, lambda state: None, lambda: time.sleep(0.05))


def wait_for(true):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def seen(tmp_path, run):
    return json.loads((tmp_path / f"{run}.json").read_text())


def test_local(place, training, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    state = go([training("unet"), training("target"), training("unet", "after", "unet")], place, LocalWorkers(place))
    assert sorted(state.finished) == ["after", "unet"]
    assert state.failed == {"target": f"it cannot be trained (all of it: {place.log('target')})"}
    assert seen(tmp_path, "after")["arguments"] == [
        *("--method", "unet", "--init", str(place.root / "unet"), "--output", str(place.root / "after"), "--resume")
    ]
    assert seen(tmp_path, "unet")["environment"]["OMP_NUM_THREADS"] == "1"


def test_local_stops_what_runs(place, training, tmp_path):
    workers = LocalWorkers(place)
    workers.start(training("ours"))
    wait_for(place.log("ours").exists)
    wait_for(lambda: "waiting" in place.log("ours").read_text())
    workers.stop()
    assert "interrupted" in place.log("ours").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(seen(tmp_path, "ours")["process"], 0)
    assert not list(place.own.glob("stop*"))


def test_a_job_whose_place_is_taken_begins_again_and_goes_on(place, training, tmp_path):
    workers = LocalWorkers(place)
    workers.start(training("ours"))
    wait_for(place.log("ours").exists)
    wait_for(lambda: "waiting" in place.log("ours").read_text())
    os.kill(seen(tmp_path, "ours")["job"], signal.SIGUSR2)
    wait_for(workers.ended)
    assert place.log("ours").read_text().split() == ["waiting", "interrupted", "done"]
    assert (place.root / "ours" / "metrics.json").exists()


def test_runs_are_spread_over_the_gpus(place, training, monkeypatch):
    workers = LocalWorkers(place, ["3", "GPU-5a"])
    given = []
    monkeypatch.setattr(workers.executor, "submit", given.append)
    for run in ("a", "b", "c"):
        workers.start(training("unet", run))
    del workers.jobs["b"]
    workers.start(training("unet", "d"))
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in given] == ["3", "GPU-5a", "3", "GPU-5a"]
    assert "OMP_NUM_THREADS" not in given[0].environment


def test_an_interrupt_comes_after_the_submission():
    reached = []

    def submit():
        with _without_interrupts():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        submit()
    assert reached


# submitit does not close what it logs to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_debug(place, training, tmp_path):
    state = go([training("unet"), training("target")], place, DebugWorkers(place))
    assert state.finished == ["unet"]
    assert state.failed["target"].startswith("it cannot be trained")


def test_slurm_is_asked_for_what_the_user_asks(place, training, jobs, tmp_path):
    state = go([training("unet"), training("target")], place, SlurmWorkers(place, ASKED))
    assert state.finished == ["unet"]
    assert state.failed == {"target": f"job 2: it cannot be trained (all of it: {place.log('target')})"}
    wanted = {"partition": "long", "time": "1440", "gpus-per-node": "1", "cpus-per-task": "8", "nodes": "1"}
    assert wanted.items() <= asked(jobs, 1).items()
    assert [asked(jobs, number)["job-name"] for number in (1, 2)] == ["unet", "target"]
    environment = seen(tmp_path, "unet")["environment"]
    assert not [name for name in environment if name.startswith(("SLURM_", "SUBMITIT_"))]
    # A job may have several processors: how many threads it takes is its own affair.
    assert environment.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_a_preempted_job_is_queued_again_and_goes_on(place, training, jobs):
    workers = SlurmWorkers(place, ASKED)
    workers.start(training("ours"))
    wait_for(place.log("ours").exists)
    wait_for(lambda: "waiting" in place.log("ours").read_text())
    os.kill(int((jobs / "1.process").read_text()), signal.SIGUSR2)
    wait_for(workers.ended)
    assert place.log("ours").read_text().split() == ["waiting", "interrupted", "done"]
    assert (place.root / "ours" / "metrics.json").exists()


def test_a_later_sweep_finds_the_jobs_again(place, training, jobs):
    earlier = SlurmWorkers(place, ASKED)
    for method in ("unet", "ours"):
        earlier.start(training(method))
    wait_for(lambda: (jobs / "1.state").read_text() == "COMPLETED\n")
    later = SlurmWorkers(place, ASKED)
    assert later.begun() == ["ours"]
    later.stop()
    assert [path.name for path in jobs.glob("*.cancelled")] == ["2.cancelled"]
    assert SlurmWorkers(place, ASKED).begun() == []


def test_jobs_that_slurm_has_forgotten_are_over(place, training, jobs):
    SlurmWorkers(place, ASKED).start(training("ours"))
    wait_for((jobs / "1.process").exists)
    os.kill(int((jobs / "1.process").read_text()), signal.SIGKILL)
    wait_for(lambda: (jobs / "1.state").read_text() == "COMPLETED\n")
    (jobs / "1.state").rename(jobs / "2.state")
    assert SlurmWorkers(place, ASKED).begun() == []


def test_a_refusal_is_told(place, training, jobs):
    with pytest.raises(InputError, match="sbatch refused it: invalid partition specified: refused"):
        SlurmWorkers(place, ASKED | {"partition": "refused"}).start(training("unet"))


def test_without_slurm(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--cluster slurm: there is no sbatch here"):
        SlurmWorkers(place, ASKED)
