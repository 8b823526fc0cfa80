from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fault_server import FaultServer, serving

from routegym.errors import CallRefusedError, CircuitOpenError, RateLimitError, ServerFailedError
from routegym.pool.arms import Arm
from routegym.pool.backend import Call, Completion, Failure
from routegym.pool.breaker import CircuitBreaker
from routegym.pool.openai import OpenAIEngine

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "::1"])

COOLDOWN_S = 0.4
CALL = Call(Arm("m", "direct", 0, 8), "openai", "m", (("user", "1+1="),), 8)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


def make(engine: OpenAIEngine, count: int) -> list[Completion | Failure]:
    results: list[Completion | Failure] = []
    engine.complete([CALL] * count, lambda _, result: results.append(result))
    return results


def errors(results: list[Completion | Failure]) -> list[type[Exception] | None]:
    return [type(result.error) if isinstance(result, Failure) else None for result in results]


def opened(breaker: CircuitBreaker, now: float) -> None:
    for _ in range(3):
        ticket = breaker.admit(now)
        assert ticket is not None
        breaker.record(ticket, False, now)


def test_only_failures_in_a_row_open_it() -> None:
    breaker = CircuitBreaker(3, cooldown_s=10, probes=2)
    for succeeded in (False, False, True, False, None, False):
        ticket = breaker.admit(0)
        assert ticket is not None
        breaker.record(ticket, succeeded, 0)
    assert breaker.wait_s(0) == 0
    ticket = breaker.admit(0)
    assert ticket is not None
    breaker.record(ticket, False, 0)
    assert breaker.admit(0) is None
    assert breaker.admit(9.99) is None
    assert breaker.wait_s(4) == 6


def test_one_probe_decides() -> None:
    breaker = CircuitBreaker(3, cooldown_s=10, probes=2)
    opened(breaker, 0)
    probe = breaker.admit(10)
    assert probe is not None
    assert breaker.admit(1000) is None
    breaker.record(probe, False, 20)
    assert breaker.admit(29.9) is None
    probe = breaker.admit(30)
    assert probe is not None
    breaker.record(probe, True, 31)
    assert breaker.admit(31) is not None
    assert breaker.admit(31) is not None
    opened(breaker, 31)
    assert breaker.admit(31) is None


def test_it_is_down_when_its_probes_fail_too() -> None:
    breaker = CircuitBreaker(3, cooldown_s=10, probes=2)
    opened(breaker, 0)
    for now, down in ((10, False), (20, True), (30, True)):
        probe = breaker.admit(now)
        assert probe is not None
        breaker.record(probe, False, now)
        assert breaker.is_down == down
    probe = breaker.admit(40)
    assert probe is not None
    assert breaker.is_down
    breaker.record(probe, True, 40)
    assert not breaker.is_down


def test_a_probe_that_was_given_up_makes_room_for_another() -> None:
    breaker = CircuitBreaker(3, cooldown_s=10, probes=2)
    opened(breaker, 0)
    probe = breaker.admit(10)
    assert probe is not None
    breaker.record(probe, None, 12)
    assert breaker.admit(12) is not None
    assert breaker.admit(12) is None


def test_what_was_sent_before_it_opened_no_longer_counts() -> None:
    breaker = CircuitBreaker(3, cooldown_s=10, probes=2)
    late = breaker.admit(0)
    assert late is not None
    opened(breaker, 0)
    breaker.record(late, True, 1)
    assert breaker.admit(1) is None
    probe = breaker.admit(10)
    breaker.record(late, False, 11)
    assert probe is not None
    breaker.record(probe, True, 12)
    assert breaker.admit(12) is not None


def test_a_failing_server_is_left_alone(server: FaultServer) -> None:
    server.failing = True
    engine = OpenAIEngine(server.url("switch"), attempts=1, cooldown_s=COOLDOWN_S)
    results = [result for _ in range(25) for result in make(engine, 1)]
    # Three calls wait for the cooldown and are the probes; the others do not wait for a server that is down.
    assert errors(results) == [ServerFailedError] * (5 + 3) + [CircuitOpenError] * 17
    assert server.requests["switch"] == 5 + 3
    for result in results[8:]:
        assert isinstance(result, Failure)
        assert result.attempts == ()
        assert "it failed 5 times in a row and at 3 probes after that; nothing was sent" in str(result.error)
    engine.close()


