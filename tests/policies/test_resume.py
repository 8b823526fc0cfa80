"""A fit that is interrupted and called again ends with the very parameters of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import interrupted
import numpy as np
import pytest

from routegym.policies.training import Training

_TINY_PPO: dict[str, Any] = {"steps": 8192, "n_envs": 32, "n_steps": 8, "batch_size": 128, "hidden": (16,)}

#: Hyperparameters that make a fit of several updates in about a second, by algorithm.
RESUMED: dict[str, dict[str, Any]] = {
    "bc": {"episodes": 2000, "updates": 400, "round_updates": 20, "batch_size": 128, "hidden": (16,)},
    "cql": {"episodes": 2000, "updates": 400, "round_updates": 20, "batch_size": 128, "hidden": (16,)},
    "masrouter": {"steps": 8192, "n_envs": 32, "hidden": (16,)},
    "ppo": _TINY_PPO,
    "maskable_ppo": _TINY_PPO,
    "recurrent_ppo": {**_TINY_PPO, "n_envs": 16, "steps": 2048, "lstm_units": 8},
    "ppo_lagrangian": _TINY_PPO,
    "grpo": {"steps": 4096, "n_envs": 64, "batch_size": 128, "hidden": (16,), "kl_coef": 0.1},
    "rloo": {"steps": 4096, "n_envs": 64, "batch_size": 128, "hidden": (16,)},
    "bopo": {"steps": 4096, "n_envs": 64, "batch_size": 128, "hidden": (16,), "sft_tasks": 64},
    "all_action": {"updates": 60, "tasks_per_update": 32, "hidden": (16,)},
}


_SLOW = (pytest.mark.slow, pytest.mark.timeout(600))


class _Interruption(Exception):
    pass


def killed(algorithm: str, folder: Path, kills: int) -> dict[str, Any]:
    order = {"algorithm": algorithm, "values": RESUMED[algorithm], "folder": str(folder), "kills": kills, "seed": 0}
    paths = os.pathsep.join([str(Path(interrupted.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, interrupted.__file__],
        input=json.dumps(order),
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    ("algorithm", "kills"),
    [
        ("maskable_ppo", 4),
        *(pytest.param(name, 20, marks=[pytest.mark.slow, pytest.mark.timeout(600)]) for name in RESUMED),
    ],
)
def test_kill_9_changes_nothing(algorithm: str, kills: int, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    found = killed(algorithm, folder, kills)
    assert found["resumed"] >= kills // 4
    assert set(found["ended"]) == {found["whole"]}


@pytest.mark.parametrize("algorithm", RESUMED)
def test_an_error_in_the_midst_changes_nothing(algorithm: str, tmp_path: Path) -> None:
    values = RESUMED[algorithm]
    records: list[Mapping[str, Any]] = []
    whole = interrupted.fit(algorithm, values, Training(report=records.append))
    assert len(records) >= 3

    left = int(np.random.default_rng(len(algorithm)).integers(len(records) // 2, len(records) - 1))

    def failing(_: Mapping[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Interruption

    with pytest.raises(_Interruption):
        interrupted.fit(algorithm, values, Training(tmp_path, failing, every_s=0))
    assert Training(tmp_path).latest() is not None
    seen: list[Mapping[str, Any]] = []
    assert interrupted.fit(algorithm, values, Training(tmp_path, seen.append, every_s=0)) == whole
    assert len(seen) < len(records)
