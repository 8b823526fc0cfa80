"""Recordings with fewer arms: a smaller or reordered pool, or another part of the pool for every training task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, PoolError
from routegym.graph.graph import TransitionGraph
from routegym.graph.recording import Recording, Texts
from routegym.graph.validate import validate_graph

__all__ = ["arm_signals", "keep_actions", "keep_arms", "vary_arms"]


def keep_arms(recording: Recording, names: Sequence[str], *, keep_scales: bool = True) -> Recording:
    """The recording as it would be if the pool had only these arms, in this order.

    Control actions stay. Node signals that belong to an arm (see `arm_signals`) go with it. The result is a complete
    recording if the given one is.

    Args:
        recording: is left as it is.
        names: names of the arms to keep; their order is the order of the new pool.
        keep_scales: keep `cost_scale_usd` and `budget_range_usd`, so that observations and rewards mean the same as
            before and a policy can be carried over; only the lowest budget is raised where it no longer pays for a
            first call. False fixes them anew, as for a recording of its own.

    Raises:
        PoolError: there is no such arm, one is named twice, or none is named; or a task would have no legal action.
    """
    names = tuple(names)
    known = [arm.name for arm in recording.arms]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PoolError(f"{recording.name}: no arm {unknown[0]!r}; expected some of {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise PoolError(f"{recording.name}: arms to keep = {list(names)}; name at least one arm, and each only once")
    for arm in recording.arms:
        if arm.name in names and arm.fallback is not None and arm.fallback not in names:
            raise PoolError(f"{recording.name}: arm {arm.name} falls back to {arm.fallback}; keep that one, too")
    n_arms = recording.graph.n_arms
    start = recording.graph.node_reserve[recording.graph.task_start]
    mine = [*map(known.index, names), *range(n_arms, recording.graph.n_actions)]
    stuck = int(np.isnan(start[:, mine]).all(axis=1).sum())
    if stuck:
        raise PoolError(
            f"{recording.name}: {stuck:,} of {len(start):,} tasks were recorded with none of the arms "
            f"{', '.join(names)}; keep others, too"
        )
    actions = np.array(mine)
    columns = _signal_columns(recording, names)
    graph, texts = _part(recording, np.ones(recording.graph.node_reserve.shape, dtype=bool), actions, columns)
    smaller = replace(
        recording,
        arms=tuple(recording.arms[known.index(name)] for name in names),
        graph=graph,
        texts=texts,
        node_signal_names=tuple(recording.node_signal_names[column] for column in columns),
        provenance=recording.provenance | {"kept_arms": list(names), "kept_from": _source(recording)},
        content_hash="",
    )
    if keep_scales:
        _raise_lowest_budget(smaller)
    else:
        smaller.fix_scales()
    validate_graph(smaller)
    return smaller


def vary_arms(recording: Recording, drop: float = 0.5, split: str = "train", seed: int = 0) -> Recording:
    """The recording with another part of the pool for every task of a split, to train for pools yet unknown.

    Each arm but the cheapest is taken from a task with probability `drop`, in all its situations: it is masked there,
    as an arm is that cannot be paid for. Pool, columns and scales stay, so what is learned here is a policy for
    `recording`. It is meant for training: in a file, a masked arm is one that was not recorded.

    Args:
        recording: is left as it is.
        drop: probability in [0, 1).
        split: whose tasks are varied; the others stay whole.
        seed: draws the parts.

    Raises:
        ConfigError: `drop` is not in [0, 1).
    """
    if not 0 <= drop < 1:
        raise ConfigError(f"drop = {drop}; expected a probability in [0, 1)")
    graph = recording.graph
    rng = np.random.default_rng(seed)
    tasks = recording.split(split)
    kept = np.ones((graph.n_tasks, graph.n_actions), dtype=bool)
    kept[tasks, : graph.n_arms] = rng.random((len(tasks), graph.n_arms)) >= drop
    first = graph.node_reserve[graph.task_start[tasks], : graph.n_arms]
    kept[tasks, np.where(np.isnan(first), np.inf, first).argmin(axis=1)] = True
    varied = keep_actions(recording, kept[graph.node_task])
    varied.provenance |= {"varied_arms": {"drop": drop, "split": split, "seed": seed}}
    return varied


def keep_actions(recording: Recording, legal: npt.NDArray[np.bool_]) -> Recording:
    """The recording as it would be if in every situation only some actions were legal.

    Pool, columns and scales stay. It is meant for training and comparing: in a file, an action that is masked is one
    that was not recorded.

    Args:
        recording: is left as it is.
        legal: bool (n_nodes, n_actions); what is not recorded, or not legal, stays so.
    """
    columns = list(range(len(recording.node_signal_names)))
    part, texts = _part(recording, legal, np.arange(recording.graph.n_actions), columns)
    kept = replace(
        recording,
        graph=part,
        texts=texts,
        provenance=recording.provenance | {"kept_from": _source(recording), "complete": False},
        content_hash="",
    )
    _raise_lowest_budget(kept)
    validate_graph(kept)
    return kept


def arm_signals(node_signal_names: Sequence[str], arms: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Node signals that come once per arm: those called ``something_<arm name>`` for every arm.

    Returns:
        For each such ``something`` its columns in the order of `arms`.
    """
    found: dict[str, dict[str, int]] = {}
    for column, name in enumerate(node_signal_names):
        owner = max((arm for arm in arms if name.endswith(f"_{arm}")), key=len, default=None)
        if owner is not None:
            found.setdefault(name.removesuffix(f"_{owner}"), {})[owner] = column
    return {what: tuple(columns[arm] for arm in arms) for what, columns in found.items() if columns.keys() == set(arms)}


