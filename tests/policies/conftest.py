"""A small recording whose every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from routegym.graph.graph import OPEN, TERMINATED, edge_dtype
from routegym.graph.recording import Recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.tasks.taskset import TaskSet

ARMS = ("large", "small", "medium")
COST = np.array([8.0, 1.0, 3.0])
RESERVE = np.array([10.0, 2.0, 4.0])
CALLS = 3


def toy_recording(confidences: tuple[float, ...] = (0.9, 0.2, 0.6), control: bool = False) -> Recording:
    """Four equal tasks of three calls.

    A situation is the number of calls, how many of them the large arm made, and who made the last one; the
    score is the share of calls by the large arm. An answer's confidence is that of its arm. With `control`
    there is ``accept``, legal anywhere and free, which ends an episode with the same score.
    """
    n_tasks, n_arms, n_actions = 4, 3, 3 + control
    names = tuple(f"t{i}" for i in range(n_tasks))
    recording = Recording.empty(
        name="toy",
        kind="cascade" if control else "agent_steps",
        arms=[Arm(name, "direct", 1, 8) for name in ARMS],
        controls=("accept",) if control else (),
        prices=PriceTable("2026-01-01", "toy", {name: Price(1, 1, 1, 1) for name in ARMS}),
        tasks=TaskSet(names, names, names, ("train", "train", "val", "test")),
        node_signal_names=("x",),
        edge_signal_names=("valid", "confidence"),
    )
    graph = recording.graph
    reserve = np.append(RESERVE, 0.0)[:n_actions]
    for task in range(n_tasks):
        number: dict[tuple[int, int, int], int] = {}
        places = [(0, 0, -1)]  # calls, calls by the large arm, last arm
        places += [(k, large, a) for k in range(1, CALLS + 1) for large in range(k + 1) for a in range(n_arms)]
        base = graph.n_nodes
        for calls, large, _ in places:
            number[calls, large, _] = graph.n_nodes
            ended = calls == CALLS
            graph.append_nodes(
                task=[task], step=[calls], status=[TERMINATED if ended else OPEN],
                score=[large / CALLS if ended else np.nan], signals=[[0.5]],
                reserve_usd=[np.full(n_actions, np.nan) if ended else reserve],
            )  # fmt: skip
        ends = []
        for large in range(CALLS + 1) if control else ():
            ends += graph.append_nodes(
                task=[task], step=[CALLS + 1], status=[TERMINATED], score=[large / CALLS],
                signals=[[0.5]], reserve_usd=[np.full(n_actions, np.nan)],
            ).tolist()  # fmt: skip
        rows, node, action = [], [], []
        for (calls, large, _), here in number.items():
            for a in range(n_actions) if calls < CALLS else ():
                record = np.zeros((), dtype=edge_dtype(2))
                if a < n_arms:
                    record["next"] = number[calls + 1, large + (a == 0), a]
                    record["cost_usd"], record["reserve_usd"] = COST[a], RESERVE[a]
                    record["signals"] = 1.0, confidences[a]
                else:
                    record["next"] = ends[large]
                node.append(here), action.append(a), rows.append(record)
        graph.append_edges(node, action, np.array(rows))
        graph.task_start[task] = base
    recording.texts.extend(["?"] * graph.n_nodes)
    recording.cost_scale_usd = 24.0
    recording.budget_range_usd = (3.0, 26.0)
    return recording


@pytest.fixture
def toy() -> Callable[..., Recording]:
    return toy_recording
