"""A teacher for routers: the action with the best recorded outcome that the budget pays for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from routegym.graph.graph import OPEN

if TYPE_CHECKING:
    from routegym.integrations.trl import RouterEnvironment

__all__ = ["best_action"]

_TIE = 1e-6  # the least price of cost: of equal scores the cheaper is the better
_GRID = 2**-40  # amounts spent are the same if they differ by less than this share of the budget


def best_action(episode: RouterEnvironment) -> int:
    """The first action of the cheapest route that wins the task, if that is worth its price and can be paid for.

    The route is that of the clairvoyant optimum of ``score - lambda * cost / cost_scale`` under the hard budget, by the
    environment's own rule (an action is legal if spent + worst case <= budget). It knows what every arm would have
    answered (of several recorded samples the mean), which a router cannot see: imitate it to learn how often an arm
    is enough, not how to be right.
    Where nothing can be won it loses as cheaply as it can.

    Args:
        episode: an open one, on a recording that is complete for its task.
    """
    env = episode.vector
    graph, budget = episode.recording.graph, float(env.ledger.budget_usd[0])
    price = max(episode.lambda_, _TIE) / episode.recording.cost_scale_usd
    grain = budget * _GRID if np.isfinite(budget) else np.inf
    known: dict[tuple[int, int], tuple[float, int]] = {}

    def best(node: int, spent: float) -> tuple[float, int]:
        """What is still to be won from here, and by which action (-1: by none)."""
        if graph.node_status[node] != OPEN:
            return float(graph.node_score[node]), -1
        place = (node, round(spent / grain))
        if place not in known:
            found = (0.0, -1)
            legal = np.flatnonzero(spent + graph.node_reserve[node] <= budget).tolist()
            for action in sorted(legal, key=lambda one: float(graph.node_reserve[node, one])):
                first, count = int(graph.edge_first[node, action]), int(graph.edge_count[node, action])
                samples = graph.edges[first : first + count]
                values = [
                    best(int(edge["next"]), spent + float(edge["cost_usd"]))[0] - price * float(edge["cost_usd"])
                    for edge in samples
                ]
                value = sum(values) / count
                if found[1] < 0 or value > found[0] + 1e-12:
                    found = (value, action)
            known[place] = found
        return known[place]

    return best(int(env.node[0]), float(env.ledger.spent_usd[0]))[1]
