"""Asynchronous client of one OpenAI-compatible endpoint: limits, attempts, what they are charged, and the breaker."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from routegym.errors import (
    CallError,
    CallRefusedError,
    CallTimeoutError,
    CircuitOpenError,
    ConnectionFailedError,
    MalformedResponseError,
    MissingExtraError,
    PoolError,
    PromptTooLongError,
    TargetError,
)
from routegym.pool.backend import NO_TOKENS, Attempt, Call, Completion, Failure, Tokens
from routegym.pool.breaker import CircuitBreaker
from routegym.pool.protocol import (
    Answer,
    most_prompt_tokens,
    read_answer,
    read_count,
    request_body,
    response_limit,
    tokenize_body,
)
from routegym.pool.retries import AttemptFailedError, failed_status
from routegym.pool.targets import Target
from routegym.pool.transport import Connections, Reply

try:
    import httpcore
except ImportError as error:
    raise MissingExtraError("httpcore", "live") from error
try:
    from aiolimiter import AsyncLimiter
except ImportError as error:
    raise MissingExtraError("aiolimiter", "live") from error
try:
    from tenacity import (
        AsyncRetrying,
        RetryCallState,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        wait_random_exponential,
    )
except ImportError as error:
    raise MissingExtraError("tenacity", "live") from error

__all__ = ["Client", "Settings"]

#: Consecutive failures of a server that open its circuit.
BREAKER_FAILURES = 5
#: Failed probes after which calls no longer wait for the circuit to close.
BREAKER_PROBES = 3
#: Longest that the first wait between two attempts can be; it doubles with each attempt.
FIRST_WAIT_S = 0.5
#: Longest time until a connection stands.
CONNECT_S = 10.0
#: Bytes of a prompt for each token that the limit of tokens per minute counts, as servers estimate it.
BYTES_PER_TOKEN = 4
#: Seconds between two looks at an open circuit.
LOOK_AGAIN_S = 0.05
#: Part of an attempt's time that counting a prompt may take.
COUNT_SHARE = 0.25
#: What may keep a server from counting; the call itself will tell.
_NO_COUNT = (
    *(TimeoutError, OSError, MalformedResponseError, TargetError),
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException),
)
#: Exact counts of prompt tokens that are remembered.
KNOWN_COUNTS = 100_000


@dataclass(frozen=True)
class Settings:
    """How an endpoint is used; see `routegym.pool.openai.OpenAIEngine` for what the fields mean.

    Raises:
        PoolError: a number is impossible.
    """

    target: Target
    headers: Mapping[str, str] = field(repr=False)
    redact: Callable[[str], str] = field(repr=False)
    """Takes the key out of a text."""
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    timeout_s: float
    attempts: int
    context_tokens: Mapping[str, int]
    tokenize: bool
    cooldown_s: float

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise PoolError(f"{name} = {getattr(self, name)}; expected at least 1")
        for name in ("timeout_s", "cooldown_s", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise PoolError(f"{name} = {value}; expected a number > 0")

    @property
    def where(self) -> str:
        """The endpoint in messages."""
        return f"{self.target.scheme}://{self.target.netloc}{self.target.path}"

    @property
    def deadline_s(self) -> float:
        """Most seconds from when a call's turn came to its result."""
        return self.attempts * self.timeout_s


