"""The OpenAI protocol around a `Service`: chat completions that a router answers."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from routegym.errors import BudgetError, CallError, ConfigError, MissingExtraError, RoutegymError
from routegym.serving.service import Ask, Served, Service

try:
    from anyio import CapacityLimiter, to_thread
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise MissingExtraError("starlette", "serve") from error

__all__ = ["MODEL", "make_app"]

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
_MOST_BODY = 8 * 2**20
_QUIET_S = 5.0  # after which a stream says that it is alive


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def make_app(service: Service, *, concurrency: int = 64, api_key: str | None = None) -> Starlette:
    """The application; any ASGI server runs it.

    Args:
        service: answers.
        concurrency: requests under way at once; others wait.
        api_key: what clients have to send as ``Authorization: Bearer``; None = nothing.
    """
    limiter: CapacityLimiter | None = None

    async def answered(ask: Ask) -> Served:
        nonlocal limiter
        if limiter is None:  # belongs to an event loop
            limiter = CapacityLimiter(concurrency)
        try:
            return await to_thread.run_sync(partial(service.answer, ask), limiter=limiter)
        except BudgetError as error:
            raise _RefusedError(402, "insufficient_budget", str(error)) from error
        except ConfigError as error:
            raise _RefusedError(400, "invalid_request_error", str(error)) from error
        except CallError as error:
            raise _RefusedError(502, "upstream_error", f"no arm brought an answer: {error}") from error
        except RoutegymError as error:
            raise _RefusedError(500, "server_error", str(error)) from error

    def allowed(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if api_key is not None and not hmac.compare_digest(given.encode(), f"Bearer {api_key}".encode()):
            raise _RefusedError(401, "authentication_error", "expected the server's key as Authorization: Bearer")

    async def chat(request: Request) -> Response:
        try:
            allowed(request)
            body = await _body(request)
            ask = _ask(body, request.headers, service.defaults)
            work = asyncio.ensure_future(answered(ask))
            if not body.get("stream"):
                served = await work
                return JSONResponse(_completion(served), headers=_told(served))
            done, _ = await asyncio.wait([work], timeout=_QUIET_S)
            if done and work.exception() is None:
                headers = _told(work.result())
            elif done:
                await work  # raises: an error that is known in time has a status of its own
            else:
                headers = {}
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(_events(work, usage), media_type="text/event-stream", headers=headers)
        except _RefusedError as refused:
            return _error(refused)

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
            return JSONResponse({"id": request.path_params["name"], "score": value})
        except _RefusedError as refused:
            return _error(refused)

    async def models(request: Request) -> Response:
        listed = [{"id": MODEL, "object": "model", "owned_by": "routegym"}]
        return JSONResponse({"object": "list", "data": listed})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "arms": [arm.name for arm in service.router.arms]})

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/routes/{name}/score", score, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/metrics", metrics),
        ]
    )


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
    if given := [name for name in _UNKNOWN if body.get(name)]:
        raise refuse(f"{given[0]} is not supported: the router's arms answer with a text; leave it out")
    if body.get("n", 1) not in (1, None):
        raise refuse(f"n = {body['n']!r}; expected 1: an arm's tier says how many samples are drawn")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refuse("messages is missing; expected a list whose last message is the user's")
    said = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise refuse(f"messages[{number}]: role = {role!r}; expected one of {', '.join(_ROLES)}")
        said.append((role, _text(message.get("content"), number)))
    if said[-1][0] != "user":
        raise refuse(f"messages: the last one is of role {said[-1][0]!r}; expected 'user', whose message is routed")
    found: dict[str, Any] = {}
    for header, name in _HEADERS.items():
        value = headers.get(header)
        if value is None:
            continue
        try:
            found[name] = value if name == "conversation" else float(value)
        except ValueError:
            raise refuse(f"header {header}: {value!r}; expected a number") from None
    return replace(defaults, prompt=said[-1][1], history=tuple(said[:-1]), **found)


def _text(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        message = f"messages[{number}]: content is no text; expected a string or parts of type 'text'"
        raise _RefusedError(400, "invalid_request_error", message)
    return "".join(texts)


def _told(served: Served) -> dict[str, str]:
    return {
        "x-routegym-route": served.id,
        "x-routegym-calls": ",".join(served.calls),
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
        yield _event({"error": {"message": str(refused), "type": refused.kind}})
        return
    about = _about(served, "chat.completion.chunk")
    for delta, reason in (({"role": "assistant", "content": served.text}, None), ({}, "stop")):
        yield _event({**about, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    if usage:
        yield _event({**about, "choices": [], "usage": _usage(served)})
    yield b"data: [DONE]\n\n"


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _error(refused: _RefusedError) -> JSONResponse:
    return JSONResponse({"error": {"message": str(refused), "type": refused.kind}}, refused.status)
