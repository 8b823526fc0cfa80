"""Jobs in other processes: the same on this machine and on Ray, and what becomes of those that die or fail."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import runner_jobs as jobs

from routegym.errors import ConfigError, MissingExtraError, WorkerError
from routegym.runners import LocalRunner, Runner, open_runner


@pytest.fixture(scope="module")
def local() -> Iterator[Runner]:
    with open_runner("local", 2) as runner:
        yield runner


@pytest.fixture(params=["local", "ray"])
def runner(request: pytest.FixtureRequest) -> Runner:
    """Both runners, with two workers; Ray is one session for all tests of a process."""
    found: Runner = request.getfixturevalue(request.param)
    return found


def test_results_come_back(runner: Runner) -> None:
    assert runner.workers == 2
    futures = [runner.submit(jobs.add, number, 1) for number in range(20)]
    assert [future.result(60) for future in futures] == list(range(1, 21))
    assert runner.submit(jobs.where).result(60) != os.getpid()


def test_each_process_computes_on_one_thread(runner: Runner) -> None:
    pytest.importorskip("torch")
    assert runner.submit(jobs.threads).result(60) == ("1", 1)


def test_errors_keep_their_kind_and_failures_their_traceback(runner: Runner) -> None:
    with pytest.raises(MissingExtraError, match=r"routegym\[fast\]"):
        runner.submit(jobs.refuse).result(60)
    with pytest.raises(WorkerError, match="KeyError: 'nothing of this name'") as error:
        runner.submit(jobs.fail).result(60)
    assert "runner_jobs.py" in error.value.__notes__[0]


def test_a_killed_process_costs_time_and_no_result(runner: Runner, tmp_path: Path) -> None:
    others = [runner.submit(jobs.add, number, number) for number in range(4)]
    assert runner.submit(jobs.die, tmp_path, 2).result(60) == 3
    assert [future.result(60) for future in others] == [0, 2, 4, 6]


def test_a_job_that_kills_each_process_is_given_up(local: Runner, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="died 4 times at the same job"):
        local.submit(jobs.die, tmp_path, 100).result(100)
    assert len(list(tmp_path.iterdir())) == 4
    assert local.submit(jobs.add, 1, 1).result(60) == 2  # others go on


def test_what_cannot_be_sent_is_told(local: Runner) -> None:
    with pytest.raises(AttributeError, match="lambda"):
        local.submit(lambda: 1).result(60)
    assert local.submit(jobs.add, 1, 1).result(60) == 2


def test_what_is_under_way_is_given_up_where_the_block_fails(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    runner = LocalRunner(1)
    futures = [runner.submit(jobs.hang, begun) for _ in range(2)]
    _until(lambda: begun.exists() and begun.read_text() != "")
    with pytest.raises(KeyboardInterrupt), runner:
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="workers = -1"):
        open_runner("local", -1)
    with pytest.raises(ConfigError, match="runner = 'slurm'"):
        open_runner("slurm", 1)  # type: ignore[arg-type]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"routegym\[ray\]"):
        open_runner("ray", 2)


def _until(happened: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < latest
        time.sleep(0.02)
