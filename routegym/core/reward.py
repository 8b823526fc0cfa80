"""Rewards: how a graded score and a priced cost become one number per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError

__all__ = ["REWARDS", "Reward", "reward_function", "score_minus_cost", "vector", "weighted_sum", "xrouter"]

Floats = npt.NDArray[np.float64]

#: (score, cost_usd of this step, cost_usd_total with it, done, lambda, cost_scale_usd) -> reward.
#: All arrays are (n,); score is 0 until the episode is done.
Reward = Callable[[Floats, Floats, Floats, npt.NDArray[np.bool_], Floats, float], Floats]


def score_minus_cost(
    score: Floats, cost: Floats, total: Floats, done: npt.NDArray[Any], lambda_: Floats, scale: float
) -> Floats:
    """``score - lambda * cost / cost_scale``: every step pays its own cost, the last one brings the score."""
    return score - lambda_ * cost / scale


def weighted_sum(
    score: Floats, cost: Floats, total: Floats, done: npt.NDArray[Any], lambda_: Floats, scale: float
) -> Floats:
    """``(score - lambda * cost / cost_scale) / (1 + lambda)``: weights of score and cost that sum to one.

    At any one price the same policies are best as with `score_minus_cost`; where prices are drawn per episode, high
    ones do not drown the others. Learners train with it.
    """
    return (score - lambda_ * cost / scale) / (1.0 + lambda_)


def xrouter(
    score: Floats, cost: Floats, total: Floats, done: npt.NDArray[Any], lambda_: Floats, scale: float
) -> Floats:
    """``score * (1 - min(lambda * cost / cost_scale, 0.8))`` at the end: only success pays for its cost.

    The form of xRouter (arXiv 2510.08439) with K = 1 and c_max = 0.8 as in its shipped script; there the
    cost is in USD and lambda = 3, here it is relative to the recording's cost scale.
    """
    return np.where(done, score * (1.0 - np.minimum(lambda_ * total / scale, 0.8)), 0.0)


def vector(score: Floats, cost: Floats, total: Floats, done: npt.NDArray[Any], lambda_: Floats, scale: float) -> Floats:
    """``[score, -cost / cost_scale]``, shape (n, 2): the unmixed reward of MO-Gymnasium's convention."""
    return np.stack([score, -cost / scale], axis=1)


REWARDS: dict[str, Reward] = {
    "score_minus_cost": score_minus_cost,
    "weighted_sum": weighted_sum,
    "xrouter": xrouter,
    "vector": vector,
}


def reward_function(name: str | Reward) -> Reward:
    """The reward of this name, or the function itself.

    Raises:
        ConfigError: there is no reward of this name.
    """
    if callable(name):
        return name
    if name not in REWARDS:
        raise ConfigError(f"reward = {name!r}; expected one of {sorted(REWARDS)} or a function")
    return REWARDS[name]
