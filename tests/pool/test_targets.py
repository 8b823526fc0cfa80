from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fault_server import FaultServer, serving

from routegym.errors import CallRefusedError, TargetError
from routegym.pool.arms import Arm
from routegym.pool.backend import Call, Completion, Failure
from routegym.pool.openai import OpenAIEngine
from routegym.pool.targets import check_address, check_target

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "127.0.0.2", "::1"])

ALWAYS_REFUSED = {
    "another scheme": ["file:///etc/passwd", "ftp://example.com/v1", "gopher://127.0.0.1/", "example.com/v1", "//a/v1"],
    "no host": ["http://", "http:///v1", "https://:8000/v1", "", "http"],
    "user": ["http://user@example.com/v1", "http://u:p@127.0.0.1/v1", "http://127.0.0.1@evil.example/v1", "http://@a/"],
    "query": ["http://example.com/v1?key=1", "http://example.com/v1#x", "http://example.com/v1?", "http://a/#"],
    "link-local": [
        "http://169.254.169.254/v1",
        "http://169.254.0.1/",
        "http://[fe80::1]/v1",
        "http://[fe80::1%25eth0]/",
    ],
    "metadata": [
        "http://metadata.google.internal/",
        "http://METADATA.google.internal/",
        "http://metadata/",
        "http://instance-data/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://192.0.0.192/",
        "http://[fd00:ec2::254]/",
    ],
    "multicast": ["http://224.0.0.1/", "http://[ff02::1]/", "http://255.255.255.255/", "http://240.0.0.1/"],
    "unspecified": ["http://0.0.0.0:8000/v1", "http://[::]:8000/v1", "http://0.1.2.3/"],
    "not global": ["http://192.0.2.1/", "http://198.18.0.1/", "http://[2001:db8::1]/", "http://[fec0::1]/"],
    "mapped": ["http://[::ffff:127.0.0.1]/", "http://[::ffff:169.254.169.254]/", "http://[::ffff:7f00:1]/"],
    "tunnelled": [
        "http://[2002:7f00:1::]/",
        "http://[2001:0:1::]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[::7f00:1]/",
    ],
    "numbers": [
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://017700000001/v1",
        "http://0177.0.0.1/v1",
        "http://0x7f.0.0.1/v1",
        "http://127.1/v1",
        "http://127.0.1/v1",
        "http://0/v1",
        "http://127.0.0.01/v1",
        "http://127.0.0.256/v1",
        "http://1.2.3.4.5/v1",
    ],
    "dots": ["http://localhost./v1", "http://127.0.0.1./v1", "http://example.com./v1", "http://a..b/", "http://.a/"],
    "odd characters": [
        "http://\uff11\uff12\uff17.0.0.1/v1",
        "http://ⓛocalhost/v1",
        "http://bücher.example/v1",
        "http://a\\@b/v1",
        "http://a b/v1",
        "http://a/v1\n",
        "http://a\t/v1",
        "http://a%2fb/",
        "http://a\x00/",
        "http://a,b/",
        "http://-a/",
        "http://" + "a" * 64 + ".com/",
        "http://" + "a." * 130 + "com/",
        "http://[127.0.0.1]/",
        "http://[::1/",
        "http://::1/v1",
    ],
    "ports": ["http://a:0/", "http://a:65536/", "http://a:-1/", "http://a:x/", "http://a:80:80/"],
}

PRIVATE = [
    "http://10.0.0.1/v1",
    "http://172.16.0.1:8000/v1",
    "http://172.31.255.255/v1",
    "http://192.168.1.20/v1",
    "http://100.64.0.1/v1",
    "http://[fc00::1]/v1",
    "http://[fd12:3456::1]/v1",
]


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("kind", ALWAYS_REFUSED)
def test_refused(kind: str, allow_private: bool) -> None:
    for url in ALWAYS_REFUSED[kind]:
        with pytest.raises(TargetError, match=r"^base_url = "):
            check_target(url, allow_private=allow_private)
        with pytest.raises(TargetError):
            OpenAIEngine(url, allow_private=allow_private)


@pytest.mark.parametrize("url", PRIVATE)
def test_private_only_where_allowed(url: str) -> None:
    with pytest.raises(TargetError, match="allow_private: true"):
        check_target(url)
    assert check_target(url, allow_private=True).path == "/v1"


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("http://127.0.0.1:8000/v1", "http", "127.0.0.1", 8000, "/v1"),
        ("http://127.8.8.8/v1/", "http", "127.8.8.8", 80, "/v1"),
        ("http://[::1]:8000/v1", "http", "::1", 8000, "/v1"),
        ("http://localhost:8000", "http", "localhost", 8000, ""),
        ("http://LocalHost:8000/", "http", "localhost", 8000, ""),
        ("https://api.example.com/openai/v1", "https", "api.example.com", 443, "/openai/v1"),
        ("https://gpu-box_2:8443/v1", "https", "gpu-box_2", 8443, "/v1"),
        ("http://8.8.8.8/v1", "http", "8.8.8.8", 80, "/v1"),
        ("http://[2606:4700::1111]/v1", "http", "2606:4700::1111", 80, "/v1"),
    ],
)
def test_allowed(url: str, scheme: str, host: str, port: int, path: str) -> None:
    target = check_target(url)
    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)


