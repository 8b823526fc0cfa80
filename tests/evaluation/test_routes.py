"""Routes: the same episodes as those that are counted, and the largest differences by hand."""

from __future__ import annotations

from pathlib import Path

import helpers
import numpy as np
import pytest

from routegym.errors import ConfigError
from routegym.evaluation.outcomes import Grid, play
from routegym.evaluation.routes import Route, Step, largest_differences, trace_routes
from routegym.graph.recording import Recording
from routegym.policies.baselines import AlwaysArm, ConfidenceCascade


def test_a_route_by_hand():
    """Two calls of arm 0 (1 token each), or one of arm 1 (3 tokens of twice the price)."""
    recording = helpers.hand_made(
        [(0, None), (1, None), (2, 0.25), (1, 1.0)],
        [helpers.Edge(0, 0, 1), helpers.Edge(0, 1, 3, 3), helpers.Edge(1, 0, 2), helpers.Edge(1, 1, 2, 3)],
    )
    grid = Grid.of(recording, [1e-4], [0.0])
    (cheap,) = trace_routes(AlwaysArm(recording, 0), recording, "train", grid, 0)
    assert cheap.steps == (
        Step(0, 0, pytest.approx(1e-6), pytest.approx(1e-4)),
        Step(1, 0, pytest.approx(1e-6), pytest.approx(9.9e-5)),
    )
    assert (cheap.task, cheap.end, cheap.score, cheap.out_of_budget) == (0, 2, 0.25, False)
    assert cheap.cost_usd == pytest.approx(2e-6)
    (dear,) = trace_routes(AlwaysArm(recording, 1), recording, "train", grid, 1)  # no cap
    assert [(step.node, step.action) for step in dear.steps] == [(0, 1)]
    assert np.isinf(dear.steps[0].remaining_usd)
    assert (dear.end, dear.score) == (3, 1.0)


def test_a_route_that_runs_out_of_money():
    recording = helpers.hand_made(
        [(0, None), (1, None), (2, 1.0)],
        [helpers.Edge(0, 0, 1, 8), helpers.Edge(1, 0, 2, 8)],
        limits=(10,),
    )
    grid = Grid.of(recording, [12e-6], [0.0])  # pays for the worst case of the first call, not for two
    (route,) = trace_routes(AlwaysArm(recording, 0), recording, "train", grid, 0)
    assert (len(route.steps), route.end, route.score, route.out_of_budget) == (1, 1, 0.0, True)


@pytest.mark.parametrize("name", ["cascade_sampled", "agent_steps_sampled", "single_call"])
def test_routes_are_the_episodes_that_are_counted(recordings: dict[str, Path], name: str):
    recording = Recording.load(recordings[name])
    grid = Grid.of(recording, np.geomspace(*recording.budget_range_usd, 3).tolist(), [0.0, 0.2])
    policies = [AlwaysArm(recording, 1)]
    if name == "cascade_sampled":
        policies.append(ConfidenceCascade(recording, (0, 1, 2), 0.6))
    for policy in policies:
        outcomes = play(policy, recording, "all", grid)
        for point in (0, 1, 5, len(grid.points[0]) - 1):
            routes = trace_routes(policy, recording, "all", grid, point)
            assert [route.task for route in routes] == recording.split("all").tolist()
            assert [route.score for route in routes] == pytest.approx(outcomes.scores[point])
            assert [route.cost_usd for route in routes] == pytest.approx(outcomes.costs[point])
            assert [sum(step.cost_usd for step in route.steps) for route in routes] == pytest.approx(
                outcomes.costs[point]
            )
            assert sum(len(route.steps) for route in routes) == outcomes.calls[point].sum()
            for route in routes:
                for step, after in zip(route.steps, route.steps[1:], strict=False):
                    assert after.remaining_usd == pytest.approx(step.remaining_usd - step.cost_usd)


def route(task: int, score: float, cost: float) -> Route:
    return Route(task, (), 0, score, cost, False)


def test_largest_differences_by_hand():
    mine = [route(0, 1, 2), route(1, 0, 1), route(2, 1, 1), route(3, 1, 4), route(4, 0.5, 1), route(5, 1, 0.1 + 0.2)]
    theirs = [route(0, 0, 1), route(1, 1, 1), route(2, 1, 3), route(3, 1, 1), route(4, 0, 9), route(5, 1, 0.3)]
    gained, lost = largest_differences(mine, theirs, 10)
    assert gained.tolist() == [0, 4, 2]  # by score, then cheaper at the same score
    assert lost.tolist() == [1, 3]  # 5 differs by rounding only
    gained, lost = largest_differences(mine, theirs, 1)
    assert (gained.tolist(), lost.tolist()) == ([0], [1])


def test_equal_gains_are_ordered_by_cost_saved():
    mine = [route(number, 1, cost) for number, cost in enumerate([3, 1, 2])]
    theirs = [route(number, 0, 3) for number in range(3)]
    assert largest_differences(mine, theirs, 3)[0].tolist() == [1, 2, 0]
    assert largest_differences(theirs, mine, 3)[1].tolist() == [1, 2, 0]


def test_other_tasks_are_refused():
    with pytest.raises(ConfigError, match="the same tasks"):
        largest_differences([route(0, 1, 1)], [route(1, 1, 1)], 3)
    with pytest.raises(ConfigError, match="count = 0"):
        largest_differences([route(0, 1, 1)], [route(0, 1, 1)], 0)
