"""Requests answered by the arms that a router chooses: budgets kept, every route logged and counted."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from routegym.core.ledger import check_budget, check_lambda
from routegym.errors import BudgetError, CallError, ConfigError, MissingExtraError
from routegym.pool.arms import TOKEN_KINDS
from routegym.pool.backend import NO_TOKENS, Failure, Response, Tokens
from routegym.pool.spend import SpendCap
from routegym.serving.route_log import RouteLog
from routegym.serving.router import Route, Router

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:
    raise MissingExtraError("prometheus-client", "serve") from error

if TYPE_CHECKING:
    from routegym.graph.growth import PoolLike

__all__ = ["KINDS", "Ask", "Metrics", "Served", "Service"]

#: Kinds of recordings whose policies can stand in for a model: what is asked is a prompt, what is handed in an answer.
KINDS = ("single_call", "cascade")

_LOGGER = logging.getLogger(__name__)
_DECISION_BUCKETS = (25e-6, 50e-6, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1)
_MOST_NAME = 200  # characters of a conversation's name


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    """What was said before, as (role, content) pairs."""
    budget_usd: float | None = None
    """Most that the request may cost; None = what its conversation has left, or no cap."""
    lambda_: float = 0.0
    conversation: str | None = None
    """Name of the conversation whose budget it shares."""
    conversation_budget_usd: float | None = None
    """Most that all requests of the conversation may cost together."""


@dataclass(frozen=True)
class Served:
    """What came of a request."""

    id: str
    """Of its route; scores are given by it."""
    text: str
    """The answer that was handed in; empty where the policy handed in none."""
    arm: str
    """Who gave it; empty where nobody did."""
    calls: tuple[str, ...]
    """Who was called, in order, whether it answered or not."""
    outcome: str
    """See `Route.outcome`; ``degraded``: a call failed, and the answer before it was handed in."""
    cost_usd: float
    tokens: Tokens
    """Of all calls together."""


class Metrics:
    """What Prometheus may scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name, registry = "routegym", self.registry
        self.requests = Counter(f"{name}_requests", "Requests by outcome", ["outcome"], registry=registry)
        self.calls = Counter(f"{name}_calls", "Calls by arm and result", ["arm", "result"], registry=registry)
        self.cost = Counter(f"{name}_cost_usd", "US dollars charged, by arm", ["arm"], registry=registry)
        self.tokens = Counter(f"{name}_tokens", "Tokens by arm and kind", ["arm", "kind"], registry=registry)
        self.in_flight = Gauge(f"{name}_requests_in_flight", "Requests under way", registry=registry)
        self.decision = Histogram(
            f"{name}_decision_seconds", "Time of a decision", registry=registry, buckets=_DECISION_BUCKETS
        )
        self.latency = Histogram(f"{name}_request_seconds", "Time of a request", registry=registry)
        self.log_errors = Counter(f"{name}_log_errors", "Routes that could not be logged", registry=registry)
        self.scores = Counter(f"{name}_scores", "Scores given to routes", registry=registry)


