"""Which way did a policy go? Routes step by step, and the tasks where two policies differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.graph.graph import OPEN

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["Route", "Step", "largest_differences", "trace_routes"]

_Ints = npt.NDArray[np.int64]

_TIE = 1e-9


@dataclass(frozen=True)
class Step:
    """One choice."""

    node: int
    """The situation it was made in."""
    action: int
    cost_usd: float
    """What it really cost."""
    remaining_usd: float
    """What was left of the budget before it; inf without a cap."""


@dataclass(frozen=True)
class Route:
    """One episode."""

    task: int
    """Index of the task."""
    steps: tuple[Step, ...]
    end: int
    """The situation it ended in."""
    score: float
    cost_usd: float
    out_of_budget: bool
    """Whether it ended because nothing more could be paid for."""


def trace_routes(
    policy: Policy, recording: Recording, split: str, grid: Grid, point: int, seed: int = 0
) -> tuple[Route, ...]:
    """The episodes of `play` at one operating point, step by step, in the order of the split's tasks.

    A policy that draws at random draws anew: its routes are like those that were counted, not the same.

    Args:
        policy: any that is fitted.
        recording: complete, at least where the policy goes.
        split: tasks to play.
        grid: budgets and prices.
        point: index into the grid's points.
        seed: as given to `play`.
    """
    tasks = recording.split(split)
    budgets, lambdas = grid.points
    n = len(tasks)
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(n, recording, split=split, observation=form, info="lean", autoreset_mode="Disabled")
    observation, _ = env.reset(
        seed=np.random.SeedSequence(seed).generate_state((point + 1) * n)[-n:].tolist(),
        options={"task_id": tasks, "budget_usd": budgets[point], "lambda": lambdas[point]},
    )
    steps: list[list[Step]] = [[] for _ in range(n)]
    scores = np.zeros(n)
    state, start, playing = None, np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    while playing.any():
        node, left = env.node.copy(), env.ledger.remaining_usd.copy()
        actions, state = policy.predict(observation, state, start, True, env.action_masks())
        observation, _, terminated, truncated, info = env.step(actions)
        for slot in np.flatnonzero(playing).tolist():
            step = Step(int(node[slot]), int(actions[slot]), float(info["cost_usd"][slot]), float(left[slot]))
            steps[slot].append(step)
        ended = playing & (terminated | truncated)
        scores[ended] = info["score"][ended]
        start = np.zeros(n, dtype=bool)
        playing &= ~ended
    unfinished = recording.graph.node_status[env.node] == OPEN
    return tuple(
        Route(task, tuple(steps[slot]), int(env.node[slot]), float(scores[slot]), spent, bool(unfinished[slot]))
        for slot, (task, spent) in enumerate(zip(tasks.tolist(), env.ledger.spent_usd.tolist(), strict=True))
    )


def largest_differences(mine: Sequence[Route], theirs: Sequence[Route], count: int) -> tuple[_Ints, _Ints]:
    """Where one policy gained most on another, and where it lost most: by score, equal ones by cost.

    Args:
        mine, theirs: routes over the same tasks in the same order.
        count: at most so many of each.

    Returns:
        Indices into the routes, int64, of the largest gains and of the largest losses, the largest first. A task with
        equal scores at different costs counts; one with both equal is in neither.

    Raises:
        ConfigError: other tasks, or fewer than one wanted.
    """
    if [route.task for route in mine] != [route.task for route in theirs] or count < 1:
        raise ConfigError(
            f"{len(mine)} and {len(theirs)} routes, count = {count}; expected the same tasks in the same order and a "
            "count of at least 1"
        )
    gain = np.array([a.score - b.score for a, b in zip(mine, theirs, strict=True)])
    saved = np.array([b.cost_usd - a.cost_usd for a, b in zip(mine, theirs, strict=True)])
    dearer = np.array([max(a.cost_usd, b.cost_usd) for a, b in zip(mine, theirs, strict=True)])
    gain[np.abs(gain) <= _TIE] = 0.0
    saved[np.abs(saved) <= _TIE * dearer] = 0.0  # the same calls in another order
    sign = np.where(gain != 0, np.sign(gain), np.sign(saved))
    order = np.lexsort((-saved, -gain))
    gained, lost = order[sign[order] > 0], order[::-1][sign[order[::-1]] < 0]
    return gained[:count].astype(np.int64), lost[:count].astype(np.int64)
