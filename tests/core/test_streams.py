"""Random streams: uniform, independent, and no two seeds share an episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from routegym.core import RoutingVectorEnv, streams

PURPOSES = (streams.TASK, streams.BUDGET, streams.LAMBDA, streams.SAMPLE)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_draws_are_uniform(purpose: np.uint64) -> None:
    slots = streams.uniform(streams.batch_keys(0, 50_000), purpose, np.zeros(50_000, dtype=np.int64))
    steps = streams.uniform(np.repeat(streams.batch_keys(7, 1), 50_000), purpose, np.arange(50_000))
    seeds = streams.uniform(streams.batch_keys(list(range(2000)), 2000), purpose, np.zeros(2000, dtype=np.int64))
    for draws in (slots, steps, seeds):
        assert draws.dtype == np.float64
        assert 0.0 <= draws.min() < draws.max() < 1.0
        assert len(set(draws.tolist())) == len(draws)
        assert stats.kstest(draws, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 4 / np.sqrt(len(draws))


def test_purposes_share_nothing() -> None:
    keys, counter = streams.batch_keys(3, 20_000), np.zeros(20_000, dtype=np.int64)
    draws = np.array([streams.uniform(keys, purpose, counter) for purpose in PURPOSES])
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.03
    ahead = streams.uniform(keys, streams.TASK, counter + 1)
    assert not np.isin(ahead, draws).any()


def test_neighbouring_seeds_share_no_stream() -> None:
    """`seed + index` schemes give two neighbouring seeds all but one episode in common; here not one key is."""
    keys = np.concatenate([streams.batch_keys(seed, 500) for seed in range(200)])
    assert len(np.unique(keys)) == 100_000


def test_neighbouring_seeds_share_no_episode(recordings: dict[str, Path]) -> None:
    episodes = []
    for seed in (42, 43):
        env = RoutingVectorEnv(500, recordings["agent_steps"], budget_usd="sampled", lambda_=(0.0, 1.0))
        _, info = env.reset(seed=seed)
        episodes.append(set(zip(info["task_id"], info["budget_usd"], info["lambda"], strict=True)))
    assert not episodes[0] & episodes[1]


def test_a_list_of_seeds_is_one_seed_each() -> None:
    keys = streams.batch_keys([5, 6, 5], 3)
    assert keys[0] == keys[2] == streams.batch_keys(5, 1)[0] == streams.batch_keys(5, 8)[0]
    assert keys[0] != keys[1]


def test_known_values() -> None:
    """Recorded runs name seeds: their streams stay what they are."""
    keys = streams.batch_keys(0, 2)
    draws = streams.uniform(keys, streams.TASK, np.array([0, 1]))
    assert [hex(int(key)) for key in keys] == ["0xe6b21474fc2297fd", "0x5f58d093c7f2c24"]
    assert draws.tolist() == [0.43519867021754666, 0.6394655876246628]
