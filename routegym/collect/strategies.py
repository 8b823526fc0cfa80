"""Which choices are worth recording: strategies that grow a recording, each step's calls as one batch.

A strategy depends on nothing but the recording, its seed and the tasks it is given, and what it does for one task
does not depend on the others. So a share of the tasks asks for the same calls as the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core import streams
from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.outcomes import LAMBDAS, budget_grid
from routegym.graph.graph import OPEN
from routegym.graph.growth import explore
from routegym.graph.values import always_arm_actions

if TYPE_CHECKING:
    from routegym.graph.growth import Expander
    from routegym.policies.policy import Policy

__all__ = [
    "Strategy",
    "boundary_arms",
    "play_policy",
    "record_all",
    "record_always",
    "record_boundary",
    "record_random",
]

#: Grows an expander's recording for some tasks, given by their indices (n,).
Strategy = Callable[["Expander", npt.NDArray[np.int64]], None]

_SLOTS = 16_384  # episodes of a policy that are played side by side


def record_all(expander: Expander, tasks: npt.NDArray[np.int64]) -> None:
    """Everything that any sequence of actions can reach."""
    explore(expander, tasks)


def record_boundary(expander: Expander, tasks: npt.NDArray[np.int64], rollouts: int = 1) -> None:
    """The cheapest arm alone and the dearest arm alone, with this many samples of each of their calls."""
    for arm in boundary_arms(expander):
        expander.samples[arm] = max(expander.samples[arm], rollouts)
        record_always(expander, tasks, arm)


def boundary_arms(expander: Expander) -> tuple[int, int]:
    """Index of the cheapest and of the dearest arm: by the mean worst case of a first call, over all tasks.

    Where a worst case is not known, by the price of a token of each kind.
    """
    recording, pool = expander.recording, expander.pool
    cost = recording.graph.node_reserve[recording.graph.task_start, : len(pool.arms)].mean(axis=0)
    if not np.isfinite(cost).all():
        cost = pool.prices.per_token(pool.arms).sum(axis=1)
    return int(np.argmin(cost)), int(np.argmax(cost))


def record_always(expander: Expander, tasks: npt.NDArray[np.int64], arm: int) -> None:
    """One arm everywhere, with all its samples; see `always_arm_actions`."""
    graph = expander.recording.graph
    nodes = graph.task_start[tasks].astype(np.int64)
    while len(nodes):
        taken = always_arm_actions(graph, arm)
        expander.expand(nodes, taken[nodes])
        source, action = graph.edge_sources()
        after = np.unique(graph.edges["next"][(action == taken[source]) & np.isin(source, nodes)])
        nodes = after[graph.node_status[after] == OPEN].astype(np.int64)


def record_random(expander: Expander, tasks: npt.NDArray[np.int64], rollouts: int = 1, seed: int = 0) -> None:
    """Episodes of each task in which every legal action is equally likely."""
    graph = expander.recording.graph
    keys = streams.batch_keys(_seeds(expander, np.repeat(tasks, rollouts), rollouts, seed), len(tasks) * rollouts)
    nodes = np.repeat(graph.task_start[tasks], rollouts).astype(np.int64)
    step = 0
    while len(nodes):
        numbers = step * (graph.n_actions + 1) + np.arange(graph.n_actions + 1)
        draws = streams.uniform(keys[:, None], streams.TASK, numbers[None, :])
        legal = ~np.isnan(graph.node_reserve[nodes])
        actions = np.where(legal, draws[:, 1:], -1.0).argmax(axis=1)
        expander.expand(nodes, actions)
        first = graph.edge_first[nodes, actions]
        edges = first + (draws[:, 0] * graph.edge_count[nodes, actions]).astype(np.int64)
        known = first >= 0
        nodes, keys, step = graph.edges["next"][edges[known]].astype(np.int64), keys[known], step + 1
        going = graph.node_status[nodes] == OPEN
        nodes, keys = nodes[going], keys[going]


def play_policy(
    expander: Expander, tasks: npt.NDArray[np.int64], policies: Sequence[Policy], rollouts: int = 1, seed: int = 0
) -> None:
    """Episodes of trained policies at every budget and price of cost that an evaluation plays.

    The budgets are those of the recording's range, raised where a task's cheapest arm may cost more.
    """
    recording = expander.recording
    floors = recording.graph.arm_floor(recording.graph.task_start)
    budgets = np.append(budget_grid(recording), np.inf)
    points = [(budget, price) for budget in budgets for price in LAMBDAS for _ in range(rollouts)]
    for policy in policies:
        task = np.repeat(tasks, len(points))
        seeds = _seeds(expander, task, len(points), seed)
        budget, price = np.tile(np.array(points).T, len(tasks))
        for low in range(0, len(task), _SLOTS):
            part = slice(low, low + _SLOTS)
            _play(expander, policy, seeds[part], {
                "task_id": task[part],
                "budget_usd": np.maximum(budget[part], floors[task[part]]),
                "lambda": price[part],
            })  # fmt: skip


def _play(expander: Expander, policy: Policy, seeds: list[int], episodes: dict[str, Any]) -> None:
    """One episode per seed; a call that brings no answer ends its episode."""
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(
        len(seeds), expander.recording, split="all", observation=form, info="lean", autoreset_mode="Disabled",
        expander=expander,
    )  # fmt: skip
    observation, _ = env.reset(seed=list(seeds), options=episodes)
    done, start, state = np.zeros(len(seeds), dtype=bool), np.ones(len(seeds), dtype=bool), None
    while not done.all():
        actions, state = policy.predict(observation, state, start, True, env.action_masks())
        observation, _, terminated, truncated, _ = env.step(actions)
        done |= terminated | truncated
        start = np.zeros(len(seeds), dtype=bool)


def _seeds(expander: Expander, task: npt.NDArray[np.int64], each: int, seed: int) -> list[int]:
    """A seed for every episode from the id of its task; `task` has blocks of `each` episodes of one task."""
    ids = expander.recording.tasks.ids
    found = []
    for row, index in enumerate(task.tolist()):
        name = f"{seed}\x00{row % each}\x00{ids[index]}"
        found.append(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    return found
