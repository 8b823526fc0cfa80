"""Predict, then plan: the plan of a process worked out by hand, and minding the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diagnostics
import helpers
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.oracle import oracle_at_cap
from routegym.policies.algorithm import Problem
from routegym.policies.planning import _PRICES, Budgets, Cells, PredictThenPlan, _best_reachable, _Process, solve
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.success import KNN, Logistic

TINY: dict[str, Any] = {"visits": 4_000, "min_visits": 40, "rounds": 2}


def test_budgets_that_costs_are_multiples_of_are_met_exactly() -> None:
    budgets = Budgets.spaced(2.0, 40.0, 30)
    assert budgets.usd[0] == 0
    assert (budgets.usd % 2 == 0).all()
    assert budgets.usd[-1] == 40.0
    floor, share = budgets.place(np.array([0.0, 1.9, 2.0, 3.0, 4.0, 1000.0, np.inf]))
    assert floor[:5].tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(share[:5], [0, 0, 0, 0.5, 0], atol=1e-5)
    np.testing.assert_allclose(budgets.usd[floor[5:]] * (1 - share[5:]) + budgets.usd[floor[5:] + 1] * share[5:], 40.0)


def test_plan_of_a_process_by_hand() -> None:
    """Two steps; a cheap call (1) wins half the time and else leads to a state where only a dear one (3) wins."""
    process = _Process(
        place=np.array([0, 0, 1, 2, 3]),
        landing=np.array([-1, 1, -1, -1, -1]),
        chance=np.array([0.5, 0.5, 1.0, 1.0, 1.0]),
        cost_usd=np.array([1.0, 1.0, 3.0, 1.0, 3.0]),
        score=np.array([1.0, 0.0, 0.8, 0.0, 1.0]),
        reserve_usd=np.array([[1.0, 3.0], [1.0, 3.0]]),
        visits=np.ones((2, 2)),
        doubt=np.zeros((2, 2)),
        step=np.array([0, 1]),
    )
    budgets = Budgets(np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    values = solve(process, budgets, scale_usd=10.0)  # (states, actions, budgets, prices)
    free, dear = 0, int(np.flatnonzero(_PRICES == 1.0)[0])
    # With 4 a failed cheap call can be made good; with 3 it cannot, and the second call wins nothing.
    np.testing.assert_allclose(values[0, :, 4, free], [1.0, 0.8], atol=1e-3)
    np.testing.assert_allclose(values[0, :, 3, free], [0.5, 0.8], atol=1e-3)
    np.testing.assert_allclose(values[0, 0, 4, dear], 0.5 * 0.9 + 0.5 * (-0.1 + 1 - 0.3), atol=1e-6)
    np.testing.assert_allclose(values[0, 1, 4, dear], 0.8 - 0.3, atol=1e-6)
    # With 2 after the first call one may only go on with the cheap arm, which loses.
    np.testing.assert_allclose(values[0, 0, 3, dear], 0.5 * 0.9 + 0.5 * (-0.1 - 0.1), atol=1e-6)


def test_cells_tell_unlike_situations_apart_step_by_step() -> None:
    rows = np.array([[0.0], [1.0], [0.0], [1.0]] * 10, dtype=np.float32)
    step = np.array([0, 0, 2, 2] * 10)
    targets = np.array([[0.0], [1.0], [0.5], [0.5]] * 10)
    cells = Cells.fit(rows, step, targets, np.ones(40), cells=8, min_visits=1)
    assert cells.of(rows[:4], step[:4]).tolist() == [0, 1, 2, 2]
    assert cells.of(rows[:2], np.array([9, 9])).tolist() == [2, 2]  # later than any: as the last


def test_best_reachable_score() -> None:
    nodes = [(0, None), (1, None), (1, None), (2, 1.0), (2, 0.25), (2, 0.5)]
    edges = [
        helpers.Edge(0, 0, 1), helpers.Edge(0, 0, 2), helpers.Edge(0, 1, 2), helpers.Edge(1, 0, 3),
        helpers.Edge(1, 1, 4), helpers.Edge(2, 0, 4), helpers.Edge(2, 1, 5),
    ]  # fmt: skip
    np.testing.assert_allclose(_best_reachable(helpers.hand_made(nodes, edges).graph), [0.75, 1, 0.5, 1, 0.25, 0.5])


def test_the_average_value_counts_in_every_cell() -> None:
    """Of two cells, one has been visited three times as often as the other; action 1 was met in the second only."""
    process = _Process(
        place=np.array([0, 2, 3]),
        landing=np.full(3, -1),
        chance=np.ones(3),
        cost_usd=np.zeros(3),
        score=np.array([0.0, 1.0, 0.6]),
        reserve_usd=np.array([[1.0, np.inf], [1.0, 1.0]]),
        visits=np.array([[3.0, 0.0], [1.0, 1.0]]),
        doubt=np.array([[0.5, 0.0], [0.1, 0.1]]),
        step=np.array([0, 0]),
    )
    values = solve(process, Budgets(np.array([0.0, 1.0])), scale_usd=1.0)[:, :, 1, 0]
    np.testing.assert_allclose(values, [[0.5 * 0.25, 0.0], [0.9 + 0.1 * 0.25, 0.6]], atol=1e-6)


def test_at_price_0_nothing_is_given_up_and_nothing_is_certain() -> None:
    """Some training tasks are solved by no arm and some by all of them, and cells are as small as a task."""
    recording = helpers.build("attempts", tasks=60)
    policy = PredictThenPlan(visits=2_000, min_visits=1, rounds=2).fit(Problem(recording))
    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(len(tasks), recording, split="all", autoreset_mode="Disabled")
    for budget in (recording.budget_range_usd[0], np.inf):
        observation, _ = env.reset(seed=0, options={"task_id": tasks, "lambda": 0.0, "budget_usd": budget})
        masks = env.action_masks()
        arms = masks[:, : len(recording.arms)]
        assert arms.any(axis=1).all()
        assert (policy.predict(observation, action_masks=masks)[0] < len(recording.arms)).all()
    value = policy.planned(observation)[:, : len(recording.arms)]
    assert value.min() > 0
    assert value.max() < 1


def test_planning_minds_the_budget_where_argmax_does_not() -> None:
    recording = diagnostics.build(diagnostics.Saving())
    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(len(tasks), recording, info="lean", autoreset_mode="SameStep")
    best = oracle_at_cap(recording.graph, tasks, 12.0)[0].mean()
    problem = Problem(recording)  # fitted to every budget, played at one
    plan = rollout(PredictThenPlan(**TINY).fit(problem), env, tasks, budget_usd=12.0)
    assert plan.score.mean() >= 0.95 * best
    assert not plan.violations.any()
    for algorithm in (KNN(), Logistic()):
        table = rollout(algorithm.fit(problem), env, tasks, budget_usd=12.0)
        assert table.score.mean() <= 0.8 * best


def test_a_higher_price_costs_less() -> None:
    recording = diagnostics.build(diagnostics.Credit())
    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(len(tasks), recording, info="lean", autoreset_mode="SameStep")
    policy = PredictThenPlan(**TINY).fit(Problem(recording))
    costs = [rollout(policy, env, tasks, lambda_=lambda_).cost_usd.mean() for lambda_ in (0.0, 0.2, 0.9, 2.0, 1e6)]
    assert (np.diff(costs) <= 0).all()
    assert costs[0] > costs[-1] == 4.0  # four calls of the small arm


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_masks_files_and_seeds(kind: str, tmp_path: Path) -> None:
    recording = helpers.build(kind, tasks=30)
    policy, twin, other = (PredictThenPlan(**TINY).fit(Problem(recording), seed) for seed in (1, 1, 2))
    assert helpers.same(policy.to_state(), twin.to_state())
    if kind != "single_call":  # where every situation is visited in one step
        assert not helpers.same(policy.to_state(), other.to_state())
    save_policies(tmp_path, recording, {0: policy})
    again: Any = load_policies(tmp_path, recording)[0]
    env = RoutingVectorEnv(64, recording, budget_usd="sampled", lambda_=(0.0, 0.5), autoreset_mode="SameStep")
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(8):
        masks = env.action_masks()
        random = masks & (rng.random(masks.shape) < 0.5)
        random[~random.any(axis=1)] = masks[~random.any(axis=1)]
        actions, _ = policy.predict(observation, action_masks=random)
        assert random[np.arange(64), actions].all()
        np.testing.assert_array_equal(policy.planned(observation), again.planned(observation))
        actions, _ = policy.predict(observation)
        assert masks[np.arange(64), actions].all()
        observation, *_ = env.step(actions)


@pytest.mark.parametrize(
    "values", [{"cells": 0}, {"min_visits": 0}, {"visits": 0}, {"rounds": 0}, {"budget_points": 1}, {"random_share": 0}]
)
def test_bad_hyperparameters(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"{name} = {value}; expected"):
        PredictThenPlan(**values)
