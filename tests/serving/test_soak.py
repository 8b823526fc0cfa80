"""R-09 for the server: memory, descriptors and threads stay what they are after warming up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytestmark = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process holds from /proc"),
]

CLIENTS = 64


@pytest.fixture
def server() -> Iterator[tuple[int, str]]:
    """Process and address."""
    for package in ("uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    script = Path(__file__).parents[1] / "soak_server.py"
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def held(process: int) -> tuple[int, int, int]:
    """Resident bytes, descriptors, and threads, once no connection of clients that left was closed for a second."""
    count, changed = 0, time.monotonic()
    while time.monotonic() < changed + 1:
        if (now := len(os.listdir(f"/proc/{process}/fd"))) != count:
            count, changed = now, time.monotonic()
        time.sleep(0.05)
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), count, len(os.listdir(f"/proc/{process}/task"))


def ask(url: str, first: int, count: int) -> Counter[int]:
    """Statuses of requests by 64 clients; every fourth belongs to a conversation with a budget."""
    with httpx.Client(limits=httpx.Limits(max_connections=CLIENTS), timeout=60) as client:

        def one(number: int) -> int:
            headers = {"X-Routegym-Budget-USD": "0.01"}
            if number % 4 == 0:
                headers |= {"X-Routegym-Conversation": f"c{number % 97}", "X-Routegym-Conversation-Budget-USD": "5"}
            body = {
                "model": "routegym",
                "messages": [{"role": "user", "content": f"{number}+7"}],
                "stream": number % 2 == 1,
            }
            return client.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code

        with ThreadPoolExecutor(CLIENTS) as threads:
            return Counter(threads.map(one, range(first, first + count)))


def soak(server: tuple[int, str], warm_up: int, count: int, record: Callable[[str, object], None]) -> float:
    """Growth of the resident set over so many requests, after some with which the server began all its threads."""
    process, url = server
    ask(url, 0, warm_up)
    before = held(process)
    statuses = ask(url, warm_up, count)
    after = held(process)
    assert set(statuses) == {200, 502}
    assert 0.02 * count < statuses[502] < 0.08 * count
    assert after[1] <= before[1] + 2
    assert after[2] <= CLIENTS + 12  # one for each request under way
    growth = after[0] / before[0] - 1
    record("rss_growth", round(growth, 4))
    return growth


def test_a_short_soak_of_the_server(server: tuple[int, str], record_property: Callable[[str, object], None]) -> None:
    assert soak(server, 1_000, 1_000, record_property) < 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_soak_of_the_server(server: tuple[int, str], record_property: Callable[[str, object], None]) -> None:
    assert soak(server, 3_000, 10_000, record_property) < 0.05
