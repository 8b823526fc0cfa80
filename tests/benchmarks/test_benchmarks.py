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
