"""An OpenAI-compatible server with made-up answers that fails in every way it is asked to, on raw sockets.

The first part of the path says how it behaves: ``http://127.0.0.1:PORT/ok/v1``, ``/503/v1``, ``/slow_loris/v1``.
`FaultServer` runs in a thread of this process; ``python tests/fault_server.py`` in one of its own, until its standard
input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import socket
import ssl
import struct
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

CONTEXT_BYTES = 2000
ALPHABET = "abcdefghijklmnopqrstuvwxyz "

Json = dict[str, Any]


def answer(path: str, request: Json) -> Json:
    """What the model says: letters that depend on prompt, seed and sample."""
    chat = "messages" in request
    prompt = "".join(m["content"] for m in request["messages"]) if chat else request["prompt"]
    if path.endswith("/tokenize"):
        return {"count": len(prompt.split()) + 3, "max_model_len": 1024, "tokens": []}
    most = request.get("max_tokens") or request["max_completion_tokens"]
    choices = []
    total = 0
    for index in range(request["n"]):
        greedy = request["temperature"] == 0
        draw = random.Random(repr((prompt, None if greedy else (request["seed"], index))))
        length = draw.randint(1, 2 * most)
        text = "".join(draw.choices(ALPHABET, k=min(length, most)))
        total += len(text)
        values = [-draw.random() for _ in text]
        choice: Json = {"index": index, "finish_reason": "stop" if length <= most else "length"}
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            tokens = [{"token": t, "logprob": v} for t, v in zip(text, values, strict=True)]
            choice["logprobs"] = {"content": tokens} if request.get("logprobs") else None
        else:
            choice["text"] = text
            choice["logprobs"] = {"tokens": list(text), "token_logprobs": values} if request.get("logprobs") else None
        choices.append(choice)
    usage: Json = {"prompt_tokens": len(prompt.split()) + 3, "completion_tokens": total}
    return {"object": "chat.completion" if chat else "text_completion", "choices": choices, "usage": usage}


def response(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def as_json(content: Any, status: int = 200, *headers: str) -> bytes:
    return response(status, json.dumps(content).encode(), "Content-Type: application/json", *headers)


def failed(status: int, message: str = "no", *headers: str, **fields: Any) -> bytes:
    return as_json({"error": {"message": message, "type": "made_up_error", **fields}}, status, *headers)


class FaultServer:
    """Serves on a port of 127.0.0.1.

    Attributes:
        requests: requests by the first part of their path.
        bodies: what was posted, by the same.
        headers: the headers of the last request, by the same.
        failing: while set, ``/switch`` answers 500.
        keep_bodies: whether `bodies` grows.
        connections: connections made.
        busiest: most requests under way at once.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: Counter[str] = Counter()
        self.bodies: dict[str, list[Json]] = defaultdict(list)
        self.headers: dict[str, dict[str, str]] = {}
        self.failing = False
        self.keep_bodies = True
        self.connections = 0
        self.busiest = 0
        self._busy = 0
        self._random = random.Random(0)
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def url(self, behaviour: str = "ok") -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/{behaviour}/v1"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=512, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._request(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readexactly(1)
        if not first.isalpha():
            writer.write(failed(400, "no TLS here"))
            return False
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split()[1]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        behaviour = path.split("/")[1]
        self.requests[behaviour] += 1
        self.headers[behaviour] = headers
        if self.keep_bodies:
            self.bodies[behaviour].append(request)
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            return await self._behave(behaviour, path, headers, request, writer)
        finally:
            self._busy -= 1

    async def _behave(
        self, name: str, path: str, headers: dict[str, str], request: Json, writer: asyncio.StreamWriter
    ) -> bool:
        if name in STREAMS:
            await STREAMS[name](answer(path, request), writer)
            return False
        if name.startswith("tokenless") and path.endswith("/tokenize"):
            # /tokenless-other counts for every model but `other`.
            counts = name != "tokenless" and request["model"] != "other"
            sent = as_json(answer(path, request)) if counts else failed(404)
        elif name == "switch":
            sent = failed(500) if self.failing else as_json(answer(path, request))
        elif name == "echo":
            sent = failed(401, f"wrong key: {headers.get('authorization')}", f"X-Echo: {headers.get('authorization')}")
        elif name == "parrot":
            said = answer(path, request)
            said["choices"][0]["message"]["content"] = f"your key is {headers.get('authorization')}"
            sent = as_json(said, 200, f"X-Echo: {headers.get('authorization')}")
        elif name == "wait":
            await asyncio.sleep(0.05)
            sent = as_json(answer(path, request))
        elif name.startswith("flaky"):
            # /flaky2-503: the first two requests fail as /503 does.
            count, fault = name.removeprefix("flaky").split("-", 1)
            if self.requests[name] <= int(count):
                return await self._behave(fault, path, headers, request, writer)
            sent = as_json(answer(path, request))
        elif name == "mixed":
            # 5 % of the requests fail: half of them with 503, half with a broken connection.
            draw = self._random.random()
            if draw < 0.025:
                writer.transport.abort()
                return False
            sent = failed(503) if draw < 0.05 else as_json(answer(path, request))
        elif name in REPLIES:
            sent = REPLIES[name](answer(path, request))
        elif name.isdigit():
            sent = failed(int(name))
        else:
            sent = self._ok(path, request)
        writer.write(sent)
        await writer.drain()
        return True

    @staticmethod
    def _ok(path: str, request: Json) -> bytes:
        prompt = json.dumps(request.get("messages") or request["prompt"])
        if len(prompt) > CONTEXT_BYTES and not path.endswith("/tokenize"):
            return failed(400, "This model's maximum context length is 512 tokens. Please reduce the length.")
        return as_json(answer(path, request))


