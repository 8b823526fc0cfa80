"""What every policy is measured against: the arms alone, the clairvoyant optimum, and the attainable bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda, oracle_frontier
from routegym.evaluation.statistics import Sweep
from routegym.graph.values import always_arm_actions, evaluate_choices

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid, Outcomes
    from routegym.graph.recording import Recording

__all__ = ["References", "arms_alone", "recorded_alone", "references"]

_PRICES = 25


@dataclass(frozen=True)
class References:
    """Outcomes of what is not learned, on the tasks of one split, exact over the recorded samples."""

    arms: Sweep
    """Each arm alone without a cap, see `arms_alone`: (1, arms, tasks); its hull is the zero router."""
    oracle_cap: Sweep
    """The clairvoyant optimum under each finite budget of the grid: (1, caps, tasks)."""
    oracle_mean: Sweep
    """The clairvoyant optimum for a range of prices of cost: (1, prices, tasks)."""
    oracle_hull: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    """Its exact frontier under a mean budget: costs and scores of the vertices."""
    attainable: Sweep | None = None
    """The attainable bound over the grid, if it was worked out: (1, points, tasks)."""


def arms_alone(recording: Recording, tasks: npt.NDArray[np.int64]) -> Sweep:
    """Every arm alone, without a cap: expected score and cost of each task.

    Something has to be played: where an arm is not legal at the start of a task, since it was not recorded for it, the
    legal one with the lowest worst case stands in. `recorded_alone` tells where.
    """
    graph = recording.graph
    starts = graph.task_start[tasks]
    outcomes = [evaluate_choices(graph, always_arm_actions(graph, arm)) for arm in range(graph.n_arms)]
    return Sweep(
        np.array([score[starts] for score, _ in outcomes])[None], np.array([cost[starts] for _, cost in outcomes])[None]
    )


def recorded_alone(recording: Recording, tasks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each arm is legal at the start of each task, bool (arms, tasks); if not, it was not recorded for it."""
    graph = recording.graph
    return np.asarray(~np.isnan(graph.node_reserve[graph.task_start[tasks], : graph.n_arms]).T)


def references(recording: Recording, split: str, grid: Grid, attainable: Outcomes | None = None) -> References:
    """Work them out.

    Raises:
        MissingEdgeError: the recording is incomplete.
    """
    graph, tasks = recording.graph, recording.split(split)
    prices = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, _PRICES)]) / recording.cost_scale_usd
    return References(
        arms=arms_alone(recording, tasks),
        oracle_cap=_sweep([oracle_at_cap(graph, tasks, float(cap)) for cap in grid.caps]),
        oracle_mean=_sweep([oracle_at_lambda(graph, tasks, float(price)) for price in prices]),
        oracle_hull=oracle_frontier(graph, tasks),
        attainable=None
        if attainable is None
        else Sweep(attainable.scores[None].astype(np.float64), attainable.costs[None]),
    )


def _sweep(points: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]) -> Sweep:
    return Sweep(np.array([score for score, _ in points])[None], np.array([cost for _, cost in points])[None])
