"""Graphs small enough to know every number of them."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
import numpy.typing as npt
import pytest
from helpers import Edge, hand_made

from routegym.errors import MissingEdgeError, RecordingError
from routegym.graph import OPEN, Recording, always_arm_actions, edge_dtype, evaluate_choices
from routegym.graph.pricing import edge_costs, worst_case_usd
from routegym.graph.values import most_attempts
from routegym.pool.arms import Arm, Price, PriceTable


def two_steps(**settings: Any) -> Recording:
    """Start -> (arm 0: half-way | arm 1: half-way or solved) -> solved or failed."""
    return hand_made(
        [(0, None), (1, None), (2, 0.0), (2, 1.0)],
        [
            Edge(0, 0, 1, 2), Edge(0, 1, 1, 3), Edge(0, 1, 3, 5),
            Edge(1, 0, 2, 2), Edge(1, 1, 3, 4),
        ],
        **settings,
    )  # fmt: skip


def test_numbers_of_a_graph_by_hand() -> None:
    graph = two_steps().graph
    assert (graph.n_nodes, graph.n_edges, graph.max_samples, graph.complete) == (4, 5, 2, True)
    assert graph.edge_first.tolist() == [[0, 1], [3, 4], [-1, -1], [-1, -1]]
    assert graph.edge_count.tolist() == [[1, 2], [1, 1], [0, 0], [0, 0]]
    assert graph.edges["cost_usd"] == pytest.approx(np.array([2, 6, 10, 2, 8]) * 1e-6)
    assert graph.node_reserve[:2] == pytest.approx(np.array([[10, 20], [10, 20]]) * 1e-6)
    assert np.isnan(graph.node_reserve[2:]).all()
    assert graph.node_floor == pytest.approx(np.array([10e-6, 10e-6, np.inf, np.inf]))
    assert graph.arm_floor(np.array([0, 2])) == pytest.approx(np.array([10e-6, np.inf]))
    source, action = graph.edge_sources()
    assert (source.tolist(), action.tolist()) == ([0, 0, 0, 1, 1], [0, 1, 1, 0, 1])
    assert graph.nbytes == sum(
        a.nbytes
        for a in (graph.nodes, graph.node_signals, graph.node_reserve, graph.edge_first, graph.edge_count, graph.edges)
    )  # fmt: skip


def test_values_of_fixed_choices_are_expectations_over_samples() -> None:
    graph = two_steps().graph
    score, cost = evaluate_choices(graph, always_arm_actions(graph, 1))
    # arm 1 at the start: half the time 6e-6 and then 8e-6 more, half the time 10e-6; always solved
    assert (score[0], cost[0]) == (1.0, pytest.approx(0.5 * (6e-6 + 8e-6) + 0.5 * 10e-6))
    score, cost = evaluate_choices(graph, always_arm_actions(graph, 0))
    assert (score[0], cost[0]) == (0.0, pytest.approx(4e-6))
    mixed = np.array([1, 0, 0, 0])
    score, cost = evaluate_choices(graph, mixed)
    assert (score[0], cost[0]) == (0.5, pytest.approx(0.5 * 8e-6 + 0.5 * 10e-6))


def test_always_one_arm_is_one_whole_attempt() -> None:
    """Arm 0 answers in two turns, then ``stop``; arm 1, of which there is no attempt, gives way to the cheapest."""
    nodes = [(0, None), (1, None), (2, None), (3, 0.0), (3, 1.0)]
    edges = [Edge(0, 0, 1, 2), Edge(0, 2, 3), Edge(1, 0, 2, 3), Edge(1, 2, 3), Edge(2, 2, 3)]
    recording = hand_made(nodes, edges, controls=("stop",), complete=False)
    graph = recording.graph
    graph.nodes["running"][1] = 0
    graph.node_reserve[np.isinf(graph.node_reserve)] = np.nan
    for arm in (0, 1):
        assert always_arm_actions(graph, arm)[:3].tolist() == [0, 0, 2]
        score, cost = evaluate_choices(graph, always_arm_actions(graph, arm))
        assert (score[0], cost[0]) == (0.0, pytest.approx(5e-6))
    solved, _ = evaluate_choices(graph, always_arm_actions(graph, 0), np.array([0, 0, 0, 0.5, 1.0]))
    assert solved[0] == 0.5
    assert most_attempts(graph) == 1


def test_nobody_takes_over_where_an_attempt_is_the_last() -> None:
    graph = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1), Edge(0, 1, 1)]).graph
    nodes = graph.append_nodes(
        task=[0, 0, 0], step=[1, 1, 1], status=[OPEN] * 3, score=[np.nan] * 3, signals=np.zeros((3, 1)),
        reserve_usd=[[3.0, 2.0]] * 3, running=[0, 1, 0], last=[1, 1, 0],
    )  # fmt: skip
    legal = ~np.isnan(graph.node_reserve[nodes])
    assert legal.tolist() == [[True, False], [False, True], [True, True]]
    assert graph.node_floor[nodes].tolist() == [3.0, 2.0, 2.0]
    assert graph.node_last[nodes].tolist() == [1, 1, 0]


def test_scales() -> None:
    """Cost scale: the dearest arm's mean; budgets: from the cheapest first call to 1.25 x the dearest, at worst."""
    recording = two_steps()
    assert recording.cost_scale_usd == pytest.approx(12e-6)
    assert recording.budget_range_usd == pytest.approx((10e-6, 1.25 * 20e-6))
    assert recording.split("train").tolist() == [0]


