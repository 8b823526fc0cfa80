from __future__ import annotations

import numpy as np
import pytest

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.errors import ConfigError
from routegym.policies import storage
from routegym.policies.baselines import (
    AlwaysArm,
    ConfidenceCascade,
    Escalate,
    FirstLargeK,
    Random,
    RandomMixture,
    RoundRobin,
    ladder_of,
)

LARGE, SMALL, MEDIUM, ACCEPT = 0, 1, 2, 3
MAKERS = {
    "random": lambda recording: Random(recording, seed=5),
    "always_large": lambda recording: AlwaysArm(recording, "large/direct"),
    "always_medium": lambda recording: AlwaysArm(recording, MEDIUM),
    "first_large_2": lambda recording: FirstLargeK(recording, 2, LARGE, SMALL),
    "cascade": lambda recording: ConfidenceCascade(recording, [SMALL, MEDIUM, LARGE], 0.8),
    "mixture": lambda recording: RandomMixture(recording, SMALL, LARGE, 0.4, seed=5),
    "round_robin": lambda recording: RoundRobin(recording, [MEDIUM, SMALL], seed=5),
    "turns": lambda recording: RoundRobin(recording, seed=None),
    "escalate": lambda recording: Escalate(recording, [SMALL, MEDIUM, LARGE], for_good=False),
}


def play(recording, make, budgets, num_envs=5, seed=0, use_masks=True):
    """Actions of one batch of episodes until all have ended, with what every call of the policy got."""
    env = RoutingVectorEnv(num_envs, recording, autoreset_mode="SameStep")
    observation, _ = env.reset(
        seed=seed, options={"task_id": np.zeros(num_envs, dtype=int), "budget_usd": np.asarray(budgets)}
    )
    policy, state, start = make(recording), None, np.ones(num_envs, dtype=bool)
    trace = []
    for _ in range(12):
        masks = env.action_masks()
        actions, state = policy.predict(
            observation, state, start, deterministic=True, action_masks=masks if use_masks else None
        )
        trace.append((actions, masks))
        observation, _, terminated, truncated, _ = env.step(actions)
        start = terminated | truncated
    return trace


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_contract(name, control, toy):
    recording = toy(control=control)
    budgets = [2.0, 5.5, 12.0, 19.0, np.inf]
    trace = play(recording, MAKERS[name], budgets)
    for actions, masks in trace:
        assert actions.shape == (5,)
        assert actions.dtype == np.int64
        assert masks[np.arange(5), actions].all()
    for other in (
        play(recording, MAKERS[name], budgets),
        play(recording, MAKERS[name], budgets, use_masks=False),
    ):
        assert all((a == b).all() for (a, _), (b, _) in zip(trace, other, strict=True))


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"random", "mixture", "round_robin"}))
def test_batches_do_not_matter(name, toy):
    recording = toy()
    budgets = [2.0, 5.5, 12.0, 19.0, np.inf]
    together = [actions for actions, _ in play(recording, MAKERS[name], budgets)][:3]
    for slot, budget in enumerate(budgets):
        alone = [actions for actions, _ in play(recording, MAKERS[name], [budget], num_envs=1)][:3]
        for k in range(3 if budget == np.inf else 1):
            assert alone[k][0] == together[k][slot]


def counts(policy, recording, budget=np.inf, n=1):
    env = RoutingVectorEnv(4, recording)
    return rollout(policy, env, np.zeros(n, dtype=int), budget)


def test_always_arm_steps_down_when_it_cannot_pay(toy):
    """Budget 15: large pays 8; then its 10 do not fit but medium's 4 do, and at 11 once more, exactly."""
    recording = toy()
    table = counts(AlwaysArm(recording, LARGE), recording, 15.0)
    assert table.arm_counts.tolist() == [[1, 0, 2]]
    assert table.cost_usd.tolist() == [14.0]
    table = counts(AlwaysArm(recording, LARGE), recording, 13.0)
    assert table.arm_counts.tolist() == [[1, 1, 1]]


def test_always_arm_goes_up_only_where_nothing_cheaper_is_legal(toy):
    recording = toy()
    policy = AlwaysArm(recording, SMALL)
    observation = np.zeros((2, policy.layout.width), dtype=np.float32)
    masks = np.array([[True, False, True], [True, False, False]])
    assert policy.predict(observation, action_masks=masks)[0].tolist() == [MEDIUM, LARGE]


def test_one_call_is_enough_where_there_is_a_control(toy):
    recording = toy(control=True)
    for policy in (AlwaysArm(recording, MEDIUM), FirstLargeK(recording, 0, LARGE, MEDIUM)):
        assert counts(policy, recording).arm_counts.tolist() == [[0, 0, 1, 1]]


