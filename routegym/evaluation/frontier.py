"""Cost-accuracy frontiers and the numbers drawn from them.

A frontier is the non-decreasing upper hull of (mean cost, mean score) points: mixing two operating points per
episode reaches every point between them, and money need not be spent (free disposal), so to the right of its
best point a frontier stays level. To the left of its cheapest point the only mixture left is with answering
nothing, so there a frontier runs straight to (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError

__all__ = ["Frontier", "aiq", "gap_closed", "hull", "score_at", "zero_router"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frontier:
    """Vertices of a non-decreasing concave curve, both arrays strictly increasing."""

    costs: _Floats
    """Mean cost in USD, float64 (v,), v >= 1."""
    scores: _Floats
    """Mean score, float64 (v,)."""


def hull(costs: npt.ArrayLike, scores: npt.ArrayLike) -> Frontier:
    """Non-decreasing upper hull of operating points, with free disposal.

    Args:
        costs: mean cost in USD of each point, >= 0, float (p,), p >= 1, in any order.
        scores: mean score of each point, float (p,).

    Raises:
        ConfigError: no point, shapes that differ, a number that is not finite, or a negative cost.
    """
    x = np.asarray(costs, dtype=np.float64).reshape(-1)
    y = np.asarray(scores, dtype=np.float64).reshape(-1)
    if not len(x) or len(x) != len(y):
        raise ConfigError(f"hull was given {len(x)} costs and {len(y)} scores; expected equally many, at least one")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all()):
        raise ConfigError(
            f"hull was given costs {x.tolist()} and scores {y.tolist()}; expected finite numbers and costs >= 0"
        )
    kept_x: list[float] = []
    kept_y: list[float] = []
    order = np.lexsort((-y, x))
    for cost, score in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if kept_y and score <= kept_y[-1]:
            continue  # no dearer point is worth having unless it scores more
        while len(kept_x) > 1 and (kept_y[-1] - kept_y[-2]) * (cost - kept_x[-2]) <= (score - kept_y[-2]) * (
            kept_x[-1] - kept_x[-2]
        ):
            kept_x.pop()
            kept_y.pop()
        kept_x.append(cost)
        kept_y.append(score)
    return Frontier(np.array(kept_x), np.array(kept_y))


def zero_router(costs: npt.ArrayLike, scores: npt.ArrayLike) -> Frontier:
    """Hull of the single arms: what mixing arms at random, without looking at the task, achieves.

    (The "non-decreasing convex hull" of RouterBench, arXiv 2403.12031.)

    Args:
        costs, scores: mean cost and score of always choosing each arm, float (arms,).
    """
    return hull(costs, scores)


def score_at(frontier: Frontier, cost: npt.ArrayLike) -> _Floats:
    """Score that a frontier reaches at mean costs `cost` (USD, any shape); same shape."""
    return np.interp(np.asarray(cost, dtype=np.float64), *_with_origin(frontier))


def aiq(frontier: Frontier, c_lo: float, c_hi: float) -> float:
    """Average score of a frontier over mean costs from `c_lo` to `c_hi` (AIQ of RouterBench).

    ``1 / (c_hi - c_lo) * integral of the frontier from c_lo to c_hi``, exact. Unlike RouterBench's code it
    divides by the length of the range (not by c_hi), and unlike MMR-Bench's nAUC the range is common to all
    that is compared: use always-cheapest .. always-dearest arm.

    Raises:
        ConfigError: not 0 <= c_lo < c_hi < inf.
    """
    if not 0 <= c_lo < c_hi < np.inf:
        raise ConfigError(
            f"cost range [{c_lo!r}, {c_hi!r}]; expected 0 <= c_lo < c_hi in USD, "
            "such as the mean costs of always-cheapest and always-dearest"
        )
    costs, scores = _with_origin(frontier)
    inside = costs[(costs > c_lo) & (costs < c_hi)]
    knots = np.concatenate([[c_lo], inside, [c_hi]])
    heights = np.interp(knots, costs, scores)
    return float((np.diff(knots) * (heights[1:] + heights[:-1])).sum() / 2 / (c_hi - c_lo))


def gap_closed(policy: Frontier, zero: Frontier, oracle: Frontier, c_lo: float, c_hi: float) -> float:
    """Share of the gap between zero router and oracle that a policy closes, at equal mean cost.

    ``(AIQ(policy) - AIQ(zero)) / (AIQ(oracle) - AIQ(zero))`` over the common range: 0 = no better than the
    zero router, 1 = the oracle. NaN where the oracle is no better than the zero router.
    """
    base = aiq(zero, c_lo, c_hi)
    gap = aiq(oracle, c_lo, c_hi) - base
    return (aiq(policy, c_lo, c_hi) - base) / gap if gap > 0 else float("nan")


def _with_origin(frontier: Frontier) -> tuple[_Floats, _Floats]:
    if frontier.costs[0] == 0:
        return frontier.costs, frontier.scores
    return np.concatenate([[0.0], frontier.costs]), np.concatenate([[0.0], frontier.scores])
