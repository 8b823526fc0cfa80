"""Small random graphs, and the value of every policy on them by plain enumeration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED, TransitionGraph, edge_dtype
from routegym.graph.recording import Recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.tasks.taskset import TaskSet

Outcomes = set[tuple[float, float]]


def build_graph(
    seed: int, n_tasks: int = 2, depth: int = 3, width: int = 2, n_actions: int = 3, samples: int = 2
) -> TransitionGraph:
    """A random layered graph; costs come from a few values, so that equal sums arise in several orders."""
    rng = np.random.default_rng(seed)
    per_task = depth * width + 3
    graph = TransitionGraph(n_tasks=n_tasks, n_arms=n_actions, n_actions=n_actions, node_signals=1, edge_signals=1)
    prices = 1e-5 * np.array([0.1, 0.2, 0.3, 0.7])
    node, action, rows = [], [], []
    for task in range(n_tasks):
        base = task * per_task
        step = np.concatenate([np.repeat(np.arange(depth), width), [depth] * 3])
        status = np.where(step < depth, OPEN, TERMINATED)
        status[-1] = TRUNCATED
        score = np.full(per_task, np.nan)
        score[-3:] = [0.0, rng.integers(0, 5) / 4, 1.0]
        reserve = np.full((per_task, n_actions), np.nan)
        for here in np.flatnonzero(status == OPEN):
            always = rng.integers(n_actions)  # an open situation has a legal action
            for a in range(n_actions):
                if rng.random() < 0.15 and a != always:
                    continue
                n = int(rng.integers(1, samples + 1))
                cost = rng.choice(prices, size=n)
                reserve[here, a] = np.inf if rng.random() < 0.05 else cost.max() + rng.choice([0.0, 1e-6])
                later = np.flatnonzero(step > step[here])
                for c in cost:
                    near = later[: width * 2] if rng.random() < 0.8 else later
                    record = np.zeros((), dtype=edge_dtype(1))
                    record["next"], record["cost_usd"] = base + rng.choice(near), c
                    record["reserve_usd"] = reserve[here, a]
                    node.append(base + here), action.append(a), rows.append(record)
        graph.append_nodes(
            task=np.full(per_task, task), step=step, status=status, score=score,
            signals=np.zeros((per_task, 1)), reserve_usd=reserve,
        )  # fmt: skip
        graph.task_start[task] = base
    graph.append_edges(node, action, np.array(rows))
    return graph


def all_policies(graph: TransitionGraph, node: int, budget: float, spent: float = 0.0) -> Outcomes:
    """(expected score, expected cost to go) of every deterministic policy that sees the whole history."""
    if graph.node_status[node] != OPEN:
        return {(float(graph.node_score[node]), 0.0)}
    reserve = graph.node_reserve[node]
    legal = [a for a in range(graph.n_actions) if not np.isnan(reserve[a]) and spent + reserve[a] <= budget]
    if not legal:
        return {(0.0, 0.0)}
    found: Outcomes = set()
    for a in legal:
        first, count = int(graph.edge_first[node, a]), int(graph.edge_count[node, a])
        mixes: Outcomes = {(0.0, 0.0)}
        for e in range(first, first + count):
            paid = float(graph.edges["cost_usd"][e])
            after = all_policies(graph, int(graph.edges["next"][e]), budget, spent + paid)
            mixes = {(s + v / count, c + (paid + w) / count) for s, c in mixes for v, w in after}
        found |= {(round(s, 13), round(c, 19)) for s, c in mixes}
    return found


@pytest.fixture
def random_graph() -> Callable[..., TransitionGraph]:
    return build_graph


@pytest.fixture
def enumerate_policies() -> Callable[..., Outcomes]:
    return all_policies


def reference_at_cap(graph: TransitionGraph, node: int, budget: float) -> tuple[float, float, float]:
    """The oracle under a cap by its definition: plain recursion, nothing merged, nothing left out.

    Returns the score, and the least and largest cost of the choices that the definition calls equal.
    """

    def actions(node: int) -> list[int]:
        return [a for a in range(graph.n_actions) if not np.isnan(graph.node_reserve[node, a])]

    def samples(node: int, a: int) -> list[tuple[float, int]]:
        first, count = int(graph.edge_first[node, a]), int(graph.edge_count[node, a])
        return [(float(graph.edges["cost_usd"][e]), int(graph.edges["next"][e])) for e in range(first, first + count)]

    def thrift(node: int, a: int) -> float:
        return float(np.mean([paid + cheapest_end(after) for paid, after in samples(node, a)]))

    def cheapest_end(node: int) -> float:
        legal = actions(node) if graph.node_status[node] == OPEN else []
        return min((thrift(node, a) for a in legal), default=0.0)

    def best(node: int, spent: float) -> tuple[float, float, float, float]:
        if graph.node_status[node] != OPEN:
            return float(graph.node_score[node]), 0.0, 0.0, 0.0
        legal = [a for a in actions(node) if spent + graph.node_reserve[node, a] <= budget]
        if not legal:
            return 0.0, cheapest_end(node), 0.0, 0.0
        found = []
        for a in legal:
            after = [(paid, best(nxt, spent + paid)) for paid, nxt in samples(node, a)]
            score = np.mean([value[0] for _, value in after])
            tie = np.mean([paid + value[1] for paid, value in after])
            low, high = (float(np.mean([paid + value[k] for paid, value in after])) for k in (2, 3))
            found.append((round(float(score), 12), float(tie), low, high, a))
        top = max(value[0] for value in found)
        if top == 0:
            found = [(0.0, thrift(node, a), low, high, a) for _, _, low, high, a in found]
        least = min(value[1] for value in found if value[0] == top)
        equal = [value for value in found if value[0] == top and value[1] <= least * (1 + 1e-9)]
        tie = cheapest_end(node) if top == 0 else least
        return top, tie, min(value[2] for value in equal), max(value[3] for value in equal)

    score, _, low, high = best(node, 0.0)
    return score, low, high


@pytest.fixture
def reference_oracle() -> Callable[..., tuple[float, float, float]]:
    return reference_at_cap


def recording_of(graph: TransitionGraph) -> Recording:
    """A recording around a graph without control actions; all tasks are for training."""
    names = tuple(f"t{i}" for i in range(graph.n_tasks))
    recording = Recording.empty(
        name="toy",
        kind="agent_steps",
        arms=[Arm(f"m{a}", "direct", 1, 8) for a in range(graph.n_arms)],
        controls=(),
        prices=PriceTable("2026-01-01", "toy", {f"m{a}": Price(1, 1, 1, 1) for a in range(graph.n_arms)}),
        tasks=TaskSet(names, names, names, ("train",) * graph.n_tasks),
        node_signal_names=("x",),
        edge_signal_names=("confidence",),
    )
    recording.graph = graph
    recording.texts.extend(["?"] * graph.n_nodes)
    recording.cost_scale_usd = 1e-5
    return recording


@pytest.fixture
def as_recording() -> Callable[[TransitionGraph], Recording]:
    return recording_of
