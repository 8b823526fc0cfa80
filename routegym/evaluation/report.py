"""The results of a comparison as tables, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable

from routegym.evaluation.statistics import Interval

__all__ = [
    "Table",
    "arm_table",
    "budget_table",
    "comparison_table",
    "decision_table",
    "evaluated_tasks",
    "leaders",
    "results_page",
]

_POOLED = (
    "Operating points are chosen once for all folds, on their validation tasks together, which are evaluated tasks "
    "of other folds: the numbers may be optimistic."
)

#: Validation tasks below which the choice of operating points comes with a warning.
_ENOUGH = 100


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()
    strong: frozenset[str] = frozenset()
    """First cells of the rows to set off."""

    def rich(self, columns: int | None = None) -> RichTable:
        """For the terminal; the first so many columns, or all."""
        table = RichTable(title=self.title, caption="\n".join(self.notes), caption_justify="left", title_justify="left")
        for number, name in enumerate(self.header[:columns]):
            table.add_column(name.replace("/", "/ "), justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row[:columns], style="bold" if row[0] in self.strong else "")
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [f"| {' | '.join(self.header)} |", f"| --- |{' ---: |' * (len(self.header) - 1)}"]
        for row in self.rows:
            name = f"**{row[0]}**" if row[0] in self.strong else row[0]
            lines.append(f"| {' | '.join((name, *row[1:]))} |")
        return "\n".join([*lines, "", *(f"{note}  " for note in self.notes)]).rstrip() + "\n"


def comparison_table(metrics: Mapping[str, Any]) -> Table:
    """Competitors and references by AIQ.

    Args:
        metrics: from `Comparison.metrics`, or read back from ``metrics.json``.
    """
    low, high = metrics["cost_range_usd"]
    policies: Mapping[str, Any] = metrics["policies"]
    bounded = metrics["attainable"] is not None
    rows = []
    for name, found in policies.items():
        rival = found["over_best_baseline"]
        cells = [name, f"{found['aiq']:.4f}", _signed(found["over_zero_router"])]
        if bounded:
            cells.append(_percent(found["gap_closed_attainable"]))
        cells += [_percent(found["gap_closed_oracle"]), "" if rival is None else _signed(rival)]
        cells += ["" if found["qnc"] is None else f"{found['qnc']:.2f}", str(found["violations"])]
        cells += [str(found["seeds"]), "" if found["cpu_seconds"] is None else f"{found['cpu_seconds']:.1f}"]
        rows.append((found["aiq"], tuple(cells)))
    blank = ("",) * (7 + bounded)
    rows.append((metrics["oracle"]["aiq"], ("oracle (clairvoyant)", f"{metrics['oracle']['aiq']:.4f}", *blank)))
    if bounded:
        rows.append((metrics["attainable"]["aiq"], ("attainable bound", f"{metrics['attainable']['aiq']:.4f}", *blank)))
    rows.append((metrics["zero_router"]["aiq"], ("zero router", f"{metrics['zero_router']['aiq']:.4f}", *blank)))
    header = ("policy", "AIQ", "over zero router", *(("gap to bound closed",) if bounded else ()))
    header += ("gap to oracle closed", "over best baseline", "QNC", "violations", "seeds", "CPU s to fit")
    return Table(
        title=f"{metrics['recording']}, {evaluated_tasks(metrics)}",
        header=header,
        rows=[row for _, row in sorted(rows, key=lambda pair: -pair[0])],
        notes=(
            f"AIQ: mean score over mean costs of {low:.3g} to {high:.3g} USD per task.",
            "Brackets: 95 % paired bootstrap over tasks and seeds, not adjusted for their number; * excludes 0.",
            f"Best baseline: {metrics['best_baseline'] or 'none'}. QNC: cost of the best single arm's score over that "
            "arm's cost. Violations: episodes above their hard budget.",
            *((_POOLED,) if _folds(metrics) else ()),
            *_stand_ins(metrics),
            *_few_validated(metrics),
        ),
        strong=frozenset(name for name, found in policies.items() if found["learned"]),
    )


def budget_table(metrics: Mapping[str, Any]) -> Table:
    """Mean score of every competitor under each hard budget (price 0), beside the oracle under the same budget.

    Args:
        metrics: from `Comparison.metrics`, or read back from ``metrics.json``.
    """
    header = ("policy", *(f"{budget:.2e}" for budget in metrics["budgets_usd"]))
    policies: Mapping[str, Any] = metrics["policies"]
    rows = [("oracle", *(f"{point['score']:.3f}" for point in metrics["oracle"]["budgets"]))]
    for name, found in sorted(policies.items(), key=lambda item: -item[1]["aiq"]):
        rows.append((name, *(f"{point['score']:.3f}" for point in found["budgets"])))
    points = [point for found in policies.values() for point in found["budgets"]]
    widest = max((point["score_high"] - point["score_low"]) / 2 for point in points)
    return Table(
        title="score under a hard budget (USD per task)",
        header=header,
        rows=rows,
        notes=(f"95 % intervals over tasks and seeds are at most +-{widest:.3f}.",),
        strong=frozenset(name for name, found in policies.items() if found["learned"]),
    )


def _folds(metrics: Mapping[str, Any]) -> int:
    """Folds of the cross-validation; 0 without one, and in metrics that do not say how they were made."""
    return int(metrics.get("made", {}).get("folds", 0))


def _stand_ins(metrics: Mapping[str, Any]) -> Iterator[str]:
    """What is played where an arm was not recorded; nothing in metrics that do not say how often that is."""
    if masked := metrics.get("masked_pairs"):
        pairs = metrics["tasks"] * len(metrics["arms"])
        yield (
            f"Single arms and the zero router: for {masked:,} of {pairs:,} (task, arm) pairs, which were not recorded, "
            "the arm with the lowest worst case of the task stands in."
        )


def _few_validated(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning where chance has much to say in which operating points are kept; none where the number is not known."""
    count = metrics.get("validation_tasks", _ENOUGH)
    if count >= _ENOUGH:
        return ()
    remedy = "" if _folds(metrics) else "; routegym bench --folds 5 evaluates on every task"
    return (
        f"Warning: operating points are chosen on {count} validation tasks, and on fewer than {_ENOUGH} it is partly "
        f"chance which are kept{remedy}.",
    )


