"""The benchmarks run, and their tables have every row; what they measure here means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import helpers
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_step_speed(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    pytest.importorskip("sb3_contrib")
    recording = helpers.build("agent_steps", 30).save(tmp_path / "recording")
    table = run("step_speed.py", "--recording", str(recording))
    lines = [line for line in table.splitlines() if line.startswith("│")]
    for name, count in (
        ("RoutingEnv", 1),
        ("gymnasium SyncVectorEnv", 2),
        ("gymnasium AsyncVectorEnv", 1),
        ("SB3 DummyVecEnv", 1),
        ("PufferLib", 1),
        ("native, numpy  ", 6),
        ("native, numba  ", 6),
        ("plain gather", 4),
        ("native, numpy, budgets", 1),
        ("native, numba, budgets", 1),
        ("PPO", 1),
    ):
        assert sum(f" {name}" in line for line in lines) == count, (name, table)


def test_graph_size() -> None:
    table = run("graph_size.py")
    rows = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    assert rows == ["1,000", "10,000"]


def test_plan() -> None:
    table = run("plan.py", "--tokens-per-second", "500", "--tasks", "20", "2000000", "--arms", "3", "--gpus", "4")
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in table.splitlines() if line.startswith("│")]
    rows = {name: values for name, *values in cells}
    assert rows["calls"] == ["60", "6 x 10^6"]
    assert rows["generated tokens"] == ["12,000", "1.2 x 10^9"]
    assert rows["GPU-hours"] == ["0.0067", "667"]
    assert rows["recorded choices"] == ["60", "6 x 10^6"]  # one per arm: the recording that was measured is complete
    assert float(rows["response store"][1].removesuffix(" GB")) > 2  # prompt and answer have 2,000 letters


def test_the_arithmetic_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from plan import CLIENT_S_PER_CALL, Sizes, Work, count, plan, size

    work = Work(
        tasks=1_000_000,
        arms=4,
        prompt_tokens=300,
        completion_tokens=90,
        tokens_per_second=1_000.0,
        gpus=5,
        memory_bytes=16e9,
    )
    found = plan(work, Sizes(store_bytes=2_500, choices=4, disk_bytes=600, memory_bytes=20_000))
    assert found.calls == 4e6
    assert found.prompt_tokens == 1.2e9
    assert found.generated_tokens == 3.6e8
    assert found.gpu_hours == 100  # 3.6e8 tokens at 3.6e6 an hour
    assert found.days == pytest.approx(100 / 5 / 24)
    assert found.client_hours == pytest.approx(4e6 * CLIENT_S_PER_CALL / 3600)
    assert (found.store_bytes, found.choices, found.disk_bytes, found.memory_bytes) == (1e10, 4e6, 6e8, 2e10)
    assert found.recordings == 2  # 20 GB in portions of 16
    assert [count(number) for number in (0.333, 12_345, 1e6, 6e9, 1.24e12)] == [
        "0.33", "12,345", "10^6", "6 x 10^9", "1.24 x 10^12",
    ]  # fmt: skip
    assert [size(number) for number in (5e6, 5.63e10, 2e12, 3e15)] == ["5 MB", "56.3 GB", "2 TB", "3 PB"]


def test_live_overhead() -> None:
    table = run("live_overhead.py")
    for name in ("expander, tiers and environment", "response store and spend cap", "HTTP"):
        assert name in table


def test_decision_latency() -> None:
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("sklearn")
    table = run("decision_latency.py")
    rows = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    assert rows[-2:] == ["all_action", "maskable_ppo"]
    assert len(rows) == 8


def test_serve_load() -> None:
    for package in ("uvicorn", "starlette", "prometheus_client", "httpx", "torch"):
        pytest.importorskip(package)
    table = run("serve_load.py")
    assert table.count("through the router") == 3


def test_tracking_cost() -> None:
    for package in ("stable_baselines3", "tensorboard", "wandb"):
        pytest.importorskip(package)
    table = run("tracking_cost.py")
    rows = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    assert rows == ["none", "tensorboard", "wandb"]


def test_scale() -> None:
    pytest.importorskip("torch")
    table = run("scale.py", "--table", "sizes")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    phases = ["write", "import", "save", "load", "train knn", "train all_action", "evaluate"]
    assert [row[:2] for row in rows] == [[phase, "1,000"] for phase in phases], table


def test_scale_with_peers(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("sklearn")
    run("scale.py", "--table", "peers", "--out", str(tmp_path / "table.md"))
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    rows = {(row[0], row[1]): row[2:] for row in cells}
    for name in ("knn", "logistic", "matrix_factorization", "maskable_ppo", "all_action"):
        trainings, *_, own, mixed = rows[name, "routegym"]
        assert trainings == "1"
        assert 0 < float(own) <= float(mixed) <= 1
    assert rows["network, best arm", "scikit-learn"][0] == "7"  # one for each price
    best, random = float(rows["clairvoyant", ""][-1]), float(rows["arms alone, mixed at random", ""][-1])
    assert best > random
    assert all(float(row[-1]) <= best + 1e-9 for row in rows.values() if row[-1] != "-")
