"""Processes that each hold one competitor and run it when told.

In one process the competitor with the smallest peak would live on memory that the others left to the C allocator,
while the one with the largest would ask the system for fresh pages in every run.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from timing import seconds_of

# glibc reads these when a process starts; see mallopt(3).
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


@contextmanager
def workers(
    build: Callable[..., Callable[[], object]],
    names: list[str],
    args: tuple[Any, ...],
    keep_pages: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, Callable[[], float]]]:
    """Name -> function that runs ``build(name, *args)()`` in its own process and returns the seconds it took.

    `build` must be importable, and `args` end with the device. `keep_pages`: glibc's allocator gives no memory back to
    the system; by itself it does so or not by the luck of what lies at the end of its heap.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    before = dict(os.environ)
    try:
        os.environ.update(KEEP_PAGES if keep_pages else {})
        for name in names:
            pipes[name], theirs = spawn.Pipe()
            processes.append(spawn.Process(target=_serve, args=(theirs, build, name, args, clock), daemon=True))
            processes[-1].start()
            theirs.close()
        _restore(before)
        yield {name: partial(_ask, pipe) for name, pipe in pipes.items()}
    finally:
        _restore(before)
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


def _restore(environment: dict[str, str]) -> None:
    for name in KEEP_PAGES:
        os.environ.pop(name, None)
    os.environ.update(environment)


def _ask(pipe: Connection) -> float:
    pipe.send("run")
    seconds: float = pipe.recv()
    return seconds


def _serve(
    pipe: Connection,
    build: Callable[..., Callable[[], object]],
    name: str,
    args: tuple[Any, ...],
    clock: Callable[[], float],
) -> None:
    run = build(name, *args)
    while True:
        try:
            pipe.recv()
        except EOFError:  # the other end has closed
            return
        pipe.send(seconds_of(run, args[-1], clock))
