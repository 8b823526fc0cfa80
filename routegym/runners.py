"""Jobs in other processes, of this machine or of a Ray cluster, behind the interface of `concurrent.futures`.

What a process that died was doing is done again by another one: a job may be done more than once, and leaves its result
where it finds it again. Each process computes on one thread, so that results do not depend on who computes them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING, Any, Literal

import routegym.errors
from routegym.errors import ConfigError, MissingExtraError, RoutegymError, WorkerError
from routegym.processes import end_with_parent

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["LocalRunner", "RayRunner", "Refusal", "Runner", "RunnerName", "check_shared", "open_runner", "start_ray"]

RunnerName = Literal["local", "ray"]

#: How often a job is begun again whose process died.
_MOST_DEATHS = 3


class Runner(Executor):
    """An executor that says how many jobs it does at once, and gives them up where its ``with`` block fails.

    The future of a job raises errors of `routegym.errors` as they are, and `WorkerError` where a process died each time
    or the job raised anything else.
    """

    workers: int
    """Jobs that are under way at once."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End; what is under way is finished, or given up after an error or Ctrl-C."""
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)


def open_runner(name: RunnerName, workers: int = 0) -> Runner:
    """Where jobs are done.

    Args:
        name: ``local``, or ``ray``.
        workers: jobs at once; 0 = one per core, of this machine or of the cluster.

    Raises:
        ConfigError: there is no such runner, `workers` is negative, or no cluster is found.
        MissingExtraError: Ray is not installed.
    """
    if name not in ("local", "ray") or workers < 0:
        raise ConfigError(f"runner = {name!r}, workers = {workers}; expected 'local' or 'ray', and workers >= 0")
    return RayRunner(workers) if name == "ray" else LocalRunner(workers or os.cpu_count() or 1)


@dataclass(frozen=True)
class Refusal:
    """An error of ours on its way between processes."""

    kind: str
    message: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: RoutegymError) -> Refusal:
        """What is sent of an error."""
        return cls(type(error).__name__, str(error), tuple(getattr(error, "__notes__", ())))

    def error(self) -> RoutegymError:
        """The error that it was."""
        made: RoutegymError = RoutegymError.__new__(getattr(routegym.errors, self.kind))
        made.args = (self.message,)
        for note in self.notes:
            made.add_note(note)
        return made


# -- this machine ----------------------------------------------------------------------------------
@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class LocalRunner(Runner):
    """Processes on this machine, started as they are needed and kept for the next job.

    They end with this process, however it ends.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="runner")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._closed = False

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have a function of a module called in one of the processes."""
        return self._threads.submit(self._do, partial(function, *arguments, **named))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; without `wait` jobs under way are given up."""
        if wait:
            self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for worker in busy:
            worker.process.kill()  # the thread that waits for it is told so by the pipe
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._idle:
            worker.end()

    def _do(self, job: partial[Any]) -> Any:
        for _ in range(_MOST_DEATHS + 1):
            worker = self._take()
            try:
                worker.pipe.send(job)
                found = worker.pipe.recv()
            except (EOFError, OSError):
                self._drop(worker)
                continue
            except BaseException:  # something that cannot be sent
                self._drop(worker)
                raise
            with self._lock:
                self._busy.remove(worker)
                self._idle.append(worker)
            return _result(found)
        raise WorkerError(
            f"a worker process died {_MOST_DEATHS + 1} times at the same job (the last time with exit code "
            f"{worker.process.exitcode}); use fewer workers if memory is short; what was finished is kept"
        )

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise CancelledError
            worker = self._idle.pop() if self._idle else self._start()
            self._busy.append(worker)
            return worker

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self._busy.remove(worker)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _serve(pipe: Connection[Any, Any]) -> None:
    """A process of this machine: does jobs until nobody is there to give it any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent says what happens
    end_with_parent()
    _one_thread()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(_done(job))


# -- Ray -------------------------------------------------------------------------------------------
def start_ray(workers: int) -> tuple[Any, bool]:
    """Ray, connected: to what this process is connected to already, to the cluster that ``RAY_ADDRESS`` names, or else
    to one that is started on this machine for it.

    Args:
        workers: CPUs of one that is started here; 0 = all.

    Returns:
        The module, and whether it was connected here and is to be shut down here.

    Raises:
        MissingExtraError: it is not installed.
        ConfigError: there is no cluster at ``RAY_ADDRESS``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if ray.is_initialized():
        return ray, False
    local: dict[str, Any] = {"address": "local", "num_cpus": workers or None, "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if address else local))
    except ConnectionError as error:
        raise ConfigError(
            f"RAY_ADDRESS = {address!r}: no Ray cluster answers there ({error}); start it first"
        ) from None
    return ray, True


class RayRunner(Runner):
    """Ray tasks of one CPU each; see `start_ray` for where. Ray does a task again whose process or machine died.

    Every machine needs this package, what the jobs import, and the folders that they name.

    Args:
        workers: tasks at once; 0 = as many as the cluster has CPUs.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, workers: int) -> None:
        self._ray, self._started = start_ray(workers)
        self.workers = workers or int(self._ray.cluster_resources().get("CPU", 1))
        self._fetch = self._ray.remote(num_cpus=1, max_retries=_MOST_DEATHS)(_fetch)
        self._paths = tuple(sys.path)
        self._open: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have a function of a module called in one of the processes."""
        future: Future[Any] = Future()
        # In a list, or Ray would read the job before the task can say where its modules are.
        sent = [self._ray.put(partial(function, *arguments, **named))]
        task = self._open[future] = self._fetch.remote(self._paths, sent)
        task.future().add_done_callback(partial(self._settle, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End Ray, if it was started here; without `wait` jobs under way are given up."""
        tasks = list(self._open.values())
        if wait and not cancel_futures:
            self._ray.wait(tasks, num_returns=len(tasks)) if tasks else None
        else:
            for task in tasks:
                self._ray.cancel(task, force=True)
        if self._started:
            self._ray.shutdown()

    def _settle(self, future: Future[Any], task: Future[Any]) -> None:
        self._open.pop(future, None)
        try:
            future.set_result(_result(task.result()))
        except self._ray.exceptions.RayError as error:
            problem = WorkerError(
                f"Ray could not finish a job, begun up to {_MOST_DEATHS + 1} times ({type(error).__name__}); look at "
                "Ray's logs; what was finished is kept"
            )
            problem.add_note(str(error))
            future.set_exception(problem)
        except BaseException as error:
            future.set_exception(error)


# -- in the process that does a job ----------------------------------------------------------------
def check_shared(folder: Path) -> None:
    """See that the folder in which a job leaves its results is there.

    Raises:
        WorkerError: this machine does not see it.
    """
    if not folder.is_dir():
        raise WorkerError(f"{folder}: not there on machine {node()}; name a folder that all machines see with --out")


def _fetch(paths: tuple[str, ...], sent: list[Any]) -> Any:
    """A Ray task: a job, with the modules that stand beside the command."""
    import ray

    _one_thread()
    sys.path.extend(path for path in paths if path not in sys.path)
    return _done(ray.get(sent[0]))


def _done(job: Callable[[], Any]) -> Any:
    """What a job returns, or what is to be raised in its place."""
    try:
        return job()
    except RoutegymError as error:
        return Refusal.of(error)
    except Exception as error:
        message = f"a job failed in its process: {type(error).__name__}: {error}"
        return Refusal("WorkerError", message, (traceback.format_exc(),))


def _result(found: Any) -> Any:
    if isinstance(found, Refusal):
        raise found.error()
    return found


def _one_thread() -> None:
    """Before a job, and whatever it computes with, is loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
