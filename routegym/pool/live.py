"""The backend of a live pool: from requests over known completions, the spend cap and the engines to responses."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

from routegym.errors import PoolError, PriceError, RoutegymError, SpendCapError
from routegym.pool.arms import PriceTable
from routegym.pool.backend import Call, Completion, Engine, Failure, OnResponse, Request, Response
from routegym.pool.prices import attempt_usd, call_usd, worst_usd
from routegym.pool.tiers import Tier, lost_tokens

__all__ = ["KnownCompletions", "PoolBackend", "Spending"]

#: Calls reserved at a time: many times what is under way, so that little waits for the slowest.
_WAVE = 512
#: Settled calls are written down together, at the latest after so many seconds. Until then their worst case stands.
_SETTLE_EVERY_S = 0.25
#: For how long an interruption waits for another endpoint to keep the answers that have come.
_LAST_WORDS_S = 2.0

_OnOutcome = Callable[[int, "Completion | Failure"], None]


class KnownCompletions(Protocol):
    """What the backend needs of a `routegym.pool.store.ResponseStore`."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Completion]:
        """Known completions by key."""
        ...

    def put(self, call: Call, completion: Completion) -> None:
        """Keep a completion; it is safe when this returns."""
        ...


class Spending(Protocol):
    """What the backend needs of a `routegym.pool.spend.SpendCap`."""

    @property
    def cap_usd(self) -> float:
        """The cap."""
        ...

    def reserve(self, worst_usd: Sequence[float], *, wait: bool) -> list[int | None]:
        """A ticket for each call that the cap admits, once it is known that there will be none for the others."""
        ...

    def settle_many(self, costs: Sequence[tuple[int, float]]) -> None:
        """Replace reservations by what their calls cost."""
        ...

    def release(self, ticket: int) -> None:
        """Give a reservation back."""
        ...


