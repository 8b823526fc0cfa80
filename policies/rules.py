"""Rules as algorithms: a fit tries their variants and keeps the best for each budget and price of cost.

The policies are those of `routegym.policies.baselines`; each class here is named after the rule it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.frontier import hull
from routegym.evaluation.references import recorded_alone
from routegym.graph.values import always_arm_actions, evaluate_choices, most_attempts
from routegym.policies import baselines
from routegym.policies.baselines import fallbacks, ladder_of
from routegym.policies.checks import check_positive
from routegym.policies.selection import Selected, select

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.policies.training import Training

__all__ = [
    "Always",
    "ConfidenceCascade",
    "Escalate",
    "FirstLargeK",
    "FixedCascade",
    "Ladders",
    "Random",
    "RandomMixture",
    "RoundRobin",
    "ladders",
]


@dataclass(frozen=True)
class Random:
    """Every legal action with equal probability; nothing is fitted."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> baselines.Random:
        """See `routegym.policies.algorithm.Algorithm`."""
        return baselines.Random(problem.recording, seed=seed)


@dataclass(frozen=True)
class RoundRobin:
    """The arms in turn, from one drawn for each episode; nothing is fitted."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> baselines.RoundRobin:
        """See `routegym.policies.algorithm.Algorithm`."""
        return baselines.RoundRobin(problem.recording, seed=seed)


@dataclass(frozen=True)
class Always:
    """One arm at every step."""

    arm: str | None = None
    """Its name; None takes for each budget and price the arm that is best on the validation split."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> baselines.AlwaysArm | Selected:
        """See `routegym.policies.algorithm.Algorithm`."""
        if self.arm is not None:
            return baselines.AlwaysArm(problem.recording, self.arm)
        arms = range(len(problem.recording.arms))
        return select(problem, [baselines.AlwaysArm(problem.recording, arm) for arm in arms], seed)


