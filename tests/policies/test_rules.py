from __future__ import annotations

from itertools import permutations

import helpers
import numpy as np
import pyarrow as pa
import pytest
from helpers import Edge, hand_made

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.frontier import hull
from routegym.graph import evaluate_choices
from routegym.graph.imports import RoutingData, to_recording
from routegym.graph.values import most_attempts
from routegym.policies import baselines, storage
from routegym.policies.algorithm import Problem, algorithm_class, algorithm_names
from routegym.policies.rules import (
    Always,
    ConfidenceCascade,
    Escalate,
    FirstLargeK,
    FixedCascade,
    RandomMixture,
    ladders,
)
from routegym.policies.selection import Selected

LARGE, SMALL, MEDIUM = 0, 1, 2
NAMES = [name for name in algorithm_names("rule") if name not in ("acar", "fixed_cascade")]


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


# -- fixed cascades --------------------------------------------------------------------------------
def cascade_with_a_verdict(solved, stay=None):
    """Two arms with a call each, told whether it solved the task; arm i costs i + 1 (1e-6 USD).

    Args:
        solved: of each task, whether arm 0 and arm 1 solve it.
        stay: of each task, the arms that are legal; all by default.
    """
    nodes, edges, task_of = [], [], []
    for task, wins in enumerate(solved):
        start = len(nodes)  # start, arm 0 failed, arm 1 failed, the end of everything, solved
        nodes += [(0, None), (1, None), (1, None), (3, 0.0), (3, 1.0)]
        task_of += [task] * 5
        for node, arms in ((0, (0, 1)), (1, (1,)), (2, (0,))):
            for arm in arms:
                if stay is not None and arm not in stay[task]:
                    continue
                failed = 1 + arm if node == 0 else 3
                edges.append(Edge(start + node, arm, start + (4 if wins[arm] else failed)))
            edges.append(Edge(start + node, 2, start + 3))
    reached = {edge.next for edge in edges} | {5 * task for task in range(len(solved))}
    number = {node: place for place, node in enumerate(sorted(reached))}
    return hand_made(
        [nodes[node] for node in number],
        [Edge(number[e.node], e.action, number[e.next]) for e in edges if e.node in number and e.next in number],
        controls=("stop",),
        splits=("train",) * len(solved),
        task_of=[task_of[node] for node in number],
        complete=False,
    )


def test_fixed_cascades_by_hand():
    """Four tasks: solved by both, by arm 0 only, by arm 1 only, by none. Arm 0 costs 1, arm 1 costs 2."""
    recording = cascade_with_a_verdict([(1, 1), (1, 0), (0, 1), (0, 0)])
    recording.graph.node_reserve[np.isinf(recording.graph.node_reserve)] = np.nan
    found = ladders(recording, recording.split("train"), most=3)
    assert found.arms == ((0,), (1,), (0, 1), (1, 0))
    assert found.scores == pytest.approx([0.5, 0.5, 0.75, 0.75])
    assert found.costs * 1e6 == pytest.approx([1.0, 2.0, 1 + 2 * 2 / 4, 2 + 1 * 2 / 4])
    assert found.on_hull() == [(0,), (0, 1)]
    assert ladders(recording, recording.split("train"), most=1).arms == ((0,), (1,))
    assert ladders(recording, np.array([2]), most=2).on_hull() == [(0,), (1,)]


def test_an_arm_that_is_not_there_is_passed_over():
    """Arm 0 is missing in the second of two tasks, which arm 1 solves; alone, it is replaced by arm 1 there."""
    recording = cascade_with_a_verdict([(0, 0), (0, 1)], stay=[(0, 1), (1,)])
    recording.graph.node_reserve[np.isinf(recording.graph.node_reserve)] = np.nan
    found = ladders(recording, recording.split("train"), most=2)
    of = dict(zip(found.arms, zip(found.scores, found.costs * 1e6, strict=True), strict=True))
    assert of[(0,)] == pytest.approx((0.5, (1 + 2) / 2))
    assert of[0, 1] == pytest.approx((0.5, (3 + 2) / 2))


def at_attempts(recording, rungs, most_turns=4):
    """What is done in every situation of a recording of attempts by arms in this order."""
    graph = recording.graph
    begun = (graph.node_step.astype(int) + most_turns - 1) // most_turns
    rung = np.append(rungs, graph.n_arms)[np.minimum(begun, len(rungs))]
    return np.where(graph.node_running >= 0, graph.node_running, rung)


@pytest.mark.parametrize("source", ["attempts", "attempts_sampled"])
def test_fixed_cascades_are_scored_exactly(source):
    """Against the value of every order on the graph itself; sampled arms succeed with some probability."""
    samples = {"m0/direct": 3, "m1/direct": 2} if source == "attempts_sampled" else None
    recording = helpers.build("attempts", 30, samples=samples)
    tasks = recording.split("train")
    starts = recording.graph.task_start[tasks]
    found = ladders(recording, tasks, most=3)
    assert most_attempts(recording.graph) == 2
    assert sorted(found.arms) == sorted([(0,), (1,), (2,), *permutations(range(3), 2)])
    for arms, score, cost in zip(found.arms, found.scores, found.costs, strict=True):
        exact = evaluate_choices(recording.graph, at_attempts(recording, arms))
        assert score == pytest.approx(exact[0][starts].mean())
        assert cost == pytest.approx(exact[1][starts].mean())
    best = hull(found.costs, found.scores)
    points = dict(zip(found.arms, zip(found.costs, found.scores, strict=True), strict=True))
    assert [points[arms] for arms in found.on_hull()] == list(zip(best.costs, best.scores, strict=True))


