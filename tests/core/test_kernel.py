"""The compiled kernel and the numpy one give the same bytes, and refuse the same things."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from routegym.core import RoutingVectorEnv, kernels
from routegym.errors import ActionError, BudgetError, ConfigError, MissingEdgeError, MissingExtraError
from routegym.graph import Recording

SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]


def make(monkeypatch: pytest.MonkeyPatch, kernel: str, recording: Recording, **kwargs: Any) -> RoutingVectorEnv:
    monkeypatch.setenv("ROUTEGYM_KERNEL", kernel)
    return RoutingVectorEnv(kwargs.pop("num_envs", 37), recording, **kwargs)


def pair(monkeypatch: pytest.MonkeyPatch, recording: Recording, **kwargs: Any) -> tuple[RoutingVectorEnv, ...]:
    pytest.importorskip("numba")
    return tuple(make(monkeypatch, kernel, recording, **kwargs) for kernel in ("numpy", "numba"))


def state(env: RoutingVectorEnv) -> bytes:
    return pickle.dumps([column.tobytes() for column in env._slots])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_agree(
    monkeypatch: pytest.MonkeyPatch, recordings: dict[str, Path], source: str, mode: AutoresetMode
) -> None:
    recording = Recording.load(recordings[source])
    rng = np.random.default_rng(5)
    ended = 0
    for observation, budget, info, copy in (
        ("flat", "sampled", "full", True),
        ("flat", None, "lean", False),
        ("dict", "sampled", "lean", True),
        ("index", "sampled", "lean", False),
    ):
        envs = pair(
            monkeypatch,
            recording,
            observation=observation,
            budget_usd=budget,
            lambda_=(0.0, 2.0),
            autoreset_mode=mode,
            info=info,
            copy=copy,
        )
        results = [env.reset(seed=11) for env in envs]
        assert helpers.same(*results)
        over = np.zeros(envs[0].num_envs, dtype=bool)
        for _ in range(25):
            masks = [env.action_masks() for env in envs]
            assert helpers.same(*masks)
            actions = helpers.legal_actions(rng, masks[0])
            actions[over & (rng.random(len(over)) < 0.5)] = 99  # not looked at where an episode is over
            results = [env.step(actions) for env in envs]
            assert helpers.same(*results)
            assert state(envs[0]) == state(envs[1])
            done = results[0][2] | results[0][3]
            ended += int(done.sum())
            if mode == AutoresetMode.NEXT_STEP:
                over = done
            elif mode == AutoresetMode.DISABLED:
                over |= done
                if over.mean() > 0.4:
                    options = {"reset_mask": over}
                    assert helpers.same(*[env.reset(options=options) for env in envs])
                    over = np.zeros_like(over)
    assert ended > 200


@pytest.mark.parametrize("source", ["agent_steps", "cascade_sampled"])
def test_kernels_agree_in_groups(monkeypatch: pytest.MonkeyPatch, recordings: dict[str, Path], source: str) -> None:
    recording = Recording.load(recordings[source])
    envs = pair(monkeypatch, recording, num_envs=12, budget_usd="sampled", autoreset_mode=AutoresetMode.SAME_STEP)
    assert helpers.same(*[env.reset(seed=2, options={"group_size": 4}) for env in envs])
    rng = np.random.default_rng(0)
    for _ in range(15):
        actions = helpers.legal_actions(rng, envs[0].action_masks())
        assert helpers.same(*[env.step(actions) for env in envs])


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("bad", [-1, 3, 2**40, "masked"])
def test_a_refused_step_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, recordings: dict[str, Path], kernel: str, bad: Any
) -> None:
    if kernel == "numba":
        pytest.importorskip("numba")
    recording = Recording.load(recordings["agent_steps"])
    floor = float(recording.graph.node_floor[recording.graph.task_start].max())
    env = make(monkeypatch, kernel, recording, num_envs=5)
    env.reset(seed=0, options={"budget_usd": floor})
    masks = env.action_masks()
    actions = np.argmax(masks, axis=1)
    slot = 3
    actions[slot] = int(np.argmin(masks[slot])) if bad == "masked" else bad
    before = state(env)
    with pytest.raises(ActionError, match="masked" if bad == "masked" else f"action {bad} is out of range"):
        env.step(actions)
    assert state(env) == before
    actions[slot] = int(np.argmax(masks[slot]))
    env.step(actions)
    assert state(env) != before


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_missing_edges_and_low_reserves_are_told(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    if kernel == "numba":
        pytest.importorskip("numba")
    recording = helpers.hand_made(
        [(0, None), (1, 1.0)], [helpers.Edge(0, 0, 1, tokens=4)], limits=(10, 10), complete=False
    )
    env = make(monkeypatch, kernel, recording, num_envs=2)
    env.reset(seed=0)
    before = state(env)
    with pytest.raises(MissingEdgeError, match="node 0, arm 'a1/t'"):
        env.step([0, 1])
    recording.graph.edges["cost_usd"] = 1.0  # dearer than what is reserved for it
    with pytest.raises(BudgetError, match="worst case of its arm is too low"):
        env.step([0, 0])
    assert state(env) == before


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_kernels_grow_the_same_recording(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pytest.importorskip("numba")
    results = []
    for kernel in ("numpy", "numba"):
        recording, expander = helpers.start(kind, tasks=20)
        recording.fix_scales()
        env = make(
            monkeypatch, kernel, recording, expander=expander, autoreset_mode=AutoresetMode.SAME_STEP, info="lean"
        )
        trace = [env.reset(seed=4)]
        rng = np.random.default_rng(1)
        for _ in range(12):
            trace.append(env.step(helpers.legal_actions(rng, env.action_masks())))  # type: ignore[arg-type]
        results.append((trace, recording.graph.edges.copy()))
    assert helpers.same(results[0][0], results[1][0])
    assert results[0][1].tobytes() == results[1][1].tobytes()


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    monkeypatch.delenv("ROUTEGYM_KERNEL", raising=False)
    assert kernels.choose() == "numba"
    monkeypatch.setenv("ROUTEGYM_KERNEL", "numpy")
    assert kernels.choose() == "numpy"
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    monkeypatch.setenv("ROUTEGYM_KERNEL", "auto")
    assert kernels.choose() == "numpy"
    monkeypatch.setenv("ROUTEGYM_KERNEL", "numba")
    with pytest.raises(MissingExtraError, match=r"routegym\[fast\]"):
        kernels.choose()
    monkeypatch.setenv("ROUTEGYM_KERNEL", "cython")
    with pytest.raises(ConfigError, match="expected 'numpy', 'numba' or 'auto'"):
        kernels.choose()


def test_environments_share_their_tables(recordings: dict[str, Path]) -> None:
    """64 single environments of one recording hold its features once."""
    recording = Recording.load(recordings["agent_steps"])
    envs = [RoutingVectorEnv(1, recording) for _ in range(3)]
    for env in envs:
        env.reset(seed=0)
    assert len({id(env._tables) for env in envs}) == 1
    copy = pickle.loads(pickle.dumps(envs[0]))
    assert helpers.same(copy.step([0]), envs[0].step([0]))
