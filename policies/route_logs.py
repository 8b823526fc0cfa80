"""Logs of a router in service as episodes from which other policies can be learned and estimated.

A log is JSON lines of two sorts: a route with what the policy saw, what it could choose and what it chose with which
probability; and the score that somebody gave a route, by its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from routegym.core.observation import ObservationLayout
from routegym.errors import ImportDataError
from routegym.policies.logs import ENDED, EpisodeLog

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["ROUTE_FORMAT", "ReadRoutes", "read_routes"]

ROUTE_FORMAT = "routegym-route-1"


@dataclass(frozen=True)
class ReadRoutes:
    """Episodes of a log, and what was left out of it."""

    log: EpisodeLog
    unscored: int
    """Routes that nobody has scored."""
    failed: int
    """Routes that a call without an answer ended: nobody was wrong."""
    unknown: int
    """Scores of routes that the log does not have."""


def read_routes(path: str | Path, recording: Recording) -> ReadRoutes:
    """The scored routes of a log that `routegym serve` wrote.

    Args:
        path: the log. A last line that an interruption cut off is left out.
        recording: that the router was trained on; it names the columns and the actions.

    Raises:
        ImportDataError: naming file, line and field; or no route has a score.
    """
    layout = ObservationLayout.of(recording)
    scores: dict[str, float] = {}
    routes: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for number, line in _lines(Path(path)):
        if "score" in line:
            score = line["score"]
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
                raise ImportDataError(f"{path}, line {number}, field score: {score!r}; expected a number in [0, 1]")
            scores[str(line.get("id"))] = float(score)
        elif line.get("format") != ROUTE_FORMAT:
            raise ImportDataError(
                f"{path}, line {number}, field format: {line.get('format')!r}; expected {ROUTE_FORMAT!r}, as "
                "`routegym serve` writes it"
            )
        else:
            routes[str(line["id"])] = number, line
    failed = {name for name, (_, line) in routes.items() if line["outcome"] != "done" or not line["decisions"]}
    scored = [name for name in routes if name in scores and name not in failed]
    if not scored:
        raise ImportDataError(
            f"{path}: of {len(routes)} routes none has a score; post one to /v1/routes/ID/score, or add lines such as "
            '{"id": "...", "score": 1.0}'
        )
    rows: list[Mapping[str, Any]] = []
    episode: list[int] = []
    for index, name in enumerate(scored):
        number, route = routes[name]
        try:
            decisions = [_row(decision, layout) for decision in route["decisions"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ImportDataError(
                f"{path}, line {number}, field decisions: {error!r}; expected what a router of {recording.name!r} "
                f"({len(layout.names)} columns, actions {', '.join(layout.action_names)}) has logged"
            ) from None
        rows += decisions
        episode += [index] * len(decisions)
    found = [routes[name][1] for name in scored]
    _, task = np.unique([route["prompt_hash"] for route in found], return_inverse=True)
    log = EpisodeLog(
        columns=layout.names,
        actions=layout.action_names,
        cost_scale_usd=recording.cost_scale_usd,
        observation=np.array([row["observation"] for row in rows], dtype=np.float32),
        action=np.array([row["action"] for row in rows], dtype=np.int64),
        propensity=np.array([row["propensity"] for row in rows], dtype=np.float64),
        legal=np.array([row["legal"] for row in rows], dtype=bool),
        reserve_usd=np.array([row["reserve_usd"] for row in rows], dtype=np.float64),
        cost_usd=np.array([row["cost_usd"] for row in rows], dtype=np.float64),
        episode=np.array(episode, dtype=np.int64),
        task=task.astype(np.int64),
        budget_usd=np.array([np.inf if route["budget_usd"] is None else route["budget_usd"] for route in found]),
        lambda_=np.array([route["lambda"] for route in found], dtype=np.float64),
        score=np.array([scores[name] for name in scored], dtype=np.float64),
        outcome=np.full(len(scored), ENDED, dtype=np.uint8),
    )
    return ReadRoutes(log, len(routes) - len(failed) - len(scored), len(failed), len(scores.keys() - routes.keys()))


def _row(decision: Mapping[str, Any], layout: ObservationLayout) -> Mapping[str, Any]:
    legal, reserve = decision["legal"], decision["reserve_usd"]
    if unknown := (set(legal) | {decision["action"]}) - set(layout.action_names):
        raise ValueError(f"unknown action {min(unknown)!r}")
    if len(decision["observation"]) != layout.width or len(reserve) != len(layout.action_names):
        raise ValueError(f"{len(decision['observation'])} columns and {len(reserve)} worst cases")
    return {
        "observation": decision["observation"],
        "action": layout.action_names.index(decision["action"]),
        "propensity": decision["propensity"],
        "legal": [name in legal for name in layout.action_names],
        "reserve_usd": [np.nan if one is None else one for one in reserve],
        "cost_usd": decision["cost_usd"],
    }


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ImportDataError(f"{path}: cannot be read ({error}); name the log that `routegym serve` wrote") from None
    for number, text in enumerate(lines, 1):
        if number == len(lines) and not text.endswith("\n"):
            return
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ImportDataError(f"{path}, line {number}: not valid JSON ({error}); delete the line") from None
        if not isinstance(line, dict):
            raise ImportDataError(f"{path}, line {number}: {text[:40]!r}; expected a JSON object; delete the line")
        yield number, line
