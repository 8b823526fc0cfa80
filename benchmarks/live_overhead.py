"""What a live step costs beside the model: all from the actions to the observations, with a model that answers at once.

    python benchmarks/live_overhead.py            # a table, under a minute
    python benchmarks/live_overhead.py --write    # also puts it into docs/speed.md

64 episodes of a cascade over 4 arms; every step asks 64 new calls as one batch. Milliseconds per episode and step, the
median over steps: on the wall clock, and CPU time of this process. The last row speaks HTTP with a server in another
process that answers at once; its wall clock holds that server's time as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np

from routegym.core import RoutingVectorEnv
from routegym.envs.cascade import CascadeWorkflow
from routegym.graph import Expander, start_recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Call, Completion, Engine, OnCompletion
from routegym.pool.live import PoolBackend
from routegym.pool.openai import OpenAIEngine
from routegym.pool.spend import SpendCap
from routegym.pool.store import ResponseStore
from routegym.pool.tiers import Tier
from routegym.tasks import TaskSet

PACKAGES = ("routegym", "numpy", "httpcore")
HEADER = ("64 episodes", "wall ms per episode", "CPU ms per episode")
N, ARMS, TASKS = 64, 4, 64 * 40
ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
    }
).encode()


class InstantEngine:
    """Answers every call at once."""

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """See `Engine`."""
        for place in range(len(calls)):
            on_result(place, Completion(("42",), (-0.1,), ("stop",), (20, 0, 2, 0), 0.0))

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """See `Engine`."""
        return [20] * len(calls)

    def close(self) -> None:
        """See `Engine`."""


class Pool(NamedTuple):
    """Arms, prices and who answers."""

    arms: tuple[Arm, ...]
    prices: PriceTable
    backend: PoolBackend


def make_pool(engine: Callable[[], Engine], store: ResponseStore | None, spend: SpendCap | None) -> Pool:
    """Arms of one endpoint."""
    arms = tuple(Arm(f"m{number}", "direct", 10**6, 16) for number in range(ARMS))
    prices = PriceTable("2026-11-01", "made up", {arm.model: Price(1, 0.1, 4, 4) for arm in arms})
    tiers = {arm.name: Tier(arm, "local", "openai", arm.model, "Question: {prompt}\nAnswer:", 16) for arm in arms}
    return Pool(arms, prices, PoolBackend(tiers, {"local": engine}, prices, store, spend))


def measure(pool: Pool, steps: int) -> tuple[float, float]:
    """Milliseconds per episode and step: wall clock and CPU."""
    ids = tuple(f"t{number}" for number in range(TASKS))
    tasks = TaskSet(
        ids, tuple(f"What is {number} + 1?" for number in range(TASKS)), ("42",) * TASKS, ("train",) * TASKS
    )
    workflow = CascadeWorkflow([arm.name for arm in pool.arms], levels=False)
    recording = start_recording("overhead", workflow, pool, tasks)
    expander = Expander(workflow, pool, recording)
    recording.fix_scales()
    env = RoutingVectorEnv(N, recording, lambda_=0.1, expander=expander, autoreset_mode="Disabled")
    times = []
    for first in range(steps):
        env.reset(seed=0, options={"task_id": np.arange(first * N, (first + 1) * N)})
        wall, cpu = time.perf_counter(), time.process_time()
        env.step(np.arange(N) % ARMS)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    pool.backend.close()
    wall_s, cpu_s = np.median(times[2:], axis=0)
    return 1e3 * float(wall_s) / N, 1e3 * float(cpu_s) / N


def serve(port: Any) -> None:
    """An HTTP server that gives one answer to everything."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has closed
            while request := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]))
                writer.write(head + ANSWER)

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(run())


def rows(steps: int) -> list[tuple[str, ...]]:
    """The table."""
    found: list[tuple[str, ...]] = []

    def add(name: str, pool: Pool) -> None:
        found.append((name, *(f"{value:.3f}" for value in measure(pool, steps))))

    add("expander, tiers and environment", make_pool(InstantEngine, None, None))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store, spend = stack.enter_context(ResponseStore(folder)), stack.enter_context(SpendCap(folder, 100.0))
        add("+ response store and spend cap", make_pool(InstantEngine, store, spend))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store, spend = stack.enter_context(ResponseStore(folder)), stack.enter_context(SpendCap(folder, 100.0))
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
        server.start()
        stack.callback(server.terminate)
        url = f"http://127.0.0.1:{ours.recv()}/v1"
        add("+ HTTP", make_pool(lambda: OpenAIEngine(url, concurrency=N), store, spend))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: does it run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    options = parser.parse_args()
    table = rows(4 if options.quick else 40)
    note = f"`python benchmarks/live_overhead.py`, {common.machine(PACKAGES)}"
    common.show("A live step beside the model", HEADER, table, note)
    if options.write:
        common.write("live overhead", HEADER, table, note)


if __name__ == "__main__":
    main()
