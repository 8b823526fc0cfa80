"""What a policy leaves on the table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError

__all__ = ["regret"]


def regret(
    scores: npt.ArrayLike,
    costs: npt.ArrayLike,
    best_scores: npt.ArrayLike,
    best_costs: npt.ArrayLike,
    lambda_usd: float = 0.0,
) -> float:
    """Mean over episodes of the oracle's objective ``score - lambda_usd * cost_usd`` minus the policy's.

    For a price of cost compare with `oracle_at_lambda` for that price; under a hard cap and ``lambda_usd = 0`` with
    `oracle_at_cap` for that cap. Then no policy has a negative expected regret; where a call has several recorded
    samples, the mean over the episodes played may be negative by chance. For an interval pass a function of this to
    `bootstrap`.

    Args:
        scores, costs: outcome of each episode of the policy, float (..., tasks); USD.
        best_scores, best_costs: expected outcome of the oracle on each task, float (tasks,).
        lambda_usd: score that one USD is worth, finite and >= 0: lambda / cost scale of the recording.

    Raises:
        ConfigError: other numbers of tasks, or a price that is negative or not finite.
    """
    policy, best = _objective(scores, costs, lambda_usd), _objective(best_scores, best_costs, lambda_usd)
    if policy.shape[-1] != best.shape[-1] or best.ndim != 1:
        raise ConfigError(
            f"outcomes of shape {policy.shape} beside an oracle's of shape {best.shape}; expected (..., tasks) and "
            "(tasks,), the same tasks in the same order"
        )
    return float((best - policy).mean())


def _objective(scores: npt.ArrayLike, costs: npt.ArrayLike, lambda_usd: float) -> npt.NDArray[np.float64]:
    score, cost = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if score.shape != cost.shape or not score.ndim or not score.size:
        raise ConfigError(f"scores have shape {score.shape} and costs {cost.shape}; expected (..., tasks) for both")
    if not 0 <= lambda_usd < np.inf:
        raise ConfigError(f"lambda_usd = {lambda_usd!r}; expected a finite price >= 0 in score per USD")
    return score - lambda_usd * cost
