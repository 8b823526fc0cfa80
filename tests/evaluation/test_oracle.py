from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.errors import BudgetError, MissingEdgeError, TaskError
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda, oracle_frontier
from routegym.graph.graph import OPEN, TERMINATED, TransitionGraph, edge_dtype
from routegym.policies.baselines import AlwaysArm, ConfidenceCascade, FirstLargeK, Random

SEEDS = range(25)
BUDGETS = 1e-5 * np.array([0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.61, 0.9, 1.3, 2.1, np.inf])


Action = tuple[float, list[tuple[float, int]]]


def graph_of(*situations: list[Action] | float, steps: list[int] | None = None) -> TransitionGraph:
    """One task. A situation is its score if ended, or its actions: (reserve, [(cost, next), ...]) each."""
    n, n_actions = len(situations), max(len(s) for s in situations if isinstance(s, list))
    graph = TransitionGraph(n_tasks=1, n_arms=n_actions, n_actions=n_actions, node_signals=0, edge_signals=0)
    reserve = np.full((n, n_actions), np.nan)
    rows, node, action = [], [], []
    for here, situation in enumerate(situations):
        for a, (worst, samples) in enumerate(situation if isinstance(situation, list) else []):
            reserve[here, a] = worst
            for cost, following in samples:
                record = np.zeros((), dtype=edge_dtype(0))
                record["cost_usd"], record["reserve_usd"], record["next"] = cost, worst, following
                rows.append(record)
                node.append(here)
                action.append(a)
    graph.append_nodes(
        task=np.zeros(n), step=np.arange(n) if steps is None else steps,
        status=[OPEN if isinstance(s, list) else TERMINATED for s in situations],
        score=[np.nan if isinstance(s, list) else s for s in situations],
        signals=np.zeros((n, 0)), reserve_usd=reserve,
    )  # fmt: skip
    graph.append_edges(node, action, np.array(rows))
    graph.task_start[0] = 0
    return graph


def chain(*steps: list[tuple[float, float, float]]) -> TransitionGraph:
    """Each step offers actions (cost, reserve, score if it is the last step) that lead to the next."""
    n = len(steps)
    situations: list[list[Action] | float] = [
        [(worst, [(cost, k + 1 if k + 1 < n else n + a)]) for a, (cost, worst, _) in enumerate(step)]
        for k, step in enumerate(steps)
    ]
    return graph_of(*situations, *(score for _, _, score in steps[-1]))


@pytest.mark.parametrize("seed", SEEDS)
def test_cap_against_all_policies(seed, random_graph, enumerate_policies, reference_oracle):
    graph = random_graph(seed)
    for budget in BUDGETS:
        score, cost = oracle_at_cap(graph, [0, 1], budget)
        for task in (0, 1):
            start = int(graph.task_start[task])
            outcomes = enumerate_policies(graph, start, budget)
            best = max(s for s, _ in outcomes)
            assert score[task] == pytest.approx(best, abs=1e-11)
            assert cost[task] >= min(c for s, c in outcomes if s > best - 1e-11) - 1e-16
            expected, low, high = reference_oracle(graph, start, budget)
            assert score[task] == pytest.approx(expected, abs=1e-11)
            assert low - 1e-16 <= cost[task] <= high + 1e-16
            assert cost[task] <= budget * (1 + 1e-12)


# The fixtures are pure functions, so sharing them between examples does no harm.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), budget=st.floats(0, 3e-5))
def test_cap_at_any_budget(seed, budget, random_graph, reference_oracle):
    graph = random_graph(seed, n_tasks=1)
    score, cost = oracle_at_cap(graph, [0], budget)
    expected = reference_oracle(graph, int(graph.task_start[0]), budget)
    assert score[0] == pytest.approx(expected[0], abs=1e-11)
    assert expected[1] - 1e-16 <= cost[0] <= expected[2] + 1e-16


@pytest.mark.parametrize("seed", SEEDS)
def test_budgets_on_the_edge_of_float_sums(seed, random_graph, reference_oracle):
    """Sums of the same costs in another order differ in the last digit: the env's own sums decide."""
    graph = random_graph(seed, n_tasks=1, depth=3, samples=1)
    prices = 1e-5 * np.array([0.1, 0.2, 0.3, 0.7])
    for triple in itertools.product(prices, repeat=3):
        budget = float(triple[0] + triple[1] + triple[2])
        score, cost = oracle_at_cap(graph, [0], budget)
        expected = reference_oracle(graph, int(graph.task_start[0]), budget)
        assert score[0] == pytest.approx(expected[0], abs=1e-11)
        assert expected[1] - 1e-16 <= cost[0] <= expected[2] + 1e-16


