"""What gymnasium and stable-baselines3 ask of an environment, for every registered id."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import helpers
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import routegym
from routegym.core import RoutingEnv, RoutingVectorEnv

FORMS = ("flat", "dict", "index", "text")
BUDGETS = (None, 1e6)  # the checkers sample actions without looking at masks: nothing may be out of reach


def play(env: Any, steps: int, seed: int) -> list[Any]:
    """Everything that an environment hands out on random legal actions, episodes one after another."""
    rng = np.random.default_rng(seed)
    seen = []
    over = env.unwrapped.vector._slots.ended[0]
    for _ in range(steps):
        if over:
            seen.append(env.reset())
        action = int(helpers.legal_actions(rng, env.unwrapped.action_masks()[None])[0])
        step = env.step(action)
        seen.append(step)
        over = step[2] or step[3]
    return seen


class Legal(gym.ActionWrapper[Any, Any, Any]):
    """What is not legal in a situation, whatever the budget, is replaced by the first action that is."""

    def action(self, action: Any) -> Any:
        env = self.unwrapped
        assert isinstance(env, RoutingEnv)
        masks = env.action_masks()
        return action if masks[action] else masks.argmax()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_gymnasium_check_env(env_id: str, source: dict[str, Any], form: str, budget: Any) -> None:
    env = gym.make(env_id, observation=form, budget_usd=budget, **source)
    assert isinstance(env.unwrapped, RoutingEnv)
    check_env(env.unwrapped)


@pytest.mark.parametrize("form", ["flat", "dict"])
def test_sb3_check_env(env_id: str, source: dict[str, Any], form: str) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    sb3_check_env(Legal(gym.make(env_id, observation=form, **source).unwrapped))


def test_sb3_make_vec_env(env_id: str, source: dict[str, Any]) -> None:
    """The way of stable-baselines3's own examples, which asks for pictures."""
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(env_id, n_envs=2, seed=0, env_kwargs=source)
    first = env.reset()
    env.step(np.zeros(2, dtype=int))
    assert len(first) == 2
    env.close()


@pytest.mark.parametrize("form", FORMS)
def test_passive_checker_stays_silent(env_id: str, source: dict[str, Any], form: str) -> None:
    """`gym.make` wraps in the passive checker; a warning is an error in this suite."""
    with gym.make(env_id, observation=form, budget_usd="sampled", **source) as env:
        env.reset(seed=0)
        for observation, *_ in play(env, 50, 0):
            assert observation in env.observation_space


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_identically(env_id: str, source: dict[str, Any], form: str, clone: Any) -> None:
    if not source:
        source = {"split": "val"}
    env = gym.make(env_id, observation=form, budget_usd="sampled", lambda_=(0.0, 1.0), **source)
    env.reset(seed=3)
    play(env, 7, 1)
    twin = clone(env)
    assert helpers.same(play(env, 40, 2), play(twin, 40, 2))


def test_vector_copies_continue_identically(env_id: str, source: dict[str, Any]) -> None:
    env = gym.make_vec(env_id, num_envs=5, budget_usd="sampled", **source)
    env.reset(seed=3)
    twin = pickle.loads(pickle.dumps(env))
    for seed in range(20):
        masks = env.action_masks()  # type: ignore[attr-defined]
        actions = helpers.legal_actions(np.random.default_rng(seed), masks)
        assert helpers.same(env.step(actions), twin.step(actions))


def test_lock_step_within_the_budget(env_id: str, source: dict[str, Any]) -> None:
    """R-02 and R-05 for every id: 100 seeds x 200 steps, equal to the byte and never above the cap."""
    settings: dict[str, Any] = {"budget_usd": "sampled", "lambda_": (0.0, 1.0), **source}
    twins = [gym.make_vec(env_id, num_envs=100, autoreset_mode="SameStep", **settings) for _ in range(2)]
    seeds: Any = list(range(100))
    a, b = (env.reset(seed=seeds) for env in twins)
    assert helpers.same(a, b)
    budget = a[1]["budget_usd"]
    rng = np.random.default_rng(0)
    for _ in range(200):
        masks = twins[0].unwrapped.action_masks()  # type: ignore[attr-defined]
        assert masks.any(axis=1).all()
        actions = helpers.legal_actions(rng, masks)
        a, b = (env.step(actions) for env in twins)
        assert helpers.same(a, b)
        info = a[4]
        assert (info.get("final_info", info)["cost_usd_total"] <= budget).all()
        budget = info["budget_usd"]


def test_spec_survives_json(env_id: str, source: dict[str, Any]) -> None:
    env = gym.make(env_id, observation="dict", budget_usd="sampled", **source)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert helpers.same(env.reset(seed=5), again.reset(seed=5))
    assert helpers.same(play(env, 30, 1), play(again, 30, 1))


@pytest.mark.parametrize("prefix", ["", "routegym:"])
def test_module_prefixed_id(env_id: str, source: dict[str, Any], prefix: str) -> None:
    env = gym.make(prefix + env_id, **source)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    vector = gym.make_vec(prefix + env_id, num_envs=2, vectorization_mode="vector_entry_point", **source)
    observations, _ = vector.reset(seed=0)
    assert observations in vector.observation_space


