"""What a job of submitit does: call train.py, and stop it when told.

The job's own process knows nothing of this package: this module is sent to it whole, and takes nothing but the standard
library and submitit.
"""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from submitit.helpers import DelayedSubmission

# Seconds.
LOOK, GRACE = 0.5, 60.0
# Of the job itself: by them train.py would take itself for one of several processes.
HIDDEN = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")


@dataclass
class Job:
    """Calls `command` in the folder `place` and adds its output to the file `log`.

    run: the run's folder, made if absent.
    environment: what is added to that of the job.
    stop: the command is stopped as soon as this file is there.
    sweep: the process with which the command stops, on this machine; None: it goes on without.

    Returns the exit code of the command; it is negative where a signal ended it.
    """

    command: list[str]
    place: Path
    run: Path
    log: Path
    environment: dict[str, str]
    stop: Path
    sweep: int | None = None
    child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False, compare=False)

    def __call__(self) -> int:
        self.run.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                cwd=self.place,
                env=kept | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_the_job_alone,
            )
        try:
            return self._wait(self.child)
        finally:
            _end(self.child)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues anew where the job's time is up or its place is taken: the run goes on with --resume."""
        if self.child is not None:
            _end(self.child)
        return DelayedSubmission(replace(self, child=None))

    def _wait(self, child: "subprocess.Popen[bytes]") -> int:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(LOOK)
            if self.stop.exists() or not self._sweep_is_there():
                _end(child)

    def _sweep_is_there(self) -> bool:
        if self.sweep is None:
            return True
        try:
            os.kill(self.sweep, 0)
        except ProcessLookupError:
            return False
        return True


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Interrupt it as Ctrl-C does; what does not end by that is killed, with all that it has started."""
    if child.poll() is not None:
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child.send_signal(signal.SIGINT)
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _hear_the_job_alone() -> None:
    """In train.py before it begins: what a cluster sends to all processes is for the job, which then interrupts it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for sent in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(sent, signal.SIG_IGN)
