"""Every fault ends in a typed error, in time, with its attempts counted and charged as docs/faults.md says."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fault_server import REPLIES, STREAMS, FaultServer, serving

from routegym.errors import (
    CallError,
    CallRefusedError,
    CallTimeoutError,
    ConnectionFailedError,
    MalformedResponseError,
    MissingUsageError,
    PromptTooLongError,
    RateLimitError,
    ServerFailedError,
)
from routegym.pool.arms import Arm
from routegym.pool.backend import NO_TOKENS, Call, Completion, Failure
from routegym.pool.openai import OpenAIEngine
from routegym.pool.retries import retry_after_s

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "::1"])

#: Long enough for a machine that is busy with other things.
TIMEOUT_S = 5.0
#: Of the faults that are only over when the time is.
SHORT_TIMEOUT_S = 1.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Expected:
    error: type[CallError]
    charged: bool
    attempts: int
    """Where one charged attempt is allowed."""
    message: str = ""


def refused(message: str = "") -> Expected:
    return Expected(CallRefusedError, charged=False, attempts=1, message=message)


def free(error: type[CallError], message: str = "", attempts: int = ATTEMPTS) -> Expected:
    return Expected(error, charged=False, attempts=attempts, message=message)


def charged(error: type[CallError], message: str = "") -> Expected:
    return Expected(error, charged=True, attempts=1, message=message)


FAULTS = {
    "400": refused("answers 400: made_up_error: no"),
    "401": refused("answers 401"),
    "402": refused("answers 402"),
    "403": refused("answers 403"),
    "404": refused("answers 404"),
    "405": refused("answers 405"),
    "408": charged(CallTimeoutError, "answers 408"),
    "409": free(CallRefusedError, "answers 409"),
    "413": free(PromptTooLongError, attempts=1),
    "422": refused("answers 422"),
    "400-vllm": free(PromptTooLongError, "shorten the prompt", attempts=1),
    "400-openai": free(PromptTooLongError, "shorten the prompt", attempts=1),
    "400-llama": free(PromptTooLongError, "shorten the prompt", attempts=1),
    "429": free(RateLimitError, "answers 429"),
    "429-after-0": free(RateLimitError, "asks to wait 0 s"),
    "429-after-date": free(RateLimitError, "asks to wait 0 s"),
    "429-after-far-date": free(RateLimitError, "asks to wait", attempts=1),
    "429-after-1e9": free(RateLimitError, "asks to wait 1e+09 s", attempts=1),
    "429-after-nonsense": free(RateLimitError, "slow down"),
    "429-after-overflow": free(RateLimitError, "slow down"),
    "429-quota": free(RateLimitError, "insufficient_quota", attempts=1),
    "500": charged(ServerFailedError, "answers 500"),
    "500-html": charged(ServerFailedError, "answers 500: <html>"),
    "502": charged(ServerFailedError, "answers 502"),
    "503": free(ServerFailedError, "answers 503"),
    "503-after-0": free(ServerFailedError, "answers 503"),
    "504": charged(CallTimeoutError, "answers 504"),
    "529": charged(ServerFailedError, "answers 529"),
    "redirect": refused("answers 302; redirects are not followed"),
    "redirect-307": refused("answers 307; redirects are not followed"),
    "204": charged(MalformedResponseError, "no JSON"),
    "html": charged(MalformedResponseError, "it begins with '<html>please log in"),
    "invalid-json": charged(MalformedResponseError, "no JSON"),
    "two-documents": charged(MalformedResponseError, "no JSON"),
    "chunk-events": charged(MalformedResponseError, "no JSON"),
    "json-list": charged(MalformedResponseError, "expected a JSON object"),
    "json-nan": charged(MalformedResponseError, "NaN is not allowed"),
    "json-deep": charged(MalformedResponseError, "no JSON"),
    "not-utf-8": charged(MalformedResponseError, "no JSON"),
    "gzip": charged(MalformedResponseError, "compressed"),
    "gzip-bomb": charged(MalformedResponseError, "compressed"),
    "too-large": charged(MalformedResponseError, "longer than"),
    "endless-body": charged(MalformedResponseError, "longer than"),
    "usage-missing": charged(MissingUsageError, "usage is None"),
    "usage-null-counts": charged(MissingUsageError, "prompt_tokens is None"),
    "usage-half": charged(MissingUsageError, "completion_tokens is None"),
    "usage-negative": charged(MissingUsageError, "completion_tokens is -1; expected a whole number from 0 to 32"),
    "usage-huge-prompt": charged(MissingUsageError, "prompt_tokens is 1000000000"),
    "usage-huge-completion": charged(MissingUsageError, "completion_tokens is 1000000"),
    "usage-fraction": charged(MissingUsageError, "prompt_tokens is 1.5"),
    "usage-text": charged(MissingUsageError, "prompt_tokens is '4'"),
    "usage-true": charged(MissingUsageError, "prompt_tokens is True"),
    "usage-cached": charged(MissingUsageError, "cached_tokens is 10000"),
    "usage-reasoning": charged(MissingUsageError, "reasoning_tokens is 10000"),
    "usage-details": charged(MissingUsageError, "cached_tokens is None"),
    "content-null": charged(MalformedResponseError, "content is None"),
    "content-number": charged(MalformedResponseError, "content is 4"),
    "message-missing": charged(MalformedResponseError, "message is None"),
    "no-choices": charged(MalformedResponseError, "choices: 0; expected a list of 1"),
    "choices-missing": charged(MalformedResponseError, "choices: None"),
    "choices-twice": charged(MalformedResponseError, "choices: 2; expected a list of 1"),
    "wrong-index": charged(MalformedResponseError, "indices are [3]"),
    "logprobs-text": charged(MalformedResponseError, "logprobs"),
    "logprobs-huge": charged(MalformedResponseError, "logprobs"),
    "logprobs-sum": charged(MalformedResponseError, "logprobs"),
    "reset-before-headers": charged(ConnectionFailedError, "broke"),
    "reset-after-headers": charged(ConnectionFailedError, "broke"),
    "closed-before-headers": charged(ConnectionFailedError, "disconnected"),
    "half-headers": charged(ConnectionFailedError, "disconnected"),
    "half-body": charged(ConnectionFailedError, "no complete HTTP"),
    "half-chunks": charged(ConnectionFailedError, "no complete HTTP"),
    "length-too-long": charged(ConnectionFailedError, "no complete HTTP"),
    "length-too-short": charged(MalformedResponseError, "no JSON"),
    "no-http": charged(MalformedResponseError, "no complete HTTP"),
    "huge-headers": charged(MalformedResponseError, "no complete HTTP"),
    "slow-loris": charged(CallTimeoutError, "no complete answer within 1 s"),
    "slow-headers": charged(CallTimeoutError, "no complete answer within 1 s"),
    "silent": charged(CallTimeoutError, "no complete answer within 1 s"),
    "endless-continue": charged(CallTimeoutError, "no complete answer within 1 s"),
}

RIGHT = {"refusal", "tool-call", "only-reasoning", "filtered", "no-logprobs", "half-a-pair", "details"}


def call(charged_attempts: int = 1, **fields: Any) -> Call:
    arm = Arm("m", "direct", 0, 32, charged_attempts=charged_attempts)
    return Call(arm, "openai", "m", (("user", "1+1="),), 32, **fields)


WORST = (256 + 16 + len("user") + len("1+1="), 0, 32, 0)


def make(url: str, call: Call, **settings: Any) -> tuple[Completion | Failure, float]:
    """The result of one call and the seconds it took, with an engine of its own: no fault meets another's breaker."""
    engine = OpenAIEngine(url, **{"timeout_s": TIMEOUT_S, "attempts": ATTEMPTS, **settings})
    results: list[Completion | Failure] = []
    started = time.monotonic()
    engine.complete([call], lambda _, result: results.append(result))
    wall_s = time.monotonic() - started
    engine.close()
    [result] = results
    return result, wall_s


