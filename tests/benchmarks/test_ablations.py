"""The ablations run, and their tables have every row; what they measure here means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import helpers
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("script", "option", "row"),
    [
        ("ablate_collapse.py", None, "floor"),
        ("ablate_conditioning.py", "--recording", "AIQ of the frontier"),
        ("ablate_embedding_prior.py --folds 2 --policies all_action maskable_ppo grpo", None, "smol_cascade: grpo"),
        ("ablate_oracle_targets.py", "--recordings", "hidden"),
        ("ablate_relabelling.py", "--recording", "cql"),
        ("ablate_watching.py", "--recording", "fixed_cascade"),
        ("train_speed.py", "--recording", "grpo"),
        ("unseen_arm.py", "--recording", "m1"),
        ("unseen_arm.py --folds 2", "--recording", "2 folds"),
    ],
)
def test_a_quick_run_prints_its_table(script: str, option: str | None, row: str, tmp_path: Path) -> None:
    name, *further = script.split()
    command = [sys.executable, str(ROOT / "benchmarks" / name), *further, "--quick"]
    if option is not None:
        kind = "attempts" if script == "ablate_watching.py" else "agent_steps"
        command += [option, str(helpers.build(kind, 60).save(tmp_path / kind))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    assert row in " ".join(result.stdout.split())  # notes are broken into lines
