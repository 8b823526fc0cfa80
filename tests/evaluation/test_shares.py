from __future__ import annotations

import numpy as np
import pytest
from helpers import Edge, build, hand_made

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.evaluation.collapse import DIFFICULTIES, difficulty
from routegym.evaluation.shares import REMAINING_EDGES, call_shares
from routegym.policies.baselines import AlwaysArm, FirstLargeK, Random


def two_steps():
    """Two tasks of two calls; the first is won whatever is done, the other with arm 0 at the second call only.

    A call of arm 0 costs 4e-6 USD, one of arm 1 2e-6.
    """
    nodes, edges, task_of = [], [], []
    for task in (0, 1):
        base = len(nodes)
        wins = (1.0, 1.0) if task == 0 else (1.0, 0.0)
        nodes += [(0, None), (1, None), (2, wins[0]), (2, wins[1])]
        edges += [Edge(base, 0, base + 1, 4), Edge(base, 1, base + 1, 1)]
        edges += [Edge(base + 1, 0, base + 2, 4), Edge(base + 1, 1, base + 3, 1)]
        task_of += [task] * 4
    recording = hand_made(nodes, edges, limits=(4, 1), splits=("test", "test"), task_of=task_of)
    recording.cost_scale_usd = 8e-6
    return recording


def test_by_hand():
    """Dear, then cheap, on both tasks and under both budgets."""
    recording = two_steps()
    found = call_shares(FirstLargeK(recording, 1, "a0/t", "a1/t"), recording, budgets=[6.4e-6, 16e-6])
    assert found.actions == ("a1/t", "a0/t")
    assert found.n_arms == 2
    levels = [DIFFICULTIES[level] for level in difficulty(recording, [0, 1])]
    assert levels == ["easy", "hard"]
    assert found.by_difficulty.tolist() == [[2, 2], [0, 0], [2, 2], [0, 0]]
    assert found.by_step.tolist() == [[0, 4], [4, 0]]
    # Left at the calls, over the cost scale of 8e-6: 0.8 and then 0.3; 2 and then 1.5.
    expected = np.zeros((len(REMAINING_EDGES) + 1, 2), dtype=int)
    expected[6] = [0, 2]
    expected[5] = [2, 0]
    expected[7] = [2, 2]
    assert found.by_remaining.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def cascade():
    return build("cascade", 40)


@pytest.mark.parametrize(
    "make", [lambda r: AlwaysArm(r, 0), lambda r: FirstLargeK(r, 1, 1, 0), Random], ids=["always", "first", "random"]
)
def test_they_are_the_calls_of_the_same_roll_out(cascade, make):
    budgets = np.geomspace(*cascade.budget_range_usd, 3)
    found = call_shares(make(cascade), cascade, "train", budgets, lambda_=0.2, seed=5)
    tasks = cascade.split("train")
    env = RoutingVectorEnv(len(tasks) * 3, cascade, split="train", autoreset_mode="SameStep")
    played = rollout(make(cascade), env, np.tile(tasks, 3), np.repeat(budgets, len(tasks)), 0.2, seed=5)
    order = [cascade.action_names.index(name) for name in found.actions]
    total = played.arm_counts.sum(axis=0)[order]
    for counts in (found.by_difficulty, found.by_remaining, found.by_step):
        assert counts.sum(axis=0).tolist() == total.tolist()
    level = np.tile(difficulty(cascade, tasks), 3)
    for number in range(len(DIFFICULTIES)):
        assert found.by_difficulty[number].tolist() == played.arm_counts[level == number].sum(axis=0)[order].tolist()
    assert len(found.by_step) == played.steps.max()
    assert found.by_step.sum(axis=1).tolist() == [(played.steps > k).sum() for k in range(len(found.by_step))]


def test_arms_go_from_cheap_to_dear_and_controls_come_last(cascade):
    found = call_shares(AlwaysArm(cascade, 0), cascade, "train")
    assert found.actions[found.n_arms :] == cascade.controls
    assert set(found.actions) == set(cascade.action_names)
    assert found.by_remaining.sum() > 0