def test_make_vec_modes_agree(env_id: str, source: dict[str, Any]) -> None:
    """`sync` and the native batch give the same episodes for the same list of seeds."""
    native = gym.make_vec(env_id, num_envs=3, budget_usd="sampled", **source)
    sync = gym.make_vec(env_id, num_envs=3, vectorization_mode="sync", budget_usd="sampled", **source)
    batch = native.unwrapped
    assert isinstance(batch, RoutingVectorEnv)
    assert isinstance(sync, SyncVectorEnv)
    seeds: Any = [4, 5, 6]
    first = [env.reset(seed=seeds)[0] for env in (native, sync)]
    assert helpers.same(*first)
    for seed in range(30):
        actions = helpers.legal_actions(np.random.default_rng(seed), batch.action_masks())
        a, b = native.step(actions), sync.step(actions)
        assert helpers.same(a[:4], b[:4])


def test_make_vec_async(env_id: str, recordings: dict[str, Any]) -> None:
    kind = next(kind for kind, name in helpers.ID_OF_KIND.items() if name == env_id)
    source: Any = {"recording": str(recordings[kind])}
    native = gym.make_vec(env_id, num_envs=2, **source)
    asynchronous = gym.make_vec(env_id, num_envs=2, vectorization_mode="async", **source)
    try:
        assert isinstance(asynchronous, AsyncVectorEnv)
        seeds: Any = [4, 5]
        assert helpers.same(native.reset(seed=seeds)[0], asynchronous.reset(seed=seeds)[0])
        for seed in range(5):
            masks = native.unwrapped.action_masks()  # type: ignore[attr-defined]
            actions = helpers.legal_actions(np.random.default_rng(seed), masks)
            assert helpers.same(native.step(actions)[:4], asynchronous.step(actions)[:4])
    finally:
        asynchronous.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_gymnasium_vector_wrappers(env_id: str, source: dict[str, Any], mode: AutoresetMode) -> None:
    """Infos have the form that gymnasium's own wrappers read."""
    vector = gym.make_vec(env_id, num_envs=4, autoreset_mode=mode, **source)
    env = DictInfoToList(RecordEpisodeStatistics(vector))
    _, infos = env.reset(seed=0)
    assert [sorted(info) for info in infos] == [sorted(infos[0])] * 4
    finished = 0
    for seed in range(40):
        masks = vector.unwrapped.action_masks()  # type: ignore[attr-defined]
        _, _, terminated, truncated, infos = env.step(helpers.legal_actions(np.random.default_rng(seed), masks))
        for slot in np.flatnonzero(terminated | truncated):
            finished += 1
            assert infos[slot]["episode"]["l"] >= 1
    assert finished > 4


def test_spaces_are_bounded_and_named(env_id: str, source: dict[str, Any]) -> None:
    env = gym.make(env_id, **source).unwrapped
    assert isinstance(env, RoutingEnv)
    space = env.observation_space
    assert isinstance(space, gym.spaces.Box)
    assert space.shape == (len(env.layout.names),)
    assert len(set(env.layout.names)) == len(env.layout.names)
    groups = gym.make(env_id, observation="dict", **source).observation_space
    assert isinstance(groups, gym.spaces.Dict)
    assert set(groups) == {name for name, columns in env.layout.groups.items() if columns}
    assert isinstance(env.action_space, gym.spaces.Discrete)
    assert env.action_space.n == len(env.recording.action_names)


def test_text_observation(env_id: str, source: dict[str, Any]) -> None:
    """The flat observation, and the prompt with the text of the situation that `info` shows."""
    settings: dict[str, Any] = {"budget_usd": "sampled", "autoreset_mode": AutoresetMode.SAME_STEP, **source}
    flat, text = (gym.make_vec(env_id, num_envs=7, observation=form, **settings) for form in ("flat", "text"))
    batch = text.unwrapped
    assert isinstance(batch, RoutingVectorEnv)

    def expected(info: dict[str, Any]) -> list[str]:
        prompts = [batch.recording.tasks.prompts[batch.recording.task_index[task]] for task in info["task_id"]]
        return [p if p == t else f"{p}\n{t}" for p, t in zip(prompts, info["text"], strict=True)]

    (plain, _), (seen, info) = flat.reset(seed=1), text.reset(seed=1)
    finished = 0
    for seed in range(25):
        np.testing.assert_array_equal(seen["flat"], plain)
        assert seen["text"].tolist() == expected(info)
        assert seen in text.observation_space
        actions = helpers.legal_actions(np.random.default_rng(seed), batch.action_masks())
        (plain, *_), (seen, _, terminated, truncated, info) = flat.step(actions), text.step(actions)
        done = terminated | truncated
        if done.any():
            finished += int(done.sum())
            last = np.array(expected(info["final_info"]), dtype=object)
            assert info["final_obs"]["text"].tolist() == np.where(done, last, "").tolist()
    assert finished > 7


def test_text_space_holds_what_an_expander_may_add(recordings: dict[str, Any]) -> None:
    recording, expander = helpers.start("cascade", tasks=3)
    recording.fix_scales()
    env = RoutingEnv(recording, observation="text", expander=expander, split="all")
    env.reset(seed=0)
    for observation, *_ in (env.step(action) for action in (0, 1)):
        assert observation in env.observation_space


def test_docstring_is_a_specification(env_id: str) -> None:
    """Every env says the same things under the same headings."""
    env_class = gym.spec(env_id).entry_point
    assert isinstance(env_class, str)
    module, _, name = env_class.partition(":")
    text = getattr(__import__(module, fromlist=[name]), name).__doc__
    headings = [line.strip()[3:] for line in text.splitlines() if line.strip().startswith("## ")]
    assert headings == [
        "Description", "Situations", "Actions", "Observation", "Reward", "Episode end", "Arguments",
        "Version history",
    ]  # fmt: skip


def test_registration_is_idempotent() -> None:
    from routegym.registration import register_envs

    register_envs()
    assert set(routegym.ENV_IDS) <= set(gym.registry)