def timeout_s(fault: str) -> float:
    return SHORT_TIMEOUT_S if "no complete answer within" in FAULTS[fault].message else TIMEOUT_S


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@dataclass(frozen=True)
class Outcome:
    result: Completion | Failure
    wall_s: float
    url: str
    requests: int


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """All faults, a few at a time, on a server of their own: requests are counted."""
    with serving() as server, ThreadPoolExecutor(6) as pool:
        made = pool.map(lambda fault: make(server.url(fault), call(), timeout_s=timeout_s(fault)), FAULTS)
        return {
            fault: Outcome(result, wall_s, server.url(fault), server.requests[fault])
            for fault, (result, wall_s) in zip(FAULTS, made, strict=True)
        }


def test_the_matrix_is_complete() -> None:
    assert len(FAULTS) >= 30
    assert FAULTS.keys() | RIGHT >= REPLIES.keys() | STREAMS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault: str, outcomes: dict[str, Outcome]) -> None:
    outcome, expected = outcomes[fault], FAULTS[fault]
    result = outcome.result
    assert isinstance(result, Failure)
    assert type(result.error) is expected.error
    assert expected.message in str(result.error)
    assert f"m/direct at {outcome.url}: " in str(result.error)
    assert len(result.attempts) == expected.attempts == outcome.requests
    for attempt in result.attempts:
        assert attempt.arm == "m/direct"
        assert attempt.error == expected.error.__name__
        assert attempt.tokens == (WORST if expected.charged else NO_TOKENS)
        assert attempt.latency_s > 0
        assert len(attempt.message) < 700
        assert attempt.message.isprintable()
    assert str(result.error) == result.attempts[-1].message
    assert outcome.wall_s <= 1.1 * timeout_s(fault) * ATTEMPTS
    assert result.latency_s <= outcome.wall_s


