"""The attainable bound: about the best that a policy can do which sees only the observation.

The clairvoyant oracle knows what no router can know before it calls. This bound does not: a large network, which gets
nothing but observations, is fitted with the all-action gradient to the very tasks that are evaluated, for several times
as long as a learner takes. What it is not: a proof. Gradient ascent finds a local optimum in a given number of updates,
so a better policy may exist; and it is fitted in-sample, so it also knows by heart what no policy can learn from other
tasks (it may recognise a task by its signals, the more so the longer it is fitted). In practice the second outweighs
the first, and it is an upper-side estimate of what a router can attain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from routegym.evaluation.outcomes import LAMBDAS

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.network import NetworkPolicy
    from routegym.policies.training import Training

__all__ = ["attainable_policy"]


def attainable_policy(
    recording: Recording,
    split: str,
    seed: int = 0,
    *,
    updates: int = 1_600,
    tasks_per_update: int = 256,
    hidden: tuple[int, ...] = (128, 128),
    training: Training | None = None,
) -> NetworkPolicy:
    """A policy fitted to the tasks of a split itself, for every budget and price of the grid.

    Args:
        recording: complete.
        split: the tasks that are evaluated.
        seed: fixes everything random.
        updates, tasks_per_update, hidden: see `routegym.policies.all_action.AllAction`.
        training: checkpoints and metrics.

    Raises:
        MissingEdgeError: the recording is not complete.
        MissingExtraError: torch is not installed.
        RecordingError: there is no such split.
    """
    from routegym.policies.algorithm import Problem
    from routegym.policies.all_action import AllAction

    algorithm = AllAction(
        updates=updates, tasks_per_update=tasks_per_update, width=2, learning_rate=3e-3, hidden=hidden
    )
    problem = Problem(recording, lambda_=(min(LAMBDAS), max(LAMBDAS)), split=split)
    return algorithm.fit(problem, seed, training)
