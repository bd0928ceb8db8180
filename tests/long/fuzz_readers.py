"""Damaged files through every reader: `python -m tests.long.fuzz_readers --files 500 --seed 0`, run by hand.

Every file is read by a process of its own. A reader may read it or raise InputError with one line; anything else is a
fault: another exception, a crash, more time or memory than the limits, or a good file that is not read.
"""

import argparse
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "covid_ct"))

from covidct.ct.picture import SUFFIXES as PICTURE_SUFFIXES
from covidct.ct.picture import Slice, load_slice
from covidct.ct.volume import VolumeCase, scan_case
from covidct.errors import InputError
from covidct.slices.inference import read_picture

from tests.long.damaged_files import write_files

SECONDS = 30
MEGABYTES = 600


@dataclass(frozen=True)
class Outcome:
    """What came of reading one file. what: read, refused, or a fault; text: the message."""

    path: Path
    what: str
    text: str
    megabytes: float
    seconds: float


def read(path: Path) -> None:
    """Through the readers of its kind, as an image and as a mask."""
    failure = None
    if path.suffix.lower() in PICTURE_SUFFIXES:
        calls = [lambda: read_picture(path), lambda: load_slice(Slice("a", path, path, "a"))]
    else:
        calls = [
            lambda: scan_case(VolumeCase("a", path, None, None, None, (), "hu", "a")),
            lambda: scan_case(VolumeCase("a", path, path, (1,), None, (), "hu", "a")),
        ]
    for number, call in enumerate(calls):
        try:
            call()
        except InputError as error:
            # A CT is no mask; that it was read as one is all that counts.
            failure = error if number == 0 else failure
            if "\n" in str(error):
                raise AssertionError(f"a message of several lines: {error}") from None
            str(error).encode("utf-8")
    if failure is not None:
        raise failure


def judge(path: Path) -> Outcome:
    """Read the file in a forked process, within the limits."""
    started = time.monotonic()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _in_child(path, send)
    os.close(send)
    ready, _, _ = select.select([receive], [], [], SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(receive, "rb") as pipe:
        content = pipe.read() if ready else b""
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    megabytes = (usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    if not ready:
        return Outcome(path, "HANG", f"no answer within {SECONDS} s", megabytes, seconds)
    if not content:
        return Outcome(path, "CRASH", f"ended with status {status}", megabytes, seconds)
    what, text = pickle.loads(content)
    if megabytes > MEGABYTES:
        what, text = "MEMORY", f"{megabytes:.0f} MB ({what}: {text})"
    return Outcome(path, what, text, megabytes, seconds)


def _in_child(path: Path, send: int) -> None:
    # What the C++ libraries say is not looked at.
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("error")
    try:
        read(path)
        answer = ("read", "")
    except InputError as error:
        answer = ("refused", str(error))
    except BaseException as error:
        answer = ("TRACEBACK", f"{type(error).__name__}: {error}")
    os.write(send, pickle.dumps(answer)[:65000])
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--good", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files, which then stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        bad, good = write_files(folder, arguments.files, arguments.good, arguments.seed)
        with ProcessPoolExecutor(2) as pool:
            outcomes = list(pool.map(judge, bad))
            fine = list(pool.map(judge, good))
    faults = [outcome for outcome in outcomes if outcome.what not in ("read", "refused")]
    faults += [outcome for outcome in fine if outcome.what != "read"]
    for outcome in faults:
        print(f"{outcome.what}: {os.fsencode(outcome.path)!r}: {outcome.text}")
    print("damaged:", dict(Counter(outcome.what for outcome in outcomes)))
    print("good:", dict(Counter(outcome.what for outcome in fine)))
    print(
        f"at most {max(outcome.seconds for outcome in outcomes + fine):.1f} s and "
        f"{max(outcome.megabytes for outcome in outcomes + fine):.0f} MB for a file; {len(faults)} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