def test_an_answer_cut_at_its_limit_is_an_answer(server: FaultServer) -> None:
    result, _ = make(server.url(), replace(call(), max_tokens=1, messages=(("user", "cut off"),)))
    assert isinstance(result, Completion)
    assert result.finish_reasons == ("length",)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("500", ServerFailedError), ("half-body", ConnectionFailedError), ("usage-missing", MissingUsageError)],
)
def test_no_more_attempts_are_charged_than_the_arm_allows(
    server: FaultServer, fault: str, error: type[CallError]
) -> None:
    server.requests[fault] = 0
    result, wall_s = make(server.url(fault), call(charged_attempts=2))
    assert isinstance(result, Failure)
    assert type(result.error) is error
    assert [attempt.tokens for attempt in result.attempts] == [WORST, WORST]
    assert server.requests[fault] == 2
    assert wall_s <= 1.1 * TIMEOUT_S * ATTEMPTS


def test_what_was_lost_stands_beside_the_answer(server: FaultServer) -> None:
    result, _ = make(server.url("flaky2-503"), call())
    assert isinstance(result, Completion)
    assert [(attempt.error, attempt.tokens) for attempt in result.lost] == [("ServerFailedError", NO_TOKENS)] * 2
    result, _ = make(server.url("flaky1-500"), call(charged_attempts=2))
    assert isinstance(result, Completion)
    assert [(attempt.error, attempt.tokens) for attempt in result.lost] == [("ServerFailedError", WORST)]
    assert "answers 500" in result.lost[0].message
    assert result.tokens[0] == 4
    result, _ = make(server.url("flaky2-429-after-0"), call())
    assert isinstance(result, Completion)
    assert len(result.lost) == 2
    # The third attempt would be the second that is charged.
    result, _ = make(server.url("flaky2-500"), call(charged_attempts=2))
    assert isinstance(result, Failure)
    assert len(result.attempts) == 2


