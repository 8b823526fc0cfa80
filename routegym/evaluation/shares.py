"""Who is called when: actions counted by difficulty of the task, by what is left of the budget, and by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.collapse import DIFFICULTIES, difficulty
from routegym.evaluation.outcomes import budget_grid
from routegym.evaluation.references import arms_alone

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["REMAINING_EDGES", "CallShares", "call_shares"]

_Ints = npt.NDArray[np.int64]

#: Remaining budget over the recording's cost scale (the dearest arm's mean cost of an episode): ends of its bins.
REMAINING_EDGES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True)
class CallShares:
    """Calls of each action; actions are ordered from the cheapest arm to the dearest, controls last."""

    actions: tuple[str, ...]
    """Names of the actions."""
    n_arms: int
    """How many of them are arms."""
    by_difficulty: _Ints
    """int64 (len(DIFFICULTIES), actions)."""
    by_remaining: _Ints
    """By remaining budget at the decision, int64 (len(REMAINING_EDGES) + 1, actions)."""
    by_step: _Ints
    """By calls made before, int64 (longest episode, actions)."""


def call_shares(
    policy: Policy,
    recording: Recording,
    split: str = "test",
    budgets: npt.ArrayLike | None = None,
    lambda_: float = 0.0,
    seed: int = 0,
) -> CallShares:
    """Play every task of a split under every budget and count what is chosen when.

    Episodes are those of `rollout` with the same tasks, budgets and seed.

    Args:
        policy: any that is fitted.
        recording: complete.
        split: tasks to play.
        budgets: hard caps in USD, float (b,); `budget_grid` by default.
        lambda_: price of cost that the policy sees.
        seed: fixes the recorded samples met.

    Raises:
        BudgetError: a budget below the cheapest arm of a task.
        MissingEdgeError: the recording is incomplete.
    """
    graph, tasks = recording.graph, recording.split(split)
    caps = budget_grid(recording) if budgets is None else np.atleast_1d(np.asarray(budgets, dtype=np.float64))
    n = len(tasks) * len(caps)
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(n, recording, split=split, observation=form, info="lean", autoreset_mode="SameStep")
    observation, _ = env.reset(
        seed=np.random.SeedSequence(seed).generate_state(n).tolist(),
        options={"task_id": np.tile(tasks, len(caps)), "budget_usd": np.repeat(caps, len(tasks)), "lambda": lambda_},
    )
    level = np.tile(difficulty(recording, tasks), len(caps))
    edges = np.array(REMAINING_EDGES) * recording.cost_scale_usd
    by_difficulty = np.zeros((len(DIFFICULTIES), graph.n_actions), dtype=np.int64)
    by_remaining = np.zeros((len(edges) + 1, graph.n_actions), dtype=np.int64)
    by_step: list[_Ints] = []
    state, start, playing = None, np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    while playing.any():
        left = np.digitize(env.ledger.remaining_usd, edges)
        actions, state = policy.predict(observation, state, start, True, env.action_masks())
        taken = actions[playing]
        np.add.at(by_difficulty, (level[playing], taken), 1)
        np.add.at(by_remaining, (left[playing], taken), 1)
        by_step.append(np.bincount(taken, minlength=graph.n_actions))
        observation, _, terminated, truncated, _ = env.step(actions)
        start = terminated | truncated
        playing &= ~start
    by_cost = np.argsort(arms_alone(recording, tasks).points()[0], kind="stable")
    order = np.append(by_cost, np.arange(graph.n_arms, graph.n_actions))
    return CallShares(
        actions=tuple(recording.action_names[action] for action in order),
        n_arms=graph.n_arms,
        by_difficulty=by_difficulty[:, order],
        by_remaining=by_remaining[:, order],
        by_step=np.array(by_step)[:, order],
    )
