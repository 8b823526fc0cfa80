"""GRPO and RLOO: advantages worked out by hand, whole groups, the divergence, bad input."""

from __future__ import annotations

from math import log, sqrt

import diagnostics
import numpy as np
import pytest
import torch as th

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.grpo import (
    GRPO,
    RLOO,
    Episodes,
    empty_episodes,
    grpo_advantages,
    k3,
    play,
    rloo_advantages,
    without_failures,
)
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import make_actor
from routegym.policies.training import Training

TINY = {"steps": 2000, "n_envs": 64, "group_size": 4, "batch_size": 128, "hidden": (8,)}

# Two groups of four. With lambda 0.5 the rewards are 0.9, -0.3, 0.8, -0.2 and 0.6, 0.6, 0.6, 0.6.
SCORE = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
COST = [0.2, 0.6, 0.4, 0.4, 0.8, 0.8, 0.8, 0.8]
LAMBDA = [0.5] * 8


def test_grpo_by_hand() -> None:
    """The mean is 0.3, the deviations 0.6, -0.6, 0.5, -0.5: std = sqrt((0.36 + 0.25) / 2)."""
    found = grpo_advantages(SCORE, COST, LAMBDA, 4)
    unit = sqrt(0.305) + 1e-4
    np.testing.assert_allclose(found, [0.6 / unit, -0.6 / unit, 0.5 / unit, -0.5 / unit, 0, 0, 0, 0], atol=1e-12)


def test_dr_grpo_by_hand() -> None:
    found = grpo_advantages(SCORE, COST, LAMBDA, 4, "none")
    np.testing.assert_allclose(found, [0.6, -0.6, 0.5, -0.5, 0, 0, 0, 0], atol=1e-12)


def test_per_term_by_hand() -> None:
    """Score: mean 0.5, std 0.5. Cost: mean 0.4, std sqrt(0.02). The second group has no spread in either."""
    z, c = 0.5 / 0.5001, 0.2 / (sqrt(0.02) + 1e-4)
    mixed = np.array([z + c / 2, -z - c / 2, z, -z, 0, 0, 0, 0])
    expected = mixed / (sqrt((mixed**2).sum() / 8) + 1e-4)
    np.testing.assert_allclose(grpo_advantages(SCORE, COST, LAMBDA, 4, "per_term"), expected, atol=1e-12)


def test_per_term_hears_a_quiet_term_where_std_does_not() -> None:
    """Equal scores' gain of 1 against a hundredth of cost: after z-scoring only lambda weighs the two."""
    score, cost, lambda_ = [1.0, 1.0, 0.0, 0.0], [0.01, 0.0, 0.01, 0.0], [0.5] * 4
    std, per_term = (grpo_advantages(score, cost, lambda_, 4, scale) for scale in ("std", "per_term"))
    assert (std[1] - std[0]) / (std[0] - std[2]) == pytest.approx(0.005, rel=1e-6)
    assert (per_term[1] - per_term[0]) / (per_term[0] - per_term[2]) == pytest.approx(0.5, rel=0.03)


def test_rloo_by_hand() -> None:
    """0.9 against the mean of -0.3, 0.8, -0.2, that is 0.1; -0.3 against 0.5; and so on."""
    found = rloo_advantages(SCORE, COST, LAMBDA, 4)
    np.testing.assert_allclose(found, [0.8, -0.8, 2 / 3, -2 / 3, 0, 0, 0, 0], atol=1e-12)


FORMS = {
    "std": lambda *a: grpo_advantages(*a, "std"),
    "none": lambda *a: grpo_advantages(*a, "none"),
    "per_term": lambda *a: grpo_advantages(*a, "per_term"),
    "rloo": rloo_advantages,
}