def test_scales_of_training_tasks_only() -> None:
    nodes = [(0, None), (1, 1.0), (0, None), (1, 1.0)]
    edges = [Edge(0, 0, 1, 1), Edge(0, 1, 1, 2), Edge(2, 0, 3, 9), Edge(2, 1, 3, 9)]
    recording = hand_made(nodes, edges, splits=("train", "test"), task_of=[0, 0, 1, 1])
    assert recording.cost_scale_usd == pytest.approx(4e-6)


def test_scales_of_what_is_not_complete_come_from_first_calls() -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1, 1)], complete=False)
    assert recording.cost_scale_usd == pytest.approx(10e-6)
    assert recording.budget_range_usd == pytest.approx((10e-6, 10e-6))


@pytest.mark.parametrize("limits", [(None, None), (10, None)])
def test_unknown_worst_cases_leave_the_scales_finite(limits: tuple[int | None, ...], tmp_path: Any) -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1, 1), Edge(0, 1, 1, 1)], limits=limits)
    assert np.isfinite([recording.cost_scale_usd, *recording.budget_range_usd]).all()
    again = Recording.load(recording.save(tmp_path / "r"))
    assert again.budget_range_usd == recording.budget_range_usd


def test_free_arms_leave_a_range_that_can_be_sampled() -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1, 0), Edge(0, 1, 1, 3)], limits=(10, 10))
    low, high = recording.budget_range_usd
    assert 0 < low <= high


def test_missing_edges_are_named() -> None:
    graph = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1)], complete=False).graph
    assert not graph.complete
    with pytest.raises(MissingEdgeError, match=r"node 0 of task 0 has no recorded edge for action 1"):
        evaluate_choices(graph, always_arm_actions(graph, 1))


def test_growing_keeps_what_was_there() -> None:
    recording, expander = helpers.start("agent_steps", tasks=8)
    graph = recording.graph
    assert graph.n_nodes == 8
    expander.expand([0, 1], [0, 2])
    edges, first, version = graph.edges.copy(), graph.edge_first[:8].copy(), graph.version
    expander.expand(np.arange(8), np.ones(8, dtype=int))
    assert graph.version > version
    assert helpers.same(graph.edges[:2], edges)
    assert np.array_equal(graph.edge_first[:8, [0, 2]], first[:, [0, 2]])
    assert (graph.edge_first[:8, 1] >= 0).all()
    expander.expand(np.arange(8), np.ones(8, dtype=int))  # nothing is missing any more
    assert graph.n_edges == 10
    assert (graph.node_status[graph.task_start] == OPEN).all()


def test_unknown_split_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"no task in split 'exam'; its splits are \['train'\]"):
        two_steps().split("exam")


# -- prices ------------------------------------------------------------------------------------
TABLE = PriceTable("2026-01-01", "made up", {"m": Price(2.0, 3.0, 5.0, 7.0), "free": Price(0, 0, 0, 0)})


def test_worst_case_takes_the_dearer_price_of_each_pair() -> None:
    arm = Arm("m", "t", 1, 10)
    assert worst_case_usd(TABLE, arm, np.array([4.0])) == pytest.approx((4 * 3 + 10 * 7) * 1e-6)
    assert worst_case_usd(TABLE, Arm("m", "t", 1, None), np.array([4.0])).tolist() == [np.inf]


def taking(tokens: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Edges that took these tokens and lost none."""
    records = np.zeros(len(tokens), dtype=edge_dtype(0))
    records["tokens"] = tokens
    return records


def test_costs_by_token_kind() -> None:
    tokens = np.array([[1, 2, 3, 4], [1, 0, 0, 0], [9, 9, 9, 9]])
    cost, reserve = edge_costs(TABLE, [Arm("m", "t", 1, 10)], np.array([0, 0, 1]), taking(tokens))
    assert cost == pytest.approx(np.array([2 + 6 + 15 + 28, 2, 0]) * 1e-6)  # action 1 is a control: free
    assert reserve == pytest.approx(np.array([3 * 3 + 70, 3 + 70, 0]) * 1e-6)


def test_cost_never_exceeds_the_worst_case_by_rounding() -> None:
    """A call that takes all it may take costs its worst case to the last bit, whatever the prices."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        p, c = rng.random(2)
        table = PriceTable("d", "n", {"m": Price(p, p, c, c)})
        arm = Arm("m", "t", 1, 12)
        tokens = np.stack([rng.integers(0, 50, 40), rng.integers(0, 50, 40), *rng.multinomial(12, [0.5, 0.5], 40).T], 1)
        cost, reserve = edge_costs(table, [arm], np.zeros(40, dtype=int), taking(tokens))
        worst = worst_case_usd(table, arm, tokens[:, :2].sum(axis=1).astype(float))
        assert (cost <= worst).all()
        assert np.array_equal(reserve, worst)
        assert cost == pytest.approx(worst)
