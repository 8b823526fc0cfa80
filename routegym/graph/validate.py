"""What every recording must satisfy, checked when it is saved and when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import RecordingError
from routegym.graph.graph import OPEN, TRUNCATED

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["validate_graph"]


def validate_graph(recording: Recording, where: str | None = None) -> None:
    """Check the whole graph with array operations.

    Args:
        where: what the messages call the recording, its name by default.

    Raises:
        RecordingError: naming the table, the field, the row, its value and the remedy.
    """
    graph = recording.graph
    where = where or recording.name
    nodes, edges = graph.nodes, graph.edges

    def refuse(bad: npt.NDArray[np.bool_], table: str, name: str, values: Any, expected: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise RecordingError(
                f"{where}, {table}, row {row}: {name} = {values[row]!s}; expected {expected}; "
                f"{int(bad.sum())} row(s) are like this; correct them or record them again"
            )

    # nodes
    task = nodes["task"]
    refuse((task < 0) | (task >= graph.n_tasks), "nodes", "task", task, f"a task index below {graph.n_tasks}")
    status = nodes["status"]
    refuse(status > TRUNCATED, "nodes", "status", status, "0 (open), 1 (terminated) or 2 (truncated)")
    is_open = status == OPEN
    score = nodes["score"]
    refuse(
        ~is_open & ~((score >= 0) & (score <= 1)),
        "nodes",
        "score",
        score,
        "a score in [0, 1] of an ended situation",
    )
    refuse(is_open & ~np.isnan(score), "nodes", "score", score, "NaN while the situation is open")
    step = nodes["step"]
    refuse(step < 0, "nodes", "step", step, "no negative number of calls")
    if len(recording.texts) != graph.n_nodes:
        raise RecordingError(
            f"{where}, nodes: {len(recording.texts)} texts for {graph.n_nodes} situations; give every one a text"
        )
    running = nodes["running"]
    refuse(
        (running < -1) | (running >= graph.n_arms), "nodes", "running", running, f"-1 or an arm below {graph.n_arms}"
    )
    last = nodes["last"]
    refuse((last > 0) & (running < 0), "nodes", "last", last, "0 where no attempt is under way")
    signals = graph.node_signals
    for column, name in enumerate(recording.node_signal_names):
        value = signals[:, column]
        refuse(~((value >= 0) & (value <= 1)), "nodes", f"signal {name}", value, "a number in [0, 1]")

    # tasks
    start = graph.task_start
    refuse((start < 0) | (start >= graph.n_nodes), "tasks", "start", start, f"a node below {graph.n_nodes}")
    refuse(task[start] != np.arange(graph.n_tasks), "tasks", "start", start, "a node of the same task")
    refuse(~is_open[start], "tasks", "start", start, "an open situation")

    # edges
    source, action = graph.edge_sources()
    if len(source) != graph.n_edges:
        raise RecordingError(
            f"{where}, edges: {graph.n_edges - len(source)} row(s) repeat a (node, action) that stands elsewhere; "
            "samples of one (node, action) must stand together; sort or deduplicate the edges"
        )
    target = edges["next"]
    refuse((target < 0) | (target >= graph.n_nodes), "edges", "next", target, f"a node below {graph.n_nodes}")
    refuse(~is_open[source], "edges", "node", source, "an open situation: nothing can be chosen in an ended one")
    refuse(task[target] != task[source], "edges", "next", target, "a situation of the same task")
    refuse(
        step[target] <= step[source],
        "edges",
        "next",
        target,
        "a situation with a larger step: otherwise the graph has a cycle",
    )
    tokens = edges["tokens"]
    refuse(np.any(tokens < 0, axis=1), "edges", "tokens", tokens, "no negative number of tokens")
    lost, fallback = edges["lost"], edges["fallback"]
    refuse(np.any(lost < 0, axis=1), "edges", "lost tokens", lost, "no negative number of tokens")
    refuse((fallback < 0) | (fallback > graph.n_arms), "edges", "fallback", fallback, f"0 or 1 to {graph.n_arms}")
    for name in ("cost_usd", "flops", "latency_s", "gpu_s", "charge_usd"):
        value = edges[name]
        refuse(~(np.isfinite(value) & (value >= 0)), "edges", name, value, "a finite number >= 0")
    limits = np.array([np.inf if a.max_completion_tokens is None else a.max_completion_tokens for a in recording.arms])
    served = np.where(fallback > 0, fallback - 1, np.minimum(action, len(recording.arms)))
    limits = np.append(limits, 0.0)[served]
    generated = tokens[:, 2] + tokens[:, 3]
    refuse(generated > limits, "edges", "completion + reasoning tokens", generated, "at most the arm's limit")
    most = np.append([a.max_charge_usd for a in recording.arms], 0.0)[np.minimum(action, len(recording.arms))]
    refuse(edges["charge_usd"] > most, "edges", "charge_usd", edges["charge_usd"], "at most the arm's max_charge_usd")
    value = edges["signals"]
    for column, name in enumerate(recording.edge_signal_names):
        seen = value[:, column]
        refuse(~((seen >= 0) & (seen <= 1)), "edges", f"signal {name}", seen, "a number in [0, 1]")

    # connections
    reached = np.zeros(graph.n_nodes, dtype=bool)
    reached[start] = True
    reached[target] = True
    index = np.arange(graph.n_nodes)
    refuse(~reached, "nodes", "node", index, "a situation that some edge leads to, or a task's start")
    if recording.provenance.get("complete"):
        stuck = is_open & ((graph.edge_first < 0) & ~np.isnan(graph.node_reserve)).any(axis=1)
        refuse(
            stuck,
            "nodes",
            "node",
            index,
            "an edge for every arm of an open situation (meta.json says complete)",
        )