def test_first_large_k(toy):
    recording = toy()
    for k, expected in enumerate(([0, 3, 0], [1, 2, 0], [2, 1, 0], [3, 0, 0])):
        assert counts(FirstLargeK(recording, k, LARGE, SMALL), recording).arm_counts.tolist() == [expected]


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.1, [0, 3, 0]), (0.2, [0, 3, 0]), (0.21, [0, 1, 2]), (0.61, [1, 1, 1]), (2.0, [1, 1, 1])],
)
def test_cascade_climbs_for_good(threshold, expected, toy):
    """Confidence: small 0.2, medium 0.6, large 0.9."""
    recording = toy()
    policy = ConfidenceCascade(recording, [SMALL, MEDIUM, LARGE], threshold)
    assert counts(policy, recording).arm_counts.tolist() == [expected]


@pytest.mark.parametrize(
    ("threshold", "ladder", "expected"),
    [
        (0.1, [SMALL, LARGE], [0, 1, 0, 1]),
        (0.5, [SMALL, MEDIUM, LARGE], [0, 1, 1, 1]),
        (0.5, [SMALL, LARGE], [1, 1, 0, 1]),
        (2.0, [SMALL, LARGE], [1, 1, 0, 1]),
    ],
)
def test_cascade_accepts_a_confident_answer_or_the_last_rung(threshold, ladder, expected, toy):
    recording = toy(control=True)
    policy = ConfidenceCascade(recording, ladder, threshold)
    assert counts(policy, recording).arm_counts.tolist() == [expected]


def failing(recording, arms):
    """The answers of these arms are not valid."""
    graph = recording.graph
    _, action = graph.edge_sources()
    graph.edges["signals"][np.isin(action, arms), 0] = 0.0
    return recording


@pytest.mark.parametrize(
    ("bad", "for_good", "expected"),
    [
        ([], True, [SMALL, SMALL, SMALL]),
        ([SMALL], True, [SMALL, MEDIUM, MEDIUM]),
        ([SMALL], False, [SMALL, MEDIUM, SMALL]),
        ([SMALL, MEDIUM], True, [SMALL, MEDIUM, LARGE]),
        ([SMALL, MEDIUM], False, [SMALL, MEDIUM, LARGE]),
    ],
)
def test_escalation_climbs_when_the_verdict_is_bad(bad, for_good, expected, toy):
    recording = failing(toy(), bad)
    trace = play(recording, lambda r: Escalate(r, [SMALL, MEDIUM, LARGE], for_good), [np.inf], num_envs=1)
    assert [int(actions[0]) for actions, _ in trace[:3]] == expected
    assert int(trace[3][0][0]) == SMALL


@pytest.mark.parametrize(
    ("bad", "expected"), [([], [0, 1, 0, 1]), ([SMALL], [0, 1, 1, 1]), ([SMALL, MEDIUM], [0, 1, 1, 1])]
)
def test_escalation_accepts_what_passed_or_the_last_rung(bad, expected, toy):
    recording = failing(toy(control=True), bad)
    assert counts(Escalate(recording, [SMALL, MEDIUM]), recording).arm_counts.tolist() == [expected]


def test_escalation_takes_a_verdict_of_the_situation_first(toy):
    recording = toy()
    recording.node_signal_names = ("verdict_passed",)
    policy = Escalate(recording, [SMALL, LARGE])
    observation = np.zeros((1, policy.layout.width), dtype=np.float32)
    observation[0, policy.layout.names.index("edge_signals/valid")] = 1.0
    masks = np.ones((1, 3), dtype=bool)
    _, state = policy.predict(observation, action_masks=masks)
    assert policy.predict(observation, state, action_masks=masks)[0].tolist() == [LARGE]
    observation[0, policy.layout.names.index("node_signals/verdict_passed")] = 1.0
    assert policy.predict(observation, state, action_masks=masks)[0].tolist() == [SMALL]


def test_round_robin_takes_turns(toy):
    recording = toy()
    trace = play(recording, lambda r: RoundRobin(r, seed=None), [np.inf], num_envs=1)
    assert [int(actions[0]) for actions, _ in trace[:6]] == [LARGE, SMALL, MEDIUM] * 2
    table = counts(RoundRobin(recording, [SMALL, LARGE], seed=1), recording, n=400)
    assert {tuple(row) for row in table.arm_counts.tolist()} == {(1, 2, 0), (2, 1, 0)}
    assert (table.arm_counts[:, LARGE] == 2).mean() == pytest.approx(0.5, abs=0.1)


