"""Are predicted chances of success what they say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.references import arms_alone, recorded_alone

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = [
    "Reliability",
    "brier",
    "expected_calibration_error",
    "predicted_success",
    "reliability",
    "success_calibration",
]

_Floats = npt.NDArray[np.float64]

#: Bins of equal width on [0, 1], or of equally many predictions.
Binning = Literal["width", "mass"]


class SuccessPredicting(Protocol):
    """A policy that says what it expects."""

    def predicted(self, observation: Any) -> npt.NDArray[np.float64]:
        """Predicted final score of each action, float64 (n, n_actions), in [0, 1]."""
        ...


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins, from low to high; empty bins are left out. A calibrated predictor lies on the diagonal."""

    predicted: _Floats
    """Mean prediction in each bin, float64 (b,)."""
    observed: _Floats
    """Mean outcome in each, float64 (b,)."""
    count: npt.NDArray[np.int64]
    """Predictions in each, int64 (b,)."""


def brier(predicted: npt.ArrayLike, outcome: npt.ArrayLike) -> float:
    """Brier score: mean squared error of predicted success; 0 is best, 0.25 is what saying 1/2 always has.

    Args:
        predicted: probabilities of success, float (n,).
        outcome: what came, in [0, 1]: a score, or whether it succeeded, float or bool (n,).

    Raises:
        ConfigError: none, shapes that differ, or numbers outside of [0, 1].
    """
    p, y = _checked(predicted, outcome)
    return float(((p - y) ** 2).mean())


def reliability(
    predicted: npt.ArrayLike, outcome: npt.ArrayLike, bins: int = 15, binning: Binning = "width"
) -> Reliability:
    """The points of a reliability diagram.

    Args:
        predicted, outcome: as for `brier`.
        bins: number of bins, >= 1.
        binning: ``"width"``: [0, 1] in equal parts, each with its lower end, the last also with 1; ``"mass"``: the
            sorted predictions in parts that differ in size by at most one, except that equal predictions stay together.

    Raises:
        ConfigError: as `brier`, fewer than one bin, or an unknown binning.
    """
    p, y = _checked(predicted, outcome)
    if bins < 1 or binning not in ("width", "mass"):
        raise ConfigError(f"bins = {bins!r}, binning = {binning!r}; expected at least one, and 'width' or 'mass'")
    if binning == "width":
        place = np.minimum((p * bins).astype(np.int64), bins - 1)
    else:
        place = np.searchsorted(np.sort(p), p, side="left") * bins // len(p)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    mean = [np.bincount(place, values, bins)[used] / count[used] for values in (p, y)]
    return Reliability(mean[0], mean[1], count[used].astype(np.int64))


def expected_calibration_error(
    predicted: npt.ArrayLike, outcome: npt.ArrayLike, bins: int = 15, binning: Binning = "width"
) -> float:
    """ECE: mean distance of a bin's mean prediction from its mean outcome, weighted by the predictions in it.

    Args:
        predicted, outcome, bins, binning: as for `reliability`.

    Raises:
        ConfigError: as `reliability`.
    """
    found = reliability(predicted, outcome, bins, binning)
    return float((found.count * np.abs(found.predicted - found.observed)).sum() / found.count.sum())


def predicted_success(policy: SuccessPredicting, recording: Recording, split: str = "test") -> tuple[_Floats, _Floats]:
    """What a policy foresees at the start of each task of the score of every arm alone, and what that score is.

    An arm that is not legal at the start of a task was not recorded for it: nobody knows its score, and the pair is
    left out.

    Args:
        policy: with ``predicted(observation)``, the predicted final score of each action, float (n, n_actions).
        recording: complete.
        split: the tasks.

    Returns:
        predicted and outcome, float64 (pairs,) each; the pairs of (task, arm) that are legal, task by task.
    """
    tasks = recording.split(split)
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(len(tasks), recording, split=split, observation=form, info="lean")
    observation, _ = env.reset(seed=0, options={"task_id": tasks})
    known = recorded_alone(recording, tasks).T  # (tasks, arms)
    outcome = arms_alone(recording, tasks).scores[0].T
    return policy.predicted(observation)[:, : len(recording.arms)][known], outcome[known]


def success_calibration(policy: SuccessPredicting, recording: Recording, split: str = "test") -> dict[str, float]:
    """How well a policy foresees, at the start of each task, the score of every arm alone.

    Args:
        policy, recording, split: as for `predicted_success`.

    Returns:
        ``brier`` and ``ece`` (15 bins of equal width) over all (task, arm) pairs that are legal.
    """
    predicted, outcome = predicted_success(policy, recording, split)
    return {"brier": brier(predicted, outcome), "ece": expected_calibration_error(predicted, outcome)}


def _checked(predicted: npt.ArrayLike, outcome: npt.ArrayLike) -> tuple[_Floats, _Floats]:
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if p.ndim != 1 or p.shape != y.shape or not len(p):
        raise ConfigError(f"predicted has shape {p.shape} and outcome {y.shape}; expected (n,) for both, n >= 1")
    for name, values in (("predicted", p), ("outcome", y)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ConfigError(f"{name} holds numbers outside of [0, 1]; expected probabilities or scores")
    return p, y