class Client:
    """Answers calls, many at once; used from one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        connect_s = min(CONNECT_S, settings.timeout_s / 3)
        self._connections = Connections(settings.target, dict(settings.headers), connect_s)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = None if settings.requests_per_minute is None else _Pace(settings.requests_per_minute)
        self._tokens = None if settings.tokens_per_minute is None else _Pace(settings.tokens_per_minute)
        self._breaker = CircuitBreaker(BREAKER_FAILURES, settings.cooldown_s, BREAKER_PROBES)
        self._uncounted: set[str] = set()  # models whose prompts the server cannot count
        self._count_again = 0.0  # after a failure not before this time
        self._counts: dict[bytes, int] = {}
        first_wait_s = min(FIRST_WAIT_S, settings.timeout_s / 20)
        self._backoff = wait_random_exponential(multiplier=first_wait_s, max=settings.timeout_s / 2)

    async def answer(self, call: Call) -> Completion | Failure:
        """The answer to a call, or its failure with every attempt that was made."""
        async with self._slots:
            lost: list[Attempt] = []
            try:
                body = request_body(call)
                began = time.monotonic()
                exact = await self._count(call)
                counting_s = time.monotonic() - began
                self._check_length(call, exact)
                most_prompt = most_prompt_tokens(call) if exact is None else exact
                ticket = await self._turn(call)
                ends = time.monotonic() + self._settings.deadline_s - counting_s
                return await self._try(call, body, most_prompt, ticket, ends, lost)
            except AttemptFailedError as failed:
                error = failed.error
            except CallError as refused:
                error = refused
            return Failure(type(error)(self._message(call, error)), tuple(lost))

    async def count_prompt_tokens(self, call: Call) -> int:
        """Most prompt tokens that a call can be charged; exact where the server counts them."""
        async with self._slots:
            exact = await self._count(call)
        return most_prompt_tokens(call) if exact is None else exact

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        await self._connections.aclose()

    async def _try(
        self, call: Call, body: bytes, most_prompt: int, ticket: int, ends: float, lost: list[Attempt]
    ) -> Completion:
        """Attempt a call until it succeeds or no further attempt is allowed; failed ones go into `lost`."""
        settings = self._settings
        worst: Tokens = (most_prompt, 0, call.n * call.max_tokens, 0)

        async def attempt() -> Completion:
            admitted = await self._next_turn(call, ends) if lost else ticket
            began = time.perf_counter()
            try:
                timeout_s = min(settings.timeout_s, ends - time.monotonic())
                answer = await self._watched(admitted, self._post(call, body, most_prompt, timeout_s))
            except AttemptFailedError as failed:
                tokens = worst if failed.charged else NO_TOKENS
                name, message = type(failed.error).__name__, self._message(call, failed.error)
                lost.append(Attempt(call.arm.name, name, message, tokens, time.perf_counter() - began))
                raise
            latency_s = time.perf_counter() - began
            return Completion(
                answer.texts, answer.logprobs, answer.finish_reasons, answer.tokens, latency_s, lost=tuple(lost)
            )

        def may_help(error: BaseException) -> bool:
            charged = sum(attempt.tokens != NO_TOKENS for attempt in lost)
            return isinstance(error, AttemptFailedError) and error.retry and charged < call.arm.charged_attempts

        return await AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(may_help),
            wait=self._wait_s,
            stop=stop_after_attempt(settings.attempts) | stop_before_delay(ends - time.monotonic()),
            reraise=True,
        )(attempt)

    async def _turn(self, call: Call) -> int:
        """Wait until a call may be sent; the breaker's ticket for it.

        Raises:
            AttemptFailedError: the endpoint is down.
        """
        while True:
            while (wait_s := self._breaker.wait_s(time.monotonic())) > 0:
                if self._breaker.is_down:
                    error = CircuitOpenError(
                        f"it failed {BREAKER_FAILURES} times in a row and at {BREAKER_PROBES} probes after that; "
                        "nothing was sent, check the server and try again"
                    )
                    raise AttemptFailedError(error, charged=False, retry=False)
                await asyncio.sleep(min(wait_s, LOOK_AGAIN_S))
            if self._requests is not None:
                await self._requests.wait(1)
            if self._tokens is not None:
                size = sum(len(content.encode("utf-8", "surrogatepass")) for _, content in call.messages)
                await self._tokens.wait(size / BYTES_PER_TOKEN + call.n * call.max_tokens)
            # It may have opened meanwhile.
            if (ticket := self._breaker.admit(time.monotonic())) is not None:
                return ticket

    async def _next_turn(self, call: Call, ends: float) -> int:
        """The same for a further attempt, within the call's deadline."""
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                return await self._turn(call)
        except TimeoutError:
            error = CallTimeoutError(
                "the limits per minute or an open circuit leave no room for another attempt within the deadline"
            )
            raise AttemptFailedError(error, charged=False, retry=False) from None

    async def _watched(self, ticket: int, attempt: Coroutine[Any, Any, Answer]) -> Answer:
        """One attempt, of which the breaker learns how it ended."""
        succeeded: bool | None = None
        try:
            answer = await attempt
            succeeded = True
        except AttemptFailedError as failed:
            succeeded = not failed.server_failed
            raise
        finally:
            self._breaker.record(ticket, succeeded, time.monotonic())
        return answer

    async def _post(self, call: Call, body: bytes, most_prompt: int, timeout_s: float) -> Answer:
        """Send a call and read the answer; everything that can go wrong becomes an `AttemptFailedError`."""

        def read(reply: Reply) -> Answer | AttemptFailedError:
            if 200 <= reply.status < 300:
                return read_answer(call, reply.content, most_prompt)
            return failed_status(reply.status, reply.headers, reply.content)

        path = f"{self._settings.target.path}/{'chat/completions' if call.api == 'chat' else 'completions'}"
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._connections.post(path, body, response_limit(call), read)
        except TimeoutError:
            raise AttemptFailedError(
                CallTimeoutError(f"no complete answer within {timeout_s:.3g} s; raise timeout_s or lower max_tokens"),
                charged=True,
            ) from None
        except httpcore.ConnectTimeout as error:
            raise AttemptFailedError(
                CallTimeoutError(f"no connection in time ({_said(error)})"), charged=False
            ) from None
        except httpcore.ConnectError as error:
            raise AttemptFailedError(
                ConnectionFailedError(f"no connection ({_said(error)}); check that the server runs and its address"),
                charged=False,
            ) from None
        except TargetError as error:
            raise AttemptFailedError(CallRefusedError(str(error)), charged=False, retry=False) from None
        except MalformedResponseError as error:
            raise AttemptFailedError(error, charged=True) from None
        except httpcore.RemoteProtocolError as error:
            said = _said(error)
            broke = "disconnected" in said or "closed" in said
            kind = ConnectionFailedError if broke else MalformedResponseError
            raise AttemptFailedError(kind(f"the answer is no complete HTTP ({said})"), charged=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise AttemptFailedError(
                ConnectionFailedError(f"the connection broke ({_said(error)})"), charged=True
            ) from None
        if isinstance(result, AttemptFailedError):
            raise result
        return self._clean(result)

    def _clean(self, answer: Answer) -> Answer:
        """The answer without the key: a server may have it repeat what it was sent."""
        redact = self._settings.redact
        return replace(
            answer,
            texts=tuple(map(redact, answer.texts)),
            finish_reasons=tuple(map(redact, answer.finish_reasons)),
        )

    def _message(self, call: Call, error: CallError) -> str:
        """An error's text with arm and endpoint, without the key."""
        return self._settings.redact(f"{call.arm.name} at {self._settings.where}: {error}")

    def _wait_s(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the server asks for, and a random, growing time."""
        failed = state.outcome.exception() if state.outcome else None
        asked_s = failed.retry_after_s if isinstance(failed, AttemptFailedError) else None
        return (asked_s or 0.0) + self._backoff(state)

    def _check_length(self, call: Call, exact: int | None) -> None:
        most = self._settings.context_tokens.get(call.model)
        if exact is not None and most is not None and exact + call.max_tokens > most:
            raise PromptTooLongError(
                f"{exact} prompt tokens and up to {call.max_tokens} of the answer do not fit the {most} tokens of "
                f"model {call.model!r}; shorten the prompt or lower max_tokens"
            )

    async def _count(self, call: Call) -> int | None:
        """Prompt tokens as the server counts them; None where it does not."""
        if not self._settings.tokenize or call.model in self._uncounted:
            return None
        body = tokenize_body(call)
        key = hashlib.sha256(body).digest()
        if key not in self._counts:
            now = time.monotonic()
            if now < self._count_again or self._breaker.wait_s(now) > 0:
                return None
            path = f"{self._settings.target.path.removesuffix('/v1')}/tokenize"
            count = None
            with suppress(*_NO_COUNT):
                async with asyncio.timeout(COUNT_SHARE * self._settings.timeout_s):
                    reply = await self._connections.post(path, body, response_limit(call), lambda reply: reply)
                # vLLM says 404 of a model that it does not serve, too.
                if reply.status in (404, 405, 501):
                    self._uncounted.add(call.model)
                    return None
                count = read_count(reply.content) if 200 <= reply.status < 300 else None
            if count is None:
                self._count_again = time.monotonic() + self._settings.cooldown_s
                return None
            if len(self._counts) >= KNOWN_COUNTS:
                self._counts.clear()
            self._counts[key] = count
        return self._counts[key]


class _Pace:
    """So many a minute, first come, first served."""

    def __init__(self, per_minute: float) -> None:
        # Room for one second's share: with room for a minute's, twice the limit would pass in the first minute.
        self._room = max(1.0, per_minute / 60)
        self._limiter = AsyncLimiter(self._room, 60 * self._room / per_minute)
        self._queue = asyncio.Lock()

    async def wait(self, amount: float) -> None:
        async with self._queue:
            while amount > 0:
                part = min(amount, self._room)
                await self._limiter.acquire(part)
                amount -= part


def _said(error: BaseException) -> str:
    """An error's own words in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
