"""Logs of a router in service as episodes from which other policies can be learned and estimated.

A log is JSON lines of two sorts: a route with what the policy saw, what it could choose and what it chose with which
probability; and the score that somebody gave a route, by its id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import ImportDataError
from routegym.policies.logs import ENDED, EpisodeLog

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["ROUTE_FORMAT", "ReadRoutes", "fingerprint_of", "read_routes"]

ROUTE_FORMAT = "routegym-route-1"


def fingerprint_of(recording: Recording) -> str:
    """Digest of what decides how observations on a recording are read: columns, actions, cost scale, text features."""
    layout = ObservationLayout.of(recording)
    facts = [layout.names, layout.action_names, recording.cost_scale_usd, recording.tasks.embedder]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ReadRoutes:
    """Episodes of a log, and what was left out of it."""

    log: EpisodeLog
    unscored: int
    """Routes that nobody has scored."""
    failed: int
    """Routes that a call without an answer, or the budget, ended: nobody was wrong."""
    unknown: int
    """Scores of routes that the log does not have."""


def read_routes(path: str | Path, recording: Recording) -> ReadRoutes:
    """The scored routes of a log that `routegym serve` wrote.

    Args:
        path: the log. A last line that an interruption cut off is left out.
        recording: that the router was trained on.

    Raises:
        ImportDataError: naming file, line and field; or no route has a score.
    """
    layout, ours = ObservationLayout.of(recording), fingerprint_of(recording)
    scores: dict[str, float] = {}
    routes: dict[str, _Route] = {}
    failed: set[str] = set()
    for number, line in _lines(Path(path)):
        where = f"{path}, line {number}"
        name = line.get("id")
        if not isinstance(name, str):
            raise ImportDataError(f"{where}, field id: {name!r}; expected the name of a route; delete the line")
        if "score" in line:
            scores[name] = _score(where, line["score"])
            continue
        if line.get("format") != ROUTE_FORMAT:
            raise ImportDataError(
                f"{where}, field format: {line.get('format')!r}; expected {ROUTE_FORMAT!r}, as `routegym serve` writes"
            )
        if line.get("fingerprint") != ours:
            raise ImportDataError(
                f"{where}, field fingerprint: {line.get('fingerprint')!r}; expected {ours!r}, that of recording "
                f"{recording.name!r}: the route was logged by a policy of another recording"
            )
        try:
            routes[name] = _Route.of(line, layout)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ImportDataError(
                f"{where}: {error!r}; expected what `routegym serve` writes; delete the line"
            ) from None
        if line["outcome"] != "done" or not line["decisions"]:
            failed.add(name)
    scored = [name for name in routes if name in scores and name not in failed]
    if not scored:
        raise ImportDataError(
            f"{path}: of {len(routes)} routes none has a score; post one to /v1/routes/ID/score, or add lines such as "
            '{"id": "...", "score": 1.0}'
        )
    found = [routes[name] for name in scored]
    _, task = np.unique([route.prompt_hash for route in found], return_inverse=True)
    log = EpisodeLog(
        columns=layout.names,
        actions=layout.action_names,
        cost_scale_usd=recording.cost_scale_usd,
        **{name: np.concatenate([route.rows[name] for route in found]) for name in _ROWS},
        episode=np.repeat(np.arange(len(found)), [len(route.rows["action"]) for route in found]),
        task=task.astype(np.int64),
        budget_usd=np.array([route.budget_usd for route in found]),
        lambda_=np.array([route.lambda_ for route in found]),
        score=np.array([scores[name] for name in scored]),
        outcome=np.full(len(scored), ENDED, dtype=np.uint8),
    )
    return ReadRoutes(log, len(routes) - len(failed) - len(scored), len(failed), len(scores.keys() - routes.keys()))


_ROWS: dict[str, Any] = {
    "observation": np.float32,
    "action": np.int64,
    "propensity": np.float64,
    "legal": bool,
    "reserve_usd": np.float64,
    "cost_usd": np.float64,
}


@dataclass(frozen=True)
class _Route:
    """A line of the log."""

    prompt_hash: str
    budget_usd: float
    lambda_: float
    rows: Mapping[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, line: Mapping[str, Any], layout: ObservationLayout) -> _Route:
        decisions = [_row(decision, layout) for decision in line["decisions"]]
        rows = {name: np.array([row[name] for row in decisions], dtype=kind) for name, kind in _ROWS.items()}
        if decisions:
            taken = rows["legal"][np.arange(len(decisions)), rows["action"]]
            chance, cost = rows["propensity"], rows["cost_usd"]
            if np.isnan(chance).any():
                raise ValueError("no propensity: the policy draws and does not say how likely; serve another one")
            if not (taken.all() and ((chance > 0) & (chance <= 1)).all() and (np.isfinite(cost) & (cost >= 0)).all()):
                raise ValueError("an action that was not legal, or an impossible propensity or cost")
        budget = float("inf") if line["budget_usd"] is None else float(line["budget_usd"])
        lambda_ = float(line["lambda"])
        if not (budget > 0 and 0 <= lambda_ < float("inf")):
            raise ValueError(f"budget_usd = {budget}, lambda = {lambda_}")
        return cls(str(line["prompt_hash"]), budget, lambda_, rows)


def _row(decision: Mapping[str, Any], layout: ObservationLayout) -> Mapping[str, Any]:
    legal, reserve = decision["legal"], decision["reserve_usd"]
    if unknown := (set(legal) | {decision["action"]}) - set(layout.action_names):
        raise ValueError(f"unknown action {min(unknown)!r}")
    if len(decision["observation"]) != layout.width or len(reserve) != len(layout.action_names):
        raise ValueError(f"{len(decision['observation'])} columns and {len(reserve)} worst cases")
    return {
        "observation": decision["observation"],
        "action": layout.action_names.index(decision["action"]),
        "propensity": np.nan if decision["propensity"] is None else decision["propensity"],
        "legal": [name in legal for name in layout.action_names],
        "reserve_usd": [{None: np.nan, "inf": np.inf}.get(one, one) for one in reserve],
        "cost_usd": decision["cost_usd"],
    }


def _score(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ImportDataError(f"{where}, field score: {value!r}; expected a number in [0, 1]")
    return float(value)


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
