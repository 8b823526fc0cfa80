"""The OpenAI protocol around a `Service`: chat completions that a router answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from math import isfinite, nan
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

from routegym.errors import (
    BudgetError,
    CallError,
    CallRefusedError,
    ConfigError,
    MissingExtraError,
    PromptTooLongError,
    RateLimitError,
    RoutegymError,
)
from routegym.serving.service import Ask, Served, Service

try:
    import uvicorn
    from anyio import CapacityLimiter, to_thread
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtraError("starlette", "serve") from error

__all__ = ["MODEL", "listen", "make_app"]

#: Name of the model that stands for the whole pool.
MODEL = "routegym"

_HEADERS = {
    "x-routegym-budget-usd": "budget_usd",
    "x-routegym-lambda": "lambda_",
    "x-routegym-conversation": "conversation",
    "x-routegym-conversation-budget-usd": "conversation_budget_usd",
}
_ROLES = ("system", "developer", "user", "assistant")
#: What would change the answer in a way that arms do not offer.
_UNKNOWN = ("tools", "tool_choice", "functions", "function_call", "response_format", "logprobs", "audio", "modalities")
#: What says nothing of them.
_HARMLESS: tuple[Any, ...] = ({"type": "text"}, ["text"], "none", [])
#: Statuses of errors; clients of OpenAI repeat what has 429 or 500 and more, and what is not their fault only.
_STATUSES: tuple[tuple[tuple[type[Exception], ...], int, str], ...] = (
    ((BudgetError,), 402, "insufficient_budget"),
    ((ConfigError, CallRefusedError, PromptTooLongError), 400, "invalid_request_error"),
    ((RateLimitError,), 429, "rate_limit_error"),
    ((CallError,), 502, "upstream_error"),
    ((RoutegymError,), 500, "server_error"),
)
_LOGGER = logging.getLogger(__name__)
_MOST_BODY = 8 * 2**20
_QUIET_S = 5.0  # after which a stream says that it is alive


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def make_app(service: Service, *, concurrency: int = 64, api_key: str | None = None) -> Starlette:
    """The application; any ASGI server runs it.

    Args:
        service: answers.
        concurrency: requests under way at once; others wait.
        api_key: what clients have to send as ``Authorization: Bearer``; None = nothing.
    """
    limiter: CapacityLimiter | None = None
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
    under_way: set[asyncio.Future[Served]] = set()

    async def in_turn(ask: Ask) -> Served:
        if ask.conversation is None:
            return await answered(ask)
        # Requests of a conversation wait for each other here and not in a thread, which others would lack.
        turn = turns.setdefault(ask.conversation, asyncio.Lock())
        async with turn:
            return await answered(ask)

    async def answered(ask: Ask) -> Served:
        nonlocal limiter
        if limiter is None:  # belongs to an event loop
            limiter = CapacityLimiter(concurrency)
        try:
            return await to_thread.run_sync(partial(service.answer, ask), limiter=limiter)
        except Exception as error:
            refused = _refusal(error)
            if refused.status == 500:
                _LOGGER.exception("a request could not be answered")
            raise refused from error

    def allowed(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if api_key is not None and not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
            raise _RefusedError(401, "authentication_error", "expected the server's key as Authorization: Bearer")

    async def chat(request: Request) -> Response:
        try:
            allowed(request)
            body = await _body(request)
            ask = _ask(body, request.headers, service.defaults)
            work = asyncio.ensure_future(in_turn(ask))
            under_way.add(work)  # also where the client goes away
            work.add_done_callback(under_way.discard)
            if not body.get("stream"):
                served = await asyncio.shield(work)
                return _json(_completion(served), headers=_told(served))
            done, _ = await asyncio.wait([work], timeout=_QUIET_S)
            headers = _told(await work) if done else {}  # an error that is known in time has a status of its own
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(_events(work, usage), media_type="text/event-stream", headers=headers)
        except _RefusedError as refused:
            return _error(refused)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*under_way, return_exceptions=True)  # what was paid for is written down

    async def score(request: Request) -> Response:
        try:
            allowed(request)
            if service.log is None:
                raise _RefusedError(404, "invalid_request_error", "this server keeps no log of routes")
            value = (await _body(request)).get("score")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise _RefusedError(400, "invalid_request_error", f"score = {value!r}; expected a number in [0, 1]")
            service.log.score(request.path_params["name"], float(value))
            service.metrics.scores.inc()
            return _json({"id": request.path_params["name"], "score": value})
        except _RefusedError as refused:
            return _error(refused)

    async def models(request: Request) -> Response:
        listed = [{"id": MODEL, "object": "model", "owned_by": "routegym"}]
        return _json({"object": "list", "data": listed})

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "arms": [arm.name for arm in service.router.arms]})

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/routes/{name}/score", score, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        lifespan=lifespan,
    )


def listen(config: uvicorn.Config) -> socket.socket:
    """A socket for the server of `make_app`'s application: who comes before it is ready waits."""
    bound = config.bind_socket()
    # asyncio sets it on sockets of its own only; without it each answer waits 40 ms for an acknowledgement
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.listen(config.backlog)
    return bound


