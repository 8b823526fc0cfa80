"""The attainable bound lies between what is learned elsewhere and what only the clairvoyant can get."""

from __future__ import annotations

import numpy as np
from helpers import Edge, hand_made

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.attainable import attainable_policy
from routegym.evaluation.oracle import oracle_at_lambda
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.policies.policy import Policy

#: Which arm is right for each task; nothing that a router sees tells the tasks apart.
TRAIN, TEST = (0, 0, 0, 1), (0, 1, 1, 1, 0)


def hidden() -> Recording:
    """Two equally cheap arms, of which one is right; the tasks look alike."""
    nodes: list[tuple[int, float | None]] = []
    edges: list[Edge] = []
    for right in TRAIN + TEST:
        start = len(nodes)
        nodes += [(0, None), (1, float(right == 0)), (1, float(right == 1))]
        edges += [Edge(start, 0, start + 1, 2), Edge(start, 1, start + 2, 1)]
    splits = ("train",) * len(TRAIN) + ("test",) * len(TEST)
    task_of = [task for task in range(len(splits)) for _ in range(3)]
    recording = hand_made(nodes, edges, splits=splits, task_of=task_of)
    recording.budget_range_usd = (1e-4, 1e-3)  # binds nowhere
    return recording


def mean_score(recording: Recording, policy: Policy) -> float:
    tasks = recording.split("test")
    env = RoutingVectorEnv(len(tasks), recording, split="test", info="lean", autoreset_mode="SameStep")
    return float(rollout(policy, env, tasks).score.mean())


def test_bound_lies_between_learned_and_clairvoyant() -> None:
    recording = hidden()
    learned = AllAction(updates=60, tasks_per_update=64, hidden=(8,)).fit(Problem(recording, lambda_=0.0))
    bound = attainable_policy(recording, "test", updates=60, tasks_per_update=64, hidden=(8,))
    score, _ = oracle_at_lambda(recording.graph, recording.split("test"), 0.0)
    # learned: the arm that is right for 3 of 4 training tasks; best without knowing the task: right for 3 of 5
    assert mean_score(recording, learned) == np.float64(2 / 5)
    assert mean_score(recording, bound) == np.float64(3 / 5)
    assert score.mean() == 1.0


def test_same_seed_gives_the_same_bound() -> None:
    recording = hidden()
    policies = [
        attainable_policy(recording, "test", seed, updates=3, tasks_per_update=8, hidden=(8,)) for seed in (1, 1, 2)
    ]
    first, again, other = (policy.to_state()[1]["network.0.weight"] for policy in policies)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