def test_every_sample_is_charged_at_its_limit(server: FaultServer) -> None:
    result, _ = make(server.url("502"), call(n=4, temperature=1.0))
    assert isinstance(result, Failure)
    assert result.attempts[0].tokens == (WORST[0], 0, 4 * 32, 0)


def test_the_deadline_covers_all_attempts(server: FaultServer) -> None:
    server.requests["slow-loris"] = 0
    result, wall_s = make(server.url("slow-loris"), call(charged_attempts=9), timeout_s=0.3, attempts=9)
    assert isinstance(result, Failure)
    # The breaker opens at the fifth.
    assert 2 <= len(result.attempts) == server.requests["slow-loris"] <= 5
    assert wall_s <= 1.1 * 9 * 0.3


def test_waits_grow_and_end_with_the_deadline(server: FaultServer) -> None:
    server.requests["429"] = 0
    result, wall_s = make(server.url("429"), call(), attempts=60, timeout_s=0.02)
    assert isinstance(result, Failure)
    assert isinstance(result.error, RateLimitError)
    assert 5 < server.requests["429"] <= 60
    assert wall_s <= 1.1 * 60 * 0.02


def test_a_limit_per_minute_leaves_no_room_for_another_attempt(server: FaultServer) -> None:
    result, wall_s = make(server.url("503"), call(), requests_per_minute=6, timeout_s=0.3)
    assert isinstance(result, Failure)
    assert isinstance(result.error, CallTimeoutError)
    assert "no room for another attempt" in str(result.error)
    assert [attempt.error for attempt in result.attempts] == ["ServerFailedError"]
    assert wall_s <= 1.1 * ATTEMPTS * 0.3


def unreachable(result: Completion | Failure, error: type[CallError], message: str) -> None:
    assert isinstance(result, Failure)
    assert type(result.error) is error
    assert message in str(result.error)
    assert [attempt.tokens for attempt in result.attempts] == [NO_TOKENS] * ATTEMPTS


def test_a_refused_connection_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result, wall_s = make(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", call())
    unreachable(result, ConnectionFailedError, "no connection")
    assert wall_s <= 1.1 * TIMEOUT_S * ATTEMPTS


def test_a_name_that_does_not_resolve_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result, _ = make("http://models.invalid/v1", call())
    unreachable(result, ConnectionFailedError, "models.invalid:80: the name cannot be resolved")


def test_a_name_that_resolves_slowly_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(0.4))
    result, wall_s = make("http://models.invalid/v1", call(), timeout_s=0.3)
    unreachable(result, CallTimeoutError, "no connection in time")
    assert wall_s <= 1.1 * ATTEMPTS * 0.3 + 0.4  # closing waits for the resolver's thread


def test_no_tls_is_free(server: FaultServer) -> None:
    result, _ = make(server.url().replace("http:", "https:"), call())
    unreachable(result, ConnectionFailedError, "SSL")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the openssl command")
def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=127.0.0.1"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=tmp_path, check=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(tls) as server:
        result, _ = make(server.url(), call())
        unreachable(result, ConnectionFailedError, "self-signed certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        result, _ = make(server.url(), call())
        assert isinstance(result, Completion)
        result, _ = make(server.url("too-large"), call())
        assert isinstance(result, Failure)
        assert isinstance(result.error, MalformedResponseError)
        result, _ = make(server.url().replace("127.0.0.1", "localhost"), call())
        unreachable(result, ConnectionFailedError, "localhost")


def test_tls_that_says_nothing_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result, wall_s = make(f"https://127.0.0.1:{silent.getsockname()[1]}/v1", call(), timeout_s=0.5)
    unreachable(result, CallTimeoutError, "no connection in time")
    assert wall_s <= 1.1 * ATTEMPTS * 0.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("1000000000", 1e9),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        ("9" * 400, None),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 11:00:30 +0100", 30.0),
        ("Sun, 99 Nov 2026 10:00:30 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, datetime(2026, 11, 22, 10, tzinfo=UTC)) == seconds
