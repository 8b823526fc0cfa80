"""The examples and the README's Python run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warn" not in done.stderr
    return done.stdout


def test_sb3_example(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/sb3_ppo.py"), "2048", cwd=tmp_path)
    assert re.search(r"mean reward on test tasks: -?0\.\d+", shown)
    assert re.search(r"score [01], cost \$0\.\d+", shown)


def test_cleanrl_example_learns(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/cleanrl_a2c.py"), "200000", cwd=tmp_path)
    scores = [float(score) for score in re.findall(r"score (\d\.\d+)", shown)]
    assert sum(scores[-2:]) / 2 > sum(scores[:2]) / 2 + 0.1


def test_live_example(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/live_pool.py"), "10", cwd=tmp_path)
    assert "replaying them costs nothing" in shown


def test_mo_gymnasium_example(tmp_path: Path) -> None:
    pytest.importorskip("mo_gymnasium")
    shown = run(str(ROOT / "docs/examples/mo_gymnasium_weights.py"), "2048", cwd=tmp_path)
    costs = [float(cost) for cost in re.findall(r"cost (\d\.\d+) of the dearest", shown)]
    assert len(costs) == 3
    assert costs[0] > costs[2]  # nothing, and most, of the weight is on cost


def test_torchrl_example_learns(tmp_path: Path) -> None:
    pytest.importorskip("torchrl")
    shown = run(str(ROOT / "docs/examples/torchrl_ppo.py"), "16384", cwd=tmp_path)
    rewards = [float(reward) for reward in re.findall(r"mean reward (-?\d\.\d+)", shown)]
    assert len(rewards) == 8
    assert rewards[-1] > rewards[0] + 0.1


def test_tianshou_example(tmp_path: Path) -> None:
    pytest.importorskip("tianshou")
    shown = run(str(ROOT / "docs/examples/tianshou_ppo.py"), "2", cwd=tmp_path)
    (reward,) = re.findall(r"best mean reward on test tasks: (\d\.\d+)", shown)
    assert float(reward) > 0.5


def test_tracked_example(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/tracked_sb3.py"), "6000", cwd=tmp_path)
    assert re.search(r"step   6000: score 0\.\d+ at \$0\.\d+", shown)
    assert list(tmp_path.glob("runs/tracked/tensorboard/seed-0/events*"))
    last = json.loads((tmp_path / "runs/tracked/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6000
    assert last["loss"] > 0


def test_a_router_of_ones_own_plays(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/my_router.py"), cwd=tmp_path)
    assert len(re.findall(r"budget \S+ USD: score 0\.\d+ at 0\.\d+ USD", shown)) == 11


def test_trl_example(tmp_path: Path) -> None:
    for package in ("torch", "trl"):
        pytest.importorskip(package)
    from tiny_model import model_of, tokenizer_of

    tokenizer = tokenizer_of()
    model_of(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-W", "ignore", str(ROOT / "docs/examples/trl_grpo.py"), "model", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"score [01]\.\d+ at \$0\.\d+, 0 above the budget", done.stdout)


@pytest.mark.parametrize("page", ["README.md", "docs/routers.md", "docs/tracking.md"])
def test_python_blocks_run(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        run("-c", block, cwd=tmp_path)


def test_links_in_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