def test_a_fixed_cascade_plays_what_was_scored():
    recording = helpers.build("attempts", 30)
    tasks = recording.split("train")
    env = RoutingVectorEnv(8, recording, split="all", info="lean", autoreset_mode="SameStep")
    found = ladders(recording, tasks, most=2)
    for arms, score, cost in zip(found.arms, found.scores, found.costs, strict=True):
        table = rollout(baselines.FixedCascade(recording, arms), env, tasks)
        assert table.score.mean() == pytest.approx(score)
        assert table.cost_usd.mean() == pytest.approx(cost)


def test_parts_of_a_score_count_for_the_last_arm_only():
    """Arm 0 scores 0.6 and then 1, arm 1 scores 0.5: half a solution is tried further, and what comes last is kept."""
    rows = [("q0", "a", 0.6, 1.0), ("q0", "b", 0.5, 2.0), ("q1", "a", 1.0, 1.0), ("q1", "b", 0.5, 2.0)]
    columns = dict(zip(("query", "arm", "score", "cost_usd"), map(list, zip(*rows, strict=True)), strict=True))
    asked = pa.table({"query": ["q0", "q1"], "prompt": ["x", "y"], "split": ["train", "test"]})
    data = RoutingData("made", pa.table(columns), asked, verdict=True)
    recording = to_recording(data, "cascade", arms=["a", "b"], most_attempts=2, text="none").recording
    tasks = np.arange(2)
    found = ladders(recording, tasks, most=2)
    assert found.arms == ((0,), (1,), (0, 1), (1, 0))
    assert found.scores == pytest.approx([0.8, 0.5, 0.75, 0.8])
    assert found.costs == pytest.approx([1.0, 2.0, 2.0, 3.0])
    env = RoutingVectorEnv(2, recording, split="all", info="lean", autoreset_mode="SameStep")
    for arms, score, cost in zip(found.arms, found.scores, found.costs, strict=True):
        table = rollout(baselines.FixedCascade(recording, arms), env, tasks)
        assert table.score.mean() == pytest.approx(score)
        assert table.cost_usd.mean() == pytest.approx(cost)


@pytest.mark.parametrize("seed", range(6))
def test_a_fixed_cascade_plays_what_was_scored_where_arms_are_masked(seed):
    """Random tables with parts of a score, where most tasks lack some arms and a few have only one."""
    rng = np.random.default_rng(seed)
    there = rng.random((40, 4)) < (0.9, 0.6, 0.4, 0.4)
    there[np.arange(40), rng.integers(4, size=40)] = True
    rows = [
        (f"q{q}", f"a{arm}", float(rng.choice([0.0, 0.25, 1.0])), 10.0**arm * (1 + rng.random()))
        for q, arm in np.argwhere(there)
    ]
    columns = dict(zip(("query", "arm", "score", "cost_usd"), map(list, zip(*rows, strict=True)), strict=True))
    ids = [f"q{q}" for q in range(40)]
    data = RoutingData("made", pa.table(columns), pa.table({"query": ids, "prompt": ids}), verdict=True)
    recording = to_recording(data, "cascade", missing="mask", most_attempts=2 + seed % 2, text="none").recording
    tasks = np.arange(len(recording.tasks))
    env = RoutingVectorEnv(len(tasks), recording, split="all", info="lean", autoreset_mode="SameStep")
    found = ladders(recording, tasks, most=3)
    assert len(found.arms) == 4 + 12 + 24 * (seed % 2)
    for arms, score, cost in zip(found.arms, found.scores, found.costs, strict=True):
        table = rollout(baselines.FixedCascade(recording, arms), env, tasks)
        assert table.score.mean() == pytest.approx(score)
        assert table.cost_usd.mean() == pytest.approx(cost)


def test_fixed_cascades_go_by_price_and_budget(tmp_path):
    recording = helpers.build("attempts", 200)
    policy = FixedCascade().fit(Problem(recording))
    assert isinstance(policy, Selected)
    kept = [tuple(variant.ladder.tolist()) for variant in policy.variants]
    assert set(kept) <= set(ladders(recording, recording.split("train"), 3).on_hull())
    tasks = recording.split("val")
    env = RoutingVectorEnv(16, recording, split="val", info="lean", autoreset_mode="SameStep")
    free, dear, capped = (
        rollout(policy, env, tasks, budget, price)
        for budget, price in ((np.inf, 0.0), (np.inf, 1.0), (0.5 * recording.cost_scale_usd, 0.0))
    )
    assert free.score.mean() > dear.score.mean()
    assert free.cost_usd.mean() > dear.cost_usd.mean()
    assert not capped.violations.any()
    alone = Always().fit(Problem(recording))
    assert free.score.mean() > rollout(alone, env, tasks, np.inf, 0.0).score.mean()
    storage.save_policies(tmp_path, recording, {0: policy})
    loaded = storage.load_policies(tmp_path, recording)[0]
    assert (rollout(loaded, env, tasks).arm_counts == free.arm_counts).all()


def test_most_attempts():
    found = {kind: most_attempts(helpers.build(kind, 8).graph) for kind in ("single_call", "cascade", "attempts")}
    assert found == {"single_call": 1, "cascade": 3, "attempts": 2}


def test_fixed_cascades_are_refused_without_a_verdict(toy):
    for control in (False, True):
        with pytest.raises(ConfigError, match="does not say when a task is solved"):
            FixedCascade().fit(Problem(toy(control=control)))
    with pytest.raises(ConfigError, match="most = 0; expected a number > 0"):
        FixedCascade(most=0)