async def _body(request: Request) -> dict[str, Any]:
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > _MOST_BODY:
                raise _RefusedError(413, "invalid_request_error", f"the request has more than {_MOST_BODY:,} bytes")
            chunks.append(chunk)
    except ClientDisconnect:  # nobody is there to be told
        raise _RefusedError(400, "invalid_request_error", "the client went away") from None
    try:
        body = json.loads(b"".join(chunks))
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "invalid_request_error", f"the request is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise _RefusedError(400, "invalid_request_error", "the request is no JSON object")
    return body


def _ask(body: Mapping[str, Any], headers: Mapping[str, str], defaults: Ask) -> Ask:
    def refuse(message: str) -> _RefusedError:
        return _RefusedError(400, "invalid_request_error", message)

    if body.get("model") != MODEL:
        named = f"model = {body.get('model')!r}; expected {MODEL!r}, which stands for the whole pool"
        raise _RefusedError(404, "model_not_found", named)
    if given := [name for name in _UNKNOWN if body.get(name) and body[name] not in _HARMLESS]:
        raise refuse(f"{given[0]} is not supported: the router's arms answer with a text; leave it out")
    if body.get("n", 1) not in (1, None):
        raise refuse(f"n = {body['n']!r}; expected 1: an arm's tier says how many samples are drawn")
    for name, kind in (("stream", bool), ("stream_options", dict)):
        if not isinstance(body.get(name), (kind, type(None))):
            raise refuse(f"{name} = {body[name]!r}; expected {'true or false' if kind is bool else 'an object'}")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refuse("messages is missing; expected a list whose last message is the user's")
    said = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise refuse(f"messages[{number}]: role = {role!r}; expected one of {', '.join(_ROLES)}")
        content = message.get("content")
        said.append((role, "" if content is None and role == "assistant" else _text(content, number)))
    if said[-1][0] != "user":
        raise refuse(f"messages: the last one is of role {said[-1][0]!r}; expected 'user', whose message is routed")
    found: dict[str, Any] = {}
    for header, name in _HEADERS.items():
        if (value := headers.get(header)) is not None:
            found[name] = value if name == "conversation" else _amount(header, value, name != "lambda_")
    ask = replace(defaults, prompt=said[-1][1], history=tuple(said[:-1]), **found)
    if "conversation_budget_usd" in found and ask.conversation is None:
        raise refuse("a budget of a conversation, and none is named; name it in the header x-routegym-conversation")
    return ask


def _amount(header: str, value: str, positive: bool) -> float:
    try:
        number = float(value)
    except ValueError:
        number = nan
    if not isfinite(number) or number < 0 or (positive and number == 0):
        expected = f"a finite number {'>' if positive else '>='} 0"
        raise _RefusedError(400, "invalid_request_error", f"header {header}: {value!r}; expected {expected}")
    return number


def _text(content: Any, number: int) -> str:
    parts = content if isinstance(content, list) else [content]
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        message = f"messages[{number}]: content is no text; expected a string or parts of type 'text'"
        raise _RefusedError(400, "invalid_request_error", message)
    text = "".join(texts)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"messages[{number}]: content has half a surrogate pair; send valid Unicode"
        raise _RefusedError(400, "invalid_request_error", message) from None
    return text


def _told(served: Served) -> dict[str, str]:
    return {
        "x-routegym-route": served.id,
        "x-routegym-calls": ",".join(quote(arm, safe="/:+ ") for arm in served.calls),
        "x-routegym-cost-usd": f"{served.cost_usd:.12g}",
    }


def _usage(served: Served) -> dict[str, Any]:
    prompt, cached, completion, reasoning = served.tokens
    return {
        "prompt_tokens": prompt + cached,
        "completion_tokens": completion + reasoning,
        "total_tokens": sum(served.tokens),
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _about(served: Served, kind: str) -> dict[str, Any]:
    return {
        "id": served.id,
        "object": kind,
        "created": int(time.time()),
        "model": served.arm or MODEL,
        "routegym": {"calls": served.calls, "outcome": served.outcome, "cost_usd": served.cost_usd},
    }


def _completion(served: Served) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": served.text}, "finish_reason": "stop"}
    return {**_about(served, "chat.completion"), "choices": [choice], "usage": _usage(served)}


async def _events(work: asyncio.Future[Served], usage: bool) -> AsyncIterator[bytes]:
    """The answer as server-sent events, once it is handed in; comments until then."""
    try:
        while not (await asyncio.wait([work], timeout=_QUIET_S))[0]:
            yield b": routing\n\n"
        served = work.result()
    except _RefusedError as refused:
        yield _event(refused.body)
        return
    about = _about(served, "chat.completion.chunk")
    empty = {"usage": None} if usage else {}
    for delta, reason in (({"role": "assistant", "content": served.text}, None), ({}, "stop")):
        yield _event({**about, **empty, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    if usage:
        yield _event({**about, "choices": [], "usage": _usage(served)})
    yield b"data: [DONE]\n\n"


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # in ASCII: an answer may hold what UTF-8 cannot
    return Response(json.dumps(content), status, headers, media_type="application/json")


def _error(refused: _RefusedError) -> Response:
    return _json(refused.body, refused.status)


def _refusal(error: Exception) -> _RefusedError:
    """What a client is told of an error."""
    for kinds, status, kind in _STATUSES:
        if isinstance(error, kinds):
            return _RefusedError(status, kind, str(error))
    return _RefusedError(500, "server_error", f"{type(error).__name__}; the server's log says more")
