"""Recording through a pool file from a real server, and playing it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.collect import collect, record_all
from routegym.envs import workflow_of
from routegym.pool.backend import Request, Response
from routegym.pool.pool import Pool, load_pool
from routegym.pool.spend import SpendCap
from routegym.pool.store import ResponseStore
from routegym.tasks import TaskSet

EXAMPLES = "The opposite.\nday -> night\nsucceed -> fail\nmaximum -> minimum\n"
PAIRS = (("hot", "cold"), ("big", "small"), ("up", "down"), ("open", "closed"), ("war", "peace"), ("push", "pull"))
POOL = """
schema_version: 2
name: live-test
prices: {{date: 2026-11-22, note: nominal}}
endpoints:
  here: {{backend: openai, base_url: "{url}", concurrency: 32, timeout_s: 600}}
models:
  smol:
    endpoint: here
    served_as: {model}
    api: completions
    parameters: 135000000
    price: {{prompt: 1.0, cached: 0.1, completion: 4.0, reasoning: 4.0}}
    tiers:
      direct: {{template: "{{prompt}} ->", max_tokens: 6, stop: ["\\n"]}}
      vote3: {{template: "{{prompt}} ->", max_tokens: 6, stop: ["\\n"], samples: 3, temperature: 0.7}}
"""


@pytest.fixture
def pool(tmp_path: Path, url: str, model: str) -> Pool:
    path = tmp_path / "pool.yaml"
    path.write_text(POOL.format(url=url, model=model), encoding="utf-8")
    return load_pool(path)


@pytest.fixture
def tasks() -> TaskSet:
    return TaskSet(
        ids=tuple(word for word, _ in PAIRS),
        prompts=tuple(EXAMPLES + word for word, _ in PAIRS),
        references=tuple(opposite for _, opposite in PAIRS),
        splits=("train", "train", "train", "val", "test", "test"),
        graders=("normalized",) * len(PAIRS),
    )


@pytest.mark.parametrize("env", ["routegym/SingleCall-v0", "routegym/Cascade-v0"])
def test_a_recording_is_made_once_within_its_cap_and_known_afterwards(
    env: str, tmp_path: Path, pool: Pool, tasks: TaskSet
) -> None:
    workflow = workflow_of(env, [arm.name for arm in pool.arms], tasks)
    asked: list[int] = []

    def recorded(cap_usd: float) -> Any:
        with SpendCap(tmp_path / "store", cap_usd) as spend, ResponseStore(tmp_path / "store") as store:
            backend = pool.connect(store, spend)
            before = len(store)
            try:
                collected = collect(pool, workflow, tasks, record_all, name="live")
            finally:
                backend.close()
            asked.append(len(store) - before)
            return collected, spend.spent_usd

    first, spent = recorded(1.0)
    assert not first.failures
    assert 0 < spent < 0.01
    edges = first.recording.graph.edges
    called = edges["tokens"].sum(axis=1) > 0
    assert called.sum() >= 2 * len(PAIRS)
    assert np.array_equal(called, edges["cost_usd"] > 0)
    again, spent_again = recorded(1.0)
    assert asked == [2 * len(PAIRS), 0]
    assert spent_again == spent
    assert list(again.recording.texts) == list(first.recording.texts)


def test_greedy_answers_of_a_recording_are_those_of_another_live_run(pool: Pool, tasks: TaskSet) -> None:
    requests = [Request(pool.arm("smol/direct"), prompt) for prompt in tasks.prompts]
    first = pool.backend.generate(requests)
    one_by_one = [pool.backend.generate([request])[0] for request in requests]
    pool.backend.close()
    for together, alone in zip(first, one_by_one, strict=True):
        assert isinstance(together, Response)
        assert isinstance(alone, Response)
        assert together.text == alone.text
        assert sum(together.tokens[:2]) == sum(alone.tokens[:2])
        assert together.tokens[2] == alone.tokens[2]
        assert together.logprob == pytest.approx(alone.logprob, abs=1e-3)
