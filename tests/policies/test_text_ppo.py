"""PPO that reads: it learns what only the text tells, and is kept and loaded like any other policy."""

from __future__ import annotations

from pathlib import Path

import diagnostics
import numpy as np
import pytest
import torch as th

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.oracle import oracle_at_lambda
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.networks.text import make_text_actor, text_columns
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.text_ppo import TextPPO

TINY = {"n_envs": 128, "n_steps": 4, "batch_size": 256, "n_epochs": 4, "learning_rate": 3e-3, "hidden": (32,)}


def test_it_learns_what_only_the_text_tells(tmp_path: Path) -> None:
    recording = diagnostics.build(diagnostics.Credit(), length=1)
    problem = Problem(recording, None, 0.5)
    policy = TextPPO(steps=8_192, **TINY).fit(problem)  # type: ignore[arg-type]
    env = RoutingVectorEnv(2, recording, observation="text", lambda_=0.5)
    table = rollout(policy, env, np.arange(2), lambda_=0.5)
    reached = (table.score - 0.5 * table.cost_usd / recording.cost_scale_usd).mean()
    score, cost = oracle_at_lambda(recording.graph, np.arange(2), 0.5 / recording.cost_scale_usd)
    best = (score - 0.5 * cost / recording.cost_scale_usd).mean()
    assert reached >= 0.95 * best

    save_policies(tmp_path, recording, {0: policy})
    again = load_policies(tmp_path, recording)[0]
    observation, _ = env.reset(seed=0)
    assert (again.predict(observation)[0] == policy.predict(observation)[0]).all()


def test_padding_and_hand_made_signals_are_not_read() -> None:
    recording = diagnostics.build(diagnostics.Credit(), length=1)
    actor = make_text_actor(recording, 12, (16,))
    env = RoutingVectorEnv(2, recording, observation="text")
    observation, _ = env.reset(seed=0, options={"task_id": np.arange(2)})
    rows = th.as_tensor(text_columns(observation, 12))
    logits = actor(rows)
    alone = th.cat([actor(row[None]) for row in rows])
    assert th.allclose(logits, alone, atol=1e-6)
    longer = {"flat": np.repeat(observation["flat"], 2, axis=0), "text": np.repeat(observation["text"], 2)}
    longer["text"][1::2] = "a longer one"
    assert th.allclose(actor(th.as_tensor(text_columns(longer, 12)))[::2], logits, atol=1e-6)
    signals = rows.clone()
    signals[:, env.layout.columns["node_signals"]] = 0.7
    assert th.equal(actor(signals), logits)
    other = rows.clone()
    other[:, env.layout.width] = ord("x")
    assert not th.allclose(actor(other), logits)


def test_bytes_of_a_text_stand_behind_the_columns() -> None:
    rows = text_columns({"flat": np.zeros((2, 3), np.float32), "text": np.array(["é", "abcd"], dtype=object)}, 3)
    assert rows.dtype == np.float32
    assert rows[:, 3:].tolist() == [[0xC3, 0xA9, 0], [97, 98, 99]]


def test_it_is_named_by_its_place() -> None:
    found = tuned("routegym.policies.text_ppo:TextPPO", "routegym/Cascade-v0", {"length": 64})
    assert isinstance(found, TextPPO)
    for wrong in ({"network": "mlp"}, {"embedding_prior": 3.0}, {"length": 0}):
        with pytest.raises(ConfigError):
            TextPPO(**wrong)  # type: ignore[arg-type]
