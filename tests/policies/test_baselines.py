from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.errors import ConfigError
from routegym.graph import Recording
from routegym.policies import storage
from routegym.policies.acar import ProbePolicy
from routegym.policies.baselines import (
    AlwaysArm,
    ConfidenceCascade,
    Escalate,
    FirstLargeK,
    FixedCascade,
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


# -- attempts of several turns -------------------------------------------------------------------
#: By arms of the simulated pool, from cheap and bad to dear and good.
AT_ATTEMPTS = {
    "always": lambda r: AlwaysArm(r, 1),
    "round_robin": lambda r: RoundRobin(r, seed=3),
    "turns": lambda r: RoundRobin(r, [2, 0], seed=None),
    "first_large": lambda r: FirstLargeK(r, 1, 2, 0),
    "mixture": lambda r: RandomMixture(r, 0, 2, 0.5),
    "escalate": lambda r: Escalate(r, [0, 1]),
    "fixed_cascade": lambda r: FixedCascade(r, [1, 0]),
}


def attempts_of(recording, policy, budget=np.inf, seed=0):
    """For each task the arms that began an attempt, in order, and whether it was solved; and every step.

    A step is (node, action, what was legal).
    """
    env = RoutingVectorEnv(1, recording, split="all", autoreset_mode="Disabled")
    graph, found, steps = recording.graph, [], []
    for task in range(graph.n_tasks):
        options = {"task_id": [task], "budget_usd": [max(budget, graph.arm_floor(graph.task_start[[task]])[0])]}
        observation, _ = env.reset(seed=seed, options=options)
        state, start, over, begun = None, np.ones(1, dtype=bool), False, []
        while not over:
            node, masks = int(env.node[0]), env.action_masks()
            (action,), state = policy.predict(observation, state, start, action_masks=masks)
            steps.append((node, int(action), masks[0]))
            if action < graph.n_arms and graph.node_running[node] != action:
                begun.append(int(action))
            observation, _, terminated, truncated, info = env.step(np.array([action]))
            start = over = terminated | truncated
        found.append((begun, float(info["score"][0])))
    return found, steps


@pytest.fixture(scope="module", params=["attempts", "attempts_sampled"])
def attempts(request, recordings: dict[str, Path]):
    return Recording.load(recordings[request.param])


@pytest.mark.parametrize("name", AT_ATTEMPTS)
def test_an_attempt_goes_on_until_it_ends(name, attempts):
    """Without a cap no rule abandons an attempt or stops in the middle of one."""
    _, steps = attempts_of(attempts, AT_ATTEMPTS[name](attempts))
    running = attempts.graph.node_running
    going = [(node, action) for node, action, _ in steps if running[node] >= 0]
    assert len(going) > 20
    assert all(action == running[node] for node, action in going)


@pytest.mark.parametrize("name", AT_ATTEMPTS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_what_cannot_be_paid_any_more_does_not_go_on(name, share, attempts):
    _, steps = attempts_of(attempts, AT_ATTEMPTS[name](attempts), budget=share * attempts.cost_scale_usd)
    assert all(legal[action] for _, action, legal in steps)
    running = attempts.graph.node_running
    assert all(action == running[node] for node, action, legal in steps if running[node] >= 0 and legal[running[node]])


def test_attempts_are_what_a_rule_counts(recordings: dict[str, Path]):
    """Turns are not: one attempt and then ``stop``, whoever has no rule for more."""
    recording = Recording.load(recordings["attempts"])
    for make, arms in (
        (lambda r: AlwaysArm(r, 1), [1]),
        (lambda r: FirstLargeK(r, 1, 2, 0), [2]),
        (lambda r: FirstLargeK(r, 0, 2, 0), [0]),
        (lambda r: RoundRobin(r, [2, 0], seed=None), [2]),
        (lambda r: RandomMixture(r, 0, 2, 1.0), [2]),
    ):
        found, steps = attempts_of(recording, make(recording))
        assert {tuple(begun) for begun, _ in found} == {tuple(arms)}
        stopped = [node for node, action, _ in steps if action == 3]
        assert len(stopped) == sum(score == 0 for _, score in found)


@pytest.mark.parametrize("make", [FixedCascade, Escalate])
def test_a_fixed_cascade_by_hand(make, recordings: dict[str, Path]):
    """The next arm after every failure, ``stop`` after the last; two attempts are all that there are."""
    recording = Recording.load(recordings["attempts"])
    alone = [[score > 0 for _, score in attempts_of(recording, AlwaysArm(recording, arm))[0]] for arm in range(3)]
    found, _ = attempts_of(recording, make(recording, ["m0/direct", "m2/direct", "m1/direct"]))
    wanted = [([0], 1.0) if first else ([0, 2], float(third)) for first, _, third in zip(*alone, strict=True)]
    assert found == wanted
    assert {len(begun) for begun, _ in found} == {1, 2}
    found, steps = attempts_of(recording, make(recording, [1]))
    assert [score > 0 for _, score in found] == alone[1]
    assert sum(action == 3 for _, action, _ in steps) == len(found) - sum(alone[1])


def test_a_fixed_cascade_passes_over_what_is_masked(recordings: dict[str, Path]):
    policy = FixedCascade(Recording.load(recordings["attempts"]), [0, 1, 2])
    observation = np.zeros((4, policy.layout.width), dtype=np.float32)
    observation[:, policy.layout.columns["step"]] = 0.2
    masks = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=bool)
    first, state = policy.predict(observation, action_masks=masks)
    assert first.tolist() == [0, 1, 2, 3]
    second, state = policy.predict(observation, state, action_masks=np.ones((4, 4), dtype=bool))
    assert second.tolist() == [1, 2, 3, 0]
    start = np.array([True, False, False, False])
    third, _ = policy.predict(observation, state, start, action_masks=np.array([[1, 1, 0, 1]] * 4, dtype=bool))
    assert third.tolist() == [0, 3, 3, 1]


def test_a_fixed_cascade_calls_something_at_the_start(recordings: dict[str, Path]):
    recording = Recording.load(recordings["attempts"])
    found, _ = attempts_of(recording, FixedCascade(recording, [2]), budget=0.0)  # raised to the cheapest call
    assert {begun[0] for begun, _ in found} == {0}


def test_memory_of_a_rule_waits_for_the_end_of_an_attempt(recordings: dict[str, Path]):
    recording = Recording.load(recordings["attempts"])
    policy = FixedCascade(recording, [2, 0])
    observation = np.zeros((2, policy.layout.width), dtype=np.float32)
    masks = np.ones((2, 4), dtype=bool)
    first, state = policy.predict(observation, action_masks=masks)
    observation[0, policy.layout.names.index("node_signals/running_m2/direct")] = 1.0
    second, after = policy.predict(observation, state, action_masks=masks)
    assert (first.tolist(), second.tolist()) == ([2, 2], [2, 0])
    assert after.tolist() == [1, 2]
    masks[0, 2] = False  # cannot be paid any more: as if the attempt had failed
    third, _ = policy.predict(observation, state, action_masks=masks)
    assert third.tolist() == [0, 0]


def test_fixed_cascades_need_to_be_told(toy):
    for control in (False, True):
        with pytest.raises(ConfigError, match=r"does not say when a task is solved; .*'stop'"):
            FixedCascade(toy(control=control), [0])


def test_rules_that_accept_an_answer_are_refused_where_none_is_accepted(recordings: dict[str, Path]):
    recording = Recording.load(recordings["attempts"])
    with pytest.raises(ConfigError, match=r"'stop': .*says when a task is solved.* use fixed_cascade"):
        ConfidenceCascade(recording, [0, 1], 0.5)
    with pytest.raises(ConfigError, match=r"ACAR needs .*a control that accepts"):
        ProbePolicy(recording, [0, 1], [1, 2])


@pytest.mark.parametrize("name", AT_ATTEMPTS)
def test_storage_of_rules_at_attempts(name, recordings: dict[str, Path], tmp_path):
    recording = Recording.load(recordings["attempts"])
    policy = AT_ATTEMPTS[name](recording)
    storage.save_policies(tmp_path, recording, {0: policy})
    loaded = storage.load_policies(tmp_path, recording)[0]
    assert type(loaded) is type(policy)
    assert loaded.to_state() == policy.to_state()
