"""Engine that asks an OpenAI-compatible server: vLLM's, llama.cpp's, or a hosted one."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from routegym.errors import PoolError, TargetError
from routegym.pool.backend import Call, Completion, Failure, OnCompletion, unsent
from routegym.pool.background import BackgroundLoop
from routegym.pool.client import Client, Settings
from routegym.pool.protocol import most_prompt_tokens
from routegym.pool.secrets import LogFilter, check_key, redactor
from routegym.pool.targets import check_target

__all__ = ["OpenAIEngine"]

T = TypeVar("T")

#: What logs headers of responses, at the level of debugging.
_TRANSPORT_LOGS = ("httpcore.connection", "httpcore.http11")


class OpenAIEngine:
    """Asks an OpenAI-compatible server, with its chat or its completions protocol.

    Many calls run at once, on an event loop in a thread of the engine's own; `complete` reports them in the thread that
    called it. Connections are kept and used again. `docs/faults.md` says which fault ends in which error, what is
    charged for it and what is tried again.

    A call has its deadline, ``attempts * timeout_s`` seconds from when its turn came (a free slot, and room in the
    requests and tokens per minute) to its result, all attempts and the waits between them included.

    Tokens are the server's own count; without one that can be right there is no answer. All samples of a call share
    one prompt, which is counted once. The seed is sent as it is, and what a server makes of it is up to the server.
    Log-probabilities are asked for (where a server refuses that, the option ``logprobs: null`` leaves the field out);
    an answer without them has 0.

    Args:
        base_url: the server's address with its version, for example ``http://127.0.0.1:8000/v1``.
        api_key: sent as ``Authorization: Bearer``; None = no such header.
        concurrency: most calls that are under way at once.
        requests_per_minute: most requests in a minute, further attempts included; None = no limit.
        tokens_per_minute: most tokens in a minute, counted before sending as servers do: a quarter of the prompt's
            bytes, and `max_tokens` for every sample; None = no limit.
        timeout_s: most seconds of one attempt, from connecting to the last byte.
        attempts: most attempts of one call, the first included.
        allow_private: allow addresses of private networks; see `routegym.pool.targets.check_target`.
        context_tokens: most tokens of prompt and answer together, by model; used where prompts are counted exactly.
        tokenize: count prompts exactly with the server's ``/tokenize``, which vLLM has; where that fails, the bound of
            `count_prompt_tokens` is used.
        cooldown_s: seconds for which a server is left alone after five failures in a row.

    Raises:
        PoolError: a setting is impossible.
        TargetError: the address is one that is not called.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
        allow_private: bool = False,
        context_tokens: Mapping[str, int] | None = None,
        tokenize: bool = False,
        cooldown_s: float = 5.0,
    ) -> None:
        if api_key is not None:
            check_key(api_key)
        redact = redactor(api_key)
        if redact(base_url) != base_url:
            raise TargetError(f"base_url = {redact(base_url)!r} holds the key, which is sent in a header; take it out")
        self._settings = Settings(
            target=check_target(base_url, allow_private=allow_private),
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            redact=redact,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout_s=timeout_s,
            attempts=attempts,
            context_tokens=dict(context_tokens or {}),
            tokenize=tokenize,
            cooldown_s=cooldown_s,
        )
        self._log_filter = LogFilter(redact)
        self._lock = threading.Lock()
        self._running: tuple[BackgroundLoop, Client] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._settings.where!r})"

    @property
    def deadline_s(self) -> float:
        """Most seconds from when a call's turn came to its result."""
        return self._settings.deadline_s

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """Make all calls; each is reported as soon as its answer or its final failure is there.

        On Ctrl-C, or where `on_result` raises, the calls under way are given up: they are not reported, and the server
        may still work on them. Reported before the interrupt or the error goes on are the answers that have come (the
        one that an interrupt hit while it was reported a second time) and, as failures without an attempt, the calls
        that were not sent.

        Raises:
            PoolError: a call names an adapter, or the engine is closed.
        """
        for call in calls:
            if call.adapter:
                raise PoolError(
                    f"arm {call.arm.name}: adapter {call.adapter!r}; a server knows its adapters as models, "
                    "name it in served_as"
                )
        came: list[tuple[int, Completion | Failure]] = []
        news: queue.SimpleQueue[bool] = queue.SimpleQueue()
        reported = 0
        todo = iter(enumerate(calls))

        def report() -> None:
            # What an interrupt hits half-way is reported again: it may not have been kept.
            nonlocal reported
            while reported < len(came):
                try:
                    on_result(*came[reported])
                except Exception:
                    reported += 1
                    raise
                reported += 1

        async def answer_all(client: Client) -> None:
            async def work() -> None:
                for index, call in todo:
                    came.append((index, await client.answer(call)))
                    news.put(True)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.concurrency, len(calls))):
                    group.create_task(work())

        batch = self._submit(answer_all)
        batch.add_done_callback(lambda _: news.put(False))
        try:
            while news.get():
                report()
        except BaseException:
            batch.cancel()
            with suppress(Exception):  # nothing that says more than the first error
                report()
                for index, _ in todo:
                    on_result(index, unsent())
            raise
        self._result_of(batch)

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """Most prompt tokens that each call can be charged, its samples together.

        With `tokenize` what the server counts. Otherwise a bound that needs no tokenizer: the bytes of the messages,
        and what a chat template may add (256 tokens, and 16 for each message).

        Raises:
            PoolError: the engine is closed.
        """
        if not self._settings.tokenize:
            return [most_prompt_tokens(call) for call in calls]

        async def count_all(client: Client) -> list[int]:
            return await asyncio.gather(*map(client.count_prompt_tokens, calls))

        return self._result_of(self._submit(count_all))

    def close(self) -> None:
        """Give up what is under way, close the connections and end the thread."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is None:
            return
        loop, client = running
        if loop.is_alive:
            loop.stop(client.aclose())
        for name in _TRANSPORT_LOGS:
            logging.getLogger(name).removeFilter(self._log_filter)

    def _submit(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start work on the engine's loop, which is started where there is none yet."""
        with self._lock:
            if self._closed:
                raise PoolError(f"{self!r} is closed; make a new engine")
            # A process forked from one that has used the engine has no such thread, and must not share connections.
            if self._running is None or not self._running[0].is_alive:
                self._running = BackgroundLoop(repr(self)), Client(self._settings)
                for name in _TRANSPORT_LOGS:
                    logging.getLogger(name).addFilter(self._log_filter)
            loop, client = self._running
            return loop.submit(work(client))

    def _result_of(self, work: Future[T]) -> T:
        try:
            return work.result()
        except CancelledError as error:
            raise PoolError(f"{self!r} was closed while it was in use; make a new engine") from error
