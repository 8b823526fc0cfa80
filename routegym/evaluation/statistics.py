"""Confidence intervals: paired bootstrap over tasks and seeds.

Every interval stands for itself. In a table of many comparisons some of those that exclude 0 do so by chance: about one
in twenty where nothing differs at 95 %. Nothing here adjusts for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.frontier import aiq, gap_closed, hull, score_at

if TYPE_CHECKING:
    from routegym.core.rollout import EpisodeTable

__all__ = [
    "Interval",
    "Sweep",
    "aiq_difference",
    "bootstrap",
    "difference_at_cost",
    "gap_closed_interval",
    "mean_interval",
    "score_bands",
]

_Floats = npt.NDArray[np.float64]

#: Mean cost and mean score of the operating points of one sweep.
Points = tuple[_Floats, _Floats]


@dataclass(frozen=True)
class Sweep:
    """Outcomes of one strategy at each of its operating points (budgets, lambdas, arms, ...).

    Sweeps that are compared hold the same tasks in the same order.
    """

    scores: _Floats
    """float64 (seeds, points, tasks); a strategy without seeds has one."""
    costs: _Floats
    """USD, same shape."""

    def __post_init__(self) -> None:
        for name, values in (("scores", self.scores), ("costs", self.costs)):
            if values.ndim != 3 or values.shape != self.scores.shape or not values.size:
                raise ConfigError(
                    f"sweep: {name} has shape {values.shape}, scores {self.scores.shape}; "
                    "expected (seeds, points, tasks) for both, none of them 0"
                )
            if not np.isfinite(values).all():
                raise ConfigError(f"sweep: {name} holds NaN or inf; expected the outcome of every task")

    @classmethod
    def of(cls, tables: Sequence[Sequence[EpisodeTable]]) -> Sweep:
        """A sweep from the episodes played, ``tables[seed][point]``, each over the same tasks."""
        return cls(
            scores=np.array([[table.score for table in row] for row in tables]),
            costs=np.array([[table.cost_usd for table in row] for row in tables]),
        )

    def points(self) -> Points:
        """Mean cost and score of each operating point over tasks and seeds, float64 (points,) each."""
        return self.costs.mean(axis=(0, 2)), self.scores.mean(axis=(0, 2))


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap percentile interval."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def signed(self, digits: int = 3) -> str:
        """As text, of a difference: with signs, and a star where it excludes 0."""
        low, estimate, high = (f"{value:+.{digits}f}" for value in (self.low, self.estimate, self.high))
        return f"{estimate} [{low}, {high}]{'*' if self.excludes_zero else ''}"


def bootstrap(
    statistic: Callable[..., float],
    sweeps: Sequence[Sweep],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a number computed from the mean points of sweeps.

    Each resample draws tasks with replacement, the same ones for every sweep (paired), and the seeds of each
    sweep on their own. Points are averaged over seeds before `statistic` sees them: that is the frontier of a
    router trained with a random seed, and does not profit from picking lucky seeds at each budget.

    Args:
        statistic: takes one (costs, scores) pair of float64 (points,) arrays for each sweep.
        sweeps: hold the same tasks.
        resamples: number of resamples.
        level: coverage of the interval.
        seed: fixes the resamples.

    Raises:
        ConfigError: no sweep, sweeps of different numbers of tasks, or no resamples.
    """
    draws = _resampled_points(sweeps, resamples, seed)
    found = np.array([statistic(*points) for points in zip(*draws, strict=True)])
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(found, [tail, 100 - tail]) if not np.isnan(found).all() else (np.nan, np.nan)
    return Interval(float(statistic(*(sweep.points() for sweep in sweeps))), float(low), float(high), level)


def mean_interval(values: npt.ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap percentile interval of a mean over tasks; for a paired comparison hand in the differences.

    Args:
        values: one number per task, (n,).

    Raises:
        ConfigError: there is none.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        raise ConfigError("no values to average; expected at least one")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high), level)


