"""R-31: the ids work in worker processes, however these are started."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import helpers
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv

#: The id with its module: a worker that has imported nothing imports it.
ID = "routegym:routegym/AgentSteps-v0"
METHODS = ("spawn", "forkserver", "fork")

# Python 3.12 warns of forking a process that has threads; torch and pyarrow have some. gymnasium and
# stable-baselines3 fork by default on Linux, so the way has to work.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def makers(path: Path, count: int) -> list[Callable[[], Any]]:
    return [partial(gym.make, ID, recording=str(path), budget_usd="sampled")] * count


@pytest.mark.parametrize("method", METHODS)
def test_gymnasium_async_vector_env(recordings: dict[str, Path], method: str) -> None:
    env = AsyncVectorEnv(makers(recordings["agent_steps"], 2), context=method)
    try:
        batch = gym.make_vec(ID, num_envs=2, recording=str(recordings["agent_steps"]), budget_usd="sampled")
        seeds: Any = [1, 2]
        assert helpers.same(env.reset(seed=seeds)[0], batch.reset(seed=seeds)[0])
        for _ in range(6):
            actions = np.argmax(batch.unwrapped.action_masks(), axis=1)  # type: ignore[attr-defined]
            assert helpers.same(env.step(actions)[:4], batch.step(actions)[:4])
    finally:
        env.close()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_sb3_subproc_vec_env(recordings: dict[str, Path], method: str) -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    env = SubprocVecEnv(makers(recordings["agent_steps"], 1), start_method=method)
    try:
        env.seed(5)
        first = env.reset()
        masks = np.stack(env.env_method("action_masks"))
        _, rewards, dones, infos = env.step(np.argmax(masks, axis=1))
        env.seed(5)
        assert helpers.same(first, env.reset())
        assert rewards.shape == dones.shape == (1,)
        assert infos[0]["task_id"].startswith("arith-")
    finally:
        env.close()
