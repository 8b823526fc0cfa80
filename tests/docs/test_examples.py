"""The examples and the README's Python run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec as find
from pathlib import Path

import pytest
import yaml

from routegym import ENV_IDS, load_recording
from routegym.policies.config import hyperparameters, tuned
from routegym.policies.storage import load_policies

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, cwd: Path, quiet: bool = True) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (quiet and "Warn" in done.stderr)
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


def test_a_workflow_of_ones_own_trains(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/my_workflow.py"), "40", "8192", cwd=tmp_path)
    assert "ended with score 0." in shown
    found = re.findall(r"budget \S+ USD: score (\d\.\d+), always the dearest arm that can be paid (\d\.\d+)", shown)
    learned, dearest = ([float(pair[side]) for pair in found] for side in (0, 1))
    assert len(found) == 11
    assert sum(learned[:-2]) > sum(dearest[:-2])  # it keeps money for what is still to come


def test_a_pool_of_ones_own_is_recorded(tmp_path: Path) -> None:
    shown = run(str(ROOT / "docs/examples/my_pool.py"), "120", "20", cwd=tmp_path)
    assert "always expert  score 1.000" in shown
    assert re.search(r"[1-9]\d* calls brought no answer at first, 0 in the end", shown)
    assert len(re.findall(r"budget \S+ USD: score", shown)) == 11


def test_rllib_example_learns(tmp_path: Path) -> None:
    held = [re.search(r"gymnasium==([\d.]+).*rllib", text) for text in requires("ray") or ()] if find("ray") else []
    (wanted,) = {match[1] for match in held if match} or {""}
    if wanted != version("gymnasium") or not find("tree"):
        pytest.skip(f"RLlib takes gymnasium {wanted}, here is {version('gymnasium')}; docs/scripts.md: its environment")
    shown = run(str(ROOT / "docs/examples/rllib_ppo.py"), "16384", "1", cwd=tmp_path, quiet=False)
    rewards = [float(reward) for reward in re.findall(r"mean reward (-?\d\.\d+)", shown)]
    assert rewards[-1] > rewards[0]
    assert len(re.findall(r"budget \S+ USD: score", shown)) == 11
    recording = load_recording("cascade")
    assert load_policies(tmp_path / "runs/rllib", recording)[0].predict is not None


def test_rl_zoo_has_the_tuned_numbers() -> None:
    entries = yaml.safe_load((ROOT / "docs/examples/rl_zoo.yaml").read_text())
    assert set(entries) == {"default", *ENV_IDS}
    for env in ENV_IDS:
        ours, theirs = hyperparameters(tuned("ppo", env, {})), entries[env]
        assert theirs["n_timesteps"] == ours["steps"]
        assert theirs["n_envs"] * theirs["n_steps"] == ours["n_envs"] * ours["n_steps"]
        assert theirs["learning_rate"] == f"lin_{ours['learning_rate']}"
        for name in ("batch_size", "n_epochs", "gamma", "ent_coef"):
            assert theirs[name] == ours[name]


def test_rl_zoo_trains(tmp_path: Path) -> None:
    if not find("rl_zoo3"):
        pytest.skip("RL Zoo is not installed; docs/scripts.md says how its environment is made")
    words = ["--algo", "ppo", "--env", "routegym/Cascade-v0", "--gym-packages", "routegym", "-n", "16384"]
    words += ["-conf", str(ROOT / "docs/examples/rl_zoo.yaml"), "--eval-freq", "-1", "--seed", "0", "--device", "cpu"]
    shown = run("-m", "rl_zoo3.train", *words, cwd=tmp_path, quiet=False)
    assert re.search(r"ep_rew_mean +\| 0\.\d+", shown)
    assert list(tmp_path.glob("logs/ppo/routegym-Cascade-v0_1/routegym-Cascade-v0.zip"))


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


def test_the_serving_page_routes_and_reads_its_log(tmp_path: Path) -> None:
    """With the run that it trains, less of it, and a log of three scored routes."""
    for module in ("torch", "transformers", "prometheus_client"):
        pytest.importorskip(module)
    from routegym import load_router
    from routegym.pool import load_pool
    from routegym.serving.route_log import RouteLog
    from routegym.serving.service import Ask, Service

    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"routegym (train .* --out runs/mine)", page)
    run("-m", "routegym", *command.split(), "--set", "updates=2", "--seeds", "1", "--no-evaluate", cwd=tmp_path)
    routes, reading = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert re.fullmatch(r"\S* ?\d\.?\S* done\n", run("-c", routes, cwd=tmp_path))
    pool, folder = load_pool(), tmp_path / "runs" / "mine"
    with RouteLog(folder / "routes.jsonl") as log:
        service = Service(load_router(folder, pool=pool), pool, folder / "serve.spend", log=log)
        for prompt in ("58*7", "12*3", "99*9"):
            log.score(service.answer(Ask(prompt)).id, 1.0)
        service.answer(Ask("11+3"))
    pool.backend.close()
    assert run("-c", reading, cwd=tmp_path) == "3 scored routes; 1 without a score\n"


def test_links_in_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
