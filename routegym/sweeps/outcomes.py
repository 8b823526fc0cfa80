"""What came of the trials of a sweep, whichever backend ran them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from routegym.sweeps.config import Objective, Value

__all__ = ["Outcome", "State", "best_first", "pareto_front"]

State = Literal["finished", "pruned", "failed", "running"]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    number: int
    """Counted from 0; its run folder is ``trials/NUMBER``."""
    values: Mapping[str, Value]
    """Its hyperparameters."""
    state: State
    summary: Mapping[str, float] = field(default_factory=dict)
    """The numbers of a finished one, see `routegym.tracking.run.SUMMARY`."""
    iterations: int = 0
    """How many records it reported."""
    seconds: float = 0.0
    """How long its process ran; the last one, where an interruption made it begin again."""
    problem: str = ""
    """Why it failed."""


def best_first(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> list[Outcome]:
    """Trials in the order of a table.

    Args:
        outcomes: of all trials.
        objectives: one, by which they are sorted; or several: then those on the Pareto front come first, and the first
            objective sorts within.

    Returns:
        Finished ones, then pruned, running and failed ones.
    """
    front = {outcome.number for outcome in pareto_front(outcomes, objectives)}
    first = objectives[0]

    def place(outcome: Outcome) -> tuple[int, bool, float, int]:
        state = ("finished", "pruned", "running", "failed").index(outcome.state)
        behind = len(objectives) > 1 and outcome.number not in front
        value = -first.sign * outcome.summary[first.name] if outcome.state == "finished" else -float(outcome.iterations)
        return state, behind, value, outcome.number

    return sorted(outcomes, key=place)


def pareto_front(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> list[Outcome]:
    """Finished trials that no other one beats in an objective without losing in another."""
    finished = [outcome for outcome in outcomes if outcome.state == "finished"]
    return [one for one in finished if not any(_dominates(other, one, objectives) for other in finished)]


def _dominates(one: Outcome, other: Outcome, objectives: Sequence[Objective]) -> bool:
    pairs = [(objective, one.summary[objective.name], other.summary[objective.name]) for objective in objectives]
    return any(goal.better(a, b) for goal, a, b in pairs) and not any(goal.better(b, a) for goal, a, b in pairs)
