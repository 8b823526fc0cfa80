"""R-02 and R-03: the same seeds give the same bytes, in any process and in a batch of any size."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from routegym.core import RoutingEnv, RoutingVectorEnv

SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def actions_for(env: RoutingVectorEnv, numbers: Any) -> Any:
    return helpers.first_legal(env.action_masks(), np.asarray(numbers))


def digest_of(path: str, seeds: int, steps: int) -> str:
    """Hash of everything that an environment hands out over many seeds."""
    digest = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                digest.update(key.encode())
                take(value[key])
        elif isinstance(value, (tuple, list)):
            for part in value:
                take(part)
        elif isinstance(value, str):
            digest.update(value.encode())
        elif isinstance(value, np.ndarray) and value.dtype == object:
            take(value.tolist())
        else:
            digest.update(np.asarray(value).tobytes())

    env = RoutingVectorEnv(seeds, path, budget_usd="sampled", lambda_=(0.1, 2.0))
    take(env.reset(seed=list(range(seeds))))
    rng = np.random.default_rng(0)
    for _ in range(steps):
        take(env.step(actions_for(env, rng.integers(0, 1000, seeds))))
    return digest.hexdigest()


@pytest.mark.parametrize("kernels", [("auto", "auto"), ("auto", "numpy")])
@pytest.mark.parametrize("source", SOURCES)
def test_two_instances_agree_to_the_byte(
    recordings: dict[str, Path], source: str, kernels: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 seeds x 200 steps, observation, reward, ends and info; with compiled loops and without."""
    twins = []
    for kernel in kernels:
        monkeypatch.setenv("ROUTEGYM_KERNEL", kernel)
        twins.append(RoutingVectorEnv(100, recordings[source], budget_usd="sampled", lambda_=(0.0, 1.0)))
    seeds: Any = list(range(100))
    assert helpers.same(*(env.reset(seed=seeds) for env in twins))
    rng = np.random.default_rng(7)
    for _ in range(200):
        actions = actions_for(twins[0], rng.integers(0, 1000, 100))
        assert helpers.same(*(env.step(actions) for env in twins))


