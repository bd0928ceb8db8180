"""Where a run goes: its name, its state, and whether there is room for it, all before training."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covidct.errors import InputError
from covidct.files import not_written, write_text, writing
from covidct.run.config import Config
from covidct.run.systems import system
from covidct.sets.names import OWN, OWN_VOLUMES

PICTURES_BYTES = 32 * 2**20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_name(config: Config) -> str:
    """`<dataset>-<method>-fold<K>` or `-published`, then `-seed<N>`; of the user's own, <dataset> is the folder."""
    own = config.dataset in (OWN, OWN_VOLUMES)
    name = Path(config.data or config.images).name if own else config.dataset
    split = ("test" if own else "published") if config.fold is None else f"fold{config.fold}"
    return f"{name or config.dataset}-{config.method}-{split}-seed{config.seed}"


def free_run(root: Path, name: str) -> Path:
    """`root/name`, or the first of `name-2`, `name-3`, ... that is not there yet."""
    run, number = root / name, 1
    while run.exists():
        number += 1
        run = root / f"{name}-{number}"
    return run


def newest_run(root: Path, name: str) -> Path:
    """The last of `name`, `name-2`, ... in `root`; InputError if there is none."""
    runs = {number: root / (name if number == 1 else f"{name}-{number}") for number in _numbers(root, name)}
    if not runs:
        raise InputError(
            f"--resume: {root.absolute()} holds no run named {name}; name the run with --output, or leave --resume out"
        )
    return runs[max(runs)]


def _numbers(root: Path, name: str) -> list[int]:
    if not root.is_dir():
        return []
    endings = [path.name[len(name) :] for path in root.iterdir() if path.name.startswith(name)]
    return [1 if not ending else int(ending[1:]) for ending in endings if ending == "" or _is_number(ending)]


def _is_number(ending: str) -> bool:
    return ending.startswith("-") and ending[1:].isdecimal()


def result_files(run: Path, config: Config) -> list[Path]:
    """What a finished run holds beside its log and checkpoint; each is written whole or not at all."""
    names = ["model.safetensors", "curves.png"]
    if system(config.method).tested:
        names += ["metrics.json", "metrics.csv", "predictions.png"]
    if system(config.method).dual:
        names.append("relations.png")
    return [run / name for name in names]


def prepare(run: Path, config: Config, parameters: int, *, resume: bool) -> None:
    """Make the folder `run`, reserve the run's space for a moment, and write config.json.

    Raises InputError if `run` cannot be made or written, holds a run while `resume` is False, holds something
    else, or if its disk is too full; a folder that this call made is removed again.
    """
    check_output(run, resume=resume)
    made = not run.exists()
    _make(run)
    try:
        _reserve(run, needed_bytes(config, parameters))
        if not (run / "config.json").exists():
            write_text(run / "config.json", config.to_json())
    except BaseException:
        if made:
            shutil.rmtree(run, ignore_errors=True)
        raise


def check_output(run: Path, *, resume: bool) -> None:
    """InputError if `run` is a file, holds a run while `resume` is False, or holds something else."""
    if not run.exists():
        return
    if not run.is_dir():
        raise InputError(f"--output {run} is a file, not a folder; give another path")
    if (run / "config.json").exists():
        if not resume:
            raise InputError(f"{run} already holds a run; go on with it with --resume, or give another --output")
        return
    # A process killed before it wrote config.json leaves only temporary files; their names start with a dot.
    foreign = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if foreign:
        raise InputError(
            f"{run} is neither empty nor a run (it holds {foreign[0]} and no config.json); give another --output"
        )


@contextmanager
def disk_faults(run: Path) -> Iterator[None]:
    """Turns what a disk that fills up (or goes away) during training raises into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE):
            raise
        raise InputError(
            f"{error.filename or run} cannot be written ({error.strerror}); files written earlier are whole: "
            f"mend that, then go on with --resume --output {run}"
        ) from error


def needed_bytes(config: Config, parameters: int) -> int:
    """Estimate of the run's size: two checkpoints (one while it is replaced), the weights, pictures, matrices."""
    weights = 4 * parameters
    # With momentum, or Adam's two moments, and what the general encoder started from if that was another run.
    checkpoint = (2 + (config.optimizer != "sgd") + bool(config.init) + config.anchor + bool(config.ema)) * weights
    chosen = system(config.method)
    each = 3 * 4 * config.features_per_stage[-1] ** 2 if chosen.dual else 0
    matrices = each * (config.steps // config.relations_every + 2)
    if chosen.staged:
        # The weights of the stage before, and the labels.
        weights *= 3
    log = 400 * (config.steps // config.log_every + 2)
    return 2 * checkpoint + weights + matrices + log + PICTURES_BYTES


def _make(run: Path) -> None:
    with writing(f"--output {run}"):
        run.mkdir(parents=True, exist_ok=True)


def _reserve(run: Path, size: int) -> None:
    """Raise InputError unless `size` bytes can be written in `run`."""
    probe = run / f".space-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with probe.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(run).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InputError(
                f"--output {run}: the run needs about {size / 2**20:.0f} MiB and there is no room for it "
                f"({error.strerror}); free space or give an --output on another disk"
            ) from None
        raise InputError(not_written(f"--output {run}", error)) from None
    finally:
        probe.unlink(missing_ok=True)