@dataclass(frozen=True)
class RandomMixture:
    """One of two arms for a whole episode, drawn so that the mean cost is the target: a point of the zero router."""

    target_cost_usd: float | None = None
    """Mean cost of an episode without a cap, on the training tasks; None takes the middle of the arms' range."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> baselines.RandomMixture:
        """See `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: no mixture of arms has that mean cost.
        """
        target = self.target_cost_usd
        if target is None:
            _, points = ladder_of(problem.recording)
            target = float(points.costs[[0, -1]].mean())
        return baselines.RandomMixture.at_cost(problem.recording, target, seed)


@dataclass(frozen=True)
class FirstLargeK:
    """A large arm for the first k calls, a small one for the rest: k and the pair are chosen."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Selected:
        """See `routegym.policies.algorithm.Algorithm`."""
        recording = problem.recording
        arms, _ = ladder_of(recording)
        alone = [baselines.FirstLargeK(recording, 0, arm, arm) for arm in arms]
        mixed = [
            baselines.FirstLargeK(recording, k, large, small)
            for small, large in combinations(arms, 2)
            for k in range(1, _longest(recording))
        ]
        return select(problem, [*alone, *mixed], seed)


@dataclass(frozen=True)
class ConfidenceCascade:
    """Climbs a ladder of arms when an answer is not confident enough: ladder and threshold are chosen.

    Ladders are the arms of the zero router, every pair of them, and each alone.
    """

    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    """Confidences to try, each in [0, 1]."""

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ConfigError(f"thresholds = {self.thresholds}; expected at least one, each between 0 and 1")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Selected:
        """See `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the recording shows no confidence.
        """
        recording = problem.recording
        alone, several = _ladders(recording)
        variants = [baselines.ConfidenceCascade(recording, rungs, 0.0) for rungs in alone]
        variants += [
            baselines.ConfidenceCascade(recording, rungs, threshold)
            for rungs in several
            for threshold in self.thresholds
        ]
        return select(problem, variants, seed)


@dataclass(frozen=True)
class Escalate:
    """Climbs a ladder of arms when the verdict on a response is that it failed: ladder, and whether for good, are
    chosen. Ladders are those of `ConfidenceCascade`.
    """

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Selected:
        """See `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the recording shows no verdict.
        """
        recording = problem.recording
        alone, several = _ladders(recording)
        variants = [baselines.Escalate(recording, rungs) for rungs in alone]
        variants += [baselines.Escalate(recording, rungs, for_good) for rungs in several for for_good in (True, False)]
        return select(problem, variants, seed)


@dataclass(frozen=True)
class FixedCascade:
    """Arms in a fixed order, the next one when the environment says that the last has failed: the order is chosen.

    Every order of up to `most` different arms is scored exactly on the training tasks, without a cap; those on the
    cost-accuracy hull are kept, and of these the best one for each budget and price is found by playing them.
    """

    most: int = 5
    """Arms of a cascade at most."""

    def __post_init__(self) -> None:
        check_positive(self, "most")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> Selected:
        """See `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the environment of the recording does not say when a task is solved.
            MissingEdgeError: an arm was not recorded to the end of its attempt.
        """
        recording = problem.recording
        if not recording.tells_success:
            baselines.FixedCascade(recording, [0])  # says why not
        found = ladders(recording, problem.tasks, self.most)
        return select(problem, [baselines.FixedCascade(recording, rungs) for rungs in found.on_hull()], seed)


@dataclass(frozen=True)
class Ladders:
    """Fixed cascades and their means over some tasks, (n,) each."""

    arms: tuple[tuple[int, ...], ...]
    scores: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]
    """USD."""

    def on_hull(self) -> list[tuple[int, ...]]:
        """Those that no mixture of others beats, from cheap to dear; of equals the shortest."""
        points = list(zip(self.costs.tolist(), self.scores.tolist(), strict=True))
        kept = hull(self.costs, self.scores)
        return [self.arms[points.index(p)] for p in zip(kept.costs.tolist(), kept.scores.tolist(), strict=True)]


def ladders(recording: Recording, tasks: npt.NDArray[np.int64], most: int) -> Ladders:
    """Mean score and cost of every order of different arms, tried until one solves the task; exact, without a cap.

    Attempts of different arms are independent given the task, so what a cascade brings follows from the arms alone:
    an arm is reached as often as all before it have failed, and then it costs; what it scores counts where it solves
    the task, and of an arm that fails where it is the last. An arm that is not legal is passed over; where none of them
    is, the arm that stands in for the first is called, as by `routegym.policies.baselines.FixedCascade`.

    Args:
        recording: its environment says when a task is solved: a score of 1.
        tasks: to take the means over.
        most: arms at most; never more than a recorded episode has attempts.
    """
    graph = recording.graph
    starts = graph.task_start[tasks]
    full = graph.node_score >= 1
    outcomes = []
    for arm in range(graph.n_arms):
        action = always_arm_actions(graph, arm)
        solved, cost = evaluate_choices(graph, action, full)
        lost, _ = evaluate_choices(graph, action, np.where(full, 0.0, graph.node_score))
        outcomes.append((solved[starts], lost[starts], cost[starts]))
    legal = recorded_alone(recording, tasks)
    solved, lost, cost = np.where(legal, np.array(outcomes).transpose(1, 0, 2), 0.0)  # (arms, tasks) each
    instead = np.array([order[legal[order].argmax(axis=0)] for order in fallbacks(recording)])  # (arms, tasks)
    score_instead, cost_instead = (np.take_along_axis(brought, instead, axis=0) for brought in (solved + lost, cost))
    found: list[tuple[tuple[int, ...], float, float]] = []
    prefixes: list[tuple[tuple[int, ...], float, float]] = [((), 0.0, 0.0)]
    for _ in range(min(most, most_attempts(graph), graph.n_arms)):
        longer = []
        for arms, so_far, paid in prefixes:
            reached, kept = np.full(len(tasks), 1 / len(tasks)), np.zeros(len(tasks))
            for arm in arms:
                kept = np.where(legal[arm], lost[arm] * reached, kept)
                reached = reached * (1 - solved[arm])
            gained, spent = so_far + solved @ reached, paid + cost @ reached  # (arms,)
            last = lost @ reached + ~legal @ kept
            none = ~legal & ~legal[list(arms)].any(axis=0)  # of the arms so far and this one
            first = arms[0] if arms else slice(None)
            last += (none * score_instead[first]).mean(axis=1)
            other = (none * cost_instead[first]).mean(axis=1)
            for a in range(graph.n_arms):
                if a in arms:
                    continue
                longer.append(((*arms, a), float(gained[a]), float(spent[a])))
                found.append(((*arms, a), float(gained[a] + last[a]), float(spent[a] + other[a])))
        prefixes = longer
    arms_of, scores, costs = zip(*found, strict=True)
    return Ladders(arms_of, np.array(scores), np.array(costs))


def _ladders(recording: Recording) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """Single arms of the zero router; and all of them, and its pairs, from cheap to dear."""
    arms, _ = ladder_of(recording)
    several = dict.fromkeys((arms, *combinations(arms, 2)))
    return [(arm,) for arm in arms], [rungs for rungs in several if len(rungs) > 1]


def _longest(recording: Recording) -> int:
    """Most calls of an episode that a rule without a use for control actions makes."""
    return 1 if recording.controls else int(np.max(recording.graph.node_step))
