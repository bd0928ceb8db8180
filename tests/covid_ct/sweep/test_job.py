"""The job itself, in this process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from covidct.sweep import job as module
from covidct.sweep.job import Job


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)


@pytest.fixture
def job(place, tmp_path):
    def make(method, **fields):
        run = place.root / method
        command = [sys.executable, str(place.script), "--method", method, "--output", str(run)]
        return Job(command, tmp_path, run, place.log(method), {}, tmp_path / "stop", **fields)

    return make


def seen(tmp_path, run):
    return json.loads((tmp_path / f"{run}.json").read_text())


def when_it_waits(job, do):
    """Call `do` in another thread once the command waits."""

    def watch():
        while not job.log.exists() or "waiting" not in job.log.read_text():
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_the_command_is_called_and_its_output_kept(job, tmp_path):
    one = job("unet")
    one.log.write_text("before\n")
    assert one() == 0
    assert one.log.read_text() == "before\ndone\n"
    assert seen(tmp_path, "unet")["folder"] == str(tmp_path)
    assert (one.run / "metrics.json").exists()


def test_the_code_of_a_failure_is_given(job):
    assert job("target")() == 1


def test_train_py_does_not_see_that_it_is_in_a_job(job, tmp_path, monkeypatch):
    for name in ("SLURM_NTASKS", "SUBMITIT_LOCAL_JOB_ID", "KEPT"):
        monkeypatch.setenv(name, "2")
    one = job("unet")
    one.environment["OMP_NUM_THREADS"] = "3"
    one()
    found = seen(tmp_path, "unet")["environment"]
    assert "SLURM_NTASKS" not in found
    assert "SUBMITIT_LOCAL_JOB_ID" not in found
    assert (found["KEPT"], found["OMP_NUM_THREADS"]) == ("2", "3")


def test_the_file_stop_interrupts_it(job, tmp_path):
    one = job("ours")
    thread = when_it_waits(one, (tmp_path / "stop").touch)
    assert one() == 130
    thread.join()
    assert "interrupted" in one.log.read_text()


def test_it_ends_with_the_sweep(job, tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sweep:
        one = job("ours", sweep=sweep.pid)

        def end():
            sweep.communicate(b"\n")

        thread = when_it_waits(one, end)
        assert one() == 130
        thread.join()


def test_what_does_not_let_itself_be_interrupted_is_killed(job, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.1)
    one = job("general")
    thread = when_it_waits(one, (tmp_path / "stop").touch)
    assert one() == -signal.SIGKILL
    thread.join()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR2], ids=["TERM", "USR2"])
def test_what_a_cluster_sends_to_all_processes_does_not_end_train_py(job, tmp_path, sent):
    one = job("ours")

    def send():
        os.kill(one.child.pid, sent)
        time.sleep(0.1)
        assert one.child.poll() is None
        (tmp_path / "stop").touch()

    thread = when_it_waits(one, send)
    assert one() == 130
    thread.join()


def test_it_can_be_interrupted_where_the_sweep_was_started_with_interrupts_off(job, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        one = job("ours")
        thread = when_it_waits(one, (tmp_path / "stop").touch)
        assert one() == 130
        thread.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


def test_a_checkpoint_interrupts_it_and_is_the_same_job_again(job):
    one = job("ours")
    again = []

    def handle(*_):
        # As submitit's handler does, in the middle of the call: it leaves the process.
        again.append(one.checkpoint())
        raise SystemExit

    before = signal.signal(signal.SIGUSR2, handle)
    thread = when_it_waits(one, lambda: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(SystemExit):
        one()
    signal.signal(signal.SIGUSR2, before)
    thread.join()
    assert "interrupted" in one.log.read_text()
    (delayed,) = again
    assert (delayed.function, delayed.function.child) == (one, None)
    assert delayed.result() == 0
    assert (one.run / "metrics.json").exists()
