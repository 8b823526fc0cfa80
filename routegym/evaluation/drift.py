"""The live check: the same policy on the same tasks, on the recording and on the pool that answers today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from routegym.core.rollout import EpisodeTable, rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import BudgetError, MissingEdgeError, RecordingError
from routegym.evaluation.report import Table
from routegym.evaluation.statistics import Interval, mean_interval
from routegym.graph.growth import Expander
from routegym.graph.recording import Recording

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid
    from routegym.graph.growth import PoolLike
    from routegym.graph.workflow import Workflow
    from routegym.policies.policy import Policy

__all__ = ["Drift", "drift_table", "live_copy", "measure_drift"]

_MEASURES = {"score": "score", "cost_usd": "cost (USD)", "latency_s": "latency (s)"}


@dataclass(frozen=True)
class Drift:
    """Episodes of one policy on the same tasks, budgets and prices, in the same order."""

    recorded: EpisodeTable | None
    """None where the recording lacks what the policy chooses, as one does that was grown while learning."""
    live: EpisodeTable

    @property
    def answered(self) -> Any:
        """bool (n,): episodes in which no live call failed; only they are compared."""
        return ~np.isnan(self.live.score)

    def compare(self, budget_usd: float, measure: str) -> tuple[float | None, float, Interval]:
        """Recorded mean, live mean and the interval of live minus recorded, over the tasks of one budget.

        Without a recorded side the interval is that of the live mean.

        Args:
            budget_usd: the hard cap, inf = none.
            measure: ``score``, ``cost_usd`` or ``latency_s``.

        Raises:
            ConfigError: every episode of this budget had a call that failed.
        """
        rows = self.answered & (self.live.budget_usd == budget_usd)
        now = getattr(self.live, measure)[rows]
        if self.recorded is None:
            return None, float(now.mean()), mean_interval(now)
        before = getattr(self.recorded, measure)[rows]
        return float(before.mean()), float(now.mean()), mean_interval(now - before)

    def metrics(self) -> dict[str, Any]:
        """Everything in the table, as JSON."""
        found: dict[str, Any] = {"episodes": len(self.live), "failed": int((~self.answered).sum()), "budgets": []}
        for budget in np.unique(self.live.budget_usd):
            row: dict[str, Any] = {"budget_usd": float(budget) if np.isfinite(budget) else None}
            for measure in _MEASURES:
                before, now, interval = self.compare(budget, measure)
                row[measure] = {"recorded": before, "live": now, "interval": [interval.low, interval.high]}
                if self.recorded is not None:
                    row[measure] |= {"drift": interval.estimate, "drifted": interval.excludes_zero}
            if self.recorded is not None:
                same = (self.recorded.arm_counts == self.live.arm_counts).all(axis=1)
                row["same_choices"] = float(same[self.live.budget_usd == budget].mean())
            found["budgets"].append(row)
        return found


def live_copy(recording: Recording) -> Recording:
    """An empty recording of the same tasks, arms and scales, to be grown by the live pool."""
    fresh = Recording.empty(
        name=recording.name,
        kind=recording.kind,
        arms=recording.arms,
        controls=recording.controls,
        prices=recording.prices,
        tasks=recording.tasks,
        node_signal_names=recording.node_signal_names,
        edge_signal_names=recording.edge_signal_names,
    )
    fresh.cost_scale_usd, fresh.budget_range_usd = recording.cost_scale_usd, recording.budget_range_usd
    return fresh


def measure_drift(
    policy: Policy,
    recording: Recording,
    workflow: Workflow,
    pool: PoolLike,
    grid: Grid,
    split: str = "test",
    seed: int = 0,
    on_result: Any = None,
) -> Drift:
    """Play every task of a split at every operating point, recorded and live.

    Equal calls are made once; calls of one step go to the pool as one batch.

    Args:
        policy: any that is fitted.
        recording: what it was trained on.
        workflow: the recording's.
        pool: answers live; its arms must be the recording's.
        grid: budgets and prices to play.
        on_result: called with every live response or failure.

    Returns:
        Both sides, or only the live one where the recording lacks a choice of the policy's.

    Raises:
        RecordingError: the pool has other arms.
    """
    if pool.arms != recording.arms:
        raise RecordingError(
            f"{recording.name}: its arms {[arm.name for arm in recording.arms]} are not the pool's "
            f"{[arm.name for arm in pool.arms]}; use the pool file that it was recorded with"
        )
    fresh = live_copy(recording)
    expander = Expander(workflow, pool, fresh, on_result=on_result)
    live = _play(policy, fresh, split, grid, seed, expander)
    try:
        return Drift(_play(policy, recording, split, grid, seed), live)
    except (BudgetError, MissingEdgeError):  # it lacks what is chosen, or the worst case of an arm never asked
        return Drift(None, live)


def _play(
    policy: Policy, recording: Recording, split: str, grid: Grid, seed: int, expander: Expander | None = None
) -> EpisodeTable:
    tasks = recording.split(split)
    budgets, lambdas = grid.points
    env = RoutingVectorEnv(
        len(tasks) * len(budgets),
        recording,
        split=split,
        observation=getattr(policy, "observation", "flat"),
        autoreset_mode="Disabled",  # an episode that is over asks nobody anything
        expander=expander,
    )
    return rollout(
        policy,
        env,
        np.tile(tasks, len(budgets)),
        budget_usd=np.repeat(budgets, len(tasks)),
        lambda_=np.repeat(lambdas, len(tasks)),
        seed=seed,
    )


def drift_table(drift: Drift, name: str) -> Table:
    """Recorded and live means by budget, and their difference."""
    rows = []
    for budget in np.unique(drift.live.budget_usd):
        label = "none" if np.isinf(budget) else f"${budget:.3g}"
        for measure, title in _MEASURES.items():
            before, now, interval = drift.compare(budget, measure)
            mark = " *" if before is not None and interval.excludes_zero else ""
            sign = "" if before is None else "+"
            bounds = f"{interval.estimate:{sign}.3g} [{interval.low:{sign}.3g}, {interval.high:{sign}.3g}]{mark}"
            rows.append((f"{label}: {title}", "-" if before is None else f"{before:.4g}", f"{now:.4g}", bounds))
    failed = int((~drift.answered).sum())
    return Table(
        title=f"{name}: recorded against live, {len(drift.live):,} episodes",
        header=("hard budget: mean of", "recorded", "live", "live - recorded" if drift.recorded else "live mean"),
        rows=rows,
        notes=(
            "Brackets: 95 % paired bootstrap over tasks; * excludes 0. Latency is that of the machine that recorded.",
            f"{failed} episode(s) had a call that failed and are left out." if failed else "No live call failed.",
        ),
    )
