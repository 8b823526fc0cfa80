"""The results of an evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["budget_table", "evaluation_table"]


def evaluation_table(metrics: Mapping[str, Any]) -> Table:
    """Strategies by AIQ, with the lead of the policy over each.

    Args:
        metrics: from `Comparison.metrics`, or read back from ``metrics.json``.
    """
    low, high = metrics["cost_range_usd"]
    gap = metrics["oracle_gap_closed"]
    table = Table(
        title=f"{metrics['recording']}, {metrics['tasks']} {metrics['split']} tasks, "
        f"{_count(metrics['seeds'], 'training seed')}",
        caption=(
            f"AIQ: mean score over mean costs of {low:.3g} to {high:.3g} USD\n"
            "brackets: 95 % paired bootstrap over tasks and seeds; *: without 0\n"
            f"gap from zero router to oracle closed: {gap['estimate']:.1%} "
            f"[{gap['low']:.1%}, {gap['high']:.1%}]\n"
            f"episodes above their budget: {metrics['policy']['violations']}"
        ),
        caption_justify="left",
        min_width=72,
    )
    table.add_column("strategy")
    table.add_column("AIQ", justify="right")
    table.add_column("policy ahead by", justify="right")
    rows = [("policy", metrics["policy"]["aiq"], "", "bold"), ("oracle", metrics["oracle"]["aiq"], "", "dim")]
    for name, rival in metrics["against"].items():
        lead = rival["difference"]
        mark = "*" if lead["excludes_zero"] else " "
        text = f"{lead['estimate']:+.4f} [{lead['low']:+.4f}, {lead['high']:+.4f}]{mark}"
        rows.append((name, rival["aiq"], text, ""))
    for name, value, text, style in sorted(rows, key=lambda row: -row[1]):
        table.add_row(name, f"{value:.4f}", text, style=style)
    return table


def budget_table(metrics: Mapping[str, Any]) -> Table:
    """The policy at each hard budget beside the oracle, and the action it takes most.

    Args:
        metrics: from `Comparison.metrics`, or read back from ``metrics.json``.
    """
    table = Table(title="policy by budget", caption="oracle: the clairvoyant optimum under the same budget")
    for name in ("budget USD", "mean cost USD", "score", "oracle score", "oracle cost USD"):
        table.add_column(name, justify="right")
    table.add_column("most used")
    for point in metrics["policy"]["budgets"]:
        name, share = max(point["shares"].items(), key=lambda item: item[1])
        table.add_row(
            f"{point['budget_usd']:.3g}",
            f"{point['cost_usd']:.3g}",
            f"{point['score']:.3f}",
            f"{point['oracle_score']:.3f}",
            f"{point['oracle_cost_usd']:.3g}",
            f"{name} ({share:.0%})",
        )
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
