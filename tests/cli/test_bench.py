"""``routegym bench``: what it writes, that it goes on where it was, and that other people's routers take part."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from routegym.cli.main import main
from routegym.errors import WorkerError
from routegym.evaluation.bench import BenchSettings, Job, open_bench, run_jobs
from routegym.evaluation.outcomes import Grid
from routegym.graph.library import load_recording
from routegym.runners import Runner, open_runner

MINE = """
import numpy as np

class Cheapest:
    def __init__(self, recording):
        self.n_arms = len(recording.arms)

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        return action_masks[:, : self.n_arms].argmax(axis=1), state
"""


@pytest.fixture(scope="module")
def bench(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A small bench and the command that made it."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "my_cheapest.py").write_text(MINE)
    arguments = [
        "bench", "--recording", str(recording), "--out", str(folder / "out"), "--seeds", "2", "--steps", "8192",
        "--no-attainable", "--policies", "maskable_ppo", "random", "my_cheapest:Cheapest",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(arguments)
    return folder, arguments


def test_it_writes_tables_and_pictures(bench: tuple[Path, list[str]]) -> None:
    out = bench[0] / "out"
    for name in ("metrics.json", "results.parquet", "results.md", "frontier.png", "shares.png"):
        assert (out / name).stat().st_size > 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["policies"]) == {"maskable_ppo", "random", "my_cheapest:Cheapest"}
    assert metrics["policies"]["maskable_ppo"]["seeds"] == 2
    assert metrics["policies"]["random"]["seeds"] == 1
    assert metrics["policies"]["maskable_ppo"]["learned"]
    assert not metrics["policies"]["my_cheapest:Cheapest"]["learned"]
    assert metrics["best_baseline"] in ("random", "my_cheapest:Cheapest")
    assert all(found["violations"] == 0 for found in metrics["policies"].values())
    page = (out / "results.md").read_text()
    few = load_recording(metrics["made"]["recording"]).tasks.splits.count("val")
    assert f"Warning: operating points are chosen on {few} validation tasks" in page
    assert "| **maskable_ppo** |" in page
    assert "zero router" in page
    rows = pq.read_table(out / "results.parquet").to_pylist()
    points = (len(metrics["budgets_usd"]) + 1) * len(metrics["lambdas"])
    assert len(rows) == 4 * points  # two seeds, one, one


def test_a_policy_beside_the_command_plays_as_it_says(bench: tuple[Path, list[str]]) -> None:
    metrics = json.loads((bench[0] / "out" / "metrics.json").read_text())
    first = next(iter(metrics["arms"].values()))
    last = metrics["policies"]["my_cheapest:Cheapest"]["budgets"][-1]
    assert last["score"] == pytest.approx(first["score"])  # the first arm alone
    assert last["cost_usd"] == pytest.approx(first["cost_usd"])
    assert last["largest_share"] == 1.0


def test_the_same_command_fits_nothing_again(bench: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, arguments = bench
    monkeypatch.chdir(folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "out" / "cache").rglob("*.*")}
    assert times
    before = (folder / "out" / "results.parquet").read_bytes()
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "cache").rglob("*.*")} == times
    assert (folder / "out" / "results.parquet").read_bytes() == before


def test_a_damaged_result_is_worked_out_again(bench: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, arguments = bench
    monkeypatch.chdir(folder)
    outcome = next((folder / "out" / "cache").glob("maskable_ppo-0-*/test-*.safetensors"))
    sound = outcome.read_bytes()
    outcome.write_bytes(sound[: len(sound) // 2])
    main(arguments)
    assert outcome.read_bytes() == sound


def test_what_cannot_be_fitted_here_is_said_and_left_out(
    recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(
        ["bench", "--recording", str(recordings["single_call"]), "--env", "routegym/SingleCall-v0", "--out", str(out),
         "--seeds", "1", "--no-attainable", "--policies", "random", "acar"]
    )  # fmt: skip
    assert "acar left out" in " ".join(capsys.readouterr().err.split())
    assert set(json.loads((out / "metrics.json").read_text())["policies"]) == {"random"}


def test_folds_hold_every_task_out_once(bench: tuple[Path, list[str]], recording: Path) -> None:
    folder = bench[0]
    arguments = [
        "bench", "--recording", str(recording), "--out", str(folder / "folds"), "--seeds", "2", "--steps", "2048",
        "--folds", "3", "--lambdas", "0", "1", "--policies", "linucb", "knn",
    ]  # fmt: skip
    main(arguments)
    out = folder / "folds"
    metrics = json.loads((out / "metrics.json").read_text())
    whole = load_recording(recording)
    assert metrics["split"] == "all"
    assert metrics["tasks"] == len(whole.tasks)
    assert metrics["lambdas"] == [0.0, 1.0]
    assert 0 < metrics["validation_tasks"] < len(whole.tasks) / 4  # one in eight, each in several folds
    assert metrics["made"]["folds"] == 3
    assert len(list((out / "cache").glob("linucb-*"))) == 3 * 2  # every fold with every seed
    again = open_bench(out, metrics, whole)
    assert again.comparison.metrics()["policies"]["knn"]["aiq"] == metrics["policies"]["knn"]["aiq"]
    held = again.played.recording
    assert metrics["made"]["first_fold_tasks"] == len(held.split("test"))
    assert set(held.split("test")) < set(range(len(whole.tasks)))
    assert again.policy("knn").predict is not None
    tasks = again.played.entries["knn"].outcomes[0].scores.shape[1]
    assert tasks == len(held.split("test"))
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    assert f"over all hard budgets, the first fold, {tasks} tasks." in page
    assert f"against what came; the first fold, {tasks} tasks." in page


def test_folds_replace_the_splits(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["bench", "--recording", str(recording), "--folds", "5", "--attainable"])
    assert error.value.code == 2
    assert "no --attainable: that bound belongs to one split" in capsys.readouterr().err


DYING = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from routegym.policies.rules import RandomMixture

@dataclass(frozen=True)
class Dying(RandomMixture):
    def fit(self, problem, seed=0, training=None):
        died = Path(__file__).with_name("died")
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(problem, seed, training)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
def test_ray_makes_the_same_and_a_killed_process_costs_time_only(
    bench: tuple[Path, list[str]], recording: Path, tmp_path: Path, ray: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, arguments = bench
    monkeypatch.chdir(folder)
    (folder / "my_dying.py").write_text(DYING)
    out = tmp_path / "ray"
    told = [str(out) if word == str(folder / "out") else word for word in arguments]
    main([*told, "my_dying:Dying", "random_mixture", "--runner", "ray", "--workers", "2"])
    assert (folder / "died").exists()
    made = sorted(path.relative_to(folder / "out") for path in (folder / "out" / "cache").glob("*/*.safetensors"))
    assert len(made) == 3 + 2 * 4  # two networks, a rule; outcomes on two splits of those and the policy beside them
    for path in made:
        assert (out / path).read_bytes() == (folder / "out" / path).read_bytes()
    for split in ("val", "test"):
        (died,), (lived,) = ((out / "cache").glob(f"{n}-0-*/{split}-*") for n in ("my_dying.Dying", "random_mixture"))
        assert died.read_bytes() == lived.read_bytes()


def test_a_worker_that_does_not_see_the_folder_says_so(recording: Path, tmp_path: Path) -> None:
    whole = load_recording(recording)
    settings = BenchSettings.of("routegym/AgentSteps-v0", str(recording), whole, Grid.of(whole, [1.0], [0.0]))
    job = Job("random", 0, settings, tmp_path / "cache")
    with open_runner("local", 1) as runner:

        class Elsewhere:  # makes the folder vanish between here and there
            workers = 1

            def submit(self, function: Callable[..., object], *given: object) -> Future[object]:
                (tmp_path / "cache").rmdir()
                return runner.submit(function, *given)

        with pytest.raises(WorkerError, match="name a folder that all machines see with --out"):
            run_jobs([job], Elsewhere())  # type: ignore[arg-type]


SLOW = """
import fcntl, time

class Slow:
    def fit(self, problem, seed=0, training=None):
        with open("at_work", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("begun")
            lock.flush()
            time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks of Unix")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_workers_end_with_a_bench_that_is_killed(how: str, recording: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "my_slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "routegym", "bench", "--recording", str(recording), "--no-attainable"]
    command += ["--out", str(tmp_path / "out"), "--seeds", "1", "--policies", "my_slow:Slow"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = tmp_path / "at_work"
    try:
        _until(lambda: lock.exists() and lock.read_text() == "begun")
    finally:
        process.send_signal(getattr(signal, how))
        process.wait()

    def free() -> bool:  # the lock of a process goes with it, even where nobody collects what it leaves
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    _until(free)


def _until(happened: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < latest
        time.sleep(0.05)