def changed(**fields: Any) -> Callable[[Json], bytes]:
    """An answer with other top-level fields; None takes one out."""
    return lambda said: as_json({k: v for k, v in {**said, **fields}.items() if v is not None})


def usage(**fields: Any) -> Callable[[Json], bytes]:
    return lambda said: as_json({**said, "usage": {k: v for k, v in {**said["usage"], **fields}.items() if v != "-"}})


def choice(**fields: Any) -> Callable[[Json], bytes]:
    return lambda said: as_json({**said, "choices": [{**said["choices"][0], **fields}]})


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


#: 20 MB in 20 kB.
BOMB = gzip.compress(b" " * 2 * 10**7)
MESSAGE = {"role": "assistant", "content": None}

#: Whole answers, made from what the model says.
REPLIES: dict[str, Callable[[Json], bytes]] = {
    "429-after-0": lambda said: failed(429, "slow down", "Retry-After: 0"),
    "429-after-date": lambda said: failed(429, "slow down", f"Retry-After: {http_date(-60)}"),
    "429-after-far-date": lambda said: failed(429, "slow down", f"Retry-After: {http_date(10**6)}"),
    "429-after-1e9": lambda said: failed(429, "slow down", "Retry-After: 1000000000"),
    "429-after-nonsense": lambda said: failed(429, "slow down", "Retry-After: soon"),
    "429-after-overflow": lambda said: failed(
        429, "slow down", "Retry-After: Mon, 01 Jan 2026 00:00:99999999999999 GMT"
    ),
    "429-quota": lambda said: failed(429, "pay", code="insufficient_quota"),
    "503-after-0": lambda said: failed(503, "busy", "Retry-After: 0"),
    "400-vllm": lambda said: failed(400, "This model's maximum context length is 1024 tokens. However, you ..."),
    "400-openai": lambda said: failed(400, "too many", code="context_length_exceeded"),
    "400-llama": lambda said: failed(400, "the request exceeds the available context size", type="exceed_context_size"),
    "redirect": lambda said: response(302, b"", "Location: http://127.0.0.1:9/elsewhere"),
    "redirect-307": lambda said: response(307, b"", "Location: http://169.254.169.254/"),
    "204": lambda said: b"HTTP/1.1 204 No Content\r\n\r\n",
    "html": lambda said: response(200, b"<html>please log in</html>", "Content-Type: text/html"),
    "500-html": lambda said: response(500, b"<html>" + b"x" * 10**6, "Content-Type: text/html"),
    "invalid-json": lambda said: response(200, json.dumps(said).encode()[:-1]),
    "two-documents": lambda said: response(200, 2 * json.dumps(said).encode()),
    "json-list": lambda said: as_json([said]),
    "json-nan": lambda said: response(200, b'{"usage": {"prompt_tokens": NaN}}'),
    "json-deep": lambda said: response(200, b"[" * 10**5),
    "not-utf-8": lambda said: response(200, b'{"\xff\xfe": 1}'),
    "gzip": lambda said: response(200, gzip.compress(json.dumps(said).encode()), "Content-Encoding: gzip"),
    "gzip-bomb": lambda said: response(200, BOMB, "Content-Encoding: gzip"),
    "too-large": lambda said: response(200, b" " * (2**21 + 2**20)),
    "chunk-events": lambda said: response(
        200, 2 * (b"data: " + json.dumps(said).encode() + b"\n\n"), "Content-Type: text/event-stream"
    ),
    "usage-missing": changed(usage=None),
    "usage-null-counts": usage(prompt_tokens=None, completion_tokens=None),
    "usage-half": usage(completion_tokens="-"),
    "usage-negative": usage(completion_tokens=-1),
    "usage-huge-prompt": usage(prompt_tokens=10**9),
    "usage-huge-completion": usage(completion_tokens=10**6),
    "usage-fraction": usage(prompt_tokens=1.5),
    "usage-text": usage(prompt_tokens="4"),
    "usage-true": usage(prompt_tokens=True),
    "usage-cached": usage(prompt_tokens_details={"cached_tokens": 10**4}),
    "usage-reasoning": usage(completion_tokens_details={"reasoning_tokens": 10**4}),
    "usage-details": usage(prompt_tokens_details=[1]),
    "content-null": choice(message=MESSAGE),
    "content-number": choice(message={**MESSAGE, "content": 4}),
    "message-missing": choice(message=None),
    "no-choices": changed(choices=[]),
    "choices-missing": changed(choices=None),
    "choices-twice": lambda said: as_json({**said, "choices": 2 * said["choices"]}),
    "wrong-index": choice(index=3),
    "logprobs-text": choice(logprobs={"content": [{"logprob": "likely"}]}),
    "logprobs-huge": choice(logprobs={"content": [{"logprob": -(10**400)}]}),
    "logprobs-sum": choice(logprobs={"content": 2 * [{"logprob": -1.7e308}]}),
    # Not faults: answers that look odd and are right.
    "refusal": choice(message={**MESSAGE, "refusal": "I will not"}),
    "tool-call": choice(message={**MESSAGE, "tool_calls": [{"id": 1}]}, finish_reason="tool_calls"),
    "only-reasoning": choice(message={**MESSAGE, "reasoning_content": "hm"}, finish_reason="length"),
    "filtered": choice(message=MESSAGE, finish_reason="content_filter"),
    "no-logprobs": choice(logprobs=None, index=0),
    "half-a-pair": choice(message={**MESSAGE, "content": "a\ud83d"}),
    "details": usage(
        prompt_tokens=9,
        completion_tokens=6,
        prompt_tokens_details={"cached_tokens": 4, "audio_tokens": 0},
        completion_tokens_details={"reasoning_tokens": 2},
    ),
}


