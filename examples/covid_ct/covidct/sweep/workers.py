"""Trainings as jobs of submitit: on this machine, on a cluster, or in the sweep's own process."""

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import submitit
from submitit import SlurmJob
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from covidct.errors import InputError
from covidct.files import read_json, write_text, writing
from covidct.parallel import ONE_THREAD
from covidct.run.plan import Training
from covidct.sweep import job
from covidct.sweep.job import Job
from covidct.sweep.runs import last_words

# Where a sweep keeps its own, beside the runs; `*` does not find it.
FOLDER = ".sweep"
# Slurm asks for a limit of requeues after time-outs: a training of weeks has many.
REQUEUES = 1000
# Minutes; on this machine a training has the time that it takes.
NO_LIMIT = 60 * 24 * 365
RECORD = "slurm.json"
# Seconds between two looks at a cluster's jobs.
LOOK = 5.0


@dataclass(frozen=True)
class Place:
    """Where runs go: `root` holds their folders, `script` is train.py."""

    root: Path
    script: Path

    @property
    def own(self) -> Path:
        """The sweep's own folder."""
        return self.root / FOLDER

    def log(self, run: str) -> Path:
        """The output of train.py."""
        return self.own / f"{run}.log"


class Workers:
    """Jobs of one executor of submitit; see `covidct.sweep.schedule.Workers`."""

    def __init__(self, place: Place, executor: submitit.Executor) -> None:
        self.place, self.executor = place, executor
        self.jobs: dict[str, submitit.Job[int]] = {}
        self.stop_file = place.own / f"stop-{os.getpid()}-{secrets.token_hex(4)}"
        cloudpickle.register_pickle_by_value(job)
        logging.getLogger("submitit").setLevel(logging.ERROR)

    def begun(self) -> list[str]:
        """See `Workers`: none."""
        return []

    def start(self, training: Training) -> None:
        """See `Workers`."""
        self.jobs[training.run] = self.executor.submit(self.job(training))

    def ended(self) -> list[str]:
        """See `Workers`."""
        over = [run for run, one in self.jobs.items() if one.done()]
        for run in over:
            del self.jobs[run]
        return over

    def why(self, run: str) -> str:
        """See `Workers`."""
        return f"{last_words(self.place.log(run))} (all of it: {self.place.log(run)})"

    def stop(self) -> None:
        """Stop what runs, and wait until it has."""

    def job(self, training: Training, *, sweep: int | None = None, **environment: str) -> Job:
        """What is submitted."""
        root = self.place.root.absolute()
        return Job(
            command=[sys.executable, str(self.place.script.absolute()), *training.command(root)],
            place=Path.cwd(),
            run=root / training.run,
            log=self.place.log(training.run).absolute(),
            environment=environment,
            stop=self.stop_file.absolute(),
            sweep=sweep,
        )


class LocalWorkers(Workers):
    """Processes of this machine, which end with the sweep.

    devices: of CUDA, as CUDA_VISIBLE_DEVICES names them; runs are spread over them. Without, every run has one thread,
    unless OMP_NUM_THREADS says otherwise.
    """

    def __init__(self, place: Place, devices: Sequence[str] = ()) -> None:
        shutil.rmtree(place.own / "local", ignore_errors=True)
        super().__init__(place, submitit.LocalExecutor(place.own / "local"))
        self.executor.update_parameters(timeout_min=NO_LIMIT)
        self.devices = tuple(devices)
        self.on: dict[str, str] = {}

    def start(self, training: Training) -> None:
        """See `Workers`."""
        environment = {} if self.devices else {name: os.environ.get(name, "1") for name in ONE_THREAD}
        if self.devices:
            taken = [self.on[run] for run in self.jobs]
            self.on[training.run] = min(self.devices, key=taken.count)
            environment["CUDA_VISIBLE_DEVICES"] = self.on[training.run]
        elif "CUDA_VISIBLE_DEVICES" in os.environ:  # submitit hides all
            environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        with _without_interrupts():
            self.jobs[training.run] = self.executor.submit(self.job(training, sweep=os.getpid(), **environment))

    def stop(self) -> None:
        """See `Workers`."""
        self.stop_file.touch()
        while any(not one.done() for one in self.jobs.values()):
            time.sleep(0.1)
        self.stop_file.unlink()


class SlurmWorkers(Workers):
    """Jobs of a cluster, which go on without the sweep: a later one finds them again.

    asked: parameters of sbatch, as submitit names them.
    """

    def __init__(self, place: Place, asked: dict[str, Any]) -> None:
        missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
        if missing:
            raise InputError(f"--cluster slurm: there is no {missing[0]} here; call it where jobs are submitted from")
        super().__init__(place, submitit.SlurmExecutor(place.own / "slurm", max_num_timeout=REQUEUES))
        self.executor.update_parameters(**asked)
        self.record = place.own / RECORD
        self.numbers: dict[str, str] = {}
        self.looked = float("-inf")
        if self.record.exists():
            self.numbers = read_json(self.record, dict[str, str], fix="delete it once no job of it is running")

    def begun(self) -> list[str]:
        """See `Workers`."""
        known = {run: SlurmJob[int](self.executor.folder, number) for run, number in self.numbers.items()}
        # Of jobs that are long over Slurm knows no state.
        self.jobs |= {run: one for run, one in known.items() if one.state != "UNKNOWN" and not one.done()}
        return list(self.jobs)

    def start(self, training: Training) -> None:
        """See `Workers`."""
        self.executor.update_parameters(job_name=training.run)
        try:
            with clean_env():
                self.jobs[training.run] = self.executor.submit(self.job(training))
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError(f"sbatch refused it: {error}") from None
        self.numbers[training.run] = self.jobs[training.run].job_id
        with writing(self.record):
            write_text(self.record, json.dumps(self.numbers, indent=2) + "\n")

    def ended(self) -> list[str]:
        """See `Workers`."""
        if time.monotonic() - self.looked < LOOK:
            return []
        self.looked = time.monotonic()
        return super().ended()

    def why(self, run: str) -> str:
        """See `Workers`."""
        return f"job {self.numbers[run]}: {super().why(run)}"

    def stop(self) -> None:
        """Cancel what waits or runs; Slurm interrupts it when it can."""
        for one in self.jobs.values():
            one.cancel(check=False)


class DebugWorkers(Workers):
    """One after the other, in the sweep's own process: each is done when it is first asked whether it is."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, submitit.DebugExecutor(place.own / "debug"))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What starts in the block is not interrupted by Ctrl-C: the sweep stops it. One for the sweep comes afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
