"""Backends that have other processes make the calls, all with the same store and under the same spend cap.

Whatever a process has acknowledged is in the store. So one that dies costs time and no answer: what it had not yet
reported is given to another, which finds in the store what was paid for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from routegym.errors import PoolError, RoutegymError
from routegym.pool.backend import Backend, Failure, OnResponse, Request, Response
from routegym.processes import end_with_parent
from routegym.runners import Refusal, start_ray

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["LocalWorkers", "RayTasks", "Source"]

_SMALL, _LARGE = 256, 4096  # requests that one process is given at a time
_MOST_DEATHS = 3  # of each worker, without a single answer in between


@dataclass(frozen=True)
class Source:
    """What a process needs to answer requests; opened anew in each."""

    pool: Path | None
    """The pool file; None = the embedded pool."""
    store: Path
    """Folder of the response store and of the record of spending."""
    cap_usd: float | None = None
    """What the whole run may spend; None = count only."""
    run: str = "default"
    """Name under which the spending is counted."""

    def connect(self) -> Backend:
        """The pool's backend with this store and cap.

        Raises:
            PoolError, PriceError: the pool file is wrong.
            StoreError: the store cannot be used.
        """
        from routegym.pool.pool import load_pool
        from routegym.pool.spend import SpendCap
        from routegym.pool.store import ResponseStore

        return load_pool(self.pool).connect(ResponseStore(self.store), SpendCap(self.store, self.cap_usd, self.run))


class _Shared:
    """A backend whose prompt tokens are counted here and whose calls are made elsewhere."""

    def __init__(self, here: Backend) -> None:
        self._here = here

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """See `routegym.pool.backend.Backend`."""
        return self._here.count_prompt_tokens(requests)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    open: set[int] = field(default_factory=set)
    """Requests that it was given and has not answered."""


class LocalWorkers(_Shared):
    """Processes on this machine, each with engines of its own. Limits of the pool file hold for each of them.

    Args:
        source: what each process opens.
        count: number of processes.
        here: counts prompt tokens in this process.
    """

    def __init__(self, source: Source, count: int, here: Backend) -> None:
        super().__init__(here)
        self._source = source
        self._workers = [self._start() for _ in range(count)]

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        """See `routegym.pool.backend.Backend`.

        Raises:
            PoolError: workers die again and again, or an engine cannot be used.
            RoutegymError: whatever a worker raised.
        """
        waiting = deque(_chunks(len(requests), len(self._workers)))
        results: dict[int, Response | Failure] = {}
        deaths = 0
        while len(results) < len(requests):
            for worker in self._workers:
                if waiting and not worker.open:
                    chunk = waiting.popleft()
                    worker.open = set(chunk)
                    with contextlib.suppress(OSError):  # it has died, which is seen below
                        worker.pipe.send([(index, requests[index]) for index in chunk])
            for pipe in wait([worker.pipe for worker in self._workers if worker.open]):
                place = [worker.pipe for worker in self._workers].index(cast("Connection[Any, Any]", pipe))
                worker = self._workers[place]
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    deaths += 1
                    waiting.appendleft(sorted(worker.open))
                    self._workers[place] = self._replace(worker, deaths)
                    continue
                if isinstance(message, Refusal):
                    raise message.error()
                index, results[index] = message
                deaths = 0
                worker.open.discard(index)
                if on_result is not None:
                    on_result(index, results[index])
        return [results[index] for index in range(len(requests))]

    def close(self) -> None:
        """End the processes; calls under way are given up."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def _start(self) -> _Worker:
        # spawn: engines bring threads, and a fork of a process with threads may hang
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._source), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _replace(self, worker: _Worker, deaths: int) -> _Worker:
        worker.pipe.close()
        worker.process.join()
        code = worker.process.exitcode
        if code is not None and code > 0:
            raise RuntimeError("a worker failed; what it says stands above")
        if deaths > _MOST_DEATHS * len(self._workers):
            raise PoolError(
                f"workers die without an answer (the last one by signal {-(code or 0)}); use fewer workers if memory "
                "is short; what was answered is kept"
            )
        return self._start()


def _work(pipe: Connection[Any, Any], source: Source) -> None:
    """A worker: answers what comes through the pipe until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what happens
    end_with_parent()
    try:
        backend = source.connect()
        while True:
            try:
                batch: list[tuple[int, Request]] = pipe.recv()
            except EOFError:
                return
            indices = [index for index, _ in batch]
            backend.generate(
                [request for _, request in batch],
                lambda place, result, indices=indices: pipe.send((indices[place], result)),  # type: ignore[misc]
            )
    except RoutegymError as error:
        pipe.send(Refusal.of(error))


class RayTasks(_Shared):
    """Ray tasks, on the cluster that ``RAY_ADDRESS`` names or on a local one of `count` processes.

    A task takes one CPU. Ray runs one again whose process died. Pool file and store must have the same path on every
    machine of a cluster.

    Args:
        source: what each process opens.
        count: number of tasks that a step's calls are divided into; and of CPUs, where Ray is started here.
        here: counts prompt tokens in this process.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, source: Source, count: int, here: Backend) -> None:
        super().__init__(here)
        self._ray, self._started = start_ray(count)
        self._source, self._count = source, count
        self._answer = self._ray.remote(num_cpus=1, max_retries=_MOST_DEATHS)(_answer)

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        """See `routegym.pool.backend.Backend`; results are reported task by task.

        Raises:
            PoolError: a task failed, or its process died again and again; or an engine cannot be used.
            RoutegymError: whatever a task raised.
        """
        results: dict[int, Response | Failure] = {}
        tasks = {
            self._answer.remote(self._source, [requests[index] for index in chunk]): chunk
            for chunk in _chunks(len(requests), self._count)
        }
        try:
            while tasks:
                (task,), _ = self._ray.wait(list(tasks), num_returns=1)
                found: list[Response | Failure] | Refusal = self._ray.get(task)
                if isinstance(found, Refusal):
                    raise found.error()
                for index, result in zip(tasks.pop(task), found, strict=True):
                    results[index] = result
                    if on_result is not None:
                        on_result(index, result)
        except self._ray.exceptions.RayError as error:
            problem = PoolError(
                f"Ray could not finish a task, begun up to {_MOST_DEATHS + 1} times ({type(error).__name__}); look at "
                "Ray's logs; what was answered is kept"
            )
            problem.add_note(str(error))
            raise problem from None
        finally:
            for task in tasks:
                self._ray.cancel(task, force=True)
        return [results[index] for index in range(len(requests))]

    def close(self) -> None:
        """End Ray, if it was started here."""
        if self._started:
            self._ray.shutdown()


@cache
def _connected(source: Source) -> Backend:
    """Ray uses a process for many tasks; its engines stay."""
    return source.connect()


def _answer(source: Source, requests: list[Request]) -> list[Response | Failure] | Refusal:
    try:
        return _connected(source).generate(requests)
    except RoutegymError as error:
        return Refusal.of(error)


def _chunks(count: int, workers: int) -> Iterator[list[int]]:
    """Portions of a step: several for each worker where there are many, so that all end at about the same time."""
    size = min(max(-(-count // (4 * workers)), min(_SMALL, -(-count // workers))), _LARGE)
    for low in range(0, count, size or 1):
        yield list(range(low, min(low + size, count)))