def test_memory_is_cleared_where_an_episode_starts(toy):
    recording = toy()
    policy = FirstLargeK(recording, 1, LARGE, SMALL)
    observation = np.zeros((2, policy.layout.width), dtype=np.float32)
    masks = np.ones((2, 3), dtype=bool)
    first, state = policy.predict(observation, action_masks=masks)
    second, state = policy.predict(observation, state, np.array([True, False]), action_masks=masks)
    third, _ = policy.predict(observation, state, action_masks=masks)
    assert first.tolist() == [LARGE, LARGE]
    assert second.tolist() == [LARGE, SMALL]
    assert third.tolist() == [SMALL, SMALL]


def test_mixture_meets_the_zero_router(toy):
    """Always small costs 3 and scores 0, always large costs 24 and scores 1."""
    recording = toy()
    share = RandomMixture.share_at_cost(3.0, 24.0, 10.0)
    assert share == pytest.approx(1 / 3)
    table = counts(RandomMixture(recording, SMALL, LARGE, share, seed=1), recording, n=4000)
    assert (table.arm_counts.max(axis=1) == 3).all()
    assert table.score.mean() == pytest.approx(1 / 3, abs=0.03)
    assert table.cost_usd.mean() == pytest.approx(10.0, abs=0.7)


def test_the_ladder_leaves_out_what_is_below_the_hull(toy):
    """Small costs 3 and scores 0, medium 9 and 0, large 24 and 1."""
    arms, points = ladder_of(toy())
    assert arms == ("small/direct", "large/direct")
    assert (points.costs.tolist(), points.scores.tolist()) == ([3.0, 24.0], [0.0, 1.0])


def test_mixture_at_a_target_cost(toy):
    """10 = 2/3 of 3 and 1/3 of 24."""
    recording = toy()
    policy = RandomMixture.at_cost(recording, 10.0, seed=2)
    assert policy.arms.tolist() == [SMALL, LARGE]
    assert policy.share == pytest.approx(1 / 3)
    assert RandomMixture.at_cost(recording, 3.0).share == 0
    assert RandomMixture.at_cost(recording, 24.0).share == 1


@pytest.mark.parametrize("target", [2.9, 24.1, float("nan")])
def test_mixture_at_an_impossible_cost(target, toy):
    with pytest.raises(ConfigError, match=rf"mean_usd = {target}.* 3.0 \('small/direct'\) to 24.0 \('large/direct'\)"):
        RandomMixture.at_cost(toy(), target)


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_storage(name, control, toy, tmp_path):
    recording = toy(control=control)
    policy = MAKERS[name](recording)
    storage.save_policies(tmp_path, recording, {0: policy})
    loaded = storage.load_policies(tmp_path, recording)[0]
    assert type(loaded) is type(policy)
    assert loaded.to_state() == policy.to_state()
    budgets = [2.0, 5.5, 12.0, 19.0, np.inf]
    ours, theirs = play(recording, lambda _: policy, budgets), play(recording, lambda _: loaded, budgets)
    assert all((a == b).all() for (a, _), (b, _) in zip(ours, theirs, strict=True))


def test_random_is_uniform_over_what_is_legal(toy):
    policy = Random(toy(control=True), seed=2)
    observation = np.zeros((8000, policy.layout.width), dtype=np.float32)
    masks = np.tile([True, False, True, True], (8000, 1))
    actions, _ = policy.predict(observation, action_masks=masks)
    assert np.bincount(actions, minlength=4) / 8000 == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda r: AlwaysArm(r, "huge"), "'huge' is unknown"),
        (lambda r: AlwaysArm(r, 3), "3 is unknown"),
        (lambda r: FirstLargeK(r, -1, 0, 1), "k = -1"),
        (lambda r: ConfidenceCascade(r, [], 0.5), "ladder is empty"),
        (lambda r: Escalate(r, []), "name at least one arm"),
        (lambda r: Escalate(r, ["tiny"]), "'tiny' is unknown"),
        (lambda r: RoundRobin(r, [7]), "7 is unknown"),
        (lambda r: ConfidenceCascade(r, [0], float("nan")), "threshold = nan"),
        (lambda r: RandomMixture(r, 0, 1, 1.5), "share = 1.5"),
        (lambda r: RandomMixture.share_at_cost(1.0, 2.0, 3.0), "mean_usd = 3.0"),
    ],
)
def test_bad_arguments(make, text, toy):
    with pytest.raises(ConfigError, match=text):
        make(toy())


def test_cascade_needs_the_confidence_signal(toy):
    recording = toy()
    recording.edge_signal_names = ("valid", "other")
    with pytest.raises(ConfigError, match="'confidence'"):
        ConfidenceCascade(recording, [0], 0.5)


def test_escalation_needs_a_verdict(toy):
    recording = toy()
    recording.edge_signal_names = ("other", "confidence")
    with pytest.raises(ConfigError, match="'valid' or 'well_formed'"):
        Escalate(recording, [0])
