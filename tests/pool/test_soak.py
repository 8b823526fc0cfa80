"""Long runs: memory, descriptors, threads and tasks stay what they are after warming up."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import routegym  # noqa: F401
from routegym.pool.arms import Arm
from routegym.pool.backend import Call, Completion, Failure
from routegym.pool.openai import OpenAIEngine

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what this process holds from /proc"),
]

CONCURRENCY = 64
ARM = Arm("m", "direct", 0, 16)


@pytest.fixture
def port() -> Iterator[int]:
    """A server in a process of its own, so that only the client is measured."""
    script = Path(__file__).parents[1] / "fault_server.py"
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()


def rss_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    gc.collect()  # what earlier tests dropped may hold some until then
    return len(os.listdir("/proc/self/fd"))


def tasks_of(engine: OpenAIEngine) -> int:
    assert engine._running is not None

    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    return engine._running[0].submit(count()).result()


def report(record: Callable[[str, object], None], **measured: float) -> None:
    for name, value in measured.items():
        record(name, round(value, 4))


def soak(port: int, count: int, record: Callable[[str, object], None]) -> float:
    """Make live calls of which 5 % fail; growth of the resident set after a warm-up of a fifth as many."""
    outside = descriptors(), threading.active_count()
    # With so many failures some come in a row by chance, and the breaker takes them for a hiccup.
    engine = OpenAIEngine(f"http://127.0.0.1:{port}/mixed/v1", concurrency=CONCURRENCY, cooldown_s=0.1, attempts=2)
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()

    def on_result(index: int, result: Completion | Failure) -> None:
        outcomes[type(result.error).__name__ if isinstance(result, Failure) else "answered"] += 1
        outcomes["tried again"] += isinstance(result, Completion) and bool(result.lost)
        latencies.append(result.latency_s)

    def make(first: int, number: int) -> None:
        # In batches, so that the test's own calls are not what is measured.
        for start in range(first, first + number, 500):
            prompts = [f"what is {index} + 1?" for index in range(start, min(start + 500, first + number))]
            engine.complete([Call(ARM, "openai", "m", (("user", text),), 16) for text in prompts], on_result)

    make(0, count // 5)
    before = rss_bytes(), threading.active_count()
    latencies.clear()
    outcomes.clear()
    cpu_s, began = time.process_time(), time.perf_counter()
    make(count // 5, count)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - began
    growth = rss_bytes() / before[0] - 1
    assert threading.active_count() == before[1]
    assert tasks_of(engine) == 0
    assert descriptors() <= outside[0] + CONCURRENCY + 10
    engine.close()
    assert descriptors() <= outside[0]
    assert threading.active_count() <= outside[1]
    assert len(latencies) == count
    # What the server refuses is tried again at no cost; a broken connection may have cost something and is not.
    assert 0.94 * count <= outcomes["answered"] < count
    assert outcomes["tried again"] > 0
    assert outcomes["ConnectionFailedError"] > 0
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    report(
        record,
        calls=count,
        rss_growth=growth,
        cpu_ms_per_call=1000 * cpu_s / count,
        wall_ms_per_call=1000 * wall_s / count,
        latency_p50_ms=p50,
        latency_p99_ms=p99,
    )
    return growth


def test_a_few_hundred_live_calls(port: int, record_testsuite_property: Any) -> None:
    soak(port, 500, record_testsuite_property)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_live_calls(port: int, record_testsuite_property: Any) -> None:
    assert soak(port, 10_000, record_testsuite_property) < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_replayed_steps(record_testsuite_property: Any) -> None:
    outside = descriptors(), threading.active_count()
    env = gym.make_vec("routegym/Cascade-v0", num_envs=8, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def run(steps: int) -> list[float]:
        taken = []
        for _ in range(steps):
            masks = env.unwrapped.action_masks()
            actions = np.where(masks, rng.random(masks.shape), -1).argmax(axis=1)
            began = time.perf_counter()
            env.step(actions)
            taken.append(time.perf_counter() - began)
        return taken

    run(5_000)
    before = rss_bytes()
    taken = run(100_000)
    growth = rss_bytes() / before - 1
    p50, p99 = np.percentile(taken, [50, 99]) * 1e6
    report(record_testsuite_property, replay_rss_growth=growth, step_p50_us=p50, step_p99_us=p99)
    assert growth < 0.05
    env.close()
    assert descriptors() <= outside[0]
    assert threading.active_count() <= outside[1]
