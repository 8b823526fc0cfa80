"""Worker processes that can be killed: what may hang or evaluate text runs in them, never in the caller's process.

A worker is a fresh interpreter that imports one function, calls the module's ``prepare()`` if there is one, and then
answers requests line by line (JSON on its pipes).
It sees none of the caller's environment variables, hashes alike in every run, and dies with its caller. A call that
takes too long costs the worker its life; another one was already started by then, so that the next call need not wait.
Calls may come from any thread, event loop or process; each process has workers of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from typing import Any

from routegym.errors import GraderError

__all__ = ["MOST_WORKERS", "call", "serve"]

#: Most calls of one function that run at the same time in one process; further callers wait.
MOST_WORKERS = 8

_START_LIMIT_S = 120.0  # imports on a busy machine
_SPARE_AFTER_S = 0.25  # what has not answered by then may well have to be killed
_ORPHAN_S = 5.0  # what a worker outlives its caller's patience, where the caller itself is gone
_COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from routegym.tasks.workers import serve; serve(sys.argv[2])"
)
_KEPT_VARIABLES = ("LANG", "LC_ALL", "PATH", "SYSTEMROOT", "TEMP", "TMP")


def call(function: str, arguments: list[Any], timeout_s: float) -> Any:
    """Call a function of routegym's in a worker process.

    Args:
        function: ``module:name``; its arguments and result are JSON.
        arguments: its positional arguments.
        timeout_s: seconds until the worker is killed, counted from when a started worker has the request.

    Raises:
        GraderError: the function raised, did not return in time, or its process ended.
    """
    with _GUARD:
        workers = _WORKERS.setdefault(function, _Workers(function))
    return workers.call(arguments, timeout_s)


def serve(function: str) -> None:
    """What a worker process runs: answer requests from standard input until it is closed."""
    # What libraries print must not run into the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    module, _, name = function.partition(":")
    imported = import_module(module)
    target = getattr(imported, name)
    if hasattr(imported, "prepare"):
        imported.prepare()
    reply({"ready": True})
    for line in sys.stdin.buffer:
        arguments, limit_s = json.loads(line)
        # The default action of this signal ends the process even inside a long call to C code.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, limit_s + _ORPHAN_S)
        try:
            message = {"result": target(*arguments)}
        except Exception as error:
            message = {"error": f"{type(error).__name__}: {error}"[:1000]}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        reply(message)


class _Worker:
    """One process; used by one caller at a time."""

    def __init__(self, function: str) -> None:
        self.started = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", _COMMAND, json.dumps(sys.path), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C is the caller's business
        )
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="grader-replies", daemon=True)
        self._reader.start()

    def send(self, arguments: list[Any], timeout_s: float) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive() reports the process that ended
            self.process.stdin.write(json.dumps([arguments, timeout_s]).encode() + b"\n")
            self.process.stdin.flush()

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next reply; None where the process has ended.

        Raises:
            queue.Empty: no reply in time.
        """
        return self._replies.get(timeout=max(timeout_s, 0.0))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._replies.put(json.loads(line))
        self._replies.put(None)


class _Workers:
    """The workers of one function."""

    def __init__(self, function: str) -> None:
        self.function = function
        self._slots = threading.BoundedSemaphore(MOST_WORKERS)
        self._guard = threading.Lock()
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()

    def call(self, arguments: list[Any], timeout_s: float) -> Any:
        with self._slots:
            worker = self._take()
            try:
                message = self._ask(worker, arguments, timeout_s)
            except BaseException:
                self._drop(worker)
                raise
            with self._guard:
                self._idle.append(worker)
        if "error" in message:
            raise GraderError(f"{self.function} raised {message['error']}")
        return message["result"]

    def close(self) -> None:
        for worker in list(self._alive):
            self._drop(worker)

    def _ask(self, worker: _Worker, arguments: list[Any], timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        worker.send(arguments, timeout_s)
        try:
            try:
                message = worker.receive(min(_SPARE_AFTER_S, timeout_s))
            except queue.Empty:
                with self._guard:
                    if not self._idle:
                        self._idle.append(self._start())
                message = worker.receive(deadline - time.monotonic())
        except queue.Empty:
            raise GraderError(f"{self.function} did not answer within {timeout_s:g} s; its process was ended") from None
        if message is None:
            raise GraderError(f"the process of {self.function} ended before it answered")
        return message

    def _take(self) -> _Worker:
        with self._guard:
            ended = [worker for worker in self._idle if worker.process.poll() is not None]
            self._idle = [worker for worker in self._idle if worker not in ended]
            worker = self._idle.pop() if self._idle else self._start()
        for other in ended:
            self._drop(other)
        if not worker.started:
            try:
                message = worker.receive(_START_LIMIT_S)
            except queue.Empty:
                message = None
            if message is None:
                self._drop(worker)
                raise GraderError(
                    f"the process of {self.function} could not be started; check that `{sys.executable}` runs and that "
                    'the packages it needs are complete: pip install "routegym[tasks]"'
                )
            worker.started = True
        return worker

    def _start(self) -> _Worker:
        worker = _Worker(self.function)
        self._alive.add(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._alive.discard(worker)
        worker.kill()


_GUARD = threading.Lock()
_WORKERS: dict[str, _Workers] = {}
_INHERITED: list[dict[str, _Workers]] = []


def _forget() -> None:
    """After a fork: the pipes belong to the parent process; keep them open and never touch them."""
    global _GUARD, _WORKERS
    _INHERITED.append(_WORKERS)
    _GUARD, _WORKERS = threading.Lock(), {}


def _close() -> None:
    for workers in list(_WORKERS.values()):
        workers.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
