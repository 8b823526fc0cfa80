from __future__ import annotations

import diagnostics
import numpy as np
import pytest
import torch as th

from routegym.errors import ConfigError
from routegym.policies import storage
from routegym.policies.algorithm import Problem
from routegym.policies.masrouter import MasRouter, MovingMeans
from routegym.policies.networks import make_actor

TINY = {"steps": 4096, "n_envs": 32, "hidden": (16,)}


@pytest.fixture(scope="module")
def problem():
    return Problem(diagnostics.build(diagnostics.Stopping()))


def test_moving_means_by_hand():
    """Budgets 1 to 256 in eight ranges of a factor of two, prices 0 to 0.4 in four; no cap is in the last range."""
    means = MovingMeans((1.0, 256.0), (0.0, 0.4), decay=0.75)
    budget, price = np.array([1.5, 1.5, 200.0, np.inf]), np.array([0.05, 0.05, 0.35, 0.4])
    before = means.update(budget, price, np.array([1.0, 3.0, 5.0, 7.0]))
    assert before.tolist() == [2.0, 2.0, 6.0, 6.0]  # set by the batch itself
    before = means.update(budget[:2], np.array([0.05, 0.15]), np.array([6.0, 1.0]))
    assert before.tolist() == [2.0, 1.0]
    before = means.update(budget[[0, 2]], price[[0, 2]], np.zeros(2))
    assert before.tolist() == [0.75 * 2 + 0.25 * 6, 6.0]


def test_gradient_is_reinforce(problem):
    """One update of plain SGD on the loss moves along the mean over episodes of advantage times the summed score."""
    algorithm = MasRouter(n_envs=2, ent_coef=0.0, max_grad_norm=1e9, hidden=(4,))
    th.manual_seed(0)
    actor = make_actor("mlp", (4,), problem.recording)
    before = [parameter.detach().clone() for parameter in actor.parameters()]
    observation, _ = problem.env(3).reset(seed=1)
    rows, actions = th.as_tensor(observation), th.tensor([0, 1, 1])
    advantages = th.tensor([2.0, 2.0, -1.0])  # two steps of the first episode, one of the second
    expected = th.autograd.grad(
        (advantages * actor(rows).log_softmax(1)[th.arange(3), actions]).sum() / 2, list(actor.parameters())
    )
    algorithm._update(actor, th.optim.SGD(actor.parameters(), lr=1.0), rows, actions, advantages)
    for old, new, gradient in zip(before, actor.parameters(), expected, strict=True):
        th.testing.assert_close(new.detach(), old + gradient)


def test_same_seed_same_policy(problem, tmp_path):
    made = [MasRouter(**TINY).fit(problem, seed) for seed in (3, 3, 4)]
    weights = [np.concatenate([a.ravel() for a in policy.to_state()[1].values()]) for policy in made]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
    storage.save_policies(tmp_path, problem.recording, {0: made[0]})
    observation, _ = problem.env(64).reset(seed=0)
    loaded = storage.load_policies(tmp_path, problem.recording)[0]
    assert (loaded.predict(observation)[0] == made[0].predict(observation)[0]).all()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"decay": 1.0}, "decay = 1.0"),
        ({"ent_coef": -0.1}, "ent_coef = -0.1"),
        ({"hidden": ()}, r"hidden = \(\)"),
        ({"network": "cnn"}, "network = 'cnn'"),
    ],
)
def test_bad_arguments(values, text, problem):
    with pytest.raises(ConfigError, match=text):
        MasRouter(**values).fit(problem)
