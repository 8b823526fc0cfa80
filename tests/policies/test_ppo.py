"""What is ours in the PPO family: masks by observation, memory, and what is kept of a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer

from routegym.core.observation import ObservationLayout
from routegym.core.rollout import rollout
from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.graph.recording import Recording
from routegym.policies.actor_critic import RecurrentActorCritic
from routegym.policies.algorithm import Problem
from routegym.policies.ppo import PPO, MaskablePPO, RecurrentPPO, _RecurrentModel
from routegym.policies.recurrent import RecurrentPolicy
from routegym.policies.storage import load_policies, save_policies

TINY: dict[str, Any] = {"steps": 512, "n_envs": 16, "n_steps": 8, "batch_size": 64, "hidden": (8,)}


def observations(recording: Recording, count: int, seed: int = 0) -> np.ndarray:
    """Random rows in which each action but one at most is legal by chance."""
    layout = ObservationLayout.of(recording)
    generator = np.random.default_rng(seed)
    rows = generator.random((count, layout.width), dtype=np.float32)
    legal = generator.random((count, len(layout.action_names))) < 0.5
    legal[np.arange(count), generator.integers(legal.shape[1], size=count)] = True
    rows[:, layout.columns["affordable"]] = legal
    return rows


@pytest.fixture
def recurrent(toy: Callable[..., Recording]) -> tuple[RecurrentActorCritic, RecurrentPolicy, Recording]:
    recording = toy(control=True)
    model = _RecurrentModel(
        RecurrentActorCritic,
        SB3RoutingVecEnv(Problem(recording).env(4)),
        policy_kwargs={"recording": recording, "hidden": (8,), "lstm_hidden_size": 5},
        n_steps=4,
        device="cpu",
        seed=0,
    )
    policy = model.policy
    assert isinstance(policy, RecurrentActorCritic)
    with th.no_grad():
        policy.mlp_extractor.actor.network[-1].weight.normal_()  # far from uniform
    return policy, policy.to_recurrent_policy(), recording


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO, RecurrentPPO])
def test_plays_legally_without_being_told_masks(algorithm: Any, toy: Callable[..., Recording]) -> None:
    recording = toy()
    policy = algorithm(**TINY).fit(Problem(recording), 0)
    rows = observations(recording, 200)
    legal = rows[:, ObservationLayout.of(recording).columns["affordable"]] > 0.5
    for deterministic in (True, False):
        actions, _ = policy.predict(rows, None, np.ones(200, dtype=bool), deterministic)
        assert legal[np.arange(200), actions].all()


def test_the_saved_memory_gives_the_logits_of_the_trained_one(
    recurrent: tuple[RecurrentActorCritic, RecurrentPolicy, Recording],
) -> None:
    trained, policy, recording = recurrent
    memory = th.zeros(1, 6, 5), th.zeros(1, 6, 5)
    state = None
    generator = np.random.default_rng(1)
    for step in range(5):
        rows = observations(recording, 6, step)
        start = np.ones(6, dtype=bool) if step == 0 else generator.random(6) < 0.4
        with th.no_grad():
            distribution, memory = trained.get_distribution(
                th.as_tensor(rows), memory, th.as_tensor(start, dtype=th.float32)
            )
        logits, state = policy.logits(rows, state, start)
        np.testing.assert_allclose(
            logits.softmax(dim=-1).numpy(), distribution.distribution.probs.numpy(), rtol=1e-5, atol=1e-7
        )


def test_memory_is_carried_and_is_lost_at_an_episodes_start(
    recurrent: tuple[RecurrentActorCritic, RecurrentPolicy, Recording],
) -> None:
    _, policy, recording = recurrent
    first, second = observations(recording, 3, 0), observations(recording, 3, 1)
    fresh, _ = policy.logits(second)
    _, state = policy.logits(first)
    after, _ = policy.logits(second, state, np.array([False, True, False]))
    np.testing.assert_array_equal(after[1], fresh[1])
    for row in (0, 2):
        assert not np.array_equal(after[row], fresh[row])
    _, kept = policy.predict(first)
    np.testing.assert_array_equal(policy.logits(second, kept, None)[0][1], policy.logits(second, state)[0][1])
    assert not np.array_equal(policy.logits(second, kept, None)[0][1], fresh[1])


def test_a_recurrent_policy_is_the_same_after_saving(
    recurrent: tuple[RecurrentActorCritic, RecurrentPolicy, Recording], tmp_path: Path
) -> None:
    _, policy, recording = recurrent
    save_policies(tmp_path, recording, {3: policy})
    loaded = load_policies(tmp_path, recording)[3]
    env = RoutingVectorEnv(4, recording, autoreset_mode="SameStep", split="all")
    tables = [rollout(p, env, np.arange(4), budget_usd=14.0, deterministic=False) for p in (policy, loaded)]
    np.testing.assert_array_equal(tables[0].arm_counts, tables[1].arm_counts)
    assert not tables[0].violations.any()
    assert isinstance(loaded, RecurrentPolicy)
    rows = observations(recording, 50)
    np.testing.assert_array_equal(policy.logits(rows)[0], loaded.logits(rows)[0])


def test_minibatches_are_padded_as_sb3_contrib_does(toy: Callable[..., Recording]) -> None:
    recording = toy()
    model = _RecurrentModel(
        RecurrentActorCritic,
        SB3RoutingVecEnv(Problem(recording).env(4)),
        policy_kwargs={"recording": recording, "hidden": (8,), "lstm_hidden_size": 5},
        n_steps=7,
        batch_size=28,
        n_epochs=1,
        seed=0,
        device="cpu",
    )
    model.learn(28)
    ours = model.rollout_buffer
    theirs = copy.copy(ours)
    theirs.__class__ = RecurrentRolloutBuffer
    np.random.seed(0)  # noqa: NPY002 the buffers draw from it
    mine = list(ours.get(11))
    np.random.seed(0)  # noqa: NPY002
    reference = list(theirs.get(11))
    assert len(mine) == len(reference) == 3
    for one, other in zip(mine, reference, strict=True):
        for name in one._fields:
            pair = (getattr(one, name), getattr(other, name))
            if name == "lstm_states":
                pair = tuple((*memory.pi, *memory.vf) for memory in pair)
            for a, b in zip(*pair, strict=True) if isinstance(pair[0], tuple) else [pair]:
                assert a.shape == b.shape, name
                np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    assert any(one.lstm_states.pi[0].any() for one in mine)


@pytest.mark.parametrize(
    ("algorithm", "values", "message"),
    [
        (PPO, {"steps": 0}, r"steps = 0; expected a number > 0"),
        (PPO, {"batch_size": 1000}, r"batch_size = 1000 does not divide n_envs x n_steps = 8192"),
        (PPO, {"hidden": ()}, r"hidden = \(\); expected at least one width"),
        (RecurrentPPO, {"lstm_units": 0}, r"lstm_units = 0; expected an integer >= 1"),
        (RecurrentPPO, {"network": "attention"}, r"network = 'attention'; recurrent_ppo has one of its own"),
    ],
)
def test_wrong_values_are_told(algorithm: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm(**values)