async def _reset_before_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    _reset(writer)


async def _reset_after_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.02)
    _reset(writer)


async def _closed_before_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    pass


async def _half_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")


async def _half_body(said: Json, writer: asyncio.StreamWriter) -> None:
    body = json.dumps(said).encode()
    writer.write(response(200, body[: len(body) // 2], length=len(body)))


async def _length_too_long(said: Json, writer: asyncio.StreamWriter) -> None:
    body = json.dumps(said).encode()
    writer.write(response(200, body, length=len(body) + 10))


async def _length_too_short(said: Json, writer: asyncio.StreamWriter) -> None:
    body = json.dumps(said).encode()
    writer.write(response(200, body, length=len(body) - 10))


async def _half_chunks(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{    \r\n")


async def _endless_body(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


async def _slow_loris(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def _slow_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def _silent(said: Json, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _no_http(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")


async def _huge_headers(said: Json, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**5)


async def _endless_continue(said: Json, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


STREAMS: dict[str, Callable[[Json, asyncio.StreamWriter], Awaitable[None]]] = {
    "reset-before-headers": _reset_before_headers,
    "reset-after-headers": _reset_after_headers,
    "closed-before-headers": _closed_before_headers,
    "half-headers": _half_headers,
    "half-body": _half_body,
    "half-chunks": _half_chunks,
    "length-too-long": _length_too_long,
    "length-too-short": _length_too_short,
    "endless-body": _endless_body,
    "endless-continue": _endless_continue,
    "slow-loris": _slow_loris,
    "slow-headers": _slow_headers,
    "silent": _silent,
    "no-http": _no_http,
    "huge-headers": _huge_headers,
}


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    """A server for the time of a with block."""
    server = FaultServer(tls)
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    with serving() as alone:
        alone.keep_bodies = False
        print(alone.port, flush=True)  # noqa: T201
        sys.stdin.read()
