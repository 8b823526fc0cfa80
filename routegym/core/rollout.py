"""Playing episodes of chosen tasks and budgets, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError

if TYPE_CHECKING:
    from routegym.core.vector_env import RoutingVectorEnv
    from routegym.policies.policy import Policy

__all__ = ["EpisodeTable", "rollout"]


@dataclass(frozen=True)
class EpisodeTable:
    """One row per episode, n rows."""

    task: npt.NDArray[Any]
    """The task as it was asked for: index, int64 (n,), or id, str (n,)."""
    score: npt.NDArray[np.float64]
    """Graded score in [0, 1], (n,); NaN where a live call brought no answer."""
    cost_usd: npt.NDArray[np.float64]
    """What the episode spent, (n,)."""
    budget_usd: npt.NDArray[np.float64]
    """Its hard cap, inf = none, (n,)."""
    lambda_: npt.NDArray[np.float64]
    """Its price of cost, (n,)."""
    steps: npt.NDArray[np.int64]
    """Actions taken, (n,)."""
    violations: npt.NDArray[np.bool_]
    """Whether it spent more than its cap, (n,)."""
    arm_counts: npt.NDArray[np.int64]
    """How often each action was taken, (n, n_actions)."""
    latency_s: npt.NDArray[np.float64]
    """Seconds that the episode's calls took one after the other, (n,); NaN unless the env has ``info="full"``."""

    def __len__(self) -> int:
        return len(self.task)


def rollout(
    policy: Policy,
    env: RoutingVectorEnv,
    tasks: npt.ArrayLike,
    budget_usd: npt.ArrayLike = np.inf,
    lambda_: npt.ArrayLike = 0.0,
    seed: int = 0,
    deterministic: bool = True,
) -> EpisodeTable:
    """Play one episode for each entry of `tasks`, `env.num_envs` at a time.

    Episode i meets the same samples whatever the number of envs and whatever the policy: its random numbers
    come from (seed, i). Any autoreset mode will do.

    Args:
        policy: chooses; its memory, if any, starts fresh.
        env: is reset; use ``info="lean"`` for speed.
        tasks: indices or ids of tasks, (n,); a task may occur several times.
        budget_usd: hard cap of each episode, one for all or (n,).
        lambda_: price of cost that the policy sees, one for all or (n,).
        seed: fixes the responses met.
        deterministic: passed to the policy.

    Raises:
        BudgetError: a budget below the cheapest arm of its task.
        ConfigError: no tasks, or arrays of other lengths.
        TaskError: an unknown task.
    """
    task = np.atleast_1d(np.asarray(tasks))
    n = len(task)
    if task.ndim != 1 or not n:
        raise ConfigError(f"tasks have shape {task.shape}; expected (n,) with n >= 1")
    budgets, lambdas = _column("budget_usd", budget_usd, n), _column("lambda_", lambda_, n)
    seeds = np.random.SeedSequence(seed).generate_state(n)  # number i does not depend on n
    slots = env.num_envs
    n_actions = int(env.action_masks().shape[1])
    score, cost = np.zeros(n), np.zeros(n)
    steps = np.zeros(n, dtype=np.int64)
    counts = np.zeros((n, n_actions), dtype=np.int64)
    latency = np.zeros(n)
    for first in range(0, n, slots):
        episode = np.arange(first, first + slots)
        playing = episode < n
        episode = np.minimum(episode, n - 1)  # slots left over repeat the last episode and are not read
        observation, _ = env.reset(
            seed=seeds[episode].tolist(),
            options={"task_id": task[episode], "budget_usd": budgets[episode], "lambda": lambdas[episode]},
        )
        state, start = None, np.ones(slots, dtype=bool)
        while playing.any():
            actions, state = policy.predict(observation, state, start, deterministic, env.action_masks())
            observation, _, terminated, truncated, info = env.step(actions)
            start = terminated | truncated
            now = episode[playing]
            steps[now] += 1
            counts[now, actions[playing]] += 1
            latency[now] += info["latency_s"][playing] if "latency_s" in info else np.nan
            ended = playing & start
            score[episode[ended]] = info["score"][ended]
            cost[episode[ended]] = info["cost_usd_total"][ended]
            playing &= ~start
    return EpisodeTable(
        task=task,
        score=score,
        cost_usd=cost,
        budget_usd=budgets,
        lambda_=lambdas,
        steps=steps,
        violations=cost > budgets,
        arm_counts=counts,
        latency_s=latency,
    )


def _column(name: str, values: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape not in ((), (n,)):
        raise ConfigError(f"{name} has shape {array.shape}; expected one value or one for each of {n} tasks")
    return np.broadcast_to(array, (n,)).copy()
