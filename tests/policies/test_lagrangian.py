"""PPO-Lagrangian: the multiplier and the advantage by hand, and mixing where the optimum mixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diagnostics
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.oracle import oracle_at_cap, oracle_frontier
from routegym.graph.library import load_recording
from routegym.graph.recording import Recording
from routegym.policies.actor_critic import CostCritic
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.lagrangian import Multiplier, PPOLagrangian, _Meter, _Model, combined_advantage, target_cost
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.training import Training

TINY: dict[str, Any] = {
    "steps": 49_152, "n_envs": 128, "n_steps": 16, "batch_size": 512, "learning_rate": 3e-3, "hidden": (32,),
}  # fmt: skip
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]


def test_the_plain_multiplier_sums_the_excess_and_stays_above_zero() -> None:
    multiplier = PPOLagrangian(pid=False, eta=0.5, initial_multiplier=1.0).multiplier()
    assert [multiplier.update(e) for e in (0.4, -0.2, -3.0, 0.1)] == pytest.approx([1.2, 1.1, 0.0, 0.05])


def test_the_pid_multiplier_by_hand() -> None:
    algorithm = PPOLagrangian(kp=2.0, ki=0.5, kd=4.0, smoothing=0.5, initial_multiplier=1.0)
    multiplier = algorithm.multiplier()
    # excess, integral, smoothed, rise -> 2 smoothed + integral + 4 rise
    expected = [
        2.0,  # 0.4, 1.2, 0.4, none before
        3.6,  # 0.8, 1.6, 0.6, 0.2
        1.3,  # -0.6, 1.3, 0, falls
        0.0,  # -4, 0 (not -0.7), -2, falls
        9.0,  # 2, 1, 0, 2
    ]
    assert [multiplier.update(e) for e in (0.4, 0.8, -0.6, -4.0, 2.0)] == pytest.approx(expected)


def test_the_combined_advantage_is_the_formula() -> None:
    reward, cost = np.array([[1.0, -2.0]]), np.array([[0.5, 1.0]])
    np.testing.assert_allclose(combined_advantage(reward, cost, 3.0), [[-0.125, -1.25]])
    np.testing.assert_array_equal(combined_advantage(reward, cost, 0.0), reward)


@pytest.fixture
def model(toy: Callable[..., Recording]) -> _Model:
    recording, meter = toy(), _Meter()
    return _Model(
        CostCritic,
        SB3RoutingVecEnv(Problem(recording, None, 0.0).env(4, reward=meter)),
        policy_kwargs={"recording": recording, "hidden": (8,)},
        n_steps=6,
        batch_size=8,
        gamma=1.0,
        gae_lambda=1.0,
        device="cpu",
        seed=0,
        normalize_advantage=False,
        meter=meter,
        multiplier=Multiplier(ki=0.5, integral=1.0),
        target=0.5,
    )


def test_costs_to_go_are_those_of_the_episode(model: _Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("stable_baselines3.PPO.train", lambda self: given.append(self.rollout_buffer.advantages))
    combined: list[Any] = []
    step = model._fit_cost_critic

    def spy(observations: Any, returns: Any) -> None:
        combined.append((returns.copy(), model._costs_to_go().values.copy()))
        step(observations, returns)

    monkeypatch.setattr(model, "_fit_cost_critic", spy)
    collected: list[Any] = []
    train = model.train

    def noted() -> None:
        collected.append(model.rollout_buffer.advantages.copy())
        train()

    monkeypatch.setattr(model, "train", noted)
    model.learn(24)
    (returns, values), (reward,) = combined[0], collected
    # Episodes have three calls, so six steps are two whole ones; arms cost 8, 1, 3 USD of a scale of 24.
    costs = np.array([8.0, 1.0, 3.0])[model.rollout_buffer.actions[..., 0].astype(int)] / 24.0
    to_go = np.concatenate([np.cumsum(half[::-1], axis=0)[::-1] for half in (costs[:3], costs[3:])])
    np.testing.assert_allclose(returns, to_go, rtol=1e-5)
    price = 1.0 + 0.5 * (costs.sum(axis=0).mean() / 2 / 0.5 - 1.0)
    np.testing.assert_allclose(given[0], (reward - price * (to_go - values)) / (1.0 + price), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [2.9, 24.1, np.nan])
def test_a_target_outside_the_arms_range_is_told(target: float, toy: Callable[..., Recording]) -> None:
    recording = toy()  # three calls of 1, 3 or 8 USD
    with pytest.raises(ConfigError, match=rf"target_cost_usd = {target:.6g} is outside .*'toy'.* 3 .*24 USD"):
        PPOLagrangian(target_cost_usd=target).fit(Problem(recording))


def test_targets_in_range(toy: Callable[..., Recording]) -> None:
    recording = toy()
    tasks = recording.split("train")
    assert [target_cost(recording, tasks, target) for target in (3.0, 10.0, 24.0)] == [3.0, 10.0, 24.0]
    assert target_cost(recording, tasks, None) == pytest.approx(72**0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kp": -1.0}, r"kp = -1.0; expected a finite number >= 0"),
        ({"eta": float("nan")}, r"eta = nan; expected a finite number >= 0"),
        ({"smoothing": 1.0}, r"smoothing = 1.0; expected a number in \[0, 1\)"),
    ],
)
def test_wrong_values_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PPOLagrangian(**values)


@cache
def mixing() -> Recording:
    return diagnostics.build(diagnostics.Mixing(), length=1)


@pytest.mark.parametrize("pid", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", SEEDS)
def test_mixes_where_mixing_is_optimal(seed: int, pid: bool, tmp_path: Path) -> None:
    recording = mixing()
    plain = {} if pid else {"pid": False, "eta": 0.05, "learning_rate": 1e-3, "ent_coef": 0.05}
    values = TINY | {"n_steps": 8, "steps": 40_960, "target_cost_usd": 3.0} | plain
    records: list[Mapping[str, Any]] = []
    policy = PPOLagrangian(**values).fit(Problem(recording), seed, Training(report=records.append))
    save_policies(tmp_path, recording, {seed: policy})
    env = RoutingVectorEnv(1024, recording, info="lean", autoreset_mode="SameStep")
    for played in (policy, load_policies(tmp_path, recording)[seed]):
        table = rollout(played, env, np.tile(np.arange(recording.graph.n_tasks), 4096), deterministic=True)
        # Arms cost 1 and 5 USD and score 0 and 1: half of each costs 3 USD and scores 0.5.
        assert table.score.mean() >= 0.95 * 0.5
        assert abs(table.cost_usd.mean() / 3.0 - 1.0) <= 0.05
    # The price at which both arms are worth the same: a score of 1 for 4 USD of a scale of 5.
    if pid:
        assert np.mean([record["multiplier"] for record in records[-10:]]) == pytest.approx(1.25, abs=0.25)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("workflow", "target", "budget"),
    [(diagnostics.Credit(), 12.0, None), (diagnostics.Saving(), 12.0, 12.0), (diagnostics.Stopping(), 1.0, None)],
    ids=["credit", "saving", "stopping"],
)
def test_reaches_the_optimum_under_the_constraint(
    workflow: diagnostics._Walk, target: float, budget: float | None, seed: int
) -> None:
    recording = diagnostics.build(workflow)
    tasks = np.arange(recording.graph.n_tasks)
    algorithm = PPOLagrangian(**TINY | {"steps": 65_536}, target_cost_usd=target)
    policy = algorithm.fit(Problem(recording, budget_usd=budget), seed)
    env = RoutingVectorEnv(512, recording, info="lean", autoreset_mode="SameStep")
    table = rollout(policy, env, np.tile(tasks, 256), budget_usd=np.inf if budget is None else budget)
    if budget is None:
        cost, score = oracle_frontier(recording.graph, tasks)
        best = np.interp(target, cost, score)
    else:
        best = oracle_at_cap(recording.graph, tasks, budget)[0].mean()
    assert table.score.mean() >= 0.95 * best
    assert table.cost_usd.mean() <= 1.05 * target
    assert not table.violations.any()


def test_the_lambda_shown_changes_nothing(toy: Callable[..., Recording]) -> None:
    recording = toy()
    values = {"steps": 1024, "n_envs": 32, "n_steps": 8, "batch_size": 64, "hidden": (8,)}
    policy = PPOLagrangian(**values).fit(Problem(recording, lambda_=(0.0, 0.5)))
    env = RoutingVectorEnv(4, recording)
    rows = [env.reset(seed=0, options={"task_id": 0, "lambda": price})[0] for price in (0.0, 0.7)]
    assert not np.array_equal(*rows)
    np.testing.assert_array_equal(*(policy.probabilities(row) for row in rows))


@pytest.mark.slow
def test_meets_the_constraint_on_agent_steps() -> None:
    recording = load_recording("agent_steps")
    tasks = recording.split("train")
    policy = tuned("ppo_lagrangian", "routegym/AgentSteps-v0").fit(Problem(recording), 0)
    env = RoutingVectorEnv(len(tasks), recording, info="lean", autoreset_mode="SameStep")
    tables = [rollout(policy, env, tasks, seed=seed) for seed in range(3)]
    target = target_cost(recording, tasks, None)
    assert np.mean([table.cost_usd.mean() for table in tables]) == pytest.approx(target, rel=0.05)