class PoolBackend:
    """Answers requests with a pool's engines.

    Equal calls of a batch are made once, and calls that the store knows are not made at all: they cost the spend cap
    nothing and keep the tokens that they once took. Before a call is sent its worst case is reserved; a call that the
    cap does not admit is a `Failure` with a `SpendCapError` and no attempts. What came back is stored before it is
    reported. Where an arm names a fallback, that arm is asked once all calls of the batch are through. Calls to
    different endpoints run side by side.

    An interruption (Ctrl-C) keeps what is finished, settles at their worst case the calls that are under way, and goes
    on to the caller.

    Args:
        tiers: how each arm asks, by the arm's name.
        engines: makes the engine of each endpoint, at its first call.
        prices: of all models.
        store: where completions are looked up and kept.
        spend: the cap on what the whole run may spend.
    """

    def __init__(
        self,
        tiers: Mapping[str, Tier],
        engines: Mapping[str, Callable[[], Engine]],
        prices: PriceTable,
        store: KnownCompletions | None = None,
        spend: Spending | None = None,
    ) -> None:
        self._tiers = dict(tiers)
        self._make = dict(engines)
        self._prices = prices
        self._store = store
        self._spend = spend
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        """One result for each request, in order; `on_result` is called as soon as each is there, one at a time.

        Raises:
            PoolError: an arm is not of this pool, or an engine cannot be used at all.
            PriceError: an arm has no price, or is paid by GPU time that nobody measured.
        """
        results: dict[int, Response | Failure] = {}
        failures: dict[int, Failure] = {}

        def report(index: int, result: Response | Failure) -> None:
            results[index] = result
            if on_result is not None:
                on_result(index, result)

        def first(index: int, outcome: Completion | Failure) -> None:
            arm = requests[index].arm
            if isinstance(outcome, Completion):
                report(index, self._response(arm.name, outcome))
            elif arm.fallback is None or isinstance(outcome.error, SpendCapError):
                report(index, outcome)
            else:
                failures[index] = outcome

        self._serve(self._calls(requests), first)
        if failures:
            waiting = list(failures)
            instead = self._calls([self._fallback(requests[index]) for index in waiting])

            def second(place: int, outcome: Completion | Failure) -> None:
                failed = failures[waiting[place]]
                if isinstance(outcome, Failure):
                    report(waiting[place], Failure(outcome.error, (*failed.attempts, *outcome.attempts)))
                else:
                    name = instead[place].arm.name
                    report(waiting[place], _after_failure(self._response(name, outcome), name, failed))

            self._serve(instead, second)
        return [results[index] for index in range(len(requests))]

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Most prompt tokens that each request can be charged, over all samples of its arm or of its fallback."""
        counts = self._count(self._calls(requests))
        covered = [index for index, request in enumerate(requests) if request.arm.fallback is not None]
        instead = self._count(self._calls([self._fallback(requests[index]) for index in covered]))
        for index, count in zip(covered, instead, strict=True):
            counts[index] = max(counts[index], count)
        return counts

    def close(self) -> None:
        """Free the engines. A later call makes them anew."""
        with self._lock:
            engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without engines, which start anew in another process."""
        return {name: value for name, value in vars(self).items() if name not in ("_engines", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._engines = {}
        self._lock = threading.Lock()

    def _tier(self, name: str) -> Tier:
        if name not in self._tiers:
            raise PoolError(f"unknown arm {name!r}; this pool has {', '.join(self._tiers) or 'no arms'}")
        return self._tiers[name]

    def _response(self, name: str, completion: Completion) -> Response:
        tier = self._tier(name)
        if not completion.gpu_s and self._prices.price_of(tier.arm).gpu_hour:
            raise PriceError(
                f"arm {name} is paid by GPU time, and its {tier.engine} engine measured none; "
                "run it on a GPU, or give its price in USD per million tokens"
            )
        return tier.to_response(completion)

    def _calls(self, requests: Sequence[Request]) -> list[Call]:
        return [self._tier(request.arm.name).to_call(request) for request in requests]

    def _fallback(self, request: Request) -> Request:
        """The same of the fallback arm, which has no fallback of its own: a call ends after the second arm."""
        tier = self._tier(request.arm.fallback or "")
        return replace(request, arm=replace(tier.arm, fallback=None))

    def _engine(self, endpoint: str) -> Engine:
        with self._lock:
            if endpoint not in self._engines:
                self._engines[endpoint] = self._make[endpoint]()
            return self._engines[endpoint]

    def _count(self, calls: Sequence[Call]) -> list[int]:
        counts = [0] * len(calls)
        for endpoint, places in self._by_endpoint(calls).items():
            counted = self._engine(endpoint).count_prompt_tokens([calls[place] for place in places])
            for place, count in zip(places, counted, strict=True):
                counts[place] = count
        return counts

    def _by_endpoint(self, calls: Sequence[Call]) -> dict[str, list[int]]:
        places: dict[str, list[int]] = defaultdict(list)
        for place, call in enumerate(calls):
            places[self._tier(call.arm.name).endpoint].append(place)
        return places

    def _serve(self, calls: Sequence[Call], deliver: _OnOutcome) -> None:
        """Bring the outcome of every call, those first that are known."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, call in enumerate(calls):
            places[call.key].append(place)
        known = self._store.get_many(list(places)) if self._store is not None else {}
        fresh: list[Call] = []
        for key, mine in places.items():
            if key in known:
                for place in mine:
                    deliver(place, known[key])
            else:
                fresh.append(calls[mine[0]])

        def spread(place: int, outcome: Completion | Failure) -> None:
            for equal in places[fresh[place].key]:
                deliver(equal, outcome)

        if not fresh:
            return
        if self._spend is None:
            self._make_calls(fresh, None, spread)
            return
        worst = [
            worst_usd(self._prices.price_of(call.arm), call.arm, count)
            for call, count in zip(fresh, self._count(fresh), strict=True)
        ]
        waiting = list(range(len(fresh)))
        # What a wave of calls leaves of its worst case the next one may spend: nothing is refused before that. And what
        # a killed process has reserved counts as spent: it is a wave at most, not the whole batch.
        while waiting:
            wave = waiting[:_WAVE]
            tickets = self._spend.reserve([worst[place] for place in wave], wait=True)
            held = {place: ticket for place, ticket in zip(wave, tickets, strict=True) if ticket is not None}
            if not held:
                for place in wave:
                    refusal = _refusal(fresh[place], worst[place], self._spend)
                    spread(place, Failure(refusal))
                waiting = waiting[len(wave) :]
                continue
            admitted = list(held)
            reservations = _Reservations(self._spend, list(held.values()), [worst[place] for place in admitted])
            self._make_calls([fresh[place] for place in admitted], reservations, _at(admitted, spread))
            waiting = [place for place in waiting if place not in held]

    def _make_calls(self, calls: Sequence[Call], reservations: _Reservations | None, deliver: _OnOutcome) -> None:
        batch = _Batch(calls, self._prices, self._store, reservations, deliver)
        groups = self._by_endpoint(calls)
        # Engines in this process like the calling thread, and Ctrl-C reaches them there.
        *others, mine = sorted(groups, key=lambda name: self._tier(calls[groups[name][0]].arm.name).engine != "openai")
        with batch:
            threads = [
                threading.Thread(target=batch.make, args=(self._engine, name, groups[name]), daemon=True)
                for name in others
            ]
            for thread in threads:
                thread.start()
            batch.make(self._engine, mine, groups[mine])
            batch.join(threads)


class _Reservations:
    """Worst cases held for the calls of a batch, and what they turn into."""

    def __init__(self, spend: Spending, tickets: Sequence[int], worst: Sequence[float]) -> None:
        self._spend = spend
        self._open = dict(enumerate(tickets))
        self._worst = worst
        self._costs: list[tuple[int, float]] = []
        self._written = 0.0

    def settle(self, place: int, usd: float) -> None:
        """Note what a call cost, and write it down if the last time is a while ago."""
        self._costs.append((self._open.pop(place), usd))
        if time.monotonic() - self._written > _SETTLE_EVERY_S:
            self._write()

    def close(self, unsent: Set[int]) -> None:
        """Write everything down: what is open was under way and counts at its worst, or was not sent and is free."""
        for place, ticket in self._open.items():
            if place in unsent:
                self._spend.release(ticket)
            else:
                self._costs.append((ticket, self._worst[place]))
        self._open.clear()
        self._write()

    def _write(self) -> None:
        costs, self._costs = self._costs, []
        if costs:
            self._spend.settle_many(costs)
        self._written = time.monotonic()


class _Batch:
    """Calls under way: what comes back is settled, stored and delivered, by one thread at a time.

    Attributes:
        interrupted: something like Ctrl-C ended it; nobody waits for what is under way.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        prices: PriceTable,
        store: KnownCompletions | None,
        reservations: _Reservations | None,
        deliver: _OnOutcome,
    ) -> None:
        self._calls = calls
        self._prices = prices
        self._store = store
        self._reservations = reservations
        self._deliver = deliver
        self._waiting = set(range(len(calls)))
        self._unsent: set[int] = set()
        self._errors: list[BaseException] = []
        self.interrupted = False
        self._over = False
        self._closed = False
        self._lock = threading.RLock()

    def make(self, engine_of: Callable[[str], Engine], endpoint: str, places: Sequence[int]) -> None:
        """Make the calls of one endpoint; an engine that cannot be used is an error of the whole batch."""
        told = False

        def take(position: int, outcome: Completion | Failure) -> None:
            nonlocal told
            try:
                self._take(places[position], outcome)
                if self._over and not told:
                    raise _AbandonedError("the batch is over")
            except Exception:
                told = True  # once: what the engine reports while it stops is kept
                raise

        try:
            engine_of(endpoint).complete([self._calls[place] for place in places], take)
            lost = len(self._waiting.intersection(places))
            if lost:
                raise RuntimeError(f"the engine of endpoint {endpoint!r} reported nothing on {lost} of its calls")
        except BaseException as error:  # raised by `__exit__`, from whatever thread it comes
            with self._lock:
                # An engine that says so before anything came back has not begun.
                if not self._over and isinstance(error, RoutegymError) and self._waiting.issuperset(places):
                    self._unsent.update(places)
                self._errors.append(error)
                self.interrupted |= not isinstance(error, Exception)

    def join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the other endpoints; after an interruption only until they have kept what came."""
        try:
            for thread in threads:
                if not self.interrupted:
                    thread.join()
        finally:
            self._over = True
            for thread in threads:
                thread.join(_LAST_WORDS_S)

    def _take(self, place: int, outcome: Completion | Failure) -> None:
        with self._lock:
            call = self._calls[place]
            late = place not in self._waiting
            self._waiting.discard(place)
            try:
                try:
                    self._keep(call, outcome)
                finally:
                    if self._reservations is not None and not late and not self._closed:
                        self._reservations.settle(place, self._usd(call, outcome))
                if not self._over and not late:
                    self._deliver(place, outcome)
            except Exception as error:
                self._over = True
                self._errors.insert(0, error)
                raise

    def _keep(self, call: Call, outcome: Completion | Failure) -> None:
        if self._store is None or not isinstance(outcome, Completion):
            return
        try:
            self._store.put(call, outcome)
        except Exception:
            raise
        except BaseException:
            # Ctrl-C has undone it, and the answer is paid for.
            self._store.put(call, outcome)
            raise

    def _usd(self, call: Call, outcome: Completion | Failure) -> float:
        price = self._prices.price_of(call.arm)
        if isinstance(outcome, Failure):
            return sum(attempt_usd(price, call.arm, attempt) for attempt in outcome.attempts)
        lost = sum(attempt_usd(price, call.arm, attempt) for attempt in outcome.lost)
        return lost + call_usd(price, outcome.tokens, outcome.gpu_s)

    def __enter__(self) -> _Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = self._closed = True
            if self._reservations is not None:
                self._reservations.close(self._unsent)
        if error is None and self._errors:
            raise self._errors[0]


class _AbandonedError(Exception):
    """Stops an engine whose batch is over."""


def _at(places: Sequence[int], deliver: _OnOutcome) -> _OnOutcome:
    """Delivers outcomes of calls that stand at `places` of a longer list."""
    return lambda position, outcome: deliver(places[position], outcome)


def _refusal(call: Call, worst: float, spend: Spending) -> SpendCapError:
    return SpendCapError(
        f"arm {call.arm.name}: a call may cost up to {worst:.3g} USD, and the spend cap of {spend.cap_usd:g} USD "
        "leaves no room for it; raise the cap to go on from here"
    )


def _after_failure(response: Response, fallback: str, failed: Failure) -> Response:
    """The response of a fallback arm, with what the arm that was asked has lost."""
    tokens, lost = response.tokens, response.lost_tokens
    return replace(
        response,
        # Its own lost attempts have its own prices, which are those of `tokens`.
        tokens=(tokens[0] + lost[0], tokens[1] + lost[1], tokens[2] + lost[2], tokens[3] + lost[3]),
        latency_s=response.latency_s + failed.latency_s,
        attempts=response.attempts + len(failed.attempts),
        lost_tokens=lost_tokens(failed.attempts),
        served_by=fallback,
    )
