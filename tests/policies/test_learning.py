"""PPO learns what it is for: at least 95 % of the optimum on three tiny problems, with every seed."""

from __future__ import annotations

import diagnostics
import numpy as np
import pytest

from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda
from routegym.evaluation.rollout import rollout
from routegym.policies.config import PPOConfig
from routegym.policies.ppo import network_of, train_ppo

CONFIG = PPOConfig(steps=49_152, n_envs=128, n_steps=16, batch_size=512, learning_rate=3e-3, hidden=(32,))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("problem", "budget", "lambda_"),
    [
        (diagnostics.Credit(), None, 0.2),  # credit for the end, over four steps
        (diagnostics.Saving(), 12.0, 0.0),  # two large calls and two small ones
        (diagnostics.Stopping(), None, 0.4),  # stop as soon as the answer is good
    ],
    ids=["credit", "saving", "stopping"],
)
def test_ppo_reaches_the_optimum(problem: diagnostics._Walk, budget: float | None, lambda_: float, seed: int) -> None:
    recording = diagnostics.build(problem)
    env = RoutingVectorEnv(
        CONFIG.n_envs, recording, budget_usd=budget, lambda_=lambda_, autoreset_mode="SameStep", info="lean"
    )
    network = network_of(train_ppo(env, CONFIG, seed), env)
    tasks = np.arange(recording.graph.n_tasks)
    table = rollout(network, env, tasks, budget_usd=budget or np.inf, lambda_=lambda_)
    price = lambda_ / recording.cost_scale_usd
    if budget is None:
        score, cost = oracle_at_lambda(recording.graph, tasks, price)
    else:
        score, cost = oracle_at_cap(recording.graph, tasks, budget)
    best = (score - price * cost).mean()
    assert (table.score - price * table.cost_usd).mean() >= 0.95 * best
    assert not table.violations.any()


def test_the_same_seed_gives_the_same_weights() -> None:
    recording = diagnostics.build(diagnostics.Credit())
    config = PPOConfig(steps=4096, n_envs=64, n_steps=8, batch_size=256, hidden=(16,))
    weights = []
    for seed in (3, 3, 4):
        env = RoutingVectorEnv(64, recording, lambda_=0.2, autoreset_mode="SameStep", info="lean")
        network = network_of(train_ppo(env, config, seed), env)
        weights.append(np.concatenate([p.detach().numpy().ravel() for p in network.parameters()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
