"""Graders in processes that can be killed: none hangs, none answers 0 for an error."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from routegym.errors import GraderError
from routegym.tasks import grade_answer, workers
from routegym.tasks.workers import call

COMPARE = "routegym.tasks.mathematics:compare"
TOWER = ("9^{9^{9^{9}}}", "2^{100}")
TIMEOUT_S = 1.5


def judged(answer: str, reference: str, timeout_s: float = TIMEOUT_S) -> tuple[str, float]:
    """Verdict and seconds."""
    begin = time.perf_counter()
    try:
        score = grade_answer("math_verify", answer, reference, f'{{"timeout_s": {timeout_s}}}')
    except GraderError:
        return "error", time.perf_counter() - begin
    return str(score), time.perf_counter() - begin


def fuzz(count: int, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    pieces = [
        *("1", "2", "9", "0", "x", "(", ")", "{", "}", "^", "_", "\\frac", "\\sqrt", "+", "-", "*", "/", ",", "=", "<"),
        *("\\pi", "!", "[", "]", "\\{", "\\}", "&", "\\\\", "$", " ", "e", "\\log", "\\sin", "|", "%", "\\boxed{", "."),
    ]
    for _ in range(count):
        yield "".join(rng.choice(pieces, size=int(rng.integers(1, 25))))


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    assert grade_answer("math_verify", "x^2", "x^2") == 1.0


def test_a_power_tower_is_an_error_in_time_and_the_worker_is_replaced() -> None:
    verdict, seconds = judged(*TOWER)
    assert verdict == "error"
    assert seconds <= TIMEOUT_S + 0.5
    assert judged("x*x", "x^2", 10)[0] == "1.0"


def test_from_a_thread_and_from_an_event_loop() -> None:
    async def inside() -> list[tuple[str, float]]:
        direct = judged("x*x", "x^2", 10)
        return [direct, *await asyncio.gather(asyncio.to_thread(judged, *TOWER), asyncio.to_thread(judged, "x", "x"))]

    direct, tower, easy = asyncio.run(inside())
    assert (direct[0], tower[0], easy[0]) == ("1.0", "error", "1.0")
    assert tower[1] <= TIMEOUT_S + 0.5
    with ThreadPoolExecutor(2) as threads:
        assert [verdict for verdict, _ in threads.map(judged, ["2", "3"], ["2", "4"], [10, 10])] == ["1.0", "0.0"]


def test_a_worker_that_dies_is_an_error_and_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(
        "import os\ndef leave(now):\n    os._exit(1) if now else None\n    return 1.0\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for _ in range(2):
        with pytest.raises(GraderError, match="ended before it answered"):
            call("leaves:leave", [True], 5)
        assert call("leaves:leave", [False], 5) == 1.0


def test_a_worker_that_died_while_it_was_idle_is_replaced_silently() -> None:
    for worker in list(workers._WORKERS[COMPARE]._idle):
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
    assert call(COMPARE, ["x", "x"], 5) == 1.0


def test_a_worker_sees_no_secrets_and_a_fixed_hash_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "looks_around.py").write_text(
        "import os\ndef look():\n    print('noise')\n    return [dict(os.environ), hash('a')]\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("SOME_API_KEY", "secret")
    environment, hashed = call("looks_around:look", [], 5)
    assert "secret" not in str(environment)
    program = "print(hash('a'))"
    fixed = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    )
    assert hashed == int(fixed.stdout)


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraderError, match=r"could not be started.*routegym\[tasks\]"):
        call("no_such_module:function", [], 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(judged("x*x", "x^2", 10)[0]))
    process.start()
    assert judged("2*x", "x+x", 10)[0] == "1.0"
    process.join(60)
    assert process.exitcode == 0
    assert queue.get() == "1.0"


@pytest.mark.slow
def test_workers_end_with_their_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, threading, time\n"
        "from routegym.tasks import workers, grade_answer\n"
        "assert grade_answer('math_verify', 'x', 'x') == 1.0\n"
        f"threading.Thread(target=grade_answer, args=('math_verify', {TOWER[0]!r}, {TOWER[1]!r},\n"
        "    '{\"timeout_s\": 1}'), daemon=True).start()\n"
        "time.sleep(0.6)\n"
        "print(*[w.process.pid for w in workers._WORKERS['routegym.tasks.mathematics:compare']._alive], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2  # the busy one and its spare
    deadline = time.monotonic() + 20
    while any(_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_running(pid) for pid in pids)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_fuzzed_answers_are_judged_in_time() -> None:
    for answer in fuzz(40, seed=0):
        verdict, seconds = judged(answer, "x^2+1", 5)
        assert verdict in ("0.0", "error"), answer
        assert seconds <= 5.5, answer


@pytest.mark.slow
def test_what_passes_the_gate_is_judged_in_time_too() -> None:
    for answer in fuzz(200, seed=3):
        begin = time.perf_counter()
        with contextlib.suppress(GraderError):
            assert call(COMPARE, [answer, "x^2+1"], 5.0) == 0.0
        assert time.perf_counter() - begin <= 5.5, answer


def _in_a_process(seed: int) -> tuple[list[str], float]:
    """Verdicts on fuzzed answers with a power tower among them, and the longest of them in seconds."""
    assert judged("x", "x", 60)[0] == "1.0"
    verdicts, longest = [], 0.0
    for number, answer in enumerate(fuzz(25, seed=seed)):
        for pair in ((answer, "x^2+1"), TOWER) if number == 12 else ((answer, "x^2+1"),):
            verdict, seconds = judged(*pair, 5)
            verdicts.append(verdict)
            longest = max(longest, seconds)
    return verdicts, longest


@pytest.mark.slow
def test_200_fuzzed_answers_from_8_processes() -> None:
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        found = pool.map(_in_a_process, range(1, 9))
    assert sum(len(verdicts) for verdicts, _ in found) == 8 * 26
    for verdicts, longest in found:
        assert verdicts[13] == "error"
        assert set(verdicts) <= {"0.0", "error"}
        assert verdicts.count("error") <= 3
        assert longest <= 5.5


@pytest.mark.slow
def test_200_fuzzed_answers_from_threads() -> None:
    answers = list(fuzz(200, seed=9))
    answers[100] = TOWER[0]
    with ThreadPoolExecutor(4) as threads:
        found = list(
            threads.map(lambda answer: judged(answer, "2^{100}" if answer == TOWER[0] else "x^2+1", 5), answers)
        )
    assert found[100][0] == "error"
    assert {verdict for verdict, _ in found} <= {"0.0", "error"}
    assert [verdict for verdict, _ in found].count("error") <= 8
    assert max(seconds for _, seconds in found) <= 5.5 + 3.0  # four threads start workers of their own
    assert threading.active_count() < 40