class Service:
    """Answers requests with a pool, as a router says. Threads may share it.

    Args:
        router: made with this pool.
        pool: who answers.
        spending: folder in which what conversations have spent is kept, also for other processes and after a restart.
        log: where routes are written.
        budget_usd, lambda_, conversation_budget_usd: of requests that do not name their own.

    Raises:
        ConfigError: the router's policy does not route single questions.
        BudgetError: a default makes no sense.
    """

    def __init__(
        self,
        router: Router,
        pool: PoolLike,
        spending: str | Path,
        *,
        log: RouteLog | None = None,
        budget_usd: float | None = None,
        lambda_: float = 0.0,
        conversation_budget_usd: float | None = None,
    ) -> None:
        if router.kind not in KINDS or router.tells_success:
            what = "by an environment that says when a task is solved" if router.tells_success else f"for {router.kind}"
            raise ConfigError(
                f"the policy was trained {what}; a server answers questions: expected a policy for "
                f"{' or '.join(KINDS)} without a verdict. Others are used in a program, see routegym.load_router"
            )
        self.router, self.pool, self.log = router, pool, log
        for budget in (budget_usd, conversation_budget_usd):
            if budget is not None:
                check_budget(budget)
        check_lambda(lambda_)
        self.defaults = Ask("", (), budget_usd, lambda_, None, conversation_budget_usd)
        self.metrics = Metrics()
        self._spending = Path(spending)

    def answer(self, ask: Ask) -> Served:
        """Route a request to its end.

        Raises:
            BudgetError: a budget cannot be used, or pays for no call.
            CallError: no arm brought an answer.
        """
        began = time.perf_counter()
        outcome = "error"
        with self.metrics.in_flight.track_inprogress():
            try:
                served = self._answer(ask)
                outcome = served.outcome
            except BudgetError:
                outcome = "budget"
                raise
            except CallError:
                outcome = "failed"
                raise
            finally:
                self.metrics.requests.labels(outcome).inc()
                self.metrics.latency.observe(time.perf_counter() - began)
        return served

    def _answer(self, ask: Ask) -> Served:
        with _holding(self._spending, ask) as held:
            route = self.router.start(ask.prompt, held.budget_usd, ask.lambda_, ask.history)
            name = f"route-{uuid.uuid4().hex}"
            try:
                return self._play(name, route)
            finally:
                route.abandon()  # what an error has left under way is charged at its worst case
                held.spent_usd = route.spent_usd
                self._note(name, route)

    def _play(self, name: str, route: Route) -> Served:
        called: list[str] = []
        answers: list[tuple[str, Response]] = []
        failure: Failure | None = None
        while (arm := self._decide(route)) is not None:
            called.append(arm)
            before = route.spent_usd
            try:
                (result,) = self.pool.backend.generate([route.request])
                if isinstance(result, Failure):
                    failure = result
                    route.fail(result)
                else:
                    answers.append((arm, result))
                    route.observe(result)
            except BaseException:
                route.abandon()
                self._count(arm, None, route.spent_usd - before)
                raise
            self._count(arm, result, route.spent_usd - before)
        if failure is not None and not answers:
            raise failure.error
        arm, last = answers[-1] if answers else ("", None)
        tokens = [sum(response.tokens[kind] for _, response in answers) for kind in range(len(NO_TOKENS))]
        return Served(
            id=name,
            text="" if last is None else last.text,
            arm=arm,
            calls=tuple(called),
            outcome="degraded" if failure is not None else route.outcome,
            cost_usd=route.spent_usd,
            tokens=(tokens[0], tokens[1], tokens[2], tokens[3]),
        )

    def _note(self, name: str, route: Route) -> None:
        """Write a route down; an answer that was paid for is not lost because that fails."""
        if self.log is None:
            return
        try:
            self.log.add(name, route)
        except (OSError, ValueError):
            _LOGGER.exception("a route could not be written to %s", self.log.path)
            self.metrics.log_errors.inc()

    def _decide(self, route: Route) -> str | None:
        with self.metrics.decision.time():
            return route.next()

    def _count(self, arm: str, result: Response | Failure | None, cost_usd: float) -> None:
        metrics = self.metrics
        metrics.calls.labels(arm, "answered" if isinstance(result, Response) else "failed").inc()
        metrics.cost.labels(arm).inc(cost_usd)
        if isinstance(result, Response):
            for kind, number in zip(TOKEN_KINDS, result.tokens, strict=True):
                metrics.tokens.labels(arm, kind).inc(number)


@dataclass
class _Held:
    """What a request may spend, and what it has spent."""

    budget_usd: float | None
    spent_usd: float = 0.0


@contextmanager
def _holding(folder: Path, ask: Ask) -> Iterator[_Held]:
    """Hold a part of a conversation's budget while a request runs.

    A request without a budget of its own holds all that is left, so that others of the conversation wait for it.
    """
    if ask.conversation is None:
        yield _Held(ask.budget_usd)
        return
    if not 0 < len(ask.conversation) <= _MOST_NAME:
        raise ConfigError(f"conversation: a name of {len(ask.conversation)} characters; expected 1 to {_MOST_NAME}")
    with SpendCap(folder, ask.conversation_budget_usd, f"conversation {ask.conversation}") as cap:
        if cap.cap_usd == float("inf"):  # nothing to hold, but it is counted
            held = _Held(ask.budget_usd)
            try:
                yield held
            finally:
                (ticket,) = cap.reserve([held.spent_usd])
                assert ticket is not None  # there is no cap
                cap.settle(ticket, held.spent_usd)
            return
        found = cap.reserve_up_to(ask.budget_usd)
        if found is None:
            raise BudgetError(
                f"the conversation has spent its budget of {cap.cap_usd:.6g} USD; begin another, or raise its budget"
            )
        ticket, budget = found
        held = _Held(budget)
        try:
            yield held
        finally:
            cap.settle(ticket, held.spent_usd)
