"""Learners learn what they are for: at least 95 % of the optimum on tiny problems, with every seed, within a minute."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import diagnostics
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem, algorithm_class

_TINY_PPO: dict[str, Any] = {
    "steps": 49_152, "n_envs": 128, "n_steps": 16, "batch_size": 512, "learning_rate": 3e-3, "hidden": (32,),
}  # fmt: skip

_TINY_GROUPS: dict[str, Any] = {
    "steps": 49_152, "n_envs": 256, "n_epochs": 4, "batch_size": 512, "learning_rate": 5e-3, "hidden": (32,),
}  # fmt: skip

_TINY_OFFLINE: dict[str, Any] = {
    "episodes": 8000, "updates": 1000, "batch_size": 256, "learning_rate": 5e-3, "hidden": (32,),
}  # fmt: skip

#: Hyperparameters that suit tiny problems, by algorithm; PPO-Lagrangian, which has a target instead of a lambda, meets
#: the same problems in test_lagrangian.py.
LEARNERS: dict[str, dict[str, Any]] = {
    "bc": {**_TINY_OFFLINE, "behaviour": "mixture", "temperature": 0.0},
    "cql": {**_TINY_OFFLINE, "uncapped": False, "trace": 0.7},
    "ppo": _TINY_PPO,
    "maskable_ppo": _TINY_PPO,
    "recurrent_ppo": {**_TINY_PPO, "steps": 32_768, "lstm_units": 16},
    "grpo": {**_TINY_GROUPS, "scale": "none"},
    "rloo": _TINY_GROUPS,
    "bopo": _TINY_GROUPS,
    "masrouter": {"steps": 150_000, "hidden": (32,)},
    "all_action": {"updates": 150, "tasks_per_update": 64, "learning_rate": 0.01, "hidden": (32,)},
    "predict_then_plan": {},
}
#: The workflow, its budget in USD and its lambda.
PROBLEMS: dict[str, tuple[diagnostics._Walk, float | None, float]] = {
    "credit": (diagnostics.Credit(), None, 0.2),  # credit for the end, over four steps
    "saving": (diagnostics.Saving(), 12.0, 0.0),  # two large calls and two small ones
    "stopping": (diagnostics.Stopping(), None, 0.4),  # stop as soon as the answer is good
}
CPU_SECONDS = 60.0


@cache
def recording_of(problem: str) -> Recording:
    return diagnostics.build(PROBLEMS[problem][0])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_reaches_the_optimum(learner: str, problem: str, seed: int) -> None:
    recording = recording_of(problem)
    _, budget, lambda_ = PROBLEMS[problem]
    algorithm = algorithm_class(learner)(**LEARNERS[learner])
    began = time.process_time()
    policy = algorithm.fit(Problem(recording, budget_usd=budget, lambda_=lambda_), seed)
    assert time.process_time() - began <= CPU_SECONDS

    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(len(tasks), recording, info="lean", autoreset_mode="SameStep")
    table = rollout(policy, env, tasks, budget_usd=np.inf if budget is None else budget, lambda_=lambda_)
    price = lambda_ / recording.cost_scale_usd
    if budget is None:
        score, cost = oracle_at_lambda(recording.graph, tasks, price)
    else:
        score, cost = oracle_at_cap(recording.graph, tasks, budget)
    best = (score - price * cost).mean()
    assert (table.score - price * table.cost_usd).mean() >= 0.95 * best
    assert not table.violations.any()


def test_the_same_seed_gives_the_same_weights() -> None:
    problem = Problem(recording_of("credit"), budget_usd=None, lambda_=0.2)
    values: dict[str, Any] = {"steps": 4096, "n_envs": 64, "n_steps": 8, "batch_size": 256, "hidden": (16,)}
    weights = []
    for seed in (3, 3, 4):
        policy: Any = algorithm_class("maskable_ppo")(**values).fit(problem, seed)
        _, arrays = policy.to_state()
        weights.append(np.concatenate([array.ravel() for array in arrays.values()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
