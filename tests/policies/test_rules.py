from __future__ import annotations

import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies import baselines, storage
from routegym.policies.algorithm import Problem, algorithm_class, algorithm_names
from routegym.policies.rules import Always, ConfidenceCascade, Escalate, FirstLargeK, RandomMixture
from routegym.policies.selection import Selected

LARGE, SMALL, MEDIUM = 0, 1, 2
NAMES = [name for name in algorithm_names("rule") if name != "acar"]


def calls(policy, recording, budget, lambda_=0.0):
    env = RoutingVectorEnv(1, recording, info="lean")
    return rollout(policy, env, [2], budget, lambda_).arm_counts[0].tolist()


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_fits_plays_and_survives_storage(name, control, toy, tmp_path):
    recording = toy(control=control)
    policy = algorithm_class(name)().fit(Problem(recording), seed=3)
    storage.save_policies(tmp_path, recording, {3: policy})
    loaded = storage.load_policies(tmp_path, recording)[3]
    tasks, budgets = np.zeros(40, dtype=int), np.geomspace(2.0, 40.0, 40)
    lambdas = np.tile([0.0, 0.5], 20)
    env = RoutingVectorEnv(40, recording, info="lean", autoreset_mode="SameStep")
    table = rollout(policy, env, tasks, budgets, lambdas)
    assert not table.violations.any()
    assert (rollout(loaded, env, tasks, budgets, lambdas).arm_counts == table.arm_counts).all()


def test_first_large_k_spends_what_there_is(toy):
    """Large costs 8 and reserves 10, small 1 and 2: 26 pays for three large calls, 3 for two small ones."""
    recording = toy()
    policy = FirstLargeK().fit(Problem(recording))
    assert calls(policy, recording, np.inf) == [3, 0, 0]
    assert calls(policy, recording, 3.0) == [0, 2, 0]
    assert calls(policy, recording, 26.0)[LARGE] == 3
    dear = FirstLargeK().fit(Problem(recording, lambda_=(0.0, 2.0)))
    assert calls(dear, recording, np.inf, 1.0) == [3, 0, 0]  # 1/3 of score for 7/24 of cost


def test_always_picks_the_arm_by_the_price(toy):
    """With ``accept`` one call is made: large scores 1/3 for 8, small 0 for 1; 7/24 of price 1 is less than 1/3."""
    recording = toy(control=True)
    policy = Always().fit(Problem(recording))
    assert isinstance(policy, Selected)
    assert calls(policy, recording, np.inf, 1.0) == [1, 0, 0, 1]
    assert calls(policy, recording, 3.0) == [0, 1, 0, 1]
    fixed = Always(arm="medium/direct").fit(Problem(recording))
    assert isinstance(fixed, baselines.AlwaysArm)
    assert calls(fixed, recording, np.inf) == [0, 0, 1, 1]


def test_cascade_finds_the_threshold(toy):
    """Small's confidence is 0.2: a threshold of 0.5 climbs from it to large, one of 0.1 stays.

    At a price of 1 large alone is worth 1 - 24/24, climbing 2/3 - 17/24 and small alone 0 - 3/24, so large is best.
    """
    recording = toy()
    policy = ConfidenceCascade(thresholds=(0.1, 0.5)).fit(Problem(recording))
    assert calls(policy, recording, np.inf, 1.0) == [3, 0, 0]
    assert calls(policy, recording, 3.0) == [0, 2, 0]
    seen = {tuple(calls(policy, recording, budget)) for budget in policy.budgets_usd}
    assert (2, 1, 0) in seen  # 19 pays for 8 + 8 + 1, but not for 26


def test_escalation_is_needed_where_small_fails(toy):
    recording = toy(control=True)
    graph = recording.graph
    _, action = graph.edge_sources()
    graph.edges["signals"][action == SMALL, 0] = 0.0
    policy = Escalate().fit(Problem(recording))
    assert policy.variants
    assert calls(policy, recording, 3.0) == [0, 1, 0, 1]


def test_mixture_takes_the_middle_by_default(toy):
    recording = toy()
    policy = RandomMixture().fit(Problem(recording), seed=5)
    assert (policy.share, policy.seed) == (pytest.approx(0.5), 5)  # 13.5 between 3 and 24
    assert RandomMixture(target_cost_usd=10.0).fit(Problem(recording)).share == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda r: Always(arm="huge").fit(Problem(r)), "'huge' is unknown"),
        (lambda r: RandomMixture(target_cost_usd=50.0).fit(Problem(r)), "mean_usd = 50.0"),
        (lambda r: ConfidenceCascade(thresholds=()), r"thresholds = \(\)"),
        (lambda r: ConfidenceCascade(thresholds=(0.5, 1.5)), "1.5"),
    ],
)
def test_bad_arguments(make, text, toy):
    with pytest.raises(ConfigError, match=text):
        make(toy())


def test_signals_that_are_missing(toy):
    recording = toy()
    recording.edge_signal_names = ("a", "b")
    with pytest.raises(ConfigError, match="'confidence'"):
        ConfidenceCascade().fit(Problem(recording))
    with pytest.raises(ConfigError, match="no verdict"):
        Escalate().fit(Problem(recording))
