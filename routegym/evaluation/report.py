"""The numbers of an evaluation as a dictionary for ``metrics.json``, and as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from routegym.errors import ConfigError
from routegym.evaluation.frontier import Frontier, aiq, hull, score_at, zero_router
from routegym.evaluation.statistics import Interval, Sweep, aiq_difference, gap_closed_interval, score_bands

__all__ = ["budget_table", "evaluation_table", "summarise"]


def summarise(
    policy: Sweep,
    arms: Sweep,
    oracle: Sweep,
    fixed: Mapping[str, Sweep],
    *,
    arm_names: Sequence[str],
    budgets_usd: Sequence[float],
    violations: int,
    policy_name: str = "policy",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that an evaluation reports, ready for JSON (numbers that do not exist are None).

    Args:
        policy: one point for each budget.
        arms: always-one-arm without a cap, one point for each arm; it sets the zero router and the cost
            range.
        oracle: operating points of the oracle, for example `oracle_at_lambda` for a range of lambdas.
        fixed: the other strategies by name.
        arm_names: one for each point of `arms`.
        budgets_usd: one for each point of `policy`.
        violations: episodes of the policy that ended above their cap.
        policy_name: what the policy is called in the tables.
        resamples, seed: of the bootstrap.

    Raises:
        ConfigError: names or budgets do not fit the points.
    """
    if len(arm_names) != arms.scores.shape[1] or len(budgets_usd) != policy.scores.shape[1]:
        raise ConfigError(
            f"{len(arm_names)} arm names for {arms.scores.shape[1]} arms, {len(budgets_usd)} budgets for "
            f"{policy.scores.shape[1]} points of the policy; expected one for each"
        )
    arm_costs, arm_scores = arms.points()
    c_lo, c_hi = float(arm_costs.min()), float(arm_costs.max())
    zero, best = zero_router(arm_costs, arm_scores), hull(*oracle.points())
    options = {"resamples": resamples, "seed": seed}

    def strategy(name: str, curve: Frontier, ahead: Interval | None) -> dict[str, Any]:
        lead = None if ahead is None else _interval(ahead)
        return {"name": name, "aiq": aiq(curve, c_lo, c_hi), "policy_minus_this": lead}

    rows = [strategy("zero router", zero, aiq_difference(policy, arms, arms, **options))]
    for name, sweep in fixed.items():
        rows.append(strategy(name, hull(*sweep.points()), aiq_difference(policy, sweep, arms, **options)))
    rows.append(strategy(policy_name, hull(*policy.points()), None))
    rows.append(strategy("oracle", best, None))

    costs, scores = policy.points()
    low, high = score_bands(policy, **options)
    points = [
        {
            "budget_usd": _number(budgets_usd[i]),
            "cost_usd": float(costs[i]),
            "score": float(scores[i]),
            "score_low": float(low[i]),
            "score_high": float(high[i]),
            "zero_router_score": float(score_at(zero, costs[i])),
            "oracle_score": float(score_at(best, costs[i])),
        }
        for i in range(len(costs))
    ]
    return {
        "policy": policy_name,
        "tasks": int(policy.scores.shape[2]),
        "seeds": int(policy.scores.shape[0]),
        "resamples": resamples,
        "cost_range_usd": [c_lo, c_hi],
        "violations": int(violations),
        "gap_closed": _interval(gap_closed_interval(policy, oracle, arms, **options)),
        "strategies": rows,
        "arms": [
            {"name": name, "cost_usd": float(cost), "score": float(score)}
            for name, cost, score in zip(arm_names, arm_costs, arm_scores, strict=True)
        ],
        "points": points,
    }


def evaluation_table(metrics: Mapping[str, Any]) -> Table:
    """Strategies by AIQ, with the lead of the policy over each, from the result of `summarise`."""
    low, high = metrics["cost_range_usd"]
    gap = metrics["gap_closed"]
    table = Table(
        title=f"{metrics['policy']} on {metrics['tasks']} tasks, {metrics['seeds']} seeds",
        caption=(
            f"AIQ: mean score at mean costs from {low:.3g} to {high:.3g} USD; "
            "brackets: 95 % paired bootstrap.\n"
            f"Gap from zero router to oracle closed: {_percent(gap['estimate'])} "
            f"[{_percent(gap['low'])}, {_percent(gap['high'])}]; budget violations: {metrics['violations']}"
        ),
    )
    table.add_column("strategy")
    table.add_column("AIQ", justify="right")
    table.add_column(f"{metrics['policy']} ahead by", justify="right")
    for row in sorted(metrics["strategies"], key=lambda row: row["aiq"]):
        lead = row["policy_minus_this"]
        text = "" if lead is None else f"{lead['estimate']:+.4f} [{lead['low']:+.4f}, {lead['high']:+.4f}]"
        style = "bold" if row["name"] == metrics["policy"] else None
        table.add_row(row["name"], f"{row['aiq']:.4f}", text, style=style)
    return table


def budget_table(metrics: Mapping[str, Any]) -> Table:
    """The policy at each budget beside zero router and oracle at equal mean cost, from `summarise`."""
    table = Table(
        title=f"{metrics['policy']} by budget", caption="zero router and oracle at the same mean cost"
    )
    for name in ("budget USD", "mean cost USD", "score", "95 %", "zero router", "oracle"):
        table.add_column(name, justify="right")
    for point in metrics["points"]:
        table.add_row(
            "none" if point["budget_usd"] is None else f"{point['budget_usd']:.3g}",
            f"{point['cost_usd']:.3g}",
            f"{point['score']:.3f}",
            f"[{point['score_low']:.3f}, {point['score_high']:.3f}]",
            f"{point['zero_router_score']:.3f}",
            f"{point['oracle_score']:.3f}",
        )
    return table


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(found: Interval) -> dict[str, float | None]:
    return {"estimate": _number(found.estimate), "low": _number(found.low), "high": _number(found.high)}


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"
