"""The script that makes the shipped recordings: same input, same files, and it says when one differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from routegym.graph.library import load_recording
from routegym.graph.recording import Recording

ROOT = Path(__file__).resolve().parents[2]


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/build_recordings.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=ROOT)


def test_a_rebuilt_recording_is_identical_and_a_changed_one_is_named(tmp_path: Path) -> None:
    arguments = ("--kinds", "single_call", "cascade", "--tasks", "6", "--out", str(tmp_path))
    assert build(*arguments).returncode == 0
    again = build(*arguments, "--check")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("identical to") == 2

    shutil.rmtree(tmp_path / "single_call")
    assert build("--kinds", "single_call", "--tasks", "5", "--out", str(tmp_path)).returncode == 0
    before = (tmp_path / "single_call" / "meta.json").read_bytes()
    changed = build(*arguments, "--check")
    assert changed.returncode == 1
    assert "other tasks" in changed.stdout
    assert (tmp_path / "single_call" / "meta.json").read_bytes() == before


def test_shipped_single_calls_can_be_rebuilt(tmp_path: Path) -> None:
    """The same tasks and, on the machine that recorded them, the same answers."""
    assert build("--kinds", "single_call", "--out", str(tmp_path)).returncode == 0
    fresh, shipped = Recording.load(tmp_path / "single_call"), load_recording("single_call")
    assert fresh.tasks == shipped.tasks
    assert fresh.arms == shipped.arms
    same = [a == b for a, b in zip(fresh.texts, shipped.texts, strict=False)]
    assert sum(same) / len(same) > 0.99  # float64 rounding of another machine may tip an answer