@pytest.mark.parametrize("form", FORMS)
def test_invariants(form: str) -> None:
    """A constant added to a group changes nothing, equal rewards give zero, and a group sums to zero."""
    rng = np.random.default_rng(0)
    score, cost, lambda_ = rng.random(32), rng.random(32), np.repeat(rng.random(4), 8)
    found = FORMS[form](score, cost, lambda_, 8)
    moved = FORMS[form](score + np.repeat(rng.normal(size=4), 8), cost + np.repeat(rng.normal(size=4), 8), lambda_, 8)
    np.testing.assert_allclose(moved, found, atol=1e-9)
    np.testing.assert_allclose(found.reshape(4, 8).sum(axis=1), 0, atol=1e-9)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(FORMS[form](np.full(32, 0.3), np.full(32, 0.7), lambda_, 8), 0, atol=1e-9)


def test_k3_by_hand_and_its_mean() -> None:
    """Its mean over samples of p is KL(p || q): 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75)."""
    p, q = th.tensor([0.5, 0.5]).log(), th.tensor([0.25, 0.75]).log()
    values = k3(p, q)
    np.testing.assert_allclose(values, [0.5 - log(0.5) - 1, 1.5 - log(1.5) - 1], atol=1e-6)
    assert float((p.exp() * values).sum()) == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), abs=1e-6)
    assert k3(p, p).abs().max() == 0


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_groups_are_whole_and_alike(mode: str) -> None:
    """Stopping ends routes after 1 to 4 calls; every slot gets one episode, groups share task, budget and lambda."""
    recording = diagnostics.build(diagnostics.Stopping())
    env = RoutingVectorEnv(
        64, recording, budget_usd=(8.0, 20.0), lambda_=(0.0, 0.5), autoreset_mode=mode, info="lean", split="train"
    )
    rng = np.random.default_rng(0)
    legal = slice(*env.layout.columns["affordable"].indices(99)[:2])
    lengths = []
    for seed in (0, 1):
        episodes = empty_episodes(64)
        ended = np.zeros(64, dtype=int)

        def act(observation, slots):
            masks = observation[:, legal] > 0.5
            return (rng.random(masks.shape) * masks).argmax(axis=1), np.zeros(len(slots), dtype=np.float32)

        for step in play(env, act, seed, 8, episodes):
            assert not ended[step.slots].any()
            ended[step.slots] += step.ended
            lengths += [step.length] * int(step.ended.sum())
        assert (ended == 1).all()
        for column in (episodes.task, episodes.budget_usd, episodes.lambda_):
            groups = column.reshape(8, 8)
            assert (groups == groups[:, :1]).all()
            assert len(np.unique(groups[:, 0])) > 4
        assert (episodes.cost_usd <= episodes.budget_usd).all()
        assert set(episodes.score) == {0, 1}
    assert len(set(lengths)) > 2


def test_results_of_routes_are_those_of_the_environment() -> None:
    """Always-large on Credit scores 1 and costs 4 calls of 5 USD."""
    env = RoutingVectorEnv(16, diagnostics.build(diagnostics.Credit()), autoreset_mode="SameStep", info="lean")
    episodes = empty_episodes(16)
    steps = list(
        play(env, lambda o, s: (np.ones(len(s), dtype=int), np.zeros(len(s), dtype=np.float32)), 3, 4, episodes)
    )
    assert [step.length for step in steps] == [1, 2, 3, 4]
    assert (episodes.score == 1).all()
    np.testing.assert_allclose(episodes.cost_usd, 20.0)


def problem() -> Problem:
    return Problem(diagnostics.build(diagnostics.Credit()), budget_usd=None, lambda_=0.2)


def flat(policy: NetworkPolicy) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in policy.actor.parameters()])


