"""What a killed, interrupted or changed recording asks again: only what nobody has answered."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.graph.recording import Recording
from routegym.pool.spend import SpendCap
from routegym.pool.store import ResponseStore

AGENT = ("--env", "routegym/AgentSteps-v0", "--tasks", "arithmetic:12")


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")


def wait_for(condition: Callable[[], bool], most_s: float = 60) -> None:
    """Fails where it takes too long."""
    deadline = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def stored(folder: Path) -> dict[str, str]:
    """Key of each stored answer and the line that the server wrote for it."""
    if not list(folder.glob("responses-*.sqlite")):
        return {}
    with ResponseStore(folder, read_only=True) as store:
        return {
            row.key: f"{row.request['model']} {row.request['messages'][-1][1]} {row.request['seed']}"
            for row in store.rows()
        }


def killed_recordings(
    endpoint: Any, start: Callable[..., BaseProcess], record: Callable[..., int], folder: Path, kills: int
) -> None:
    """Kill at random times while calls are under way; nothing stored is asked again, and the result is the same."""
    pool = endpoint.pool(models=3, concurrency=2)
    arguments = ("--pool", pool, *AGENT, "--embed", "none")
    began = time.monotonic()
    assert record(*arguments, "--out", folder / "whole") == 0
    took = time.monotonic() - began
    once = endpoint.asked()
    assert set(once.values()) == {1}
    rng = np.random.default_rng(kills)
    out, store = folder / "killed", folder / "killed.store"
    survived = 0
    for number in range(kills):
        # kills are spread over what is left to do
        endpoint.forget()
        before = stored(store)
        process = start(*arguments, "--out", out)
        aim = len(before) + max(1, int(rng.uniform(0, 2 * (len(once) - len(before)) / (kills - number))))
        deadline = time.monotonic() + 30 + took
        while process.is_alive() and time.monotonic() < deadline and len(before) + endpoint.asked().total() < aim:
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.02)))
        process.kill()
        process.join()
        survived += process.exitcode == -signal.SIGKILL
        after = stored(store)
        assert before.items() <= after.items()
        assert not set(before.values()) & set(endpoint.asked()), "an answer was asked again"
    assert survived >= kills / 2, "most recordings were through before they were killed"
    endpoint.forget()
    before = stored(store)
    assert record(*arguments, "--out", out) == 0
    assert not set(before.values()) & set(endpoint.asked())
    assert Recording.load(out).content_hash == Recording.load(folder / "whole").content_hash
    assert set(stored(store).values()) == set(once)


def test_kills_lose_nothing(serve: Any, start: Any, record: Any, tmp_path: Path) -> None:
    killed_recordings(serve(0.002), start, record, tmp_path, 6)


@pytest.mark.slow
def test_fifty_kills_lose_nothing(serve: Any, start: Any, record: Any, tmp_path: Path) -> None:
    killed_recordings(serve(0.004), start, record, tmp_path, 50)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_is_clean_and_the_same_command_goes_on(
    stop: signal.Signals, serve: Any, command: Any, record: Any, tmp_path: Path
) -> None:
    endpoint = serve(0.02)
    arguments = ("--pool", endpoint.pool(concurrency=2), *AGENT, "--out", tmp_path / "out")
    process = command(*arguments)
    wait_for(lambda: endpoint.asked().total() >= 10)
    process.send_signal(stop)
    _, shown = process.communicate(timeout=20)
    assert process.returncode == 130
    assert shown.splitlines()[-1] == "interrupted; what was finished is kept, and the same command goes on from there"
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()
    # all but the calls that were under way
    kept = set(stored(tmp_path / "out.store").values())
    assert len(kept) >= endpoint.asked().total() - 2
    endpoint.forget()
    assert record(*arguments) == 0
    assert not kept & set(endpoint.asked())
    assert Recording.load(tmp_path / "out").graph.complete


@needs_proc
def test_workers_record_the_same_and_may_die(
    serve: Any, start: Any, record: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint = serve(0.003)
    arguments = ("--pool", endpoint.pool(), *AGENT)
    assert record(*arguments, "--out", tmp_path / "one") == 0
    once = endpoint.asked()
    endpoint.forget()
    process = start(*arguments, "--out", tmp_path / "two", "--workers", 2)
    wait_for(lambda: endpoint.asked().total() >= 20)
    victim = worker_of(process.pid)
    os.kill(victim, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == 0
    hashes = {Recording.load(tmp_path / name).content_hash for name in ("one", "two")}
    assert len(hashes) == 1
    assert set(endpoint.asked()) == set(once)
    assert (endpoint.asked() - once).total() <= 4, "only calls that were under way may be asked again"


def worker_of(pid: int) -> int:
    """A worker process of a recording."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    raise AssertionError("no worker found")


