"""Conservative Q-learning: its targets worked out by hand, and what it learns from logs alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from routegym.errors import ConfigError
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.cql import CQL
from routegym.policies.logs import EpisodeLog, collect, relabel
from routegym.policies.storage import load_policies, save_policies

TINY: dict[str, Any] = {"hidden": (32,), "updates": 600, "learning_rate": 1e-2, "batch_size": 256}


@pytest.fixture
def whole(toy: Any) -> tuple[Recording, EpisodeLog]:
    recording = toy()
    return recording, collect(Problem(recording, budget_usd=None), "random", 1500)


def test_targets_by_hand(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole
    log = log.take([int(np.flatnonzero(log.need_usd == 26.0)[0])])  # large, large, large
    learner: Any = CQL(trace=0.25)._learner(recording)

    class Fixed(th.nn.Module):
        """Q of the small arm is `small`, of the others 0."""

        def __init__(self, small: float) -> None:
            super().__init__()
            self.small = small

        def forward(self, seen: th.Tensor) -> th.Tensor:
            return th.tensor([0.0, self.small, 0.0]).expand(len(seen), 3)

    learner.actor, learner._target = Fixed(1.0), Fixed(0.4)  # the one chooses the small arm, the other values it
    shown = relabel(log, np.inf, 0.3)  # a call costs 0.3 * 8 / 24 = 0.1
    third = 1.0 - 0.1
    second = -0.1 + 0.75 * 0.4 + 0.25 * third
    first = -0.1 + 0.75 * 0.4 + 0.25 * second
    np.testing.assert_allclose(learner._returns(shown), [first, second, third], rtol=1e-6)
    cut = relabel(log, 25.0, 0.3)  # the third call cannot be paid, another one can
    np.testing.assert_allclose(learner._returns(cut)[:2], [-0.1 + 0.75 * 0.4 + 0.25 * 0.3, 0.3], rtol=1e-6)
    hard: Any = CQL(trace=0.25, penalty=5.0, cut="bankrupt")._learner(recording)
    hard.actor, hard._target = learner.actor, learner._target
    np.testing.assert_allclose(hard._returns(cut.with_cuts_as_bankrupt())[1], -5.1, rtol=1e-6)


def test_the_loss_by_hand(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, _ = whole
    learner: Any = CQL(alpha=0.5)._learner(recording)
    learner.actor = lambda _: th.tensor([[1.0, 0.0, -1e8]])  # the third action is illegal and counts nowhere
    loss = learner.loss(th.zeros(1, 1), th.tensor([1]), th.tensor([0.3]))
    assert float(loss) == pytest.approx(0.3**2 + 0.5 * math.log(math.e + 1), rel=1e-6)


def test_q_is_the_value_of_the_best_episode(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole
    policy = CQL(**TINY, trace=0.0, alpha=0.0).fit_log(log, Problem(recording, budget_usd=None, lambda_=0.0))
    env = Problem(recording, budget_usd=None, lambda_=0.0).env(1)
    observation, _ = env.reset(seed=0)
    q = policy.logits(observation).numpy()[0]
    # With the large arm thereafter: 3 of 3 calls, or 2 of 3 after another one; the end is all that is rewarded. A
    # situation shows only the last answer, so that its value is that of the mean count of earlier large calls.
    assert q.argmax() == 0
    assert q[0] - q[1] > 0.1
    assert abs(q[1] - q[2]) < 0.1
    assert 0.5 < q[0] < 1.1


def test_alpha_makes_it_cautious(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole
    seen = log.action == 1  # nothing but the small arm was ever done
    episodes = np.flatnonzero(np.bincount(log.episode, weights=~seen) == 0)
    small = log.take(np.repeat(episodes, 20))
    problem = Problem(recording, budget_usd=None, lambda_=0.0)
    policy = CQL(**TINY | {"updates": 200, "alpha": 1.0}).fit_log(small, problem)
    action, _ = policy.predict(small.observation, deterministic=True)
    assert (action == 1).all()  # what the log does not hold is not trusted


def test_it_minds_the_budget_it_was_never_logged_under(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole  # without a cap
    policy = CQL(**TINY).fit_log(log, Problem(recording, lambda_=(0.0, 3.0)))
    env = Problem(recording, split="all").env(1)
    for lambda_, expected in ((0.0, 0), (3.0, 1)):
        observation, _ = env.reset(seed=0, options={"budget_usd": 25.9, "lambda": lambda_})
        action, _ = policy.predict(observation, action_masks=env.action_masks(), deterministic=True)
        assert action[0] == expected


def test_it_can_be_kept(whole: tuple[Recording, EpisodeLog], tmp_path: Any) -> None:
    recording, log = whole
    policy = CQL(**TINY | {"updates": 20}).fit_log(log, Problem(recording))
    save_policies(tmp_path, recording, {0: policy})
    again: Any = load_policies(tmp_path, recording)[0]
    np.testing.assert_array_equal(again.logits(log.observation).numpy(), policy.logits(log.observation).numpy())


def test_bad_values() -> None:
    for change, message in (
        ({"alpha": -1.0}, "alpha = -1.0"),
        ({"trace": 1.5}, "trace = 1.5"),
        ({"penalty": math.nan}, "penalty = nan"),
        ({"cut": "drop"}, "cut = 'drop'"),
    ):
        with pytest.raises(ConfigError, match=message):
            CQL(**change)  # type: ignore[arg-type]