def aiq_difference(
    policy: Sweep,
    baseline: Sweep,
    arms: Sweep,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """AIQ of a policy's frontier minus that of a baseline's, with a paired bootstrap interval.

    The common range runs from the cheapest to the dearest mean cost in `arms`; it is recomputed with every
    resample, as it is a property of the tasks too.

    Args:
        policy, baseline: operating points; for the zero router pass `arms` as the baseline.
        arms: always-one-arm, one point for each arm.
    """

    def difference(mine: Points, theirs: Points, single: Points) -> float:
        c_lo, c_hi = _cost_range(single)
        return aiq(hull(*mine), c_lo, c_hi) - aiq(hull(*theirs), c_lo, c_hi)

    return bootstrap(difference, (policy, baseline, arms), resamples=resamples, level=level, seed=seed)


def gap_closed_interval(
    policy: Sweep,
    oracle: Sweep,
    arms: Sweep,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Share of the gap from zero router to oracle that a policy closes, with a paired bootstrap interval.

    Args:
        policy: operating points of the policy.
        oracle: operating points of the oracle, for example `oracle_at_lambda` for a range of lambdas.
        arms: always-one-arm, one point for each arm.
    """

    def share(mine: Points, best: Points, single: Points) -> float:
        return gap_closed(hull(*mine), hull(*single), hull(*best), *_cost_range(single))

    return bootstrap(share, (policy, oracle, arms), resamples=resamples, level=level, seed=seed)


def difference_at_cost(
    policy: Sweep, fixed: Sweep, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Score of a policy's frontier minus that of a fixed strategy, at the mean cost of the latter.

    Between its points, and between the cheapest and doing nothing, the frontier is that of random mixtures. The cost is
    taken anew with every resample.

    Args:
        policy: operating points.
        fixed: one point.
    """

    def difference(mine: Points, theirs: Points) -> float:
        return float(score_at(hull(*mine), theirs[0][0]) - theirs[1][0])

    return bootstrap(difference, (policy, fixed), resamples=resamples, level=level, seed=seed)


def score_bands(sweep: Sweep, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[_Floats, _Floats]:
    """Bootstrap interval (low, high) of the mean score of each operating point, float64 (points,) each."""
    scores = np.array([points[1] for points in _resampled_points([sweep], resamples, seed)[0]])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(scores, [tail, 100 - tail], axis=0)
    return low, high


def _cost_range(arms: Points) -> tuple[float, float]:
    return float(arms[0].min()), float(arms[0].max())


@lru_cache(maxsize=4)
def _task_weights(n: int, resamples: int, seed: int) -> tuple[_Floats, Any]:
    """Share of each task in each resample, (R, n), and the state of the generator after drawing it.

    A table asks for hundreds of intervals over the same tasks.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    weights.setflags(write=False)
    return weights, rng.bit_generator.state


def _resampled_points(sweeps: Sequence[Sweep], resamples: int, seed: int) -> list[list[Points]]:
    """For each sweep its points in every resample."""
    sizes = {sweep.scores.shape[2] for sweep in sweeps}
    if len(sizes) != 1:
        raise ConfigError(
            f"sweeps over {sorted(sizes)} tasks; expected at least one sweep, all over the same tasks in the same order"
        )
    if resamples < 1:
        raise ConfigError(f"resamples = {resamples}; expected at least 1 (1,000 is usual)")
    n = sizes.pop()
    task_weight, after = _task_weights(n, resamples, seed)  # (R, tasks)
    rng = np.random.default_rng()
    rng.bit_generator.state = after
    found = []
    for sweep in sweeps:
        seeds, points, _ = sweep.scores.shape
        seed_weight = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds  # (R, seeds)
        means = []
        for values in (sweep.costs, sweep.scores):
            by_seed = (task_weight @ values.reshape(seeds * points, n).T).reshape(resamples, seeds, points)
            means.append(np.einsum("rs,rsp->rp", seed_weight, by_seed))
        found.append(list(zip(*means, strict=True)))
    return found
