from __future__ import annotations

import helpers
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import BudgetError, ConfigError
from routegym.evaluation.comparison import Comparison, Entry
from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import Grid, Outcomes, play
from routegym.evaluation.references import references
from routegym.policies.baselines import AlwaysArm


@pytest.fixture(scope="module")
def recording():
    return helpers.build("agent_steps", 60)


def test_a_grid_holds_every_budget_with_every_price_and_no_cap(recording):
    grid = Grid.of(recording, [0.5, 0.25, 0.5], [0.1, 0.0])
    assert grid.budgets.tolist() == [0.25, 0.5, np.inf]
    assert grid.caps.tolist() == [0.25, 0.5]
    budgets, lambdas = grid.points
    assert list(zip(budgets, lambdas, strict=True)) == [
        (0.25, 0.0), (0.25, 0.1), (0.5, 0.0), (0.5, 0.1), (np.inf, 0.0), (np.inf, 0.1),
    ]  # fmt: skip
    assert [grid.at_cap(number) for number in range(2)] == [0, 2]


@pytest.mark.parametrize("budgets", [[], [1e-12], [0.5, -1.0], [float("nan")]])
def test_budgets_below_the_cheapest_arm_are_refused(budgets, recording):
    with pytest.raises(BudgetError, match="cheapest arm"):
        Grid.of(recording, budgets)


@pytest.mark.parametrize("lambdas", [[], [-0.1], [float("nan")], [float("inf")]])
def test_impossible_prices_are_refused(lambdas, recording):
    with pytest.raises(ConfigError, match="lambdas"):
        Grid.of(recording, None, lambdas)


def test_playing_the_grid_is_playing_each_point(recording):
    policy = AlwaysArm(recording, 2)
    grid = Grid.of(recording, recording.budget_range_usd, [0.0, 0.3])
    outcomes = play(policy, recording, "test", grid)
    tasks = recording.split("test")
    for point, (budget, lambda_) in enumerate(zip(*grid.points, strict=True)):
        env = RoutingVectorEnv(len(tasks), recording, split="test")
        table = rollout(policy, env, tasks, budget_usd=budget, lambda_=lambda_)
        np.testing.assert_array_equal(outcomes.scores[point], table.score)
        np.testing.assert_array_equal(outcomes.costs[point], table.cost_usd)
        np.testing.assert_array_equal(outcomes.calls[point], table.arm_counts.sum(axis=0))
    assert not outcomes.violations.any()


def outcomes_at(points: list[tuple[float, float]], tasks: int = 2) -> Outcomes:
    """The same outcome on every task."""
    costs, scores = (np.repeat(np.array(side)[:, None], tasks, axis=1) for side in zip(*points, strict=True))
    return Outcomes(scores.astype(np.float32), costs, np.zeros(len(points), dtype=np.int64), np.ones((len(points), 3)))


def test_the_points_of_an_entry_are_those_of_the_validation_frontier():
    validation = outcomes_at([(1.0, 0.5), (2.0, 0.5), (2.0, 0.75), (3.0, 0.7), (1.0, 0.5)])
    evaluated = outcomes_at([(1.0, 0.25), (2.0, 1.0), (2.0, 0.5), (3.0, 1.0), (1.0, 0.5)])
    entry = Entry.of({0: evaluated}, {0: validation}, learned=True)
    assert entry.chosen.tolist() == [0, 2]  # not the luckier ones on the evaluated tasks; equal points once
    costs, scores = entry.sweep.points()
    assert costs.tolist() == [1.0, 2.0]
    assert scores.tolist() == [0.25, 0.5]
    with pytest.raises(ConfigError, match="seeds"):
        Entry.of({0: evaluated}, {1: validation}, learned=True)


def test_an_arm_alone_is_compared_with_itself(recording):
    """Without a cap it is on the zero router's hull or below, and every number can be had another way."""
    grid = Grid.of(recording, [max(recording.budget_range_usd) * 10], [0.0])
    entries = {}
    for arm in range(3):
        played = play(AlwaysArm(recording, arm), recording, "test", grid)
        entries[recording.arms[arm].name] = Entry.of({0: played}, {0: played}, learned=False)
    metrics = Comparison(recording, "test", grid, entries, references(recording, "test", grid), resamples=50).metrics()
    low, high = metrics["cost_range_usd"]
    best = max(metrics["policies"], key=lambda name: metrics["policies"][name]["aiq"])
    assert metrics["best_baseline"] == best
    assert metrics["policies"][best]["over_best_baseline"] is None
    for name, found in metrics["policies"].items():
        alone = metrics["arms"][name]
        assert found["aiq"] == pytest.approx(aiq(hull([alone["cost_usd"]], [alone["score"]]), low, high))
        assert found["over_zero_router"]["estimate"] == pytest.approx(found["aiq"] - metrics["zero_router"]["aiq"])
        assert found["over_zero_router"]["high"] <= 1e-9
        assert found["budgets"][0]["largest_share"] == 1.0
        assert found["budgets"][0]["selection_entropy"] == 0.0
        assert found["budgets"][0]["regret"] >= 0
    dearest = max(metrics["arms"], key=lambda name: metrics["arms"][name]["cost_usd"])
    assert metrics["policies"][dearest]["qnc"] == pytest.approx(1.0)
