from __future__ import annotations

import numpy as np
import pytest

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.errors import ConfigError
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda
from routegym.evaluation.regret import regret
from routegym.policies.baselines import Random


def test_by_hand():
    """At 0.1 per USD: oracle 1 - 0.4 and 0.5 - 0.1, policy 1 - 0.6 and 0 - 0.1: (0.2 + 0.5) / 2."""
    assert regret([1, 0], [6, 1], [1, 0.5], [4, 1], 0.1) == pytest.approx(0.35)
    assert regret([1, 0], [6, 1], [1, 0.5], [4, 1]) == pytest.approx(0.25)


def test_seeds_and_points_are_averaged():
    """Regrets 0 and 1 with one seed, 1 and 1 with the other."""
    assert regret([[1, 0], [0, 0]], np.ones((2, 2)), [1, 1], [1, 1]) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(8))
def test_no_policy_has_a_negative_one_and_the_best_has_none(seed, random_graph, enumerate_policies):
    graph = random_graph(seed, n_tasks=1)
    start = int(graph.task_start[0])
    for price in (0.0, 1e4, 1e5):
        best = oracle_at_lambda(graph, [0], price)
        found = [regret([s], [c], *best, price) for s, c in enumerate_policies(graph, start, np.inf)]
        assert min(found) == pytest.approx(0, abs=1e-10)
    for cap in (3e-6, 9e-6, 2e-5):
        best = oracle_at_cap(graph, [0], cap)
        found = [regret([s], [c], *best) for s, c in enumerate_policies(graph, start, cap)]
        assert min(found) == pytest.approx(0, abs=1e-10)


def test_of_a_policy_that_plays(random_graph, as_recording):
    """Without chance in the graph every single task has a regret >= 0."""
    graph = random_graph(3, n_tasks=20, depth=4, width=3, samples=1)
    recording, tasks = as_recording(graph), np.arange(20)
    price = 3e4
    played = rollout(Random(recording), RoutingVectorEnv(20, recording), tasks)
    best_scores, best_costs = oracle_at_lambda(graph, tasks, price)
    each = [
        regret([s], [c], [bs], [bc], price)
        for s, c, bs, bc in zip(played.score, played.cost_usd, best_scores, best_costs, strict=True)
    ]
    assert min(each) >= -1e-9
    total = regret(played.score, played.cost_usd, best_scores, best_costs, price)
    assert total == pytest.approx(np.mean(each))
    assert total > 0.05


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: regret([1], [1, 2], [1], [1]), r"scores have shape \(1,\) and costs \(2,\)"),
        (lambda: regret([1, 1], [1, 2], [1], [1]), "the same tasks"),
        (lambda: regret([], [], [], []), r"shape \(0,\)"),
        (lambda: regret([1], [1], [1], [1], -1.0), "lambda_usd = -1.0"),
        (lambda: regret([1], [1], [1], [1], np.inf), "lambda_usd = inf"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