def _part(
    recording: Recording, legal: npt.NDArray[np.bool_], actions: npt.NDArray[np.int64], columns: Sequence[int]
) -> tuple[TransitionGraph, Texts]:
    """The legal edges of these actions in this order, and the nodes that they still reach.

    Args:
        legal: bool (n_nodes, n_actions of `recording`).
        actions: which actions stay, and their new order.
        columns: which node signals stay, and their new order.
    """
    graph = recording.graph
    place = np.full(graph.n_actions, -1)
    place[actions] = np.arange(len(actions))
    source, action = graph.edge_sources()
    kept = legal[source, action] & (place[action] >= 0)
    reached = _reached(graph, source, kept)
    edges = np.flatnonzero(kept & reached[source])
    edges = edges[np.lexsort((place[action[edges]], source[edges]))]  # stable: samples keep their order
    nodes = np.flatnonzero(reached)
    number = np.full(graph.n_nodes, -1, dtype=np.int32)
    number[nodes] = np.arange(len(nodes))

    part = TransitionGraph(
        n_tasks=graph.n_tasks,
        n_arms=graph.n_arms - (graph.n_actions - len(actions)),
        n_actions=len(actions),
        node_signals=len(columns),
        edge_signals=graph.edges["signals"].shape[1],
        nodes=len(nodes),
    )
    rows = graph.nodes[nodes]
    part.append_nodes(
        task=rows["task"],
        step=rows["step"],
        status=rows["status"],
        score=rows["score"],
        signals=graph.node_signals[nodes][:, columns],
        reserve_usd=np.where(legal, graph.node_reserve, np.nan)[nodes][:, actions],
        running=np.append(place, -1)[rows["running"]],
        last=rows["last"],
    )
    part.task_start[:] = number[graph.task_start]
    records = graph.edges[edges]
    records["next"] = number[records["next"]]
    records["fallback"] = np.append(0, place + 1)[records["fallback"]]
    part.append_edges(number[source[edges]], place[action[edges]], records)
    return part, Texts(recording.texts.arrow().take(nodes))


def _reached(
    graph: TransitionGraph, source: npt.NDArray[np.int32], kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """bool (n_nodes,): what the kept edges lead to from the starts of the tasks."""
    reached = np.zeros(graph.n_nodes, dtype=bool)
    reached[graph.task_start] = True
    edges = np.flatnonzero(kept)
    step = graph.node_step[source[edges]]
    edges = edges[np.argsort(step, kind="stable")]
    for layer in np.split(edges, np.flatnonzero(np.diff(np.sort(step))) + 1):  # every edge leads to a larger step
        layer = layer[reached[source[layer]]]
        reached[graph.edges["next"][layer]] = True
    return reached


def _signal_columns(recording: Recording, names: Sequence[str]) -> list[int]:
    """Columns of the node signals of a pool of these arms: those per arm in its order, in the places they have."""
    known = [arm.name for arm in recording.arms]
    columns: list[int] = list(range(len(recording.node_signal_names)))
    for group in arm_signals(recording.node_signal_names, known).values():
        ordered = [group[known.index(name)] for name in names]
        first = min(columns.index(column) for column in group)
        columns = [column for column in columns if column not in group]
        columns[first:first] = ordered
    return columns


def _raise_lowest_budget(recording: Recording) -> None:
    floors = recording.graph.arm_floor(recording.graph.task_start)
    low, high = recording.budget_range_usd
    low = max(low, float(floors[np.isfinite(floors)].max(initial=0.0)))
    recording.budget_range_usd = (low, max(low, high))


def _source(recording: Recording) -> dict[str, Any]:
    return {"name": recording.name, "content_hash": recording.content_hash}