def test_order_of_payment_decides_at_the_last_digit():
    first, then, last = 0.1, 0.2, 0.3
    assert (first + then) + last != (last + then) + first
    low = min((first + then) + last, (last + then) + first)
    swap = first + then + last == low
    a, b, c = (first, then, last) if swap else (last, then, first)
    fits = chain([(a, a, 0)], [(b, b, 0)], [(c, c, 1)])
    not_quite = chain([(c, c, 0)], [(b, b, 0)], [(a, a, 1)])
    assert oracle_at_cap(fits, [0], low)[0][0] == 1
    assert oracle_at_cap(not_quite, [0], low)[0][0] == 0


@pytest.mark.parametrize("cheap_way", [False, True])
def test_merged_amounts_are_told_apart_where_the_budget_lies_between_them(cheap_way):
    """Chance pays 0.1, 0.2, 0.3 in either order on the way to situation 5; one order leaves enough there."""
    forth, back = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert forth > back
    last = 1.0
    while forth + last == back + last:
        last /= 2
    at_last: list[Action] = [(last, [(last, 7)])]
    if cheap_way:
        at_last.append((0.0, [(0.0, 6)]))
    graph = graph_of(
        [(0.3, [(0.1, 1), (0.3, 2)])],
        [(0.2, [(0.2, 3)])],
        [(0.2, [(0.2, 4)])],
        [(0.3, [(0.3, 5)])],
        [(0.1, [(0.1, 5)])],
        at_last,
        0.25,
        1.0,
    )
    expected = 0.5 * 1.0 + 0.5 * (0.25 if cheap_way else 0.0)
    assert oracle_at_cap(graph, [0], back + last)[0][0] == expected
    assert oracle_at_cap(graph, [0], forth + last)[0][0] == 1.0


def test_of_equal_scores_the_cheapest_that_fits():
    """Action 0 scores surely for 5. Action 1 could for 1 + 1, but that needs 10; for 1 + 2 it fits."""
    graph = graph_of([(5.0, [(5.0, 2)]), (1.0, [(1.0, 1)])], [(9.0, [(1.0, 2)]), (2.0, [(2.0, 2)])], 1.0)
    assert [oracle_at_cap(graph, [0], budget)[1][0] for budget in (3.0, 9.9, 10.0)] == [3.0, 3.0, 2.0]
    assert [oracle_at_cap(graph, [0], budget)[0][0] for budget in (2.9, 3.0)] == [0.0, 1.0]


def test_no_bankruptcy_on_purpose():
    """Nothing scores. The cheapest end costs 1 + 1; paying 1.5 at once would end by bankruptcy."""
    graph = graph_of([(1.0, [(1.0, 1)]), (1.5, [(1.5, 1)])], [(1.0, [(1.0, 2)])], 0.0)
    assert oracle_at_cap(graph, [0], 2.0)[1][0] == 2.0
    assert oracle_at_cap(graph, [0], 1.9)[1][0] == 1.0
    assert oracle_at_cap(graph, [0], 0.9)[1][0] == 0.0


def test_closed_form_chain():
    """Two steps, cheap 1 or dear 3; only dear at the second step scores."""
    graph = chain([(1, 1, 0), (3, 4, 0)], [(1, 1, 0), (3, 4, 1)])
    for budget, expected in [
        (0.5, (0, 0)),
        (1, (0, 1)),
        (4, (0, 2)),
        (4.9, (0, 2)),
        (5, (1, 4)),
        (99, (1, 4)),
    ]:
        assert tuple(x[0] for x in oracle_at_cap(graph, [0], budget)) == expected
    assert tuple(x[0] for x in oracle_at_lambda(graph, [0], 0.0)) == (1, 4)
    assert tuple(x[0] for x in oracle_at_lambda(graph, [0], 0.51)) == (0, 2)
    cost, score = oracle_frontier(graph, [0])
    assert cost.tolist() == [2, 4]
    assert score.tolist() == [0, 1]


