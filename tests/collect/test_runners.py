"""Calls made by other processes: how they are divided, and what becomes of errors on the way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import helpers
import pytest

from routegym.collect import LocalWorkers, RayTasks, Source
from routegym.collect.runners import _chunks
from routegym.errors import MissingExtraError, PoolError, SpendCapError
from routegym.pool.backend import Request
from routegym.runners import Refusal


@pytest.mark.parametrize("count", [0, 1, 2, 7, 255, 256, 1000, 10_000, 65_536])
@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_every_call_is_given_to_somebody_once(count: int, workers: int) -> None:
    chunks = list(_chunks(count, workers))
    assert [index for chunk in chunks for index in chunk] == list(range(count))
    assert len(chunks) >= min(count, workers) / 2
    assert all(chunk for chunk in chunks)


def test_errors_keep_their_kind_and_their_words() -> None:
    for error in (SpendCapError("no room"), MissingExtraError("httpx", "live"), PoolError("")):
        again = Refusal.of(error).error()
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_the_error_of_a_worker_is_the_error(tmp_path: Path) -> None:
    pool = helpers.SimulatedPool()
    workers = LocalWorkers(Source(tmp_path / "nowhere.yaml", tmp_path / "store"), 1, pool.backend)
    try:
        request = Request(pool.arms[0], "1+1")
        assert workers.count_prompt_tokens([request]) == [8]
        with pytest.raises(PoolError, match=r"nowhere\.yaml"):
            workers.generate([request])
    finally:
        workers.close()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    backend: Any = helpers.SimulatedPool().backend
    with pytest.raises(MissingExtraError, match=r"routegym\[ray\]"):
        RayTasks(Source(None, tmp_path), 2, backend)
