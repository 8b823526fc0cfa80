"""Behaviour cloning copies the best of what was logged, for every budget and price."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.bc import BC
from routegym.policies.logs import EpisodeLog, collect
from routegym.policies.storage import load_policies, save_policies

TINY: dict[str, Any] = {
    "hidden": (16,), "updates": 200, "learning_rate": 1e-2, "batch_size": 256,
    "candidates": 30, "temperature": 0.0,
}  # fmt: skip


def first_action(policy: Any, recording: Recording, budget: float, lambda_: float) -> str:
    """What the policy does first under a budget in USD and a price."""
    env = Problem(recording, split="all").env(1)
    observation, _ = env.reset(seed=0, options={"task_id": 0, "budget_usd": budget, "lambda": lambda_})
    action, _ = policy.predict(observation, action_masks=env.action_masks(), deterministic=True)
    return ObservationLayout.of(recording).action_names[int(action[0])].removesuffix("/direct")


@pytest.fixture
def whole(toy: Any) -> tuple[Recording, EpisodeLog]:

    recording = toy()
    return recording, collect(Problem(recording, budget_usd=None), "random", 1500)


def test_it_copies_the_best_episode_that_the_budget_pays_for(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole  # score = share of the large arm, which costs 8 of 24 a call; the small one costs 1
    for budget, lambda_, expected in (
        (26.0, 0.0, "large"),  # three large calls score 1
        (6.0, 0.0, "small"),  # 2 + 2 + 2 is all that is sure to be paid, and a large call is not
        (26.0, 2.0, "small"),  # a large call brings 1/3 and costs 7/24 more than a small one: not at twice the price
        (26.0, 0.5, "large"),
    ):
        problem = Problem(recording, budget_usd=budget, lambda_=lambda_)
        policy = BC(**TINY, failures=True).fit_log(log, problem)
        assert first_action(policy, recording, budget, lambda_) == expected, (budget, lambda_)


def test_one_policy_serves_every_budget_and_price(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole
    policy = BC(**TINY | {"updates": 1500}, failures=True).fit_log(log, Problem(recording, lambda_=(0.0, 3.0)))
    assert first_action(policy, recording, 25.9, 0.0) == "large"
    assert first_action(policy, recording, 25.9, 3.0) == "small"
    assert first_action(policy, recording, 6.0, 0.0) == "small"


def test_without_relabelling_budgets_are_those_of_the_log(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole  # played without a budget: the policy knows nothing of small ones
    policy = BC(**TINY, relabelling=False).fit_log(log, Problem(recording, budget_usd=6.0, lambda_=0.0))
    assert first_action(policy, recording, 12.0, 0.0) == "large"


def test_it_can_be_kept(whole: tuple[Recording, EpisodeLog], tmp_path: Any) -> None:
    recording, log = whole
    policy = BC(**TINY | {"updates": 20}).fit_log(log, Problem(recording))
    save_policies(tmp_path, recording, {0: policy})
    again: Any = load_policies(tmp_path, recording)[0]
    np.testing.assert_array_equal(again.logits(log.observation).numpy(), policy.logits(log.observation).numpy())


def test_the_seed_fixes_it(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, _ = whole
    fits = [
        BC(**TINY | {"updates": 20, "episodes": 200}).fit(Problem(recording), seed).to_state()[1] for seed in (1, 1, 2)
    ]
    for name in fits[0]:
        np.testing.assert_array_equal(fits[0][name], fits[1][name])
    assert any((fits[0][name] != fits[2][name]).any() for name in fits[0])


def test_bad_values(whole: tuple[Recording, EpisodeLog]) -> None:
    recording, log = whole
    for change, message in (
        ({"candidates": 0}, "candidates = 0"),
        ({"updates": 0}, "updates = 0"),
        ({"behaviour": "best"}, "log with `collect` and call `fit_log`"),
        ({"epsilon": -0.1}, "epsilon = -0.1"),
        ({"hidden": ()}, "hidden"),
        ({"round_updates": 0}, "round_updates = 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            BC(**change)  # type: ignore[arg-type]
    worthless = log.take(np.flatnonzero(log.score == 0))
    with pytest.raises(ConfigError, match="no success that a drawn budget"):
        BC(**TINY).fit_log(worthless, Problem(recording))
