"""Predict, then plan: outcomes predicted from the recording, and dynamic programming over the remaining budget.

No paper; the parts are textbook. A regression tree for each number of calls made puts situations of like outcomes into
one cell; counts of recorded outcomes make a Markov decision process; backward induction solves it for every remaining
budget and price of cost. It is model-based planning on aggregated situations.

Why a model of the steps and not one predicted success per arm: where choices are path-dependent, what an arm is worth
depends on what is done after it and on the money left for that, and a product or sum of per-step successes would have
to assume how the steps make up the score.

What decides the score is often hidden from the router: whether an earlier answer was right. Cells alone forget it, and
then a bad first call looks as good as a good one. So a state of the process is a cell and the best score that is still
within reach there, in three levels, which the recording knows. The router does not: it takes the mean of the levels'
action values by their shares of the cell's visits. That is the QMDP rule (Littman, Cassandra and Kaelbling, 1995): it
plans as if the level became known after the next call, and values information too low.
The shares depend on how one got there, so the process is fitted again with situations that its own plan leads to.
A cell has few tasks, however often they are visited: what failed or succeeded at all of them is neither impossible nor
certain at another. So an action's value in a cell counts as the mean over its tasks and one task more, which has the
mean value of the action over all situations after as many calls: much beside a single task, little beside several that
agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError, MissingExtraError
from routegym.graph.graph import OPEN, TransitionGraph
from routegym.policies.algorithm import Problem
from routegym.policies.success import arm_outcomes, near_arm_visits, price_of, rounded, signal_columns, signal_rows
from routegym.policies.training import Arrays, Training, nested, pick

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["PlanningPolicy", "PredictThenPlan"]

_Floats = npt.NDArray[np.floating[Any]]
_Ints = npt.NDArray[np.int64]

#: Prices of cost that are planned for; between two of them values are interpolated. The first stands for 0: it makes
#: the cheaper of two equally good arms the better one; a call that costs the cost scale is worth a chance of 1e-5.
_PRICES = np.array([1e-5, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 100.0])


#: Best scores still within reach that are told apart: 0, 1/2 and 1.
_LEVELS = 3


class Cells:
    """Situations -> cells: one regression tree for each number of calls made.

    Args:
        column, threshold, low, high, cell: nodes of all trees, (n,): go to `low` where the feature in `column` is at
            most `threshold`, else to `high`; a leaf has column -1 and the number of its cell.
        root: first node of the tree of each step, (steps,); later steps take the last.
    """

    def __init__(
        self, column: _Ints, threshold: npt.NDArray[np.float32], low: _Ints, high: _Ints, cell: _Ints, root: _Ints
    ) -> None:
        self.column, self.threshold, self.low, self.high, self.cell, self.root = (
            column,
            threshold,
            low,
            high,
            cell,
            root,
        )

    @classmethod
    def fit(cls, rows: _Floats, step: _Ints, targets: _Floats, weight: _Floats, cells: int, min_visits: int) -> Self:
        """Trees that tell situations with unlike targets apart; cells are numbered step by step.

        Args:
            rows: features, (n, d).
            step: calls made, (n,).
            targets: (n, t).
            weight: visits, (n,).
            cells: leaves of a tree at most.
            min_visits: share of the visits of a step that a leaf has at least.
        """
        try:
            from sklearn.tree import DecisionTreeRegressor
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "baselines") from error
        parts: list[Any] = []
        roots: list[int] = []
        nodes = leaves = 0
        for now in range(int(step.max()) + 1):
            here = step == now
            if not here.any():
                roots.append(roots[-1])
                continue
            share = min(min_visits / weight[here].sum(), 0.5)
            tree = DecisionTreeRegressor(max_leaf_nodes=max(cells, 2), min_weight_fraction_leaf=share, random_state=0)
            found = tree.fit(rows[here], targets[here], weight[here]).tree_
            leaf = found.children_left < 0
            number = np.where(leaf, np.cumsum(leaf) - 1 + leaves, -1)
            children = [np.where(leaf, -1, side + nodes) for side in (found.children_left, found.children_right)]
            parts.append((np.where(leaf, -1, found.feature), found.threshold, *children, number))
            roots.append(nodes)
            nodes, leaves = nodes + len(leaf), leaves + int(leaf.sum())
        column, threshold, low, high, cell = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(column, threshold.astype(np.float32), low, high, cell, np.array(roots, dtype=np.int64))

    def of(self, rows: _Floats, step: _Ints) -> _Ints:
        """Cell of each situation, (n,)."""
        node = self.root[np.minimum(step, len(self.root) - 1)]
        while ((column := self.column[node]) >= 0).any():
            left = rows[np.arange(len(rows)), np.maximum(column, 0)] <= self.threshold[node]
            node = np.where(column < 0, node, np.where(left, self.low[node], self.high[node]))
        return self.cell[node]

    def arrays(self) -> Arrays:
        """The arguments."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Process:
    """The Markov decision process of the cells. Outcomes are sorted by cell and action; cells by step."""

    place: _Ints
    """cell * n_actions + action of each outcome, (m,)."""
    landing: _Ints
    """Cell it leads to, (m,); -1: the episode ends."""
    chance: npt.NDArray[np.float64]
    """Its probability, (m,)."""
    cost_usd: npt.NDArray[np.float64]
    """Its mean cost, (m,)."""
    score: npt.NDArray[np.float64]
    """Mean final score where the episode ends, (m,)."""
    reserve_usd: npt.NDArray[np.float64]
    """Mean worst case, (n_cells, n_actions); inf where an action is never legal."""
    visits: npt.NDArray[np.float64]
    """Visits where the action could be taken, (n_cells, n_actions)."""
    doubt: npt.NDArray[np.float64]
    """Weight of the action's mean value over all cells of the step in its value, (n_cells, n_actions)."""
    step: _Ints
    """Calls made in each cell, (n_cells,)."""


