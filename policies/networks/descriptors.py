"""What is known of an arm before it is ever chosen by a policy: its price and how it did on the training tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from routegym.graph.graph import OPEN

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["Descriptors", "describe", "kind_signals"]

_CHEAP = 1e-3  # of the cost scale: where the logarithm of the price takes over from the straight line
_TOKENS = 100.0  # tokens and seconds of a call that are scaled to 1/2
_SECONDS = 1.0


class Descriptors(NamedTuple):
    """Numbers in [0, 1] for every action; of a control action, only `traits`' ``control`` is not 0."""

    traits: npt.NDArray[np.float32]
    """(n_actions, 5): price, accuracy, latency, tokens, control.

    Price is the logarithm of a call's mean cost over the cost scale, latency and tokens are means of a call.
    """
    accuracy: npt.NDArray[np.float32]
    """(n_actions, n_kinds): accuracy by kind of situation, see `kind_signals`."""


def describe(recording: Recording) -> Descriptors:
    """Descriptors of a recording's actions, measured on its training tasks only (all tasks where it has no split).

    The accuracy of an arm is the share of the score within reach that is still within reach after its call: by
    accepting its answer where there is a control action (at the start of a task, where no answer is held yet; where an
    attempt takes several turns, by the whole of it), by the best recorded continuation where there is none. Situations
    from which no recorded route scores do not count.
    """
    graph = recording.graph
    tasks = recording.split("train" if "train" in recording.tasks.splits else "all")
    learned = np.zeros(graph.n_tasks, dtype=bool)
    learned[tasks] = True
    source, action = graph.edge_sources()
    used = learned[graph.node_task[source]] & (action < graph.n_arms)
    arm, calls = action[used], graph.edges[used]

    def mean(of: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        count = np.bincount(arm, minlength=graph.n_arms)
        return np.bincount(arm, weights=of, minlength=graph.n_arms) / np.maximum(count, 1)

    price = mean(calls["cost_usd"]) / recording.cost_scale_usd
    price = np.log1p(price / _CHEAP) / np.log1p(1 / _CHEAP)
    latency, tokens = mean(calls["latency_s"]), mean(calls["tokens"].sum(axis=1))

    kinds = kind_signals(recording.node_signal_names, graph.node_signals[graph.node_status == OPEN])
    held, reach = _within_reach(recording, learned)
    accuracy = np.zeros((graph.n_actions, len(kinds)), dtype=np.float32)
    traits = np.zeros((graph.n_actions, 5), dtype=np.float32)
    for index in range(graph.n_arms):
        nodes = np.flatnonzero(~np.isnan(held[:, index]) & (reach > 0))
        kept = held[nodes, index]
        traits[index, 1] = kept.sum() / max(reach[nodes].sum(), 1e-9)
        is_kind = graph.node_signals[nodes][:, kinds]
        accuracy[index] = (kept @ is_kind) / np.maximum(reach[nodes] @ is_kind, 1e-9)
    traits[: graph.n_arms, 0] = np.minimum(price, 1.0)
    traits[: graph.n_arms, 2] = latency / (latency + _SECONDS)
    traits[: graph.n_arms, 3] = tokens / (tokens + _TOKENS)
    traits[graph.n_arms :, 4] = 1.0
    return Descriptors(traits, accuracy)


def kind_signals(names: Sequence[str], signals: npt.NDArray[np.float32]) -> list[int]:
    """Columns of the node signals that tell the kind of a situation.

    That is the first group of signals with a common beginning (``level_add1``, ``level_mul3``, ...) of which exactly
    one is 1 in every open situation; none where there is no such group.

    Args:
        names: of the node signals.
        signals: float32 (n, len(names)), of open situations.
    """
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        beginning, mark, _ = name.partition("_")
        if mark:
            groups.setdefault(beginning, []).append(column)
    for columns in groups.values():
        part = signals[:, columns]
        if len(columns) > 1 and ((part == 0) | (part == 1)).all() and (part.sum(axis=1) == 1).all():
            return columns
    return []


def _within_reach(
    recording: Recording, learned: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Score within reach after each arm's call and before it, where the two are compared.

    Returns:
        float64 (n_nodes, n_arms), NaN where an arm was not recorded or nothing is compared; float64 (n_nodes,).
    """
    graph = recording.graph
    source, action = graph.edge_sources()
    following = graph.edges["next"]
    reach = np.nan_to_num(graph.node_score.astype(np.float64))
    held = np.full((graph.n_nodes, graph.n_actions), np.nan)
    steps = graph.node_step[source]
    order = np.argsort(steps, kind="stable")
    for edges in reversed(np.split(order, np.flatnonzero(np.diff(steps[order])) + 1)):
        place = source[edges].astype(np.int64) * graph.n_actions + action[edges]
        cells, inverse, count = np.unique(place, return_inverse=True, return_counts=True)
        held.reshape(-1)[cells] = np.bincount(inverse, weights=reach[following[edges]]) / count
        nodes = np.unique(source[edges])
        best = np.fmax.reduce(held[nodes], axis=1)
        # One call or one whole attempt, and then the control.
        goes_on = np.where(graph.node_running[nodes] >= 0, graph.node_running[nodes], graph.n_arms)
        accepted = held[nodes, goes_on] if recording.controls else np.full(len(nodes), np.nan)
        reach[nodes] = np.where(np.isnan(accepted) | (graph.node_step[nodes] == 0), best, accepted)
    compared = learned[graph.node_task] & (graph.node_status == OPEN)
    if recording.controls:
        compared &= graph.node_step == 0
    return np.where(compared[:, None], held[:, : graph.n_arms], np.nan), reach
