"""Other published summaries of a router's operating points, each on a stated range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.frontier import hull

__all__ = ["apgr", "cpt", "hypervolume", "pgr", "qnc"]

_Floats = npt.NDArray[np.float64]

#: A score this much below the goal has reached it: recorded scores are float32.
_ROUNDING = 1e-7


def pgr(scores: npt.ArrayLike, weak: float, strong: float) -> _Floats:
    """Performance gap recovered: ``(score - weak) / (strong - weak)`` (RouteLLM, arXiv 2406.18665).

    Args:
        scores: mean scores, any shape.
        weak, strong: mean score of always-cheapest and of always-dearest.

    Returns:
        float64, the shape of `scores`; NaN where the strong arm is no better than the weak one.
    """
    gained = np.asarray(scores, dtype=np.float64) - weak
    return gained / (strong - weak) if strong > weak else np.full_like(gained, np.nan)


def apgr(strong_shares: npt.ArrayLike, scores: npt.ArrayLike, weak: float, strong: float) -> float:
    """Average PGR: the area under PGR over the share of calls that go to the strong arm.

    The operating points are joined by straight lines, and to (0, `weak`) and (1, `strong`), which every router
    reaches by not routing; of points with the same share the best counts. RouteLLM's code leaves these ends out and so
    counts shares outside of the router's own range as 0. Nothing forbids more than 1: a router that knows when the
    strong arm fails beats it.

    Args:
        strong_shares: share of strong calls of each operating point, in [0, 1], float (p,); p may be 0.
        scores: mean score of each, float (p,).
        weak, strong: mean score of always-cheapest and of always-dearest.

    Returns:
        The area; NaN where the strong arm is no better than the weak one.

    Raises:
        ConfigError: arrays of other shapes, or a share outside of [0, 1].
    """
    shares, gains = _anchored(strong_shares, scores, weak, strong)
    return float((np.diff(shares) * (gains[1:] + gains[:-1])).sum() / 2)


def cpt(level: float, strong_shares: npt.ArrayLike, scores: npt.ArrayLike, weak: float, strong: float) -> float:
    """Call-performance threshold CPT(level): the least share of strong calls with PGR >= `level`.

    On the same curve as `apgr`, which may rise and fall: the first crossing counts. (RouteLLM's code interpolates the
    share over the score, which is right only where the score never falls.)

    Args:
        level: share of the gap, for example 0.5 for CPT(50 %).
        strong_shares, scores, weak, strong: as for `apgr`.

    Returns:
        A share in [0, 1]; inf if the level is not reached, NaN where the strong arm is no better than the weak one.

    Raises:
        ConfigError: as `apgr`.
    """
    shares, gains = _anchored(strong_shares, scores, weak, strong)
    if np.isnan(gains).any():
        return float("nan")
    reached = gains >= level - _ROUNDING
    if not reached.any():
        return float("inf")
    first = int(np.argmax(reached))
    if first == 0 or gains[first] <= level:
        return float(shares[first])
    along = (level - gains[first - 1]) / (gains[first] - gains[first - 1])
    return float(shares[first - 1] + along * (shares[first] - shares[first - 1]))


def qnc(costs: npt.ArrayLike, scores: npt.ArrayLike, arm_costs: npt.ArrayLike, arm_scores: npt.ArrayLike) -> float:
    """Quality-neutral cost: least mean cost that reaches the best single arm's score, over that arm's mean cost.

    The least cost is read off the frontier of the operating points, mixtures of two of them included. Below 1 the
    router is as good as the best arm for less.

    Args:
        costs, scores: mean cost in USD and mean score of each operating point, float (p,).
        arm_costs, arm_scores: those of always choosing each arm, float (arms,); of equal scores the cheapest counts.

    Returns:
        The ratio; inf if the score is not reached, NaN if the best arm costs nothing.

    Raises:
        ConfigError: as `hull`.
    """
    arms, frontier = hull(arm_costs, arm_scores), hull(costs, scores)
    goal, price = arms.scores[-1], arms.costs[-1]
    if price == 0:
        return float("nan")
    if frontier.scores[-1] < goal - _ROUNDING:
        return float("inf")
    # Both ends of a frontier's scores are level or rise from 0, so the inverse exists.
    knots = np.append(0.0, frontier.scores), np.append(0.0, frontier.costs)
    return float(np.interp(goal, *knots) / price)


def hypervolume(costs: npt.ArrayLike, scores: npt.ArrayLike, c_lo: float, c_hi: float) -> float:
    """Share of the rectangle [c_lo, c_hi] x [0, 1] that the operating points dominate, no mixtures.

    The area left of c_hi and above 0 in which some point is at least as cheap and scores at least as much (reference
    point (c_hi, 0)), cut to the common range of `aiq` and divided by its length. At most the AIQ of the same points.

    Args:
        costs, scores: mean cost in USD and mean score of each operating point, float (p,).
        c_lo, c_hi: mean cost of always-cheapest and of always-dearest.

    Raises:
        ConfigError: arrays of other shapes, or not 0 <= c_lo < c_hi < inf.
    """
    x, y = _pairs("costs", costs, scores)
    if not 0 <= c_lo < c_hi < np.inf:
        raise ConfigError(f"cost range [{c_lo!r}, {c_hi!r}]; expected 0 <= c_lo < c_hi in USD")
    inside = x <= c_hi
    order = np.argsort(x[inside], kind="stable")
    steps = np.append(np.maximum(x[inside][order], c_lo), c_hi)
    best = np.maximum.accumulate(np.maximum(y[inside][order], 0.0))
    return float((np.diff(steps) * best).sum() / (c_hi - c_lo))


def _anchored(
    strong_shares: npt.ArrayLike, scores: npt.ArrayLike, weak: float, strong: float
) -> tuple[_Floats, _Floats]:
    """Shares, strictly increasing from 0 to 1, and the best PGR at each."""
    shares, score = _pairs("strong_shares", strong_shares, scores)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ConfigError(f"strong_shares = {shares.tolist()}; expected shares of the calls, 0 to 1")
    shares, place = np.unique(np.concatenate([[0.0], shares, [1.0]]), return_inverse=True)
    best = np.full(len(shares), -np.inf)
    np.maximum.at(best, place, np.concatenate([[weak], score, [strong]]))
    return shares, pgr(best, weak, strong)


def _pairs(name: str, x: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[_Floats, _Floats]:
    first, second = np.asarray(x, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ConfigError(
            f"{name} have shape {first.shape} and scores {second.shape}; expected equally many finite numbers"
        )
    return first, second