def test_secrets_in_an_address_are_not_repeated() -> None:
    for url in (
        "http://user:CANARY@example.com/v1",
        "http://example.com/v1?api_key=CANARY",
        "http://example.com/v1#CANARY",
        "http://CANARY@ex ample.com/v1?key=CANARY",
        "http://user:CANARY@example.com:x/v1",
        "http://user:#CANARY@example.com/v1",
        "http://user:x?CANARY@example.com:x/v1",
        "user:CANARY@example.com",
    ):
        with pytest.raises(TargetError) as caught:
            check_target(url)
        assert "CANARY" not in str(caught.value)


REFUSED_ADDRESSES = ["169.254.169.254", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "fd00:ec2::254", "::ffff:169.254.1.1"]


@pytest.mark.parametrize("address", [*REFUSED_ADDRESSES, "127.0.0.1", "::1", "64:ff9b::7f00:1", "10.0.0.1", "::a00:1"])
def test_a_name_must_not_lead_to_a_refused_address(address: str) -> None:
    with pytest.raises(TargetError, match=r"^'models.example' resolves to "):
        check_address(address, check_target("https://models.example/v1"))


def test_a_name_may_lead_to_allowed_addresses() -> None:
    check_address("8.8.8.8", check_target("https://models.example/v1"))
    check_address("64:ff9b::808:808", check_target("https://models.example/v1"))
    check_address("10.0.0.1", check_target("https://models.example/v1", allow_private=True))
    check_address("127.0.0.1", check_target("http://localhost/v1"))
    check_address("::1", check_target("http://localhost/v1"))
    for address in REFUSED_ADDRESSES:
        with pytest.raises(TargetError):
            check_address(address, check_target("http://localhost/v1", allow_private=True))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


CALL = Call(Arm("m", "direct", 0, 8), "openai", "m", (("user", "1+1="),), 8)


def make(engine: OpenAIEngine) -> Completion | Failure:
    results: list[Completion | Failure] = []
    engine.complete([CALL], lambda _, result: results.append(result))
    return results[0]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, one list after the other; what was asked for."""
    asked: list[str] = []

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_names_are_checked_at_every_connection(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    engine = OpenAIEngine(f"http://localhost:{server.port}/401/v1")
    first = make(engine)
    assert isinstance(first, Failure)
    assert "answers 401" in str(first.error)
    # The connection stands and is used again; a new one meets the new address.
    make(engine)
    assert asked == ["localhost"]
    engine.close()
    engine = OpenAIEngine(f"http://localhost:{server.port}/ok/v1")
    result = make(engine)
    assert isinstance(result, Failure)
    assert isinstance(result.error, CallRefusedError)
    assert "'localhost' resolves to 10.0.0.1: it is a private address" in str(result.error)
    assert [attempt.tokens for attempt in result.attempts] == [(0, 0, 0, 0)]
    assert asked == ["localhost"] * 2
    assert server.requests["ok"] == 0
    engine.close()


def test_one_refused_address_among_others_is_enough(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.1", "169.254.169.254"])
    engine = OpenAIEngine(f"http://localhost:{server.port}/ok/v1")
    result = make(engine)
    assert isinstance(result, Failure)
    assert "link-local" in str(result.error)
    assert server.connections == 0
    engine.close()


def test_a_foreign_name_does_not_lead_to_this_machine(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    engine = OpenAIEngine(f"http://rebound.example:{server.port}/ok/v1")
    result = make(engine)
    assert isinstance(result, Failure)
    assert "must not lead to this machine" in str(result.error)
    assert server.connections == 0
    engine.close()


def test_the_next_address_is_tried(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    engine = OpenAIEngine(f"http://localhost:{server.port}/ok/v1")
    result = make(engine)
    assert isinstance(result, Completion)
    engine.close()


def test_redirects_are_not_followed(server: FaultServer) -> None:
    engine = OpenAIEngine(server.url("redirect-307"))
    result = make(engine)
    assert isinstance(result, Failure)
    assert "redirects are not followed" in str(result.error)
    assert server.requests == {"redirect-307": 1}
    engine.close()


def test_proxies_of_the_environment_are_not_used(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    engine = OpenAIEngine(server.url())
    assert isinstance(make(engine), Completion)
    engine.close()
