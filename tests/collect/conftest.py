"""A pool behind a real server on loopback, and `routegym record` as a process that can be killed."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import yaml

from routegym.cli.main import main

#: Processes are forked from one that has imported these, which saves seconds for each.
_PRELOAD = ["routegym.cli.record", "routegym.collect", "routegym.envs.agent_steps", "routegym.pool.openai",
            "routegym.pool.pool", "routegym.graph.storage", "rich.progress"]  # fmt: skip
_WAIT_S = 120


@dataclass
class Endpoint:
    """The server, and pool files that use it."""

    folder: Path
    port: int

    def asked(self) -> Counter[str]:
        """How often each "MODEL PROMPT SEED" was answered."""
        return Counter((self.folder / "log").read_text().splitlines())

    def asked_of(self, model: str) -> int:
        """Requests of one model."""
        return sum(count for line, count in self.asked().items() if line.startswith(f"{model} "))

    def forget(self) -> None:
        """Count from 0 again."""
        (self.folder / "log").write_text("")

    def down(self, model: str, down: bool = True) -> None:
        """Let a model fail."""
        place = self.folder / f"down-{model}"
        if down:
            place.touch()
        else:
            place.unlink()

    def pool(
        self,
        name: str = "pool.yaml",
        models: int = 2,
        template: str = "{prompt}",
        price: float = 1.0,
        concurrency: int = 4,
        timeout_s: float = 20.0,
    ) -> Path:
        """Write a pool file with models m0, m1, ...; `template` is that of the last one.

        A call of m0 costs 2.06e-6 USD, one of m1 ten times as much.
        """
        entries = {
            f"m{index}": {
                "endpoint": "server",
                # prompts are cheap, since their worst case is far above what they turn out to be
                "price": dict.fromkeys(("prompt", "cached"), 0.01 * price * 10**index)
                | dict.fromkeys(("completion", "reasoning"), price * 10**index),
                "tiers": {"direct": {"template": template if index == models - 1 else "{prompt}", "max_tokens": 4}},
            }
            for index in range(models)
        }
        server = {
            "backend": "openai",
            "base_url": f"http://127.0.0.1:{self.port}/v1",
            "concurrency": concurrency,
            "attempts": 1,
            "timeout_s": timeout_s,
        }
        path = self.folder / name
        path.write_text(
            yaml.safe_dump(
                {
                    "schema_version": 2,
                    "name": "test",
                    "prices": {"date": "2026-01-01", "note": "made up"},
                    "endpoints": {"server": server},
                    "models": entries,
                },
                sort_keys=False,
            )
        )
        return path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[float], Endpoint]]:
    """Starts a server that takes so many seconds for each answer."""
    started: list[subprocess.Popen[str]] = []

    def start(delay_s: float) -> Endpoint:
        folder = tmp_path / "server"
        folder.mkdir()
        script = Path(__file__).with_name("arithmetic_server.py")
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(delay_s)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return Endpoint(folder, int(process.stdout.readline()))

    yield start
    for process in started:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def endpoint(serve: Callable[[float], Endpoint]) -> Endpoint:
    """A fast server."""
    return serve(0.0)


def start_recording_process(*arguments: str | Path) -> BaseProcess:
    """`routegym record` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    process = context.Process(target=main, args=(["record", *map(str, arguments)],))
    process.start()
    return process


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Starts `routegym record` in a process of its own."""
    started: list[BaseProcess] = []

    def begin(*arguments: str | Path) -> BaseProcess:
        started.append(start_recording_process(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def record(start: Callable[..., BaseProcess]) -> Callable[..., int]:
    """Runs `routegym record` to its end; the exit code."""

    def run(*arguments: str | Path) -> int:
        process = start(*arguments)
        process.join(_WAIT_S)
        assert process.exitcode is not None, "still running"
        return process.exitcode

    return run


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command as a user does, with its output in pipes."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path) -> subprocess.Popen[str]:
        code = "from routegym.cli.main import main; main()"
        words = [sys.executable, "-c", code, "record", *map(str, arguments)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