@needs_proc
def test_workers_die_with_the_recording(serve: Any, start: Any, tmp_path: Path) -> None:
    endpoint = serve(0.02)
    process = start("--pool", endpoint.pool(), *AGENT, "--out", tmp_path / "out", "--workers", 2)
    wait_for(lambda: endpoint.asked().total() >= 5)
    worker = worker_of(process.pid)
    process.kill()
    process.join()
    wait_for(lambda: not Path(f"/proc/{worker}/cmdline").exists())


def test_a_changed_pool_asks_only_what_changed(endpoint: Any, record: Any, tmp_path: Path) -> None:
    common = ("--tasks", single_operations(tmp_path, 10), "--out", tmp_path / "out")
    hashes = []

    def again(**pool: Any) -> dict[str, int]:
        endpoint.forget()
        assert record("--pool", endpoint.pool(**pool), *common) == 0
        hashes.append(Recording.load(tmp_path / "out").content_hash)
        return {model: endpoint.asked_of(model) for model in ("m0", "m1", "m2")}

    assert again() == {"m0": 10, "m1": 10, "m2": 0}
    assert again() == {"m0": 0, "m1": 0, "m2": 0}
    assert hashes[0] == hashes[1]
    assert again(price=2.0) == {"m0": 0, "m1": 0, "m2": 0}
    assert Recording.load(tmp_path / "out").prices.prices["m1"].completion == 20.0
    assert again(models=3) == {"m0": 0, "m1": 0, "m2": 10}
    assert again(template="Please: {prompt}") == {"m0": 0, "m1": 10, "m2": 0}
    assert again() == {"m0": 0, "m1": 0, "m2": 0}  # the old template is known as well
    assert hashes[-1] == hashes[0]
    with ResponseStore(tmp_path / "out.store", read_only=True) as store:
        assert len(store) == 40


def test_more_tasks_ask_only_those(endpoint: Any, record: Any, tmp_path: Path) -> None:
    pool = endpoint.pool()
    assert record("--pool", pool, "--tasks", single_operations(tmp_path, 6), "--out", tmp_path / "out") == 0
    endpoint.forget()
    assert record("--pool", pool, "--tasks", single_operations(tmp_path, 10), "--out", tmp_path / "out") == 0
    assert endpoint.asked().total() == 8
    assert Recording.load(tmp_path / "out").graph.n_tasks == 10


def single_operations(folder: Path, count: int) -> Path:
    """A task file of single operations, the first k the same for every count >= k."""
    path = folder / f"tasks-{count}.csv"
    rows = [f"t{n},{(a := 17 * n % 90)}+{(b := 31 * n % 80)},{a + b}" for n in range(count)]
    path.write_text("\n".join(["id,prompt,reference", *rows]) + "\n")
    return path


def test_the_cap_is_kept_over_sessions_and_workers(endpoint: Any, record: Any, tmp_path: Path) -> None:
    pool = endpoint.pool()
    common = ("--pool", pool, "--tasks", single_operations(tmp_path, 40), "--out", tmp_path / "out")
    cost = 40 * 2.06e-6 + 40 * 2.06e-5
    spent = []
    for cap, workers in ((cost / 3, 1), (cost / 3, 2), (cost / 2, 2)):
        assert record(*common, "--spend-cap", cap, "--workers", workers) == 3
        with SpendCap(tmp_path / "out.store", None, "out") as spend:
            spent.append(spend.spent_usd)
        assert spent[-1] <= cap
        recording = Recording.load(tmp_path / "out")
        assert not recording.graph.complete
        assert recording.provenance["complete"] is False
    assert spent[0] > cost / 5
    assert spent[2] > spent[0]
    assert record(*common, "--spend-cap", 3 * cost) == 0
    assert Recording.load(tmp_path / "out").graph.complete
    with SpendCap(tmp_path / "out.store", None, "out") as spend:
        assert spend.spent_usd == pytest.approx(cost)
    assert set(endpoint.asked().values()) == {1}


def test_failures_are_missing_and_asked_again(endpoint: Any, record: Any, command: Any, tmp_path: Path) -> None:
    pool = endpoint.pool(timeout_s=3.0)
    common = ("--pool", pool, "--tasks", single_operations(tmp_path, 8), "--out", tmp_path / "out", "--passes", 1)
    endpoint.down("m1")
    process = command(*common)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "\n8 calls brought no answer (8 ServerFailedError; the first: m1/direct " in shown
    assert endpoint.asked_of("m1") == 8
    recording = Recording.load(tmp_path / "out")
    assert not recording.graph.complete
    assert (recording.graph.edge_first[recording.graph.task_start, 1] < 0).all()
    assert (recording.graph.edge_first[recording.graph.task_start, 0] >= 0).all()
    endpoint.down("m1", False)
    endpoint.forget()
    assert record(*common) == 0
    assert endpoint.asked_of("m0") == 0
    assert endpoint.asked_of("m1") == 8
    assert Recording.load(tmp_path / "out").graph.complete


