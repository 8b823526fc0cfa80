"""Section 7: arguments, options and actions that make no sense get a typed error and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from routegym.core import RoutingEnv, RoutingVectorEnv
from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.envs.agent_steps import AgentStepsEnv
from routegym.errors import ActionError, ConfigError, RecordingError, RoutegymError, TaskError
from routegym.graph import Recording


@cache
def recording() -> Recording:
    return helpers.build("agent_steps", 20)


ARGUMENTS: list[tuple[dict[str, Any], type[RoutegymError], str]] = [
    ({"observation": "pixels"}, ConfigError, r"observation = 'pixels'; expected .*'flat', 'dict', 'index', 'text'"),
    ({"info": "none"}, ConfigError, r"info = 'none'; expected one of"),
    ({"render_mode": "3d"}, ConfigError, r"render_mode = '3d'; expected one of"),
    ({"reward": "money"}, ConfigError, r"reward = 'money'; expected one of"),
    ({"reward": None}, ConfigError, r"reward = None; expected one of"),
    ({"split": "exam"}, RecordingError, r"no task in split 'exam'; its splits are"),
    ({"lamda": 0.3}, ConfigError, r"keyword 'lamda' is not known; did you mean 'lambda_'\?"),
    ({"max_steps": 3}, ConfigError, r"keyword 'max_steps' is not known"),
    ({"expander": "live"}, ConfigError, r"expander"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), ARGUMENTS, ids=map(str, range(len(ARGUMENTS))))
@pytest.mark.parametrize("make", [RoutingEnv, lambda r, **k: RoutingVectorEnv(2, r, **k)], ids=["single", "batch"])
def test_arguments(
    make: Callable[..., Any], arguments: dict[str, Any], error: type[RoutegymError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(recording(), **arguments)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
def test_sizes(count: Any) -> None:
    with pytest.raises(ConfigError, match=r"num_envs = .*; expected"):
        RoutingVectorEnv(count, recording())


def test_autoreset_modes_by_name() -> None:
    assert RoutingVectorEnv(1, recording(), autoreset_mode="SameStep").autoreset_mode == AutoresetMode.SAME_STEP
    with pytest.raises(ConfigError, match="autoreset_mode = 'Never'; expected one of"):
        RoutingVectorEnv(1, recording(), autoreset_mode="Never")


def test_a_recording_of_another_family() -> None:
    with pytest.raises(ConfigError, match=r"is of kind 'cascade'; AgentStepsVectorEnv takes 'agent_steps'"):
        AgentStepsEnv(helpers.build("cascade", 3))
    with pytest.raises(ConfigError, match="needs a recording; name one"):
        RoutingEnv()
    with pytest.raises(RecordingError, match="expected a name"):
        AgentStepsEnv(5)  # type: ignore[arg-type]


def test_gym_make_passes_the_errors_on() -> None:
    with pytest.raises(ConfigError, match="keyword 'budget' is not known; did you mean 'budget_usd'"):
        gym.make("routegym/AgentSteps-v0", recording=recording(), budget=1.0)


OPTIONS: list[tuple[dict[str, Any], type[RoutegymError], str]] = [
    ({"task": 1}, ConfigError, r"reset option 'task' is not known; did you mean 'task_id'\?"),
    ({"task_id": "arith-00099"}, TaskError, r"task 'arith-00099' is not in recording 'agent_steps'; did you mean"),
    ({"task_id": "nobody"}, TaskError, r"task 'nobody' is not in recording"),
    ({"task_id": 20}, TaskError, r"task 20; expected an index below 20"),
    ({"task_id": -1}, TaskError, r"task -1; expected an index below 20"),
    ({"task_id": 1.5}, TaskError, r"task '1\.5'"),
    ({"task_id": [1, 2, 3]}, ConfigError, r"'task_id' has shape \(3,\); expected one value or 4"),
    ({"lambda": -1.0}, RoutegymError, r"lambda = -1\.0; expected a finite number >= 0"),
    ({"lambda": [1.0] * 3}, ConfigError, r"'lambda' has shape \(3,\)"),
    ({"budget_usd": [[1.0]]}, ConfigError, r"'budget_usd' has shape \(1, 1\)"),
    ({"group_size": 3}, ConfigError, r"group_size = 3; expected a divisor of num_envs = 4"),
    ({"group_size": 0}, ConfigError, r"group_size = 0"),
    ({"group_size": -2}, ConfigError, r"group_size = -2"),
    ({"group_size": 2.0}, ConfigError, r"group_size = 2\.0"),
    ({"group_size": "all"}, ConfigError, r"group_size = 'all'"),
    ({"reset_mask": [True]}, ConfigError, r"reset_mask must be 4 booleans"),
    ({"reset_mask": [1, 0, 0, 1]}, ConfigError, r"reset_mask must be 4 booleans"),
    ({"reset_mask": np.zeros(4, dtype=bool)}, ConfigError, r"at least one True"),
    ({"reset_mask": "all"}, ConfigError, r"reset_mask must be 4 booleans"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS, ids=map(str, range(len(OPTIONS))))
def test_reset_options(options: dict[str, Any], error: type[RoutegymError], message: str) -> None:
    env = RoutingVectorEnv(4, recording())
    env.reset(seed=0)
    before = [part.copy() for part in env._slots]
    with pytest.raises(error, match=message):
        env.reset(seed=1, options=options)
    assert helpers.same(before, env._slots)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", [1, 2], [1, 2, 3, -4], [1, 2, 3, "x"], [0.5] * 4])
def test_seeds(seed: Any) -> None:
    env = RoutingVectorEnv(4, recording())
    with pytest.raises(ConfigError, match="seed"):
        env.reset(seed=seed)


def test_the_first_reset_starts_everything() -> None:
    env = RoutingVectorEnv(2, recording())
    with pytest.raises(ConfigError, match="the first reset must start every episode"):
        env.reset(options={"reset_mask": np.array([True, False])})


ACTIONS: list[tuple[Any, str]] = [
    ([3, 0], r"action 3 is out of range; expected 0 to 2: m0/direct, m1/direct, m2/direct"),
    ([0, -1], r"action -1 is out of range"),
    ([0, 2**62], r"out of range"),
    ([0.0, 1.0], r"have shape \(2,\) and type float64; expected 2 integers"),
    ([True, False], r"type bool; expected 2 integers"),
    (["m0/direct", "m1/direct"], r"expected 2 integers"),
    ([0], r"have shape \(1,\)"),
    ([[0], [1]], r"have shape \(2, 1\)"),
    ([0, 1, 2], r"have shape \(3,\)"),
    ([[0], [1, 2]], r"expected 2 integers"),
    (1, r"have shape \(\)"),
    (None, r"expected 2 integers"),
    ([2**70, 0], r"expected 2 integers"),
]


@pytest.mark.parametrize(("actions", "message"), ACTIONS, ids=map(str, range(len(ACTIONS))))
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_actions(actions: Any, message: str, mode: AutoresetMode) -> None:
    env = RoutingVectorEnv(2, recording(), autoreset_mode=mode)
    env.reset(seed=0)
    before = [part.copy() for part in env._slots]
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    assert helpers.same(before, env._slots)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64, np.int64])
def test_integers_of_any_kind_are_actions(kind: Any) -> None:
    env = RoutingVectorEnv(2, recording())
    env.reset(seed=0)
    assert env.step(np.array([0, 1], dtype=kind))[4]["arm"].tolist() == [0, 1]


@pytest.mark.parametrize("action", [[0, 1], 1.0, "m0/direct", None, [[0]], np.array([0]), True, 3, -1])
def test_actions_of_a_single_environment(action: Any) -> None:
    env = RoutingEnv(recording())
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)
    env.step(np.int64(0))


def test_masked_actions_change_nothing_for_anyone() -> None:
    env = RoutingVectorEnv(2, recording())
    floor = float(recording().graph.arm_floor(recording().graph.task_start).max())
    env.reset(seed=0, options={"budget_usd": [floor, np.inf]})
    before = [part.copy() for part in env._slots]
    with pytest.raises(ActionError, match=r"slot 0: action 'm2/direct' is masked: it may cost up to 0\.\d+ USD and .*"
                                          r" left; choose among action_masks"):  # fmt: skip
        env.step([2, 2])
    assert helpers.same(before, env._slots)


def test_no_step_before_reset_or_after_the_end() -> None:
    env = RoutingEnv(recording())
    with pytest.raises(ActionError, match=r"step\(\) before reset\(\)"):
        env.step(0)
    env.reset(seed=0)
    while not (env.step(2)[2] or env.vector._slots.ended[0]):
        pass
    with pytest.raises(ActionError, match="the episode is over; call reset"):
        env.step(0)


def test_ended_slots_keep_still_in_disabled_mode() -> None:
    """Slots whose episode is over take any action, pay nothing and show their last observation."""
    env = RoutingVectorEnv(8, recording(), autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    last = None
    while not env._slots.ended.all():
        over = env._slots.ended.copy()
        actions = np.where(over, 99, 0)
        observation, reward, terminated, truncated, info = env.step(actions)
        for value in (reward, terminated, truncated, info["cost_usd"], info["score"], info["completion_tokens"]):
            assert not value[over].any()
        if last is not None:
            assert helpers.same(observation[over], last[over])
        last = observation


def test_sb3_adapter_needs_same_step() -> None:
    with pytest.raises(ConfigError, match=r"needs AutoresetMode\.SAME_STEP"):
        SB3RoutingVecEnv(RoutingVectorEnv(2, recording()))


def test_sb3_adapter_reports_what_monitor_reports() -> None:
    env = SB3RoutingVecEnv(RoutingVectorEnv(4, recording(), autoreset_mode=AutoresetMode.SAME_STEP, lambda_=1.0))
    env.seed(3)
    first = env.reset()
    assert first.shape == (4, *env.observation_space.shape)  # type: ignore[misc]
    rng = np.random.default_rng(0)
    total, length, finished = np.zeros(4), np.zeros(4, dtype=int), 0
    for _ in range(30):
        _, reward, done, infos = env.step(helpers.legal_actions(rng, env.action_masks()))
        total += reward
        length += 1
        for slot in np.flatnonzero(done):
            finished += 1
            episode = infos[slot]["episode"]
            assert (episode["r"], episode["l"]) == (pytest.approx(total[slot], abs=1e-5), length[slot])
            assert infos[slot]["terminal_observation"] in env.observation_space
            cost = infos[slot]["cost_usd_total"] / recording().cost_scale_usd
            assert episode["r"] == pytest.approx(infos[slot]["score"] - cost, abs=1e-9)
        total[done], length[done] = 0, 0
    assert finished > 10
    env.seed(3)
    assert helpers.same(first, env.reset())
    assert env.get_attr("num_envs") == [4] * 4
    assert np.array_equal(np.stack(env.env_method("action_masks")), env.action_masks())
    env.close()
