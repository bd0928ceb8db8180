"""Work on many cases by several processes that end with this one, each with one thread."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from covidct.errors import InputError

T = TypeVar("T")

# Read by the libraries when a process starts.
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def is_first_process() -> bool:
    """Whether this is the first of a run's processes: Fabric starts the script again for every further GPU."""
    # Here and not above: processes that only read volumes need none of it.
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def in_processes(call: Callable[..., T], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[str, T]]:
    """(name of the task's case, call(*task)) for every task, as they are done, by `workers` processes."""
    spawn = multiprocessing.get_context("spawn")
    with _one_thread(), ProcessPoolExecutor(min(workers, max(1, len(tasks))), spawn, _end_with_parent) as pool:
        waiting: dict[Future[T], str] = {pool.submit(call, *task): task[0].name for task in tasks}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed, most likely because memory ran out; run the same command again with "
                "fewer --workers: what is finished is kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def total_memory() -> int:
    """Bytes of memory of this machine; where it cannot be known, so much that nothing is limited by it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**62


def _end_with_parent() -> None:
    """Make this worker end when the process that started it does, even if that was killed."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