@pytest.mark.parametrize("algorithm", [GRPO(**TINY, scale="per_term", kl_coef=0.1), RLOO(**TINY)], ids=["grpo", "rloo"])
def test_the_same_seed_gives_the_same_weights(algorithm: GRPO | RLOO) -> None:
    weights = [flat(algorithm.fit(problem(), seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_metrics_count_what_was_played() -> None:
    records: list[dict] = []
    GRPO(**TINY, kl_coef=0.1).fit(problem(), 0, Training(report=lambda metrics: records.append(dict(metrics))))
    steps = [record["step"] for record in records]
    assert steps == [256 * (i + 1) for i in range(8)]  # 64 episodes of 4 calls
    assert all(record["episodes"] == 64 for record in records)
    assert sum(records[0]["shares"]) == pytest.approx(1, abs=1e-3)
    assert {"entropy", "reference_kl", "clip_fraction"} <= records[-1].keys()
    assert "reference_kl" in records[1]


def test_kl_keeps_the_policy_near_the_reference() -> None:
    """Towards a policy that always takes the small arm, against the reward's wish."""
    task = problem()
    with th.random.fork_rng(devices=[]):
        th.manual_seed(0)
        actor = make_actor("mlp", (8,), task.recording)
    with th.no_grad():
        actor.network[-1].bias[0] += 3.0
    reference = NetworkPolicy(actor, "mlp", (8,))
    observation = task.env(16).reset(seed=0)[0]
    theirs = reference.probabilities(observation)
    near, far = (
        GRPO(**TINY | {"steps": 8000}, learning_rate=1e-2, kl_coef=k, reference=reference).fit(task, 0)
        for k in (3.0, 0.0)
    )
    distance = [np.abs(policy.probabilities(observation) - theirs).mean() for policy in (near, far)]
    assert distance[0] < 0.1 < distance[1]


def test_reference_of_another_recording() -> None:
    other = diagnostics.build(diagnostics.Stopping())
    reference = NetworkPolicy(make_actor("mlp", (8,), other), "mlp", (8,))
    with pytest.raises(ConfigError, match="reference does not take the 11 columns and 2 actions"):
        GRPO(**TINY, kl_coef=0.1, reference=reference).fit(problem())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_envs": 100, "group_size": 8}, "group_size = 8 does not divide n_envs = 100; .* n_envs 104"),
        ({"group_size": 1}, "group_size = 1; expected at least 2"),
        ({"steps": 0}, "steps = 0"),
        ({"clip_range": float("nan")}, "clip_range = nan"),
        ({"kl_coef": -1.0}, "kl_coef = -1"),
        ({"hidden": ()}, r"hidden = \(\)"),
    ],
)
@pytest.mark.parametrize("algorithm", [GRPO, RLOO])
def test_bad_input(algorithm: type[GRPO | RLOO], changes: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        algorithm(**changes)


def test_bad_scale() -> None:
    with pytest.raises(ConfigError, match="scale = 'mad'"):
        GRPO(scale="mad")
    with pytest.raises(ConfigError, match="scale"):
        tuned("grpo", "routegym/AgentSteps-v0", {"scale": "mad"})


@pytest.mark.parametrize("name", ["grpo", "rloo", "bopo"])
def test_shipped_values_are_valid(name: str) -> None:
    assert tuned(name, "routegym/AgentSteps-v0").steps >= 100_000
    assert tuned(name, "routegym/Other-v0", {"steps": 7}).steps == 7


def test_an_episode_whose_call_failed_has_no_advantage_and_moves_no_other() -> None:
    score = np.array([1.0, np.nan, 0.0, 1.0, np.nan, np.nan, np.nan, np.nan])
    cost = np.array([3.0, 9.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0])
    zeros = np.zeros(8)
    episodes = Episodes(np.zeros(8, dtype=np.int64), score, cost, zeros, zeros + 0.1)
    filled = without_failures(episodes, 4)
    np.testing.assert_allclose(filled.score, [1, 2 / 3, 0, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(filled.cost_usd, [3, 2, 1, 2, 0, 0, 0, 0])
    advantages = grpo_advantages(filled.score, filled.cost_usd, filled.lambda_, 4, "none")
    assert advantages[1] == pytest.approx(0)
    assert advantages[4:] == pytest.approx(np.zeros(4))
    whole = episodes._replace(score=np.nan_to_num(score))
    assert without_failures(whole, 4) is whole
