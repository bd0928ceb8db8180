"""Processes that each hold one competitor and run it when told.

In one process the competitor with the smallest peak would live on memory that the others left to the C allocator,
while the one with the largest would ask the system for fresh pages in every run: up to a sixth of its time.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from timing import seconds_of


@contextmanager
def workers(build: Callable[..., Callable[[], object]], names: list[str], *args: Any) -> Iterator[dict[str, Any]]:
    """Name -> function that runs ``build(name, *args)()`` in its own process and returns the seconds it took.

    `build` must be importable, and `args` end with the device.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for name in names:
            pipes[name], theirs = spawn.Pipe()
            processes.append(spawn.Process(target=_serve, args=(theirs, build, name, args), daemon=True))
            processes[-1].start()
            theirs.close()
        yield {name: lambda pipe=pipe: _ask(pipe) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


def _ask(pipe: Connection) -> float:
    pipe.send("run")
    seconds: float = pipe.recv()
    return seconds


def _serve(pipe: Connection, build: Callable[..., Callable[[], object]], name: str, args: tuple[Any, ...]) -> None:
    run = build(name, *args)
    while True:
        try:
            pipe.recv()
        except EOFError:  # the other end has closed
            return
        pipe.send(seconds_of(run, args[-1]))