class Budgets:
    """Remaining budgets that are planned for; between two of them values are interpolated.

    Nothing, and about geometrically spaced multiples of the smallest payment. Where prices are whole numbers of a unit,
    what a budget just pays for is exact then, which a plan that spends all it has depends on.

    Args:
        usd: in rising order from 0; the last stands for all above it.
    """

    def __init__(self, usd: _Floats) -> None:
        self.usd = np.asarray(usd, dtype=np.float64)

    @classmethod
    def spaced(cls, low: float, high: float, points: int) -> Self:
        """From `low`, the smallest payment, to at least `high`; at most `points` beside 0."""
        multiples = np.unique(np.rint(np.geomspace(1.0, np.ceil(high / low), points)))
        return cls(np.concatenate([[0.0], multiples * low]))

    def place(self, usd: _Floats) -> tuple[_Ints, npt.NDArray[np.float64]]:
        """Grid point at or below each budget, and the share of the way to the next one."""
        usd = np.clip(usd * (1 + 1e-6), 0.0, self.usd[-1])  # rounding is not to put one below a grid point it meets
        floor = np.minimum(np.searchsorted(self.usd, usd, side="right") - 1, len(self.usd) - 2)
        share = (usd - self.usd[floor]) / (self.usd[floor + 1] - self.usd[floor])
        return floor, np.where(usd < self.usd[1], 0.0, share)  # less than the smallest payment is nothing


