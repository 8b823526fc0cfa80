"""Policies beside each other, the zero router and the optimum, on the same tasks, budgets and prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.collapse import largest_share, routing_collapse_index, selection_entropy
from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.plots import Curve
from routegym.evaluation.references import arms_alone, recorded_alone
from routegym.evaluation.regret import regret
from routegym.evaluation.statistics import Interval, Sweep, aiq_difference, gap_closed_interval, score_bands
from routegym.evaluation.strength import apgr, cpt, hypervolume, qnc

if TYPE_CHECKING:
    from routegym.evaluation.outcomes import Grid, Outcomes
    from routegym.evaluation.references import References
    from routegym.graph.recording import Recording

__all__ = ["Comparison", "Entry", "check_comparable"]

_SAME = 1e-9  # relative; mean costs nearer to each other than that are equal but for rounding


def check_comparable(recording: Recording, split: str, folds: int = 0) -> None:
    """Tell before anything is fitted that its results could not be compared.

    Args:
        recording: complete, at least where one arm is always chosen.
        split: to evaluate on; ``all`` takes every task.
        folds: of a cross-validation, which deals the tasks anew; 0 without one.

    Raises:
        ConfigError: no task to choose operating points on or to evaluate on, or a range of costs that is one point.
        MissingEdgeError: the recording is incomplete.
    """
    counts = Counter(recording.tasks.splits)
    for needed in () if folds else ("val", split):
        if needed != "all" and not counts[needed]:
            there = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            raise ConfigError(
                f"{recording.name}: no task in split {needed!r} of its {len(recording.tasks)} tasks ({there}); "
                f"operating points are chosen on val and evaluated on {split} tasks: give tasks these splits, or deal "
                "all of them anew with `routegym bench --folds 5`"
            )
    costs, _ = arms_alone(recording, recording.split(split)).points()
    low, high = float(costs.min()), float(costs.max())
    if high - low > _SAME * high:
        return
    names = [arm.name for arm in recording.arms]
    if high == 0:
        why, remedy = "every call costs 0 USD", "give the arms prices, or the rows costs, and make the recording again"
    elif len(names) == 1:
        why, remedy = f"{names[0]} is its only arm", "there is nothing to route; record a second arm"
    else:
        why = f"each of {', '.join(names)} costs {high:.6g} USD per task"
        remedy = "give the arms the prices that they really have"
    raise ConfigError(
        f"{recording.name}: {why}, so that there is no range of costs from the cheapest to the dearest arm to measure "
        f"scores over; {remedy}"
    )


@dataclass(frozen=True)
class Entry:
    """One competitor.

    Its operating points are chosen on the validation tasks: those that lie on its frontier there. Its frontier on the
    evaluated tasks is drawn through these points only, so that nobody profits from trying many.
    """

    outcomes: Mapping[int, Outcomes]
    """On the evaluated tasks, by training seed."""
    chosen: npt.NDArray[np.int64]
    """The operating points it is used at, indices into the grid's points."""
    learned: bool
    """Whether it was trained by reinforcement or imitation; else it is a baseline."""
    seconds: float | None = None
    """CPU seconds of one training or fit, mean over the seeds, if known."""

    @classmethod
    def of(
        cls,
        evaluated: Mapping[int, Outcomes],
        validation: Mapping[int, Outcomes],
        *,
        learned: bool,
        seconds: float | None = None,
    ) -> Entry:
        """Choose the operating points by what they brought on the validation tasks.

        Raises:
            ConfigError: no outcome, or other seeds on the two splits.
        """
        if not evaluated or evaluated.keys() != validation.keys():
            raise ConfigError(
                f"seeds {sorted(evaluated)} were evaluated and {sorted(validation)} validated; expected the same ones"
            )
        costs, scores = _sweep(validation).points()
        kept = hull(costs, scores)
        on_hull = (costs[:, None] == kept.costs) & (scores[:, None] == kept.scores)  # (points, vertices)
        return cls(evaluated, np.sort(on_hull.argmax(axis=0)), learned, seconds)

    @property
    def sweep(self) -> Sweep:
        """Outcomes at the chosen points: (seeds, points, tasks)."""
        return _sweep(self.outcomes, self.chosen)

    def at(self, point: int) -> Sweep:
        """Outcomes at one point of the grid: (seeds, 1, tasks)."""
        return _sweep(self.outcomes, np.array([point]))

    @property
    def violations(self) -> int:
        """Episodes above their hard budget, over all points and seeds."""
        return int(sum(outcome.violations.sum() for outcome in self.outcomes.values()))

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of the calls that go to each action at every point of the grid, float64 (points, actions)."""
        calls = np.sum([outcome.calls for outcome in self.outcomes.values()], axis=0)
        return np.asarray(calls / calls.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Comparison:
    """Competitors and references on one split, ready for a table, a picture and a file."""

    recording: Recording
    split: str
    grid: Grid
    entries: Mapping[str, Entry]
    references: References
    resamples: int = 1000

    @property
    def cost_range(self) -> tuple[float, float]:
        """Mean cost of always-cheapest and always-dearest, USD: the common range of every AIQ."""
        costs, _ = self.references.arms.points()
        return float(costs.min()), float(costs.max())

    def best(self, learned: bool, without: str | None = None) -> str | None:
        """The competitor of one sort with the highest AIQ, perhaps without one of them."""
        scores = {
            name: self.aiq_of(entry.sweep)
            for name, entry in self.entries.items()
            if entry.learned == learned and name != without
        }
        return max(scores, key=scores.__getitem__) if scores else None

    def over(self, name: str, rival: str) -> dict[str, Any]:
        """By how much the AIQ of one competitor is above that of another, with its interval."""
        mine, theirs = self.entries[name].sweep, self.entries[rival].sweep
        return self._interval(aiq_difference(mine, theirs, self.references.arms, resamples=self.resamples))

    def metrics(self) -> dict[str, Any]:
        """Everything that is reported, as JSON-able numbers; intervals are paired bootstraps over tasks and seeds."""
        low, high = self.cost_range
        tasks, arms = self.recording.split(self.split), self.references.arms
        arm_cost, arm_score = arms.points()
        bound = self.references.attainable
        rival = self.best(learned=False)
        return {
            "recording": self.recording.name,
            "content_hash": self.recording.content_hash,
            "split": self.split,
            "tasks": len(tasks),
            "validation_tasks": self.recording.tasks.splits.count("val"),
            "masked_pairs": int((~recorded_alone(self.recording, tasks)).sum()),
            "cost_range_usd": [low, high],
            "budgets_usd": self.grid.caps.tolist(),
            "lambdas": self.grid.lambdas.tolist(),
            "arms": {
                name: {"cost_usd": float(c), "score": float(s)}
                for name, c, s in zip(self.recording.action_names, arm_cost, arm_score, strict=False)
            },
            "zero_router": {"aiq": self.aiq_of(arms)},
            "oracle": {
                "aiq": aiq(hull(*self.references.oracle_hull), low, high),
                "budgets": [
                    {"budget_usd": float(cap), "score": float(score), "cost_usd": float(cost)}
                    for cap, cost, score in zip(self.grid.caps, *self.references.oracle_cap.points(), strict=True)
                ],
            },
            "attainable": None if bound is None else {"aiq": self.aiq_of(bound)},
            "best_baseline": rival,
            "policies": {name: self._of_entry(name, entry, rival) for name, entry in self.entries.items()},
        }

    def _of_entry(self, name: str, entry: Entry, rival: str | None) -> dict[str, Any]:
        arms, sweep, bound = self.references.arms, entry.sweep, self.references.attainable
        cost, score = sweep.points()
        return {
            "learned": entry.learned,
            "seeds": len(entry.outcomes),
            "cpu_seconds": entry.seconds,
            "aiq": self.aiq_of(sweep),
            "over_zero_router": self._interval(aiq_difference(sweep, arms, arms, resamples=self.resamples)),
            "gap_closed_oracle": self._gap_closed(sweep, self.references.oracle_mean),
            "gap_closed_attainable": None if bound is None else self._gap_closed(sweep, bound),
            "over_best_baseline": None if rival is None or rival == name else self.over(name, rival),
            "qnc": _finite(qnc(cost, score, *arms.points())),
            "hypervolume": hypervolume(cost, score, *self.cost_range),
            **self._strength(entry),
            "violations": entry.violations,
            "budgets": [self._at_cap(entry, number) for number in range(len(self.grid.caps))],
        }

    def _gap_closed(self, sweep: Sweep, best: Sweep) -> dict[str, Any] | None:
        """None where there is no gap between the zero router and the best."""
        found = gap_closed_interval(sweep, best, self.references.arms, resamples=self.resamples)
        return self._interval(found) if np.isfinite((found.estimate, found.low, found.high)).all() else None

    def _strength(self, entry: Entry) -> dict[str, Any]:
        """RouteLLM's measures: the dearest arm is the strong one, the cheapest the weak one."""
        cost, score = self.references.arms.points()
        weak, strong = float(score[cost.argmin()]), float(score[cost.argmax()])
        calls = entry.shares[entry.chosen, : len(self.recording.arms)]
        shares = calls[:, cost.argmax()] / np.maximum(calls.sum(axis=1), 1e-12)  # 0 where no arm was called
        scores = entry.sweep.points()[1]
        return {
            "apgr": _finite(apgr(shares, scores, weak, strong)),
            "cpt_50": _finite(cpt(0.5, shares, scores, weak, strong)),
            "cpt_80": _finite(cpt(0.8, shares, scores, weak, strong)),
        }

    def _at_cap(self, entry: Entry, number: int) -> dict[str, Any]:
        """Outcomes under one hard budget, at the lowest price."""
        point, best, arms = self.grid.at_cap(number), self.references.oracle_cap, self.references.arms
        at = entry.at(point)
        (cost,), (score,) = at.points()
        (low,), (high,) = score_bands(at, resamples=self.resamples)
        calls = entry.shares[point]
        to_arms = calls[: len(self.recording.arms)]
        return {
            "budget_usd": float(self.grid.caps[number]),
            "score": float(score),
            "score_low": float(low),
            "score_high": float(high),
            "cost_usd": float(cost),
            "regret": regret(at.scores[:, 0], at.costs[:, 0], best.scores[0, number], best.costs[0, number]),
            "collapse_index": routing_collapse_index(at.scores[:, 0], at.costs[:, 0], arms.scores[0], arms.costs[0]),
            "largest_share": _finite(largest_share(to_arms)),
            "selection_entropy": _finite(selection_entropy(to_arms)),
            "shares": dict(zip(self.recording.action_names, calls.tolist(), strict=True)),
        }

    def curves(self, named: Sequence[str] | None = None) -> list[Curve]:
        """What `frontier_figure` draws: each competitor through its chosen points, and the references.

        Args:
            named: which competitors; all by default.
        """
        capped = hull(
            *self.references.oracle_cap.points()
        )  # not rising in cost where an arm's reserve exceeds its cost
        found = [
            Curve("oracle, mean budget", *self.references.oracle_hull, kind="oracle"),
            Curve("oracle, hard budget", capped.costs, capped.scores, kind="oracle"),
        ]
        if self.references.attainable is not None:
            bound = hull(*self.references.attainable.points())
            found.append(Curve("attainable bound", bound.costs, bound.scores, kind="bound"))
        for name in self.entries if named is None else named:
            entry = self.entries[name]
            cost, score = entry.sweep.points()
            if entry.learned:
                low, high = score_bands(entry.sweep, resamples=self.resamples)
                found.append(Curve(name, cost, score, kind="policy", low=low, high=high))
            else:
                line = hull(cost, score)
                found.append(Curve(name, line.costs, line.scores, kind="fixed"))
        zero = hull(*self.references.arms.points())
        found.append(Curve("zero router", zero.costs, zero.scores, kind="zero"))
        points = zip(self.recording.action_names, *self.references.arms.points(), strict=False)
        return found + [Curve(name, [cost], [score], kind="arm") for name, cost, score in points]

    def rows(self, env: str) -> dict[str, list[Any]]:
        """Columns of ``results.parquet``: a row per policy, seed, budget and price."""
        rows: dict[str, list[Any]] = {
            key: [] for key in ("env", "policy", "seed", "budget_usd", "lambda", "score", "cost_usd", "violations")
        }
        budgets, lambdas = self.grid.points
        for name, entry in self.entries.items():
            for seed, outcome in entry.outcomes.items():
                rows["env"] += [env] * len(budgets)
                rows["policy"] += [name] * len(budgets)
                rows["seed"] += [seed] * len(budgets)
                rows["budget_usd"] += budgets.tolist()
                rows["lambda"] += lambdas.tolist()
                rows["score"] += outcome.scores.mean(axis=1, dtype=np.float64).tolist()
                rows["cost_usd"] += outcome.costs.mean(axis=1).tolist()
                rows["violations"] += outcome.violations.tolist()
        return rows

    def aiq_of(self, sweep: Sweep) -> float:
        """AIQ over the common range of costs; of the mean over seeds at each operating point."""
        return aiq(hull(*sweep.points()), *self.cost_range)

    @staticmethod
    def _interval(interval: Interval) -> dict[str, Any]:
        return asdict(interval) | {"excludes_zero": interval.excludes_zero}


def _sweep(outcomes: Mapping[int, Outcomes], points: npt.NDArray[np.int64] | None = None) -> Sweep:
    """Outcomes of all seeds at some points of the grid, all by default."""
    rows = slice(None) if points is None else points
    return Sweep(
        np.array([outcome.scores[rows] for outcome in outcomes.values()], dtype=np.float64),
        np.array([outcome.costs[rows] for outcome in outcomes.values()]),
    )


def _finite(value: float) -> float | None:
    """None for what JSON does not know: infinity, and NaN where nothing was called."""
    return float(value) if np.isfinite(value) else None
