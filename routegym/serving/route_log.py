"""The log of a router in service: one line for each route, one for each score."""

from __future__ import annotations

import json
import threading
import time
from math import isfinite, isnan
from pathlib import Path
from types import TracebackType
from typing import Any

from routegym.errors import RunError
from routegym.policies.route_logs import ROUTE_FORMAT
from routegym.pool.database import FileLock
from routegym.serving.router import Route
from routegym.tasks.taskset import prompt_hash

__all__ = ["RouteLog"]


class RouteLog:
    """Appends routes to a file that `routegym.policies.route_logs.read_routes` reads. Threads may share it.

    Prompts and answers are not kept, only a hash of the prompt and what the policy saw of it.

    Args:
        path: the file; made where it is missing. A last line that an interruption cut off is removed.

    Raises:
        RunError: it cannot be written, or another process writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._mine = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            if not self._mine.try_exclusive():
                raise RunError(f"{self.path}: another server writes it; name another file with --log")
            self._file = self.path.open("ab+")
            self._cut()
        except OSError as error:  # of which StoreError is one
            raise RunError(f"{self.path}: cannot be written ({error}); name another file with --log") from None

    def add(self, name: str, route: Route) -> None:
        """Write a route that is over."""
        names = route.router.layout.action_names
        decisions = [
            {
                "action": decision.name,
                "propensity": _plain(decision.propensity),
                "legal": [action for action, legal in zip(names, decision.legal, strict=True) if legal],
                "cost_usd": cost,
                "reserve_usd": [_plain(worst) for worst in decision.reserve_usd.tolist()],
                "observation": decision.observation.tolist(),
            }
            for decision, cost in zip(route.decisions, route.costs_usd, strict=True)
        ]
        self._write(
            {
                "format": ROUTE_FORMAT,
                "fingerprint": route.router.fingerprint,
                "id": name,
                "time": round(time.time(), 3),
                "prompt_hash": prompt_hash(route.task),
                "budget_usd": route.budget_usd if isfinite(route.budget_usd) else None,
                "lambda": route.lambda_,
                "outcome": route.outcome,
                "cost_usd": route.spent_usd,
                "decisions": decisions,
            }
        )

    def score(self, name: str, score: float) -> None:
        """Write what a route's answer was worth, in [0, 1]."""
        self._write({"id": name, "score": score, "time": round(time.time(), 3)})

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()
        self._mine.release()

    def __enter__(self) -> RouteLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock:
            self._file.write(text)
            self._file.flush()

    def _cut(self) -> None:
        size = self._file.seek(0, 2)
        end = size
        while end:
            start = max(0, end - 65_536)
            self._file.seek(start)
            place = self._file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        if end < size:
            self._file.truncate(end)


def _plain(value: float) -> float | str | None:
    """What JSON can hold."""
    if isfinite(value):
        return value
    return None if isnan(value) else "inf"