def solve(process: _Process, budgets: Budgets, scale_usd: float) -> npt.NDArray[np.float32]:
    """Value of every action in every cell, for every remaining budget and price of the grids.

    Returns:
        float32 (n_cells, n_actions, budgets, prices): expected score - price * cost / scale_usd to the end.
    """
    n_cells, n_actions = process.reserve_usd.shape
    points, prices = len(budgets.usd), _PRICES / scale_usd
    values = np.zeros((n_cells + 1, points, len(prices)))  # the last row: the episode is over
    action_values = np.zeros((n_cells * n_actions, points, len(prices)), dtype=np.float32)
    order = process.step[process.place // n_actions]
    for step in np.unique(process.step)[::-1]:
        outcomes = np.flatnonzero(order == step)
        place, first = np.unique(process.place[outcomes], return_index=True)
        left = budgets.usd[None] - process.cost_usd[outcomes, None]  # (m, points)
        floor, share = budgets.place(left)
        landing = process.landing[outcomes, None]
        after = values[landing, floor] * (1 - share[..., None]) + values[landing, floor + 1] * share[..., None]
        after += (process.score[outcomes, None] - prices * process.cost_usd[outcomes, None])[:, None]
        after *= process.chance[outcomes, None, None]
        action_values[place] = np.add.reduceat(after, first, axis=0)
        cells = np.flatnonzero(process.step == step)
        here = action_values.reshape(n_cells, n_actions, points, -1)[cells]
        met, doubt = process.visits[cells], process.doubt[cells][..., None, None]
        average = np.einsum("ca,ca...->a...", met / np.maximum(met.sum(axis=0), 1e-12), here)
        here = (1 - doubt) * here + doubt * average
        action_values.reshape(n_cells, n_actions, points, -1)[cells] = here
        legal = process.reserve_usd[cells][..., None] <= budgets.usd * (1 + 1e-9)  # (cells, n_actions, points)
        best = np.where(legal[..., None], here, -np.inf).max(axis=1)
        values[cells] = np.where(np.isfinite(best), best, 0.0)  # no money for any action: the end, score 0
    return action_values.reshape(n_cells, n_actions, points, -1)


class PlanningPolicy:
    """Takes the legal action of the largest planned value at the present budget and price.

    Args:
        recording: gives names and the cost scale.
        cells: of the situations.
        budgets: grid of the plan.
        values: see `solve`.
    """

    kind = "plan"

    def __init__(self, recording: Recording, cells: Cells, budgets: Budgets, values: npt.NDArray[np.float32]) -> None:
        self.layout = ObservationLayout.of(recording)
        self._columns, self._scale = signal_columns(self.layout), recording.cost_scale_usd
        self._cells, self._budgets, self._values = cells, budgets, values

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """See `routegym.policies.policy.Policy`."""
        affordable = observation[:, self.layout.columns["affordable"]] > 0.5
        legal = affordable if action_masks is None else np.asarray(action_masks)
        value = np.where(legal, self.planned(observation), -np.inf)
        return value.argmax(axis=1).astype(np.int64), state

    def planned(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Expected score - lambda * cost / cost scale of each action, the plan followed after it, (n, n_actions)."""
        calls = observation[:, self.layout.columns["step"].start].astype(np.float64)
        step = np.rint(4 * calls / np.maximum(1 - calls, 1e-9)).astype(np.int64)
        cell = self._cells.of(rounded(observation[:, self._columns]), step)
        share = observation[:, self.layout.columns["remaining"].start].astype(np.float64)
        remaining = self._scale * share / np.maximum(1.0 - share, 1e-9)
        budget, more = self._budgets.place(remaining)
        price = np.minimum(price_of(observation, self.layout), _PRICES[-1])
        at = np.clip(np.searchsorted(_PRICES, price, side="right") - 1, 0, len(_PRICES) - 2)
        dearer = np.clip((price - _PRICES[at]) / (_PRICES[at + 1] - _PRICES[at]), 0.0, 1.0)
        result = np.zeros((len(observation), self._values.shape[1]))
        for up, budget_share in ((0, 1 - more), (1, more)):
            for right, price_share in ((0, 1 - dearer), (1, dearer)):
                rows = self._values[cell, :, budget + up, at + right]
                result += (budget_share * price_share)[:, None] * rows
        return result

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        arrays: Arrays = {"budgets_usd": self._budgets.usd, "values": self._values}
        return {}, arrays | nested("cells", self._cells.arrays())

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        return cls(recording, Cells(**pick("cells", arrays)), Budgets(arrays["budgets_usd"]), arrays["values"])


@dataclass(frozen=True)
class PredictThenPlan:
    """Model-based planning on aggregated situations."""

    cells: int = 128
    """Cells of the situations after the same number of calls, at most."""
    min_visits: int = 200
    """Visits of a cell at least."""
    visits: int = 60_000
    """Situations that each round adds."""
    rounds: int = 3
    """Times that the process is fitted: first to episodes of each arm in turn, then to those of the plans as well."""
    random_share: float = 0.2
    """Share of uniformly random actions while situations are gathered."""
    budget_points: int = 40
    """Remaining budgets that are planned for."""

    def __post_init__(self) -> None:
        for name, least in (("cells", 1), ("min_visits", 1), ("visits", 1), ("rounds", 1), ("budget_points", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected an integer >= {least}")
        if not 0 < self.random_share <= 1:
            raise ConfigError(f"random_share = {self.random_share}; expected a share above 0 and at most 1")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> PlanningPolicy:
        """Fit and solve; takes seconds and starts over when it is interrupted.

        See `routegym.policies.algorithm.Algorithm`.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        recording = problem.recording
        nodes, edges, often = near_arm_visits(recording.graph, problem.tasks, self.random_share)
        if len(nodes) > self.visits:
            drawn = rng.choice(len(nodes), self.visits, p=often / often.sum())
            nodes, edges, often = nodes[drawn], edges[drawn], np.ones(len(drawn))
        else:
            often = often * (self.visits / often.sum())
        rows = rounded(signal_rows(recording, nodes, edges))
        targets = _targets(recording)
        level = np.rint(_best_reachable(recording.graph) * (_LEVELS - 1)).astype(np.int64)
        policy: PlanningPolicy | None = None
        for _ in range(self.rounds):
            if policy is not None:
                met = self._meet(problem, policy, rng)
                rows, nodes = np.concatenate([rows, met[0]]), np.concatenate([nodes, met[1]])
                often = np.concatenate([often, np.ones(len(met[1]))])
            step = recording.graph.node_step[nodes].astype(np.int64)
            cells = Cells.fit(rows, step, targets[nodes], often, self.cells, self.min_visits)
            process, share = _count(recording, cells, rows, nodes, often, level)
            budgets = _budgets(process, recording, self.budget_points)
            by_state = solve(process, budgets, recording.cost_scale_usd)
            by_level = by_state.reshape(*share.shape, *by_state.shape[1:])
            values = (share.reshape(*share.shape, 1, 1, 1) * by_level).sum(axis=1).astype(np.float32)
            policy = PlanningPolicy(recording, cells, budgets, values)
            if training is not None:
                training.report({"step": len(nodes), "seed": seed, "cells": len(share)})
        assert policy is not None  # there is at least one round
        return policy

    def _meet(
        self, problem: Problem, policy: PlanningPolicy, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], _Ints]:
        """Features and nodes of situations that the policy comes to, under the budgets and prices of the problem."""
        env = problem.env(min(1024, self.visits))
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        rows, nodes = [], []
        for _ in range(-(-self.visits // env.num_envs)):
            rows.append(rounded(observation[:, signal_columns(policy.layout)]))
            nodes.append(env.node.copy())
            masks = env.action_masks()
            actions, _ = policy.predict(observation, action_masks=masks)
            anything = (rng.random(masks.shape) * masks).argmax(axis=1)
            random = rng.random(len(masks)) < self.random_share
            observation, *_ = env.step(np.where(random, anything, actions))
        return np.concatenate(rows), np.concatenate(nodes)


def _targets(recording: Recording) -> npt.NDArray[np.float64]:
    """What tells situations apart, (n_nodes, 4 n_actions).

    Of every action: score and cost if its arm is kept to the end, its own cost, and the score if the best of these
    ways is taken after it. Costs are parts of the cost scale.
    """
    graph = recording.graph
    score, cost = arm_outcomes(graph)
    ended = graph.node_status != OPEN
    reachable = np.where(ended, np.nan_to_num(graph.node_score), np.nan_to_num(score).max(axis=1))
    node, action = graph.edge_sources()
    place = node.astype(np.int64) * graph.n_actions + action
    count = np.maximum(graph.edge_count.reshape(-1), 1)
    paid = np.bincount(place, graph.edges["cost_usd"], count.size) / count
    won = np.bincount(place, reachable[graph.edges["next"]], count.size) / count
    scale = recording.cost_scale_usd
    one_step = (paid.reshape(score.shape) / scale, won.reshape(score.shape))
    return np.asarray(np.nan_to_num(np.concatenate([score, cost / scale, *one_step], axis=1)))


def _count(
    recording: Recording, cells: Cells, rows: _Floats, nodes: Any, often: Any, level: _Ints
) -> tuple[_Process, npt.NDArray[np.float64]]:
    """Counts of what the actions led to in every state, and the share of each state in its cell's visits."""
    graph = recording.graph
    n_actions, n_states = graph.n_actions, (int(cells.cell.max()) + 1) * _LEVELS
    step = graph.node_step[nodes].astype(np.int64)
    state = cells.of(rows, step) * _LEVELS + level[nodes]
    visits = np.bincount(state, often, n_states).reshape(-1, _LEVELS)
    layer = np.zeros(n_states, dtype=np.int64)
    layer.reshape(-1, _LEVELS)[state // _LEVELS] = step[:, None]
    # Many visits are to the same situation in the same cell.
    pair, which = np.unique(state * graph.n_nodes + nodes, return_inverse=True)
    state, nodes, often = pair // graph.n_nodes, pair % graph.n_nodes, np.bincount(which, often)

    count = graph.edge_count[nodes].astype(np.int64)  # (n, n_actions)
    row, action = np.nonzero(count)
    samples = count[row, action]
    sample = np.arange(samples.sum()) - np.repeat(samples.cumsum() - samples, samples)
    edge = np.repeat(graph.edge_first[nodes[row], action], samples) + sample
    taken = state[row] * n_actions + action
    place, weight = np.repeat(taken, samples), np.repeat(often[row] / samples, samples)
    record = graph.edges[edge]
    after = record["next"].astype(np.int64)
    goes_on = graph.node_status[after] == OPEN
    later = after[goes_on]
    landing = np.full(len(edge), -1)
    landing[goes_on] = level[later] + _LEVELS * cells.of(
        rounded(signal_rows(recording, later, edge[goes_on])), graph.node_step[later].astype(np.int64)
    )
    # A step later than any that was visited has no cells: such an episode counts as lost.
    landing[layer[landing] <= layer[place // n_actions]] = -1
    score = np.where(goes_on, 0.0, np.nan_to_num(graph.node_score[after]))

    key, which = np.unique(place * (n_states + 1) + landing + 1, return_inverse=True)
    seen = np.bincount(which, weight)
    place, landing = key // (n_states + 1), key % (n_states + 1) - 1
    reserve = np.bincount(taken, often[row] * graph.node_reserve[nodes[row], action], n_states * n_actions)
    total = np.bincount(taken, often[row], n_states * n_actions).astype(np.float64)
    known = np.where(total > 0, total, 1.0)
    in_cell = (state[row] // _LEVELS * n_actions + action) * graph.n_tasks + graph.node_task[nodes[row]]
    tasks = np.bincount(np.unique(in_cell) // graph.n_tasks, minlength=n_states // _LEVELS * n_actions)
    tasks = tasks.reshape(-1, n_actions).repeat(_LEVELS, axis=0)  # different ones, of a cell
    process = _Process(
        place=place,
        landing=landing,
        chance=seen / known[place],
        cost_usd=np.bincount(which, weight * record["cost_usd"]) / seen,
        score=np.bincount(which, weight * score) / seen,
        reserve_usd=np.where(total > 0, reserve / known, np.inf).reshape(n_states, n_actions),
        visits=total.reshape(n_states, n_actions),
        doubt=np.where(total.reshape(n_states, n_actions) > 0, 1 / (tasks + 1), 0.0),
        step=layer,
    )
    return process, visits / np.maximum(visits.sum(axis=1, keepdims=True), 1e-12)


def _best_reachable(graph: TransitionGraph) -> npt.NDArray[np.float64]:
    """Expected score of the best choices from each situation on, whatever they cost, (n_nodes,)."""
    best = np.nan_to_num(graph.node_score.astype(np.float64))
    source, action = graph.edge_sources()
    share = 1.0 / graph.edge_count[source, action]
    step = graph.node_step[source]
    order = np.argsort(-step.astype(np.int64), kind="stable")
    for edges in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):
        nodes, which = np.unique(source[edges], return_inverse=True)
        gained = share[edges] * best[graph.edges["next"][edges]]
        size = len(nodes) * graph.n_actions
        value = np.bincount(which * graph.n_actions + action[edges], gained, size)
        best[nodes] = value.reshape(len(nodes), -1).max(axis=1)
    return best


def _budgets(process: _Process, recording: Recording, points: int) -> Budgets:
    """A grid from the smallest worst case to the dearest way through the process."""
    n_actions = process.reserve_usd.shape[1]
    reserve = np.where(np.isfinite(process.reserve_usd), process.reserve_usd, 0.0)
    most = np.zeros(len(process.step) + 1)
    source = process.place // n_actions
    for step in np.unique(process.step)[::-1]:
        cells = np.flatnonzero(process.step == step)
        most[cells] = reserve[cells].max(axis=1)
        outcomes = np.flatnonzero(process.step[source] == step)
        np.maximum.at(most, source[outcomes], process.cost_usd[outcomes] + most[process.landing[outcomes]])
    low = float(reserve[reserve > 0].min(initial=recording.cost_scale_usd))
    return Budgets.spaced(low, max(float(most.max()), 2 * low), points)
