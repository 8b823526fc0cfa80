"""A router of one's own beside all the others.

    routegym bench --policies my_router:Hesitant my_router:Tuned maskable_ppo --seeds 2

`Hesitant` is a policy: any class made from a recording with `predict`. `Tuned` is an algorithm: hyperparameters with
`fit`; what `fit` returns says how it is kept (`to_state`, `from_state`). A package announces them under the entry-point
groups ``routegym.algorithms`` (name = "package.module:Algorithm") and ``routegym.policies`` (kind =
"package.module:Policy").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from routegym.core import ObservationLayout
from routegym.policies.algorithm import Problem
from routegym.policies.network import NetworkPolicy
from routegym.policies.ppo import MaskablePPO


class Hesitant:
    """The cheapest legal arm, or the dearest legal one if the last answer was not confident."""

    def __init__(self, recording, threshold: float = 0.8) -> None:
        self.columns = ObservationLayout.of(recording).columns
        names = recording.edge_signal_names
        self.confidence = self.columns["edge_signals"].start + names.index("confidence")
        self.threshold, self.n_arms = threshold, len(recording.arms)

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        worst = observation[:, self.columns["arm_reserve"]]  # (N, n_actions), what each call may cost
        doubt = (observation[:, self.confidence] < self.threshold) & (observation[:, self.columns["step"].start] > 0)
        preferred = np.where(doubt[:, None], worst, -worst)
        preferred = np.where(action_masks, preferred, -np.inf)
        preferred[:, self.n_arms :] = np.where(action_masks[:, self.n_arms :], -10.0, -np.inf)  # controls come last
        return preferred.argmax(axis=1), state


@dataclass(frozen=True)
class Tuned:
    """Short training with a network of one's own choice."""

    steps: int = 100_000
    width: int = 32

    def fit(self, problem: Problem, seed: int = 0, training=None) -> NetworkPolicy:
        return MaskablePPO(steps=self.steps, hidden=(self.width,)).fit(problem, seed, training)


if __name__ == "__main__":
    from routegym.evaluation.outcomes import Grid, play
    from routegym.graph.library import load_recording

    recording = load_recording("agent_steps")
    grid = Grid.of(recording, lambdas=[0.0])
    outcomes = play(Hesitant(recording), recording, "test", grid)
    for budget, score, cost in zip(grid.budgets, outcomes.scores.mean(1), outcomes.costs.mean(1), strict=True):
        print(f"budget {budget:.6f} USD: score {score:.3f} at {cost:.6f} USD")