def test_nothing_is_sent_while_it_is_open(server: FaultServer) -> None:
    server.failing = True
    engine = OpenAIEngine(server.url("switch"), attempts=1, concurrency=16, cooldown_s=2 * COOLDOWN_S)
    make(engine, 5)
    batch = threading.Thread(target=make, args=(engine, 64))
    batch.start()
    time.sleep(COOLDOWN_S)
    assert server.requests["switch"] == 5
    batch.join()
    assert server.requests["switch"] == 5 + 3
    engine.close()


def test_a_batch_ends_soon_where_the_server_is_down(server: FaultServer) -> None:
    server.failing = True
    engine = OpenAIEngine(server.url("switch"), concurrency=8, timeout_s=10, cooldown_s=COOLDOWN_S)
    started = time.monotonic()
    results = make(engine, 500)
    assert time.monotonic() - started < 3 * COOLDOWN_S + 2
    assert set(errors(results)) == {ServerFailedError, CircuitOpenError}
    # Those under way when it opened, the probes, and no more.
    assert server.requests["switch"] <= 5 + 8 + 3
    assert sum(len(result.attempts) for result in results if isinstance(result, Failure)) == server.requests["switch"]
    engine.close()


def test_a_hiccup_costs_a_batch_only_the_cooldown(server: FaultServer) -> None:
    engine = OpenAIEngine(server.url("flaky5-500"), attempts=1, concurrency=4, cooldown_s=COOLDOWN_S)
    started = time.monotonic()
    results = make(engine, 100)
    assert errors(results).count(None) == 95
    assert errors(results).count(ServerFailedError) == 5
    assert COOLDOWN_S <= time.monotonic() - started < COOLDOWN_S + 2
    engine.close()


def test_one_probe_is_sent_and_its_success_closes_the_circuit(server: FaultServer) -> None:
    server.failing = True
    engine = OpenAIEngine(server.url("switch"), attempts=1, concurrency=16, cooldown_s=COOLDOWN_S)
    make(engine, 64)
    sent = server.requests["switch"]
    assert errors(make(engine, 64)) == [CircuitOpenError] * 64
    time.sleep(COOLDOWN_S)
    assert set(errors(make(engine, 64))) == {ServerFailedError, CircuitOpenError}
    assert server.requests["switch"] == sent + 1
    server.failing = False
    began = time.monotonic()
    while errors(make(engine, 1)) != [None]:
        time.sleep(0.02)
    assert time.monotonic() - began <= COOLDOWN_S + 1
    assert server.requests["switch"] == sent + 2
    assert errors(make(engine, 64)) == [None] * 64
    engine.close()


def test_each_endpoint_has_its_own(server: FaultServer) -> None:
    server.failing = True
    broken, healthy = (OpenAIEngine(server.url(name), attempts=1, cooldown_s=COOLDOWN_S) for name in ("switch", "ok"))
    results: dict[str, list[Completion | Failure]] = {}

    def work(name: str, engine: OpenAIEngine) -> None:
        results[name] = [result for _ in range(25) for result in make(engine, 1)]

    threads = [threading.Thread(target=work, args=pair) for pair in (("broken", broken), ("healthy", healthy))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors(results["broken"]).count(CircuitOpenError) == 17
    assert errors(results["healthy"]) == [None] * 25
    broken.close()
    healthy.close()


@pytest.mark.parametrize(("behaviour", "error"), [("404", CallRefusedError), ("429", RateLimitError)])
def test_refused_requests_say_nothing_against_a_server(
    server: FaultServer, behaviour: str, error: type[Exception]
) -> None:
    engine = OpenAIEngine(server.url(behaviour), attempts=1, cooldown_s=60)
    assert errors(make(engine, 25)) == [error] * 25
    assert server.requests[behaviour] == 25
    engine.close()