def evaluated_tasks(metrics: Mapping[str, Any]) -> str:
    """How many tasks were evaluated on, and of what."""
    count, folds = f"{metrics['tasks']:,}", _folds(metrics)
    return f"{count} tasks, {folds}-fold cross-validation" if folds else f"{count} {metrics['split']} tasks"


def arm_table(metrics: Mapping[str, Any], name: str) -> Table:
    """What one competitor calls under each hard budget.

    Args:
        metrics: from `Comparison.metrics`, or read back from ``metrics.json``.
        name: of the competitor.
    """
    points = metrics["policies"][name]["budgets"]
    return Table(
        title=f"share of the calls of {name} by hard budget",
        header=("budget USD", "mean cost USD", "score", "oracle's score", *points[0]["shares"]),
        rows=[
            (
                f"{point['budget_usd']:.2e}",
                f"{point['cost_usd']:.2e}",
                f"{point['score']:.3f}",
                f"{best['score']:.3f}",
                *(f"{share:.0%}" for share in point["shares"].values()),
            )
            for point, best in zip(points, metrics["oracle"]["budgets"], strict=True)
        ],
    )


def leaders(metrics: Mapping[str, Any], count: int = 4) -> list[str]:
    """The names worth a curve of their own: the best learners and the best baselines, so many of each by AIQ."""
    best = sorted(metrics["policies"], key=lambda name: -metrics["policies"][name]["aiq"])
    return [
        name
        for learned in (True, False)
        for name in [name for name in best if metrics["policies"][name]["learned"] == learned][:count]
    ]


def _signed(interval: Mapping[str, Any]) -> str:
    return Interval(interval["estimate"], interval["low"], interval["high"]).signed()


def _percent(interval: Mapping[str, Any] | None) -> str:
    return "" if interval is None else f"{interval['estimate']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"


def results_page(metrics: Mapping[str, Any]) -> str:
    """All tables of a bench as a Markdown page, with what was run where.

    Args:
        metrics: what `routegym bench` wrote to ``metrics.json``.
    """
    made = metrics["made"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts = [
        f"`{made['command']}`: recording `{metrics['recording']}` (content hash `{metrics['content_hash'][:12]}`), "
        f"{evaluated_tasks(metrics)}, training seeds {made['seeds']} (rules and success "
        f"predictors are fitted once). {made['machine']}; {versions}.",
        comparison_table(metrics).markdown(),
        "Score under a hard budget (USD per task), price 0:",
        budget_table(metrics).markdown(),
        "What a decision costs the router itself, and how its calls spread at the middle budget:",
        decision_table(metrics).markdown(),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def decision_table(metrics: Mapping[str, Any]) -> Table:
    """Seconds per decision, and whether a competitor has collapsed to one arm."""
    middle = len(metrics["budgets_usd"]) // 2
    held = "; first fold" if _folds(metrics) else ""
    if held and "first_fold_tasks" in metrics["made"]:
        held += f", {metrics['made']['first_fold_tasks']} tasks"
    rows = []
    for name, found in sorted(metrics["policies"].items(), key=lambda item: -item[1]["aiq"]):
        time, point = metrics["decisions"].get(name), found["budgets"][middle]
        cells = (
            ("", "", "")
            if time is None
            else (f"{time['p50_s'] * 1e3:.3f}", f"{time['p99_s'] * 1e3:.3f}", f"{time['throughput_per_s']:,.0f}")
        )
        share = "" if point["largest_share"] is None else f"{point['largest_share']:.0%}"
        entropy = "" if point["selection_entropy"] is None else f"{point['selection_entropy']:.2f}"
        rest = (f"{point['collapse_index']:.2f}", f"{point['regret']:.3f}")
        calibration = ("", "") if time is None or "ece" not in time else (f"{time['brier']:.3f}", f"{time['ece']:.3f}")
        rows.append((name, *cells, share, entropy, *rest, *calibration))
    return Table(
        title="decisions",
        header=(
            "policy",
            "ms, p50",
            "ms, p99",
            "decisions/s in batches",
            "largest arm share",
            "selection entropy",
            "collapse index",
            "regret",
            "Brier",
            "ECE",
        ),
        rows=rows,
        notes=(
            "One decision at a time, one thread; batches of 1,024.",
            f"The rest under a hard budget of {metrics['budgets_usd'][middle]:.2e} USD: share of the most used arm; "
            "entropy of the choice (0 one arm, 1 all alike);",
            "share of episodes that some arm alone would have played better or as well for less; score lost to the "
            "clairvoyant optimum under that budget.",
            "Brier and ECE: of the predicted score of every arm alone"
            f"{' that was recorded for it' if metrics.get('masked_pairs') else ''}, at the start of a task{held}.",
        ),
    )
