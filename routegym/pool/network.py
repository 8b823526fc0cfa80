"""Sockets for the HTTP connections: to checked addresses only, and read into one buffer for each connection."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from typing import Any

from routegym.errors import MissingExtraError
from routegym.pool.targets import Target, check_address

try:
    import httpcore
except ImportError as error:
    raise MissingExtraError("httpcore", "live") from error

__all__ = ["CheckedNetwork"]

#: Bytes that one connection reads ahead. asyncio's own streams take 256 KiB for every read and give most of it back,
#: which tears the memory of a long run into pieces.
BUFFER_BYTES = 2**14


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that a name resolves to only after each of them was checked.

    Args:
        target: the endpoint.
    """

    def __init__(self, target: Target) -> None:
        self._target = target

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of the host that answers.

        Raises:
            TargetError: one of its addresses is refused; no connection was opened.
            httpcore.ConnectError: the name is not known, or nothing answers.
            httpcore.ConnectTimeout: it took too long.
        """
        try:
            async with asyncio.timeout(timeout):
                addresses = await _resolve(host, port)
                # All before any: a name with an address that is refused among its others is not to be trusted.
                for address in addresses:
                    check_address(address, self._target)
                return await _connect(addresses, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host}:{port}: no connection within {timeout:.3g} s") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}:{port}: {error}") from error

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> list[str]:
    """IP addresses of a host, in the order in which to try them."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OSError(f"the name cannot be resolved ({error})") from error
    return list(dict.fromkeys(str(address[4][0]) for address in found))


async def _connect(addresses: list[str], port: int) -> _Stream:
    failure = OSError("the name has no addresses")
    for address in addresses:
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(_Protocol, address, port)
        except OSError as error:
            failure = error
        else:
            return _Stream(protocol)
    raise failure


class _Protocol(asyncio.BufferedProtocol):
    """What has been received and not yet been read."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER_BYTES)
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._received = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    @property
    def is_readable(self) -> bool:
        """Whether something, or the end, has come that was not read."""
        return self._size > 0 or self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._size :]

    def buffer_updated(self, nbytes: int) -> None:
        self._size += nbytes
        if self._size == len(self._buffer):
            self.transport.pause_reading()
        self._received.set()

    def eof_received(self) -> None:
        self._ended = True
        self._received.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        self._received.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    async def read(self, most: int) -> bytes:
        """Up to `most` bytes; none at the end."""
        while self._size == 0 and not self._ended:
            self._received.clear()
            await self._received.wait()
        if self._size == 0:
            if self._error is not None:
                raise self._error
            return b""
        data = bytes(self._buffer[: min(most, self._size)])
        rest = self._buffer[len(data) : self._size]
        self._buffer[: len(rest)] = rest
        self._size = len(rest)
        if not self._ended:
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        if self._ended and self.transport.is_closing():
            raise self._error or ConnectionResetError("the connection is closed")
        self.transport.write(data)
        await self._may_write.wait()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection. Attempts have their own time limit around all of it, so reading and writing have none."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._protocol.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._protocol.write(buffer)
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._protocol.transport.abort()
        # The socket is closed in the next round of the loop.
        await asyncio.sleep(0)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        protocol = self._protocol
        try:
            async with asyncio.timeout(timeout):
                upgraded = await asyncio.get_running_loop().start_tls(
                    protocol.transport, protocol, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            await self.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore.ConnectTimeout(f"no TLS within {timeout:.3g} s") from error
            if isinstance(error, OSError):
                raise httpcore.ConnectError(f"no TLS: {error}") from error
            raise
        assert upgraded is not None
        protocol.transport = upgraded
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._protocol.is_readable
        return self._protocol.transport.get_extra_info(info)
