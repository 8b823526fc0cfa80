"""What came of a run, in the form that services of tracking take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from routegym.evaluation.routes import Route, largest_differences, trace_routes

if TYPE_CHECKING:
    from routegym.evaluation.comparison import Comparison
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["PICTURE", "Results", "Table", "result_scalars", "results_of", "scalars"]

_POINT = (
    *("budget_usd", "score", "score_low", "score_high", "cost_usd"),
    *("regret", "collapse_index", "largest_share", "selection_entropy"),
)
PICTURE = "frontier.png"
_ROUTES = 20
_PROMPT = 300


@dataclass(frozen=True)
class Table:
    """Rows under names of columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Results:
    """What an evaluation found."""

    scalars: Mapping[str, float]
    """From `result_scalars`."""
    tables: Mapping[str, Table] = field(default_factory=dict)


def results_of(
    comparison: Comparison, metrics: Mapping[str, Any], name: str, policies: Mapping[str, Mapping[int, Policy]]
) -> Results:
    """The results of one policy.

    Args:
        comparison: it was evaluated in.
        metrics: of that.
        name: of the policy.
        policies: all that were compared, by name and seed.

    Returns:
        Its scalars; a table ``budgets`` of every policy under every hard budget; and a table ``routes`` of the tasks
        where its first seed gained and lost most against the best baseline, under the middle hard budget.
    """
    points = [
        [one, *(point[column] for column in _POINT)]
        for one, found in metrics["policies"].items()
        for point in found["budgets"]
    ]
    tables = {"budgets": Table(("policy", *_POINT), points)}
    rival = metrics["best_baseline"]
    if rival is not None:
        pair = [policies[one][min(policies[one])] for one in (name, rival)]
        tables["routes"] = _routes(comparison, (name, rival), pair)
    return Results(result_scalars(metrics, name), tables)


def result_scalars(metrics: Mapping[str, Any], policy: str) -> dict[str, float]:
    """The numbers of one policy in the metrics of a comparison: its AIQ, differences, violations, collapse instruments.

    Args:
        metrics: as in ``metrics.json``.
        policy: its name there.

    Returns:
        Finite numbers by name. ``score``, ``cost_usd``, ``regret``, ``collapse_index``, ``largest_share`` and
        ``selection_entropy`` are means over the hard budgets.
    """
    found: Mapping[str, Any] = metrics["policies"][policy]
    values: dict[str, Any] = {"aiq": found["aiq"]}
    for name in ("over_zero_router", "over_best_baseline", "gap_closed_oracle", "gap_closed_attainable"):
        values[name] = (found.get(name) or {}).get("estimate")
    for name in ("hypervolume", "qnc", "violations"):
        values[name] = found.get(name)
    budgets: Sequence[Mapping[str, Any]] = found["budgets"]
    for name in ("score", "cost_usd", "regret", "collapse_index", "largest_share", "selection_entropy"):
        known = [point[name] for point in budgets if point[name] is not None]
        values[name] = sum(known) / len(known) if known else None
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What a record of `routegym.tracking.Tracking` measured, without the ``seed`` and ``step`` it belongs to."""
    for name, value in record.items():
        if name not in ("seed", "step") and isinstance(value, int | float):
            yield name, value


def _routes(comparison: Comparison, names: tuple[str, str], pair: Sequence[Policy]) -> Table:
    recording, grid = comparison.recording, comparison.grid
    point = grid.at_cap(len(grid.caps) // 2)
    mine, theirs = (trace_routes(policy, recording, comparison.split, grid, point) for policy in pair)
    columns = ["task", "prompt"]
    for name in names:
        columns += [f"{name}: {what}" for what in ("route", "score", "cost_usd")]
    chosen = [index for part in largest_differences(mine, theirs, _ROUTES) for index in part.tolist()]
    rows = [
        [*_task(recording, mine[at].task), *_told(recording, mine[at]), *_told(recording, theirs[at])] for at in chosen
    ]
    return Table(columns, rows)


def _task(recording: Recording, task: int) -> tuple[str, str]:
    return recording.tasks.ids[task], recording.tasks.prompts[task][:_PROMPT]


def _told(recording: Recording, route: Route) -> tuple[str, float, float]:
    actions = " \N{RIGHTWARDS ARROW} ".join(recording.action_names[step.action] for step in route.steps)
    return actions, route.score, route.cost_usd
