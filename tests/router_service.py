"""A service around a simulated pool, and its server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SimulatedPool, build

from routegym.envs.cascade import CascadeWorkflow
from routegym.errors import ServerFailedError
from routegym.pool.backend import Attempt, Failure, Request, Response
from routegym.serving import Router
from routegym.serving.route_log import RouteLog
from routegym.serving.service import Service


class Ladder:
    """Calls the arms from the cheapest on, `calls` of them, and hands in the last answer."""

    def __init__(self, calls: int = 2) -> None:
        self.calls = calls

    def predict(
        self, observation: Any, state: Any = None, start: Any = None, best: bool = True, masks: Any = None
    ) -> tuple[Any, Any]:
        step = 0 if state is None else state
        accept = masks.shape[1] - 1
        wanted = step if step < self.calls else accept
        return np.array([wanted if masks[0, wanted] else accept]), step + 1


class Backend:
    """Answers what it was asked; each call takes its whole worst case in tokens. Fails for the arms in `broken`."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.asked: list[Request] = []
        self.gate = threading.Event()
        self.gate.set()

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [10 * (1 + len(request.history)) for request in requests]

    def generate(self, requests: Sequence[Request], on_result: Any = None) -> list[Response | Failure]:
        self.gate.wait(30)
        self.asked += requests
        return [self._answer(request) for request in requests]

    def fails(self, request: Request) -> bool:
        return request.arm.name in self.broken

    def _answer(self, request: Request) -> Response | Failure:
        arm, prompt = request.arm, self.count_prompt_tokens([request])[0]
        if self.fails(request):
            tokens = (prompt, 0, 0, 0)
            return Failure(ServerFailedError("it broke"), (Attempt(arm.name, "ServerFailedError", "it broke", tokens),))
        most = arm.max_completion_tokens or 0
        return Response(f"{arm.name} says {request.prompt}", (prompt, 0, most, 0), 0.01, 0.0, -0.1)

    def close(self) -> None:
        """Nothing is held."""


def pool_of(backend: Backend) -> SimulatedPool:
    pool = SimulatedPool()
    pool.backend = backend  # type: ignore[assignment]
    return pool


@contextmanager
def service_of(folder: Path, policy: Any = None, explore: float = 0.0, **options: Any) -> Iterator[Service]:
    recording = build("cascade", 12)
    recording = replace(recording, tasks=recording.tasks.with_embedding("hashing", dims=3))
    pool = pool_of(Backend())
    workflow = CascadeWorkflow([arm.name for arm in pool.arms])
    router = Router(recording, policy or Ladder(), workflow, pool=pool, explore=explore)
    with RouteLog(folder / "routes.jsonl") as log:
        yield Service(router, pool, folder / "spend", log=log, **options)


@contextmanager
def served(service: Service, **options: Any) -> Iterator[str]:
    """Address of the service's server, in a thread of this process."""
    uvicorn = pytest.importorskip("uvicorn")
    from routegym.serving.server import listen, make_app

    config = uvicorn.Config(make_app(service, **options), "127.0.0.1", 0, log_level="warning")
    server = uvicorn.Server(config)
    socket = listen(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
