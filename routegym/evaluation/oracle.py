"""What the best sequence of choices would have scored: exact dynamic programming over the graph.

The oracle is clairvoyant at the level of situations: it knows every edge, score and cost of the graph, but
not which of several recorded samples a call will return, so it maximises the expectation over them. No policy
that sees only the observation can beat it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.errors import BudgetError, MissingEdgeError, TaskError

if TYPE_CHECKING:
    from routegym.graph.graph import TransitionGraph

__all__ = ["oracle_at_cap", "oracle_at_lambda", "oracle_frontier"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]

#: Two expectations closer than this (relative to the size of the objective) count as a tie.
_TIE = 1e-12
#: Amounts spent are merged on a grid of budget * 2**-_GRID_BITS, about 4e-12 of the budget.
_GRID_BITS = 38
#: Tasks solved together under a cap; bounds the memory for (node, spent) pairs.
_TASKS_AT_ONCE = 64


def oracle_at_cap(graph: TransitionGraph, tasks: npt.ArrayLike, budget_usd: float) -> tuple[_Floats, _Floats]:
    """Best expected score of each task under a hard cap, and the expected cost of getting it.

    Dynamic programming over the reachable (node, spent) pairs with the rules of the environment: an action is
    legal iff ``spent + reserve <= budget`` in float64, and an open node without a legal action ends with
    score 0. Ties go to the least expected cost. Where no score can be won any more, the oracle takes the
    choices that would end the episode most cheaply without the cap, and running out of money early counts as
    no saving in ties (it never goes bankrupt on purpose); the cost returned is what is really paid.

    Amounts spent that differ only by the order of summation are merged on a grid of about 4e-12 of the
    budget. This stays exact: each merged pair carries the smallest and the largest amount in it, float64
    addition is monotone, and the result is used only if both ends agree in every comparison with the budget.
    Tasks where they disagree (the budget lies within rounding of a sum of costs) are solved again with equal
    floats merged only. Costs to go are summed from the edges, never from the grid.

    Args:
        graph: a complete graph (every legal action recorded).
        tasks: indices of tasks, int[n].
        budget_usd: cap of each task in USD, >= 0; ``inf`` = no cap.

    Returns:
        (score, cost_usd), both float64[n], in the order of `tasks`.

    Raises:
        BudgetError: the budget is NaN or negative.
        TaskError: a task index is out of range.
        MissingEdgeError: a legal action of these tasks was never recorded.
    """
    if math.isnan(budget_usd) or budget_usd < 0:
        raise BudgetError(f"budget_usd = {budget_usd!r}; expected a number of USD >= 0, or inf for no cap")
    chosen, inverse = _check_tasks(graph, tasks)
    part = _Part.of(graph, chosen)
    if math.isinf(budget_usd):
        plan = part.solve(np.ones(len(chosen)), np.zeros(len(chosen)))
        return plan.score[part.start][inverse], plan.cost[part.start][inverse]
    problem = _Capped(part, float(budget_usd))
    score = np.empty(len(chosen))
    cost = np.empty(len(chosen))
    for first in range(0, len(chosen), _TASKS_AT_ONCE):
        block = np.arange(first, min(first + _TASKS_AT_ONCE, len(chosen)))
        score[block], cost[block], unsure = problem.solve(block, merge_rounding=True)
        if unsure.any():
            again = block[unsure]
            score[again], cost[again], _ = problem.solve(again, merge_rounding=False)
    return score[inverse], cost[inverse]


def oracle_at_lambda(graph: TransitionGraph, tasks: npt.ArrayLike, lambda_usd: float) -> tuple[_Floats, _Floats]:
    """Best policy of each task for ``score - lambda_usd * cost_usd``, without a cap.

    Among policies of equal value the cheapest counts.

    Args:
        graph: a complete graph (every legal action recorded).
        tasks: indices of tasks, int[n].
        lambda_usd: score that one USD is worth, finite and >= 0.

    Returns:
        (score, cost_usd), both float64[n]: expectations under the best policy, in the order of `tasks`.

    Raises:
        BudgetError: lambda is NaN, infinite or negative.
        TaskError: a task index is out of range.
        MissingEdgeError: a legal action of these tasks was never recorded.
    """
    if not math.isfinite(lambda_usd) or lambda_usd < 0:
        raise BudgetError(
            f"lambda_usd = {lambda_usd!r}; expected a finite price >= 0 in score per USD (0 = cost does not matter)"
        )
    chosen, inverse = _check_tasks(graph, tasks)
    part = _Part.of(graph, chosen)
    plan = part.solve(np.ones(len(chosen)), np.full(len(chosen), float(lambda_usd)))
    return plan.score[part.start][inverse], plan.cost[part.start][inverse]


def oracle_frontier(graph: TransitionGraph, tasks: npt.ArrayLike) -> tuple[_Floats, _Floats]:
    """Envelope of (mean cost, mean score) under a budget for the mean: the LP over all (mixed) policies.

    The optimum under a mean budget is a Lagrangian one, so the envelope is the average of the tasks' own
    concave hulls. All vertices of every task's hull are found exactly: from its two ends, ask repeatedly
    whether a policy lies above the line between two neighbouring vertices (one dynamic programme answers for
    one segment of every task). The average of the hulls joins all their segments in the order of falling
    slope.

    Args:
        graph: a complete graph (every legal action recorded).
        tasks: indices of tasks, int[n], n >= 1.

    Returns:
        (cost_usd, score): vertices of the envelope, float64[v] each, both increasing; from the cheapest
        policy (best score among the cheapest) to the best score (at least cost).

    Raises:
        TaskError: no task, or a task index is out of range.
        MissingEdgeError: a legal action of these tasks was never recorded.
    """
    chosen, inverse = _check_tasks(graph, tasks)
    if len(inverse) == 0:
        raise TaskError("oracle_frontier was given no tasks; expected at least one task index")
    part = _Part.of(graph, chosen)
    n = len(chosen)

    def best(score_weight: _Floats, cost_weight: _Floats) -> tuple[_Floats, _Floats]:
        plan = part.solve(score_weight, cost_weight)
        return plan.score[part.start], plan.cost[part.start]

    low_score, low_cost = best(np.zeros(n), np.ones(n))
    high_score, high_cost = best(np.ones(n), np.zeros(n))
    # Each task keeps a stack of segments still to be examined; finished ones are edges of its hull.
    Segment = tuple[float, float, float, float]
    rises = (high_score > low_score + _TIE) & (high_cost > low_cost)
    stacks: list[list[Segment]] = [
        [(low_cost[i], low_score[i], high_cost[i], high_score[i])] if rises[i] else [] for i in range(n)
    ]
    edge_cost: list[float] = []
    edge_score: list[float] = []
    edge_task: list[int] = []
    slopes = np.zeros(n)
    while any(stacks):
        asked = [i for i in range(n) if stacks[i]]
        for i in asked:
            c0, s0, c1, s1 = stacks[i][-1]
            slopes[i] = (s1 - s0) / (c1 - c0)
        score, cost = best(np.ones(n), slopes)
        for i in asked:
            c0, s0, c1, s1 = stacks[i].pop()
            gain = (score[i] - slopes[i] * cost[i]) - (s0 - slopes[i] * c0)
            inside = c0 < cost[i] < c1
            if inside and gain > 10 * _TIE * (1 + slopes[i] * c1):
                stacks[i] += [(cost[i], score[i], c1, s1), (c0, s0, cost[i], score[i])]
            else:
                edge_cost.append(c1 - c0)
                edge_score.append(s1 - s0)
                edge_task.append(i)

    weight = np.bincount(inverse, minlength=n) / len(inverse)
    share = weight[np.asarray(edge_task, dtype=np.int64)]
    rise = np.asarray(edge_score, dtype=np.float64)
    run = np.asarray(edge_cost, dtype=np.float64)
    order = np.argsort(-rise / run, kind="stable")
    cost_vertices = weight @ low_cost + np.concatenate([[0.0], np.cumsum((share * run)[order])])
    score_vertices = weight @ low_score + np.concatenate([[0.0], np.cumsum((share * rise)[order])])
    return cost_vertices, score_vertices


def _check_tasks(graph: TransitionGraph, tasks: npt.ArrayLike) -> tuple[_Ints, _Ints]:
    """Distinct task indices and the position of each given one among them."""
    given = np.atleast_1d(np.asarray(tasks))
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise TaskError(f"tasks have dtype {given.dtype}; expected an array of integer task indices")
    given = given.astype(np.int64).reshape(-1)
    wrong = given[(given < 0) | (given >= graph.n_tasks)]
    if wrong.size:
        raise TaskError(f"task index {wrong[0]} is out of range; expected 0 <= index < {graph.n_tasks}")
    chosen, inverse = np.unique(given, return_inverse=True)
    return chosen, inverse.reshape(-1)


@dataclass(frozen=True)
class _Layer:
    """The open nodes of one step; m nodes, A actions, K samples (padded with weight 0)."""

    nodes: _Ints  # (m,) numbered within the part
    legal: _Bools  # (m, A) without a cap
    mean_cost: _Floats  # (m, A)


@dataclass(frozen=True)
class _Part:
    """The nodes of some tasks, numbered 0..n-1, with their edges padded to K samples."""

    start: _Ints  # (tasks,)
    task: _Ints  # (n,) position of the task among the chosen ones
    step: _Ints  # (n,)
    score: _Floats  # (n,) 0 where open
    reserve: _Floats  # (n, A) NaN where not legal
    floor: _Floats  # (n,)
    next: _Ints  # (n, A, K)
    weight: _Floats  # (n, A, K) probability of the sample
    cost: _Floats  # (n, A, K)
    layers: Sequence[_Layer]  # last step first

    @staticmethod
    def of(graph: TransitionGraph, chosen: _Ints) -> _Part:
        position = np.full(graph.n_tasks, -1, dtype=np.int64)
        position[chosen] = np.arange(len(chosen))
        node_task = np.asarray(graph.node_task)
        nodes = np.flatnonzero(position[node_task] >= 0)
        local = np.full(graph.n_nodes, -1, dtype=np.int64)
        local[nodes] = np.arange(len(nodes))

        is_open = np.asarray(graph.node_status)[nodes] == 0
        reserve = np.asarray(graph.node_reserve)[nodes]
        reserve[~is_open] = np.nan
        legal = ~np.isnan(reserve)
        first = np.asarray(graph.edge_first)[nodes].astype(np.int64)
        count = np.asarray(graph.edge_count)[nodes].astype(np.int64)
        missing = np.argwhere(legal & (first < 0))
        if len(missing):
            node, action = nodes[missing[0, 0]], missing[0, 1]
            raise MissingEdgeError(
                f"task {node_task[node]}, node {node}, action {action}: legal but never recorded; "
                "the oracle needs a complete recording, so expand these tasks first or leave them out"
            )
        sample = np.arange(int(count[legal].max(initial=1)))
        present = legal[:, :, None] & (sample < count[:, :, None])  # (n, A, K)
        edge = np.where(present, first[:, :, None] + sample, 0)
        weight = present / np.maximum(count, 1)[:, :, None]
        # A graph of ended nodes only has no edge to gather.
        following = local[graph.edges["next"][edge]] if len(graph.edges) else edge
        cost = np.where(present, graph.edges["cost_usd"][edge], 0.0) if len(graph.edges) else weight
        mean_cost = (weight * cost).sum(axis=2)
        step = np.asarray(graph.node_step)[nodes].astype(np.int64)
        layers = []
        for value in np.unique(step[is_open])[::-1]:
            members = np.flatnonzero(is_open & (step == value))
            layers.append(_Layer(members, legal[members], mean_cost[members]))
        score = np.where(is_open, 0.0, np.asarray(graph.node_score)[nodes].astype(np.float64))
        return _Part(
            start=local[np.asarray(graph.task_start)[chosen]],
            task=position[node_task[nodes]],
            step=step,
            score=score,
            reserve=reserve,
            floor=np.fmin.reduce(reserve, axis=1, initial=np.inf),
            next=np.where(present, following, 0),
            weight=weight,
            cost=cost,
            layers=layers,
        )

    def solve(self, score_weight: _Floats, cost_weight: _Floats) -> _Plan:
        """Best policy without a cap, from every node.

        Maximises ``score_weight * score - cost_weight * cost`` (weights per task); ties go to the least cost,
        or to the best score where the score has no weight.
        """
        score = self.score.copy()
        cost = np.zeros_like(score)
        choice = np.zeros(len(score), dtype=np.int64)
        all_costs = np.zeros(self.reserve.shape)
        dearest = max((float(layer.mean_cost.max(initial=0.0)) for layer in self.layers), default=0.0)
        for layer in self.layers:
            following, weight = self.next[layer.nodes], self.weight[layer.nodes]
            action_score = (weight * score[following]).sum(axis=2)  # (m, A)
            action_cost = layer.mean_cost + (weight * cost[following]).sum(axis=2)
            by_score = score_weight[self.task[layer.nodes], None]
            by_cost = cost_weight[self.task[layer.nodes], None]
            value = np.where(layer.legal, by_score * action_score - by_cost * action_cost, -np.inf)
            best = value.max(axis=1, keepdims=True)
            tied = layer.legal & (value >= best - _TIE * (by_score + by_cost * dearest))
            second = np.where(by_score > 0, -action_cost, action_score)
            chosen = np.where(tied, second, -np.inf).argmax(axis=1)
            rows = np.arange(len(layer.nodes))
            stuck = ~layer.legal.any(axis=1)
            score[layer.nodes] = np.where(stuck, 0.0, action_score[rows, chosen])
            cost[layer.nodes] = np.where(stuck, 0.0, action_cost[rows, chosen])
            choice[layer.nodes] = chosen
            all_costs[layer.nodes] = action_cost
        return _Plan(score, cost, choice, all_costs)

    def needs(self, choice: _Ints) -> _Floats:
        """What must be left at each node for no cap to bind while `choice` is followed; -inf at the end."""
        needs = np.full(len(self.score), -np.inf)
        for layer in self.layers:
            nodes, action = layer.nodes, choice[layer.nodes]
            later = self.cost[nodes, action] + needs[self.next[nodes, action]]  # (m, K)
            later = np.where(self.weight[nodes, action] > 0, later, -np.inf).max(axis=1)
            needs[nodes] = np.where(layer.legal.any(axis=1), np.maximum(self.reserve[nodes, action], later), -np.inf)
        return needs

    def least_to_score(self) -> _Floats:
        """What must be left at each node for any chance of a score above 0; -inf where it is won."""
        least = np.where(self.score > 0, -np.inf, np.inf)
        for layer in self.layers:
            nodes = layer.nodes
            later = np.where(self.weight[nodes] > 0, self.cost[nodes] + least[self.next[nodes]], np.inf)
            needed = np.where(layer.legal, np.maximum(self.reserve[nodes], later.min(axis=2)), np.inf)
            least[nodes] = needed.min(axis=1)
        return least


@dataclass(frozen=True)
class _Plan:
    """A policy without a cap and what it yields from each node on."""

    score: _Floats  # (n,)
    cost: _Floats  # (n,) to go
    choice: _Ints  # (n,)
    action_cost: _Floats  # (n, A) to go if the first choice is another one


#: (node, least spent, most spent) of pairs that wait for their step to be looked at.
_Chunk = tuple[_Ints, _Floats, _Floats]


@dataclass(frozen=True)
class _Glance:
    """What can be said of (node, spent) pairs without following them."""

    pending: _Bools  # which choice is best is not known, or no score can be won and the cap is near
    score: _Floats  # where nothing is pending
    cost: _Floats  # to go there, for ties; where no score can be won, that of ending without a cap
    paid: _Floats  # to go where nothing is pending, else 0


@dataclass(frozen=True)
class _Links:
    """How the choices at the pairs of one step depend on later steps."""

    nodes: _Ints  # (m,) node of each pair
    state: _Ints  # (p,) pair that the choice belongs to, ascending
    score: _Floats  # (p,) expectations over the samples whose value is known at once, ...
    tie_cost: _Floats
    paid: _Floats
    later: list[tuple[int, int, _Ints, _Floats]]  # ... and (step, chunk there, choice, probability) of the rest


class _Capped:
    """The problem under a hard cap, solved forwards (which pairs are reachable) and then backwards.

    Two facts keep the pairs few without changing any value. Where the best policy without a cap fits into what is
    left, it is best. Where no score can be won any more, only the thriftiest choice counts.
    """

    def __init__(self, part: _Part, budget: float) -> None:
        self.part, self.budget = part, budget
        ones, zeros = np.ones(len(part.start)), np.zeros(len(part.start))
        self.free = part.solve(ones, zeros)
        self.thrift = part.solve(zeros, ones)
        # The margins cover the rounding of sums in another order than the environment's.
        self.free_needs = part.needs(self.free.choice) * (1 + 1e-9)
        self.thrift_needs = part.needs(self.thrift.choice) * (1 + 1e-9)
        self.least_to_score = part.least_to_score() * (1 - 1e-9)

    def solve(self, tasks: _Ints, merge_rounding: bool) -> tuple[_Floats, _Floats, _Bools]:
        """(score, cost, unsure) of the tasks; unsure = merging may have changed a comparison."""
        unsure = np.zeros(len(self.part.start), dtype=bool)
        waiting: dict[int, list[_Chunk]] = {}
        start, zeros = self.part.start[tasks], np.zeros(len(tasks))
        glance = self._look(start, zeros, zeros)
        score, cost = glance.score, glance.paid
        asked = np.flatnonzero(glance.pending)
        starts = [
            (step, chunk, asked[here])
            for step, chunk, here in self._wait(waiting, start[asked], zeros[asked], zeros[asked])
        ]

        links: dict[int, _Links] = {}
        places: dict[int, list[_Ints]] = {}
        while len(links) < len(waiting):
            step = min(set(waiting) - set(links))
            nodes, low, high, places[step] = _merge(waiting[step], self.budget if merge_rounding else None)
            waiting[step] = []
            links[step] = self._follow(nodes, low, high, unsure, waiting)

        values: dict[int, tuple[_Floats, _Floats, _Floats]] = {}
        for step in sorted(links, reverse=True):
            values[step] = self._choose(links.pop(step), places, values)
        for step, chunk, rows in starts:
            at = places[step][chunk]
            score[rows], cost[rows] = values[step][0][at], values[step][2][at]
        return score, cost, unsure[tasks]

    def _look(self, nodes: _Ints, low: _Floats, high: _Floats) -> _Glance:
        """Judge pairs by what is left: surely at least that at `high`, surely at most that at `low`."""
        part, budget = self.part, self.budget
        rich = high + self.free_needs[nodes] <= budget
        broke = ~rich & (low + part.floor[nodes] > budget)
        lost = ~rich & (broke | (low + self.least_to_score[nodes] > budget))
        ends = rich | (lost & (high + self.thrift_needs[nodes] <= budget))
        cost = np.where(lost, self.thrift.cost[nodes], self.free.cost[nodes])
        return _Glance(
            pending=~(ends | broke),
            score=np.where(lost, 0.0, self.free.score[nodes]),
            cost=cost,
            paid=np.where(ends & ~broke, cost, 0.0),
        )

    def _wait(
        self, waiting: dict[int, list[_Chunk]], nodes: _Ints, low: _Floats, high: _Floats
    ) -> list[tuple[int, int, _Ints]]:
        """Put pairs down for their step; returns (step, chunk there, which of the pairs)."""
        steps = self.part.step[nodes]
        put = []
        for step in np.unique(steps).tolist():
            here = np.flatnonzero(steps == step)
            chunks = waiting.setdefault(step, [])
            put.append((step, len(chunks), here))
            chunks.append((nodes[here], low[here], high[here]))
        return put

    def _follow(
        self, nodes: _Ints, low: _Floats, high: _Floats, unsure: _Bools, waiting: dict[int, list[_Chunk]]
    ) -> _Links:
        """The choices at the pairs of one step, and the pairs they lead to.

        Marks tasks in `unsure` where the ends of a merged pair disagree on what is legal.
        """
        part, budget = self.part, self.budget
        legal = low[:, None] + part.reserve[nodes] <= budget  # (m, A)
        doubtful = legal & (high[:, None] + part.reserve[nodes] > budget)
        unsure[part.task[nodes[doubtful.any(axis=1)]]] = True
        thriftiest = np.where(legal, self.thrift.action_cost[nodes], np.inf).argmin(axis=1)
        lost = low + self.least_to_score[nodes] > budget
        legal[lost] &= np.arange(legal.shape[1]) == thriftiest[lost, None]
        state, action = np.nonzero(legal)
        n = len(state)

        # Every recorded sample of every choice, as flat rows.
        origin = nodes[state]
        choice, sample = np.nonzero(part.weight[origin, action] > 0)
        which = origin[choice], action[choice], sample
        weight, paid, following = part.weight[which], part.cost[which], part.next[which]
        low_then, high_then = low[state[choice]] + paid, high[state[choice]] + paid
        glance = self._look(following, low_then, high_then)

        def expected(values: _Floats) -> _Floats:
            return np.bincount(choice, weight * values, n).astype(np.float64)

        later = np.flatnonzero(glance.pending)
        known = np.where(glance.pending, 0.0, 1.0)
        return _Links(
            nodes=nodes,
            state=state,
            score=expected(known * glance.score),
            tie_cost=expected(paid + known * glance.cost),
            paid=expected(paid + glance.paid),
            later=[
                (step, chunk, choice[later[here]], weight[later[here]])
                for step, chunk, here in self._wait(waiting, following[later], low_then[later], high_then[later])
            ],
        )

    def _choose(
        self,
        link: _Links,
        places: dict[int, list[_Ints]],
        values: dict[int, tuple[_Floats, _Floats, _Floats]],
    ) -> tuple[_Floats, _Floats, _Floats]:
        """(score, cost for ties, cost) of the pairs of one step, from those of later steps."""
        n = len(link.state)
        totals = [link.score, link.tie_cost, link.paid]
        for step, chunk, choice, weight in link.later:
            at = places[step][chunk]
            for k in range(3):
                totals[k] = totals[k] + np.bincount(choice, weight * values[step][k][at], n)
        score, tie_cost, cost = totals
        first = np.flatnonzero(np.diff(link.state, prepend=-1))
        best = np.maximum.reduceat(score, first)
        # Sorted by pair, then from the worst choice to the best; of each pair the last one counts.
        order = np.lexsort((-cost, -tie_cost, score >= best[link.state] - _TIE, link.state))
        last = order[np.append(first[1:], n) - 1]
        return best, np.where(best > _TIE, tie_cost[last], self.thrift.cost[link.nodes]), cost[last]


def _merge(
    chunks: list[tuple[_Ints, _Floats, _Floats]], budget: float | None
) -> tuple[_Ints, _Floats, _Floats, list[_Ints]]:
    """Distinct (node, spent) pairs with the bounds of their amounts, and where each pair of each chunk went.

    Amounts are merged on the grid of the budget, or only where they are equal if `budget` is None or 0.
    """
    nodes = np.concatenate([chunk[0] for chunk in chunks])
    low = np.concatenate([chunk[1] for chunk in chunks])
    high = np.concatenate([chunk[2] for chunk in chunks])
    if budget:
        amount = np.rint(low / budget * 2.0**_GRID_BITS).astype(np.int64)
    else:
        amount = np.unique(low, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((amount, nodes))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(nodes[order]) != 0) | (np.diff(amount[order]) != 0)
    first = np.flatnonzero(new)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(new) - 1
    ends = np.cumsum([len(chunk[0]) for chunk in chunks])[:-1]
    return (
        nodes[order][first],
        np.minimum.reduceat(low[order], first),
        np.maximum.reduceat(high[order], first),
        list(np.split(place, ends)),
    )
