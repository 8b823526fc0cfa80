"""Which addresses an endpoint may have: what a pool file may name, and what a name may resolve to."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from routegym.errors import TargetError

__all__ = ["Target", "check_address", "check_target"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}

#: Private ranges, opened by `allow_private`; 100.64.0.0/10 is shared address space (carriers, some private networks).
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)

#: Where clouds hand out a machine's credentials. Link-local addresses, where most of them do, are refused as such.
_METADATA_ADDRESSES = tuple(
    ipaddress.ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
_METADATA_NAMES = frozenset(
    ["metadata", "instance-data", "metadata.google.internal", "instance-data.ec2.internal", "metadata.azure.internal"]
)

#: IPv6 addresses that stand for the IPv4 address in their last 32 bits.
_EMBEDS_IPV4 = tuple(ipaddress.ip_network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96"))

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")


@dataclass(frozen=True)
class Target:
    """An endpoint's address that may be used, in its parts."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Lower case; an IPv6 address without its brackets."""
    port: int
    path: str
    """Path without a slash at its end, for example ``/v1``."""
    allow_private: bool

    @property
    def netloc(self) -> str:
        """``host:port`` as it stands in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def check_target(url: str, *, allow_private: bool = False) -> Target:
    """Take an endpoint's address apart, and refuse one that must not be called. Opens no connection.

    Loopback (127.0.0.0/8, ::1, localhost) is allowed: model servers on one's own machine are what this is for.
    A name is checked again at every connection, with what it resolves to; see `check_address`.

    Args:
        url: for example ``http://127.0.0.1:8000/v1``.
        allow_private: allow 10/8, 172.16/12, 192.168/16, 100.64/10 and fc00::/7.

    Raises:
        TargetError: no http or https; user, password, query or fragment in the address; an address in an odd form
            or of a kind that is refused; the name of a cloud's metadata service.
    """
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise TargetError(
            f"base_url = {_without_user(url)!r}: only printable ASCII without spaces and backslashes is allowed; "
            "expected something like http://127.0.0.1:8000/v1"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        raise TargetError(f"base_url = {_without_user(url)!r} is no address; check host and port") from None
    if "@" in url:
        raise TargetError(
            f"base_url = {_without_user(url)!r} holds a user or password; name the variable that holds the key "
            "in api_key_env instead"
        )
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise TargetError(
            f"base_url = {_without_user(url)!r} has a query or fragment; expected scheme, host, port and path only, "
            "a key belongs into the variable named by api_key_env"
        )
    if parts.scheme not in _PORTS:
        raise TargetError(f"base_url = {url!r}; expected an address that starts with http:// or https://")
    if port == 0:
        raise TargetError(f"base_url = {url!r}: port 0 cannot be connected to; give the server's port")
    _check_host(url, host, allow_private, bracketed="[" in parts.netloc)
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"), allow_private)


def check_address(address: str, target: Target) -> None:
    """Refuse an IP address to which a target's name resolves.

    Args:
        address: what a resolver returned.
        target: whose name it was.

    Raises:
        TargetError: the address is not one that `target` may be at.
    """
    reason = _refusal(ipaddress.ip_address(address.partition("%")[0]), target.allow_private, _is_local(target.host))
    if reason:
        raise TargetError(f"{target.host!r} resolves to {address}: {reason}")


def _check_host(url: str, host: str, allow_private: bool, *, bracketed: bool) -> None:
    if not host:
        raise TargetError(f"base_url = {url!r} names no host; expected something like http://127.0.0.1:8000/v1")
    if host in _METADATA_NAMES:
        raise TargetError(f"base_url = {url!r} is a cloud's metadata service; it holds credentials and no models")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if bracketed or not _NAME.match(host) or _is_number(host):
            raise TargetError(
                f"base_url = {url!r}: {host!r} is neither a plain host name nor an IP address in its usual form; "
                "write an IPv4 address as four decimal numbers, an IPv6 address in brackets and without a zone, "
                "and a name without a dot at its end"
            ) from None
        return
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or not bracketed or "%" in host):
        raise TargetError(
            f"base_url = {url!r}: this form of an IPv6 address is refused; write an IPv4 address as four decimal "
            "numbers, and an IPv6 address in brackets and without a zone"
        )
    if reason := _refusal(address, allow_private, allow_loopback=True):
        raise TargetError(f"base_url = {url!r}: {reason}")


def _refusal(address: _Address, allow_private: bool, allow_loopback: bool) -> str | None:
    """Why an address must not be called; None = it may."""
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _EMBEDS_IPV4):
            return _refusal(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF), allow_private, allow_loopback)
        if address.sixtofour or address.teredo:
            return "tunnelled addresses are refused"
    if address in _METADATA_ADDRESSES:
        return "it is a cloud's metadata service, which holds credentials and no models"
    if address.is_loopback:
        return None if allow_loopback else "a name other than localhost must not lead to this machine; use 127.0.0.1"
    if address.is_link_local:
        return "link-local addresses, where clouds keep their metadata services, are refused"
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return "multicast, unspecified and reserved addresses are refused"
    if any(address in network for network in _PRIVATE):
        return None if allow_private else "it is a private address; set allow_private: true for this endpoint if meant"
    if not address.is_global or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local):
        return "it is no public address; use a public, a loopback or (with allow_private: true) a private one"
    return None


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_number(host: str) -> bool:
    """Whether the system would take a name for an IPv4 address: decimal, octal, hexadecimal, shortened."""
    try:
        socket.inet_aton(host)
    except OSError:
        return host.rpartition(".")[2].isdigit()
    return True


def _without_user(url: str) -> str:
    """The address without what may be a secret: user, password, query and fragment."""
    shown = re.sub(r"^([^/@]*//)?.*@", r"\1...@", url, flags=re.DOTALL)
    return re.sub(r"[?#].*", "?...", shown, flags=re.DOTALL)