def test_unknown_worst_case_is_only_legal_without_a_cap():
    graph = chain([(1, np.inf, 1), (1, 1, 0)])
    assert oracle_at_cap(graph, [0], 1e9)[0][0] == 0
    assert oracle_at_cap(graph, [0], np.inf)[0][0] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_lambda_and_frontier_against_all_policies(seed, random_graph, enumerate_policies):
    graph = random_graph(seed)
    outcomes = [enumerate_policies(graph, int(graph.task_start[t]), np.inf) for t in (0, 1)]
    costs, scores = oracle_frontier(graph, [0, 1])
    assert (np.diff(costs) > 0).all()
    assert (np.diff(scores) > 0).all()
    slopes = np.diff(scores) / np.diff(costs)
    assert (np.diff(slopes) <= 1e-9 * slopes[:-1]).all()
    for price in (0.0, 1e3, 1e4, 3e4, 1e5, 1e6, 1e8):
        score, cost = oracle_at_lambda(graph, [1, 0], price)
        best = [max(s - price * c for s, c in outcomes[t]) for t in (1, 0)]
        assert score - price * cost == pytest.approx(best, abs=1e-10 * (1 + price * 1e-5))
        assert (scores - price * costs).max() == pytest.approx(np.mean(best), abs=1e-10 * (1 + price * 1e-5))


def test_repeated_tasks_count_twice(random_graph):
    graph = random_graph(3)
    costs, scores = oracle_frontier(graph, [0, 0, 1])
    one, two = oracle_at_lambda(graph, [0, 1], 0.0)
    assert scores[-1] == pytest.approx((2 * one[0] + one[1]) / 3)
    assert costs[-1] == pytest.approx((2 * two[0] + two[1]) / 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_monotone_in_the_budget(seed, random_graph):
    graph = random_graph(seed, n_tasks=5, depth=4)
    scores = np.array([oracle_at_cap(graph, np.arange(5), b)[0] for b in np.sort(BUDGETS)])
    assert (np.diff(scores, axis=0) >= -1e-12).all()
    assert scores[-1] == pytest.approx(oracle_at_lambda(graph, np.arange(5), 0.0)[0])


@pytest.mark.parametrize("seed", range(6))
def test_no_baseline_beats_the_oracle(seed, random_graph, as_recording):
    graph = random_graph(seed, n_tasks=20, depth=4, width=3, samples=1)
    recording = as_recording(graph)
    tasks = np.arange(20)
    env = RoutingVectorEnv(8, recording)
    policies = [
        Random(recording, seed),
        FirstLargeK(recording, 2, 2, 0),
        ConfidenceCascade(recording, [0, 1, 2], 1),
    ]
    policies += [AlwaysArm(recording, arm) for arm in range(3)]
    floor = float(graph.node_floor[graph.task_start].max())
    if not np.isfinite(floor):
        floor = 1e-5
    for budget in (floor, 1.5 * floor, 3 * floor, np.inf):
        best, _ = oracle_at_cap(graph, tasks, budget)
        for policy in policies:
            table = rollout(policy, env, tasks, budget)
            assert (table.score <= best + 1e-9).all()
            assert not table.violations.any()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda g: oracle_at_cap(g, [0], -1.0), BudgetError, "-1.0"),
        (lambda g: oracle_at_cap(g, [0], float("nan")), BudgetError, "nan"),
        (lambda g: oracle_at_lambda(g, [0], float("inf")), BudgetError, "lambda_usd = inf"),
        (lambda g: oracle_at_lambda(g, [2], 0.0), TaskError, "task index 2"),
        (lambda g: oracle_at_lambda(g, [0.5], 0.0), TaskError, "float64"),
        (lambda g: oracle_frontier(g, []), TaskError, "no tasks"),
    ],
)
def test_bad_input(call, error, text, random_graph):
    with pytest.raises(error, match=text):
        call(random_graph(0))


def test_missing_edge_is_named(random_graph):
    graph = random_graph(0)
    start = int(graph.task_start[1])
    graph.edge_first[start, 2] = -1
    graph.edge_count[start, 2] = 0
    with pytest.raises(MissingEdgeError, match=f"task 1, node {start}, action 2"):
        oracle_at_cap(graph, [0, 1], 1e-5)
    oracle_at_cap(graph, [0], 1e-5)
