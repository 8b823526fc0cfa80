"""Connections to one endpoint: HTTP/1.1, kept alive, to checked addresses only, with a limit on what they bring."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from routegym.errors import MalformedResponseError, MissingExtraError
from routegym.pool.network import CheckedNetwork
from routegym.pool.targets import Target

try:
    import certifi
    import httpcore
except ImportError as error:
    raise MissingExtraError("httpcore", "live") from error

__all__ = ["Connections", "Reply"]

#: Seconds for which an idle connection is kept: less than the 5 s after which common servers close theirs, since a
#: request into a connection that is being closed is lost, and charged.
KEEPALIVE_S = 2.0

#: Bytes that are read of an answer that is not 2xx.
ERROR_BYTES = 2**16

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes
    """The body; of an answer that is not 2xx its beginning."""


class Connections:
    """Posts to one target. Nothing of the environment (proxies, .netrc) is used, and nothing is decompressed.

    Used from one event loop. As many requests may run at once as are posted; each has a connection of its own.

    Args:
        target: the endpoint.
        headers: sent with every request.
        connect_s: seconds until a connection must stand, and again for TLS.
    """

    def __init__(self, target: Target, headers: dict[str, str], connect_s: float) -> None:
        self._target = target
        self._origin = httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port)
        sent = {
            "Host": target.netloc,
            "Accept": "application/json",
            # A small compressed answer may be a very large one.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **headers,
        }
        self._headers = [(name.encode(), value.encode()) for name, value in sent.items()]
        self._extensions = {"timeout": {"connect": connect_s}}
        self._network = CheckedNetwork(target)
        self._tls = _tls_context() if target.scheme == "https" else None
        self._idle: list[httpcore.AsyncHTTPConnection] = []

    async def post(self, path: str, body: bytes, limit: int, read: Callable[[Reply], T]) -> T:
        """Post JSON to a path of the target's host; a redirect is an answer like any other.

        Args:
            path: absolute path.
            body: the JSON.
            limit: most bytes that a 2xx answer may have; of others the beginning is read.
            read: makes the result of the reply. What it raises comes through, and the connection is closed then:
                after an answer that makes no sense, the rest of it may still be under way.

        Raises:
            httpcore.ConnectError, httpcore.ConnectTimeout: no connection was made and nothing was sent.
            httpcore.NetworkError, httpcore.ProtocolError: the connection broke.
            TargetError: the host's name leads to an address that is refused; nothing was sent.
            MalformedResponseError: the answer is compressed or too long.
        """
        connection = await self._connection()
        try:
            result = read(await self._exchange(connection, path, body, limit))
        except BaseException:
            await connection.aclose()
            raise
        if connection.is_available():
            self._idle.append(connection)
        while self._idle and self._idle[0].has_expired():
            await self._idle.pop(0).aclose()
        return result

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _connection(self) -> httpcore.AsyncHTTPConnection:
        while self._idle:
            # The one used last: it is the likeliest to be open, and the surplus runs out of its time.
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            self._origin, ssl_context=self._tls, keepalive_expiry=KEEPALIVE_S, network_backend=self._network
        )

    async def _exchange(self, connection: httpcore.AsyncHTTPConnection, path: str, body: bytes, limit: int) -> Reply:
        url = httpcore.URL(scheme=self._origin.scheme, host=self._origin.host, port=self._target.port, target=path)
        headers = [*self._headers, (b"Content-Length", str(len(body)).encode())]
        request = httpcore.Request("POST", url, headers=headers, content=body, extensions=self._extensions)
        response = await connection.handle_async_request(request)
        received = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        whole = 200 <= response.status < 300
        if whole and received.get("content-encoding", "identity") != "identity":
            raise MalformedResponseError(
                f"the answer is compressed ({received['content-encoding']!r}) though none was asked for; "
                "expected an answer without content-encoding"
            )
        content = bytearray()
        async for part in response.aiter_stream():
            content += part
            if whole and len(content) > limit:
                raise MalformedResponseError(f"the answer is longer than {limit} bytes, more than any right one")
            if not whole and len(content) >= ERROR_BYTES:
                await connection.aclose()
                break
        else:
            await response.aclose()
        return Reply(response.status, received, bytes(content))


def _tls_context() -> ssl.SSLContext:
    """The system's certificates (or those that SSL_CERT_FILE names), and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