def test_reset_with_a_seed_forgets_the_past(recordings: dict[str, Path]) -> None:
    env = RoutingEnv(recordings["agent_steps_sampled"], budget_usd="sampled")
    for _ in range(3):
        env.reset()
        env.step(int(np.argmax(env.action_masks())))
    assert helpers.same(env.reset(seed=11), RoutingEnv(env.recording, budget_usd="sampled").reset(seed=11))


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_other_processes_agree(recordings: dict[str, Path], hash_seed: str) -> None:
    path = recordings["cascade_sampled"]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[2]);"
        "from test_determinism import digest_of; print(digest_of(sys.argv[3], 20, 50))"
    )
    here = Path(__file__).resolve()
    done = subprocess.run(
        [sys.executable, "-c", code, str(here.parents[1]), str(here.parent), str(path)],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest_of(str(path), 20, 50)


# -- vector == scalar --------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [*MODES, AutoresetMode.DISABLED])
@pytest.mark.parametrize("source", SOURCES)
def test_batch_equals_single_environments(
    recordings: dict[str, Path], source: str, mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slot i of a batch lives through the episodes of a single environment with seed i.

    Over all parameters far more than 1,000 episodes, compared step by step, with budgets and lambdas sampled.
    """
    count = 25
    settings: dict[str, Any] = {"budget_usd": "sampled", "lambda_": (0.0, 1.0)}
    batch = RoutingVectorEnv(count, recordings[source], autoreset_mode=mode, **settings)
    monkeypatch.setenv("ROUTEGYM_KERNEL", "numpy")
    singles = [RoutingEnv(recordings[source], **settings) for _ in range(count)]
    seeds: Any = list(range(100, 100 + count))
    observation, _ = batch.reset(seed=seeds)
    for slot, env in enumerate(singles):
        assert helpers.same(observation[slot], env.reset(seed=seeds[slot])[0])
    over = np.zeros(count, dtype=bool)
    rng = np.random.default_rng(1)
    episodes = 0
    for _ in range(30):
        if mode == AutoresetMode.DISABLED and over.any():
            observation, _ = batch.reset(options={"reset_mask": over})
            for slot in np.flatnonzero(over).tolist():
                assert helpers.same(observation[slot], singles[slot].reset()[0])
            over[:] = False
        actions = actions_for(batch, rng.integers(0, 1000, count))
        observation, reward, terminated, truncated, info = batch.step(actions)
        for slot, env in enumerate(singles):
            if over[slot]:  # NEXT_STEP: this step was the reset
                assert helpers.same(observation[slot], env.reset()[0])
                assert (reward[slot], terminated[slot], truncated[slot]) == (0.0, False, False)
                continue
            o, r, end, cut, facts = env.step(actions[slot])
            assert (float(reward[slot]), terminated[slot], truncated[slot]) == (r, end, cut)
            for name in ("cost_usd", "score", "arm", "completion_tokens"):
                assert info[name][slot] == facts[name]
            if mode == AutoresetMode.SAME_STEP and (end or cut):
                assert helpers.same(info["final_obs"][slot], o)
                assert info["final_info"]["cost_usd_total"][slot] == facts["cost_usd_total"]
                assert info["final_info"]["text"][slot] == facts["text"]
                o, facts_of_start = env.reset()
                assert info["task_id"][slot] == facts_of_start["task_id"]
            assert helpers.same(observation[slot], o)
        done = terminated | truncated
        episodes += int(done.sum())
        over = done if mode != AutoresetMode.SAME_STEP else over
    assert episodes > 60  # 18 parameters: more than 1,000 in all


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCES)
def test_a_slot_does_not_depend_on_the_batch_size(
    recordings: dict[str, Path], source: str, mode: AutoresetMode
) -> None:
    small, large = (RoutingVectorEnv(n, recordings[source], budget_usd="sampled", autoreset_mode=mode) for n in (3, 64))
    a, b = small.reset(seed=9)[0], large.reset(seed=9)[0]
    assert helpers.same(a, b[:3])
    rng = np.random.default_rng(2)
    for _ in range(60):
        actions = actions_for(large, rng.integers(0, 1000, 64))
        few, many = small.step(actions[:3]), large.step(actions)
        for x, y in zip(few[:4], many[:4], strict=True):
            assert helpers.same(x, y[:3])


def test_slot_0_of_a_batch_is_the_single_environment(recordings: dict[str, Path]) -> None:
    batch = RoutingVectorEnv(4, recordings["agent_steps"], budget_usd="sampled")
    single = RoutingEnv(recordings["agent_steps"], budget_usd="sampled")
    assert helpers.same(batch.reset(seed=5)[0][0], single.reset(seed=5)[0])


# -- groups ------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_groups_share_task_budget_and_lambda_but_not_answers(recordings: dict[str, Path], mode: AutoresetMode) -> None:
    env = RoutingVectorEnv(
        12, recordings["agent_steps_sampled"], budget_usd=(0.02, 0.03), lambda_=(0.0, 1.0), autoreset_mode=mode
    )
    _, info = env.reset(seed=1, options={"group_size": 4})
    episode = np.zeros(12, dtype=int)
    starts: list[list[Any]] = [[] for _ in range(12)]

    def note(slots: Any, info: dict[str, Any]) -> None:
        for slot in slots:
            starts[slot].append((info["task_id"][slot], info["budget_usd"][slot], env.lambda_[slot]))

    note(range(12), info)
    over = np.zeros(12, dtype=bool)
    different = False
    for _ in range(40):
        _, _, terminated, truncated, info = env.step(np.zeros(12, dtype=int))
        done = terminated | truncated
        note(np.flatnonzero(done if mode == AutoresetMode.SAME_STEP else over), info)
        different |= any(len(set(env.node[low : low + 4])) > 1 for low in (0, 4, 8))
        over = done
        episode += done
    assert episode.min() >= 3
    for low in (0, 4, 8):
        least = min(len(starts[slot]) for slot in range(low, low + 4))
        assert len({tuple(starts[slot][:least]) for slot in range(low, low + 4)}) == 1
    assert len({tuple(starts[slot][:2]) for slot in (0, 4, 8)}) == 3
    assert different, "the members of a group must draw their own answers"


def test_group_options_and_reset_mask(recordings: dict[str, Path]) -> None:
    env = RoutingVectorEnv(6, recordings["agent_steps"], autoreset_mode=AutoresetMode.DISABLED)
    _, info = env.reset(seed=0, options={"group_size": 3, "task_id": [1, 2], "budget_usd": [0.5, 0.7]})
    ids = env.recording.tasks.ids
    assert info["task_id"].tolist() == [ids[1]] * 3 + [ids[2]] * 3
    assert info["budget_usd"].tolist() == [0.5] * 3 + [0.7] * 3
    before = env.node.copy()
    mask = np.array([False, True, False, False, False, True])
    _, info = env.reset(options={"reset_mask": mask, "task_id": 4, "lambda": 2.0})
    assert info["task_id"][mask].tolist() == [ids[4]] * 2
    assert np.array_equal(env.node[~mask], before[~mask])
    assert env.lambda_.tolist() == [0.0, 2.0, 0.0, 0.0, 0.0, 2.0]
    assert np.isinf(env.ledger.budget_usd[mask]).all()
    assert env.ledger.budget_usd[~mask].tolist() == [0.5, 0.5, 0.7, 0.7]


def test_a_seed_with_a_mask_is_for_the_masked_slots(recordings: dict[str, Path]) -> None:
    env, fresh = (
        RoutingVectorEnv(6, recordings["agent_steps"], autoreset_mode=AutoresetMode.DISABLED) for _ in range(2)
    )
    before, _ = env.reset(seed=0)
    mask = np.array([False, True, False, False, True, True])
    after, _ = env.reset(seed=8, options={"reset_mask": mask})
    wanted, _ = fresh.reset(seed=8)
    assert helpers.same(after[mask], wanted[mask])
    assert helpers.same(after[~mask], before[~mask])


def test_a_fresh_start_brings_groups_together_again(recordings: dict[str, Path]) -> None:
    """Slots whose episodes differ in length reset themselves at different times, and then draw different tasks."""
    env = RoutingVectorEnv(32, recordings["agent_steps"], autoreset_mode="SameStep", budget_usd="sampled")
    env.reset(seed=3, options={"group_size": 8})
    apart = False
    for number in range(30):
        _, _, _, _, info = env.step(helpers.first_legal(env.action_masks(), np.arange(32) + number))
        apart |= any(len(set(block)) > 1 for block in info["task_id"].reshape(4, 8))
    assert apart
    _, info = env.reset(options={"group_size": 8})
    for name in ("task_id", "budget_usd"):
        assert all(len(set(block)) == 1 for block in info[name].reshape(4, 8))
