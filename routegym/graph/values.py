"""Exact evaluation of a fixed choice per situation by dynamic programming over the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingEdgeError
from routegym.graph.graph import OPEN, TransitionGraph

__all__ = ["always_arm_actions", "evaluate_choices", "most_attempts"]


def evaluate_choices(
    graph: TransitionGraph, action: npt.NDArray[Any], worth: npt.NDArray[Any] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Expected final score and cost from every situation when the same action is always taken there.

    No budget applies; the expectation is over the recorded samples, each equally likely.

    Args:
        graph: a complete graph.
        action: integers (n_nodes,), the action taken in each situation (ignored in ended ones).
        worth: what counts in place of the score of each ended situation, (n_nodes,).

    Returns:
        score and cost_usd, float64 (n_nodes,).

    Raises:
        MissingEdgeError: an action was never recorded in an open situation.
    """
    score = np.nan_to_num((graph.node_score if worth is None else worth).astype(np.float64))
    cost = np.zeros(graph.n_nodes)
    open_nodes = np.flatnonzero(graph.node_status == OPEN)
    open_nodes = open_nodes[np.argsort(graph.node_step[open_nodes], kind="stable")]
    steps = graph.node_step[open_nodes]
    layers = np.split(open_nodes, np.flatnonzero(np.diff(steps)) + 1) if len(open_nodes) else []
    for nodes in reversed(layers):
        first = graph.edge_first[nodes, action[nodes]]
        if (first < 0).any():
            node = int(nodes[np.argmax(first < 0)])
            raise MissingEdgeError(
                f"node {node} of task {int(graph.node_task[node])} has no recorded edge for action "
                f"{int(action[node])}; grow the recording with an expander first"
            )
        count = graph.edge_count[nodes, action[nodes]]
        total_score, total_cost = np.zeros(len(nodes)), np.zeros(len(nodes))
        for sample in range(int(count.max())):
            rows = graph.edges[first + np.minimum(sample, count - 1)]
            weight = np.where(sample < count, 1.0 / count, 0.0)
            total_score += weight * score[rows["next"]]
            total_cost += weight * (rows["cost_usd"] + cost[rows["next"]])
        score[nodes], cost[nodes] = total_score, total_cost
    return score, cost


def always_arm_actions(graph: TransitionGraph, arm: int) -> npt.NDArray[np.int64]:
    """The arm everywhere; where there is a control action, one call or one whole attempt and then the first control.

    Where the arm is not legal, the one with the lowest worst case takes its place. An attempt under way goes on,
    whoever's it is.
    """
    running = graph.node_running
    action = np.where(running >= 0, running, arm).astype(np.int64)
    if graph.n_actions > graph.n_arms:
        action[(graph.node_step > 0) & (running < 0)] = graph.n_arms
    barred = np.isnan(graph.node_reserve[:, arm]) & (action == arm) & (graph.node_status == OPEN)
    barred = np.flatnonzero(barred & (running < 0))
    if len(barred):
        reserve = graph.node_reserve[barred, : graph.n_arms]
        reserve = np.where(np.isnan(reserve), np.inf, reserve)
        action[barred] = reserve.argmin(axis=1)
    return action


def most_attempts(graph: TransitionGraph) -> int:
    """Most attempts that a recorded episode begins; a call after which no attempt is under way is one of its own."""
    source, action = graph.edge_sources()
    begins = (action < graph.n_arms) & (graph.node_running[source] != action)
    begun = np.zeros(graph.n_nodes, dtype=np.int64)
    step = graph.node_step[source]
    order = np.argsort(step, kind="stable")
    for edges in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):  # every edge leads to a larger step
        np.maximum.at(begun, graph.edges["next"][edges], begun[source[edges]] + begins[edges])
    return int(begun.max())
