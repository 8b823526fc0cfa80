"""The live check: the same policy on the same tasks, on the recording and on the pool that answers today."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.rollout import EpisodeTable, rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import BudgetError, MissingEdgeError, RecordingError
from routegym.evaluation.report import Table
from routegym.evaluation.statistics import Interval, mean_interval
from routegym.graph.growth import Expander, start_recording
from routegym.graph.pricing import repriced_models
from routegym.graph.recording import Recording

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid
    from routegym.graph.growth import PoolLike
    from routegym.graph.workflow import Workflow
    from routegym.policies.policy import Policy
    from routegym.pool.backend import Failure

__all__ = ["Drift", "drift_table", "measure_drift"]

_MEASURES = {"score": "score", "cost_usd": "cost (USD)", "latency_s": "latency (s)"}


@dataclass(frozen=True)
class Drift:
    """Episodes of one policy on the same tasks, budgets and prices of cost, in the same order."""

    recorded: EpisodeTable | None
    """None where the recording lacks what the policy chooses, as one does that was grown while learning."""
    live: EpisodeTable
    budget_usd: npt.NDArray[np.float64]
    """Hard cap that each episode was meant to have, inf = none, (n,); raised where the task's cheapest arm may cost
    more, on the recording or now."""
    failures: tuple[Failure, ...] = ()
    """Calls that brought no answer, and those that were charged more than the recording let expect: of these, episodes
    that cannot pay for them fail."""
    repriced: tuple[str, ...] = ()
    """Models whose price is not the recording's."""

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """bool (n,): episodes in which no live call failed; only they are compared."""
        return ~np.isnan(self.live.score)

    @property
    def failure_kinds(self) -> dict[str, int]:
        """Number of the failures by the name of their error, the most frequent first."""
        return dict(Counter(type(failure.error).__name__ for failure in self.failures).most_common())

    def compare(self, budget_usd: float, measure: str) -> tuple[float | None, float, Interval] | None:
        """Recorded mean, live mean and the interval of live minus recorded, over the tasks of one budget.

        Without a recorded side the interval is that of the live mean. None where every episode of this budget had a
        call that failed.

        Args:
            budget_usd: the hard cap, inf = none.
            measure: ``score``, ``cost_usd`` or ``latency_s``.
        """
        rows = self.answered & (self.budget_usd == budget_usd)
        if not rows.any():
            return None
        now = getattr(self.live, measure)[rows]
        if self.recorded is None:
            return None, float(now.mean()), mean_interval(now)
        before = getattr(self.recorded, measure)[rows]
        return float(before.mean()), float(now.mean()), mean_interval(now - before)

    def metrics(self) -> dict[str, Any]:
        """Everything in the table, as JSON; None for what no answered episode tells."""
        found: dict[str, Any] = {
            "episodes": len(self.live),
            "failed": int((~self.answered).sum()),
            "failures": self.failure_kinds,
            "repriced": list(self.repriced),
            "budgets": [],
        }
        for budget in np.unique(self.budget_usd):
            row: dict[str, Any] = {"budget_usd": float(budget) if np.isfinite(budget) else None}
            for measure in _MEASURES:
                compared = self.compare(budget, measure)
                before, now, interval = compared or (None, None, None)
                bounds = interval and [interval.low, interval.high]
                row[measure] = {"recorded": before, "live": now, "interval": bounds}
                if self.recorded is not None:
                    row[measure] |= {
                        "drift": interval and interval.estimate,
                        "drifted": interval and interval.excludes_zero,
                    }
            if self.recorded is not None:
                rows = self.answered & (self.budget_usd == budget)
                same = (self.recorded.arm_counts == self.live.arm_counts).all(axis=1)[rows]
                row["same_choices"] = float(same.mean()) if len(same) else None
            found["budgets"].append(row)
        return found


def measure_drift(
    policy: Policy,
    recording: Recording,
    workflow: Workflow,
    pool: PoolLike,
    grid: Grid,
    split: str = "test",
    seed: int = 0,
) -> Drift:
    """Play every task of a split at every operating point, recorded and live.

    Equal calls are made once; calls of one step go to the pool as one batch. Live calls cost what the pool's prices
    say, and the worst case of what was recorded is what it was charged for, as on the recording. A call that is
    charged more ends the episodes that cannot pay for it.

    Args:
        policy: any that is fitted.
        recording: what it was trained on.
        workflow: the recording's.
        pool: answers live; its arms must be the recording's.
        grid: budgets and prices to play.

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
    fresh = start_recording(recording.name, workflow, pool, recording.tasks)
    fresh.cost_scale_usd, fresh.budget_range_usd = recording.cost_scale_usd, recording.budget_range_usd
    expander = Expander(workflow, pool, fresh, charged=recording)
    tasks = recording.split(split)
    budgets, lambdas = (np.repeat(column, len(tasks)) for column in grid.points)
    floors = [side.graph.arm_floor(side.graph.task_start[tasks]) for side in (recording, fresh)]
    need = np.max([np.where(np.isfinite(floor), floor, 0.0) for floor in floors], axis=0)
    caps = np.maximum(budgets, np.tile(need, len(budgets) // len(tasks)))

    def play(side: Recording, grows: Expander | None = None) -> EpisodeTable:
        env = RoutingVectorEnv(
            len(caps),
            side,
            split=split,
            observation=getattr(policy, "observation", "flat"),
            autoreset_mode="Disabled",  # an episode that is over asks nobody anything
            expander=grows,
        )
        return rollout(policy, env, np.tile(tasks, len(caps) // len(tasks)), caps, lambdas, seed)

    live = play(fresh, expander)
    try:
        recorded = play(recording)
    except (BudgetError, MissingEdgeError):  # it lacks what is chosen, or the worst case of an arm never asked
        recorded = None
    failures = (*expander.failures.values(), *expander.overcharged.values())
    return Drift(recorded, live, budgets, failures, repriced_models(recording.prices, pool.prices, pool.arms))


def drift_table(drift: Drift, name: str) -> Table:
    """Recorded and live means by budget, and their difference."""
    rows = []
    for budget in np.unique(drift.budget_usd):
        label = "none" if np.isinf(budget) else f"${budget:.3g}"
        for measure, title in _MEASURES.items():
            compared = drift.compare(budget, measure)
            if compared is None:
                rows.append((f"{label}: {title}", "-", "-", "-"))
                continue
            before, now, interval = compared
            mark = " *" if before is not None and interval.excludes_zero else ""
            sign = "" if before is None else "+"
            bounds = f"{interval.estimate:{sign}.3g} [{interval.low:{sign}.3g}, {interval.high:{sign}.3g}]{mark}"
            rows.append((f"{label}: {title}", "-" if before is None else f"{before:.4g}", f"{now:.4g}", bounds))
    failed = int((~drift.answered).sum())
    notes = [
        "Brackets: 95 % paired bootstrap over tasks; * excludes 0. Latency is that of the machine that recorded.",
        f"{failed} episode(s) had a call that failed and are left out." if failed else "No live call failed.",
    ]
    if raised := int((drift.live.budget_usd > drift.budget_usd).sum()):
        notes.append(f"{raised} episode(s) got the worst case of their cheapest arm as budget, which is more.")
    if drift.repriced:
        notes.append(
            f"The pool's prices differ from the recording's for {', '.join(drift.repriced)}; so does the cost."
        )
    return Table(
        title=f"{name}: recorded against live, {len(drift.live):,} episodes",
        header=("hard budget: mean of", "recorded", "live", "live - recorded" if drift.recorded else "live mean"),
        rows=rows,
        notes=tuple(notes),
    )