def test_a_worse_recording_does_not_replace_a_better_one(endpoint: Any, record: Any, tmp_path: Path) -> None:
    tasks = single_operations(tmp_path, 8)
    common = ("--tasks", tasks, "--out", tmp_path / "out", "--passes", 1)
    assert record("--pool", endpoint.pool(timeout_s=3.0), *common) == 0
    whole = Recording.load(tmp_path / "out").content_hash
    endpoint.down("m1")
    assert record("--pool", endpoint.pool(template="Please: {prompt}", timeout_s=3.0), *common) == 1
    assert Recording.load(tmp_path / "out").content_hash == whole


def test_a_refusal_beside_failures_is_told_and_a_fuller_recording_stays(
    endpoint: Any, record: Any, command: Any, tmp_path: Path
) -> None:
    pool = endpoint.pool(concurrency=24)  # all are sent before failures of m0 can open the endpoint's circuit
    common = ("--pool", pool, "--tasks", single_operations(tmp_path, 12), "--out", tmp_path / "out")
    common += ("--env", "routegym/SingleCall-v0")
    assert record(*common) == 0
    whole = Recording.load(tmp_path / "out").content_hash
    endpoint.down("m0")
    process = command(*common, "--store", tmp_path / "other.store", "--spend-cap", 2e-4)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "spend cap: " in shown
    assert "next: " not in shown
    assert Recording.load(tmp_path / "out").content_hash == whole


def test_what_a_cap_leaves_unasked_is_not_said_to_be_all_that_is_missing(
    endpoint: Any, command: Any, tmp_path: Path
) -> None:
    common = ("--pool", endpoint.pool(), "--tasks", single_operations(tmp_path, 12), "--out", tmp_path / "out")
    process = command(*common, "--strategy", "boundary", "--spend-cap", 2e-5)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert endpoint.asked_of("m1") == 0
    assert 0 < (refused := 12 - endpoint.asked_of("m0")) < 12
    assert f"; at least {refused} calls are missing\n" in shown


def test_shares_make_the_whole(endpoint: Any, record: Any, tmp_path: Path) -> None:
    common = ("--pool", endpoint.pool(), *AGENT, "--strategy", "random", "--rollouts", 2, "--samples", "m0/direct=2")
    assert record(*common, "--out", tmp_path / "one") == 0
    calls = set(endpoint.asked())
    endpoint.forget()
    shared = ("--out", tmp_path / "two")
    for index in range(3):
        assert record(*common, *shared, "--shard", f"{index}/3") == 0
        assert not (tmp_path / "two").exists()
    assert set(endpoint.asked()) == calls
    endpoint.forget()
    assert record(*common, *shared) == 0
    assert endpoint.asked().total() == 0
    hashes = {Recording.load(tmp_path / name).content_hash for name in ("one", "two")}
    assert len(hashes) == 1


@needs_proc
@pytest.mark.slow
def test_ray_records_the_same_and_its_workers_may_die(serve: Any, command: Any, record: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    endpoint = serve(0.005)
    arguments = ("--pool", endpoint.pool(), *AGENT)
    assert record(*arguments, "--out", tmp_path / "one") == 0
    once = endpoint.asked()
    endpoint.forget()
    process = command(*arguments, "--out", tmp_path / "two", "--runner", "ray", "--workers", 2)
    wait_for(lambda: endpoint.asked().total() >= 20)

    def killed() -> bool:
        # between two batches no task is under way
        with contextlib.suppress(AssertionError, FileNotFoundError, ProcessLookupError):
            os.kill(ray_task_of(process.pid), signal.SIGKILL)
            return True
        return False

    wait_for(killed)
    shown = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    hashes = {Recording.load(tmp_path / name).content_hash for name in ("one", "two")}
    assert len(hashes) == 1
    assert set(endpoint.asked()) == set(once)
    assert (endpoint.asked() - once).total() <= 4


def ray_task_of(pid: int) -> int:
    """The process of a Ray task that belongs to a recording."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for child in children:
        title = Path(f"/proc/{child}/cmdline").read_bytes()
        if title.startswith(b"ray::_answer"):
            return child
        with contextlib.suppress(AssertionError):
            return ray_task_of(child)
    raise AssertionError("no Ray task found")
