"""An arm that training never saw is used by its descriptor, about as well as if it had been there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import diagnostics
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.oracle import oracle_at_lambda
from routegym.graph import Expander, Recording, explore, keep_arms, start_recording, vary_arms
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.policies.network import NetworkPolicy
from routegym.pool import Arm, Price, PriceTable, Request, Response
from routegym.tasks.taskset import TaskSet

LAMBDA = 0.8
LEARNER = AllAction(network="attention", updates=150, tasks_per_update=64, hidden=(32,))


class Ladder(diagnostics._Walk):
    """Every step must be right; arm i of six is right up to step kind i and costs twice as much as the one before."""

    letters = "012345"

    def grade(self, state: diagnostics.Walk) -> float:
        return float(all(int(arm) >= int(kind) for kind, arm in zip(state.word, state.taken, strict=True)))


class _Pool:
    arms = tuple(Arm(str(index), "t", 1, 1) for index in range(6))
    prices = PriceTable("2026-01-01", "made up", {str(index): Price(0, 0, 2.0**index * 1e6, 0) for index in range(6)})

    @property
    def backend(self) -> _Pool:
        return self

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [Response(request.arm.model, (0, 0, 1, 0), 0.0, 0.0, 0.0) for request in requests]

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [0] * len(requests)


@cache
def ladder() -> Recording:
    words = ["".join(word) for word in product(Ladder.letters, repeat=2)]
    tasks = TaskSet(tuple(words), tuple(words), tuple(words), ("train",) * len(words))
    recording = start_recording("diagnostic", Ladder(), _Pool(), tasks, {"complete": True})
    explore(Expander(Ladder(), _Pool(), recording))
    recording.fix_scales()
    return recording


def objective(policy: NetworkPolicy, recording: Recording) -> float:
    """Mean of score - lambda cost / cost scale over all tasks."""
    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(
        len(tasks), recording, budget_usd=None, lambda_=LAMBDA, autoreset_mode="SameStep", info="lean"
    )
    table = rollout(policy, env, tasks, lambda_=LAMBDA)
    return float((table.score - LAMBDA * table.cost_usd / recording.cost_scale_usd).mean())


def learned(recording: Recording, seed: int) -> NetworkPolicy:
    varied = vary_arms(recording, 0.3, seed=seed)
    return LEARNER.fit(Problem(varied, budget_usd=None, lambda_=LAMBDA), seed)


def share_recovered(unseen: int, seed: int) -> float:
    """(arm added unseen - without it) / (trained with it - without it)."""
    whole = ladder()
    names = [arm.name for arm in whole.arms]
    fewer = keep_arms(whole, [name for name in names if name != names[unseen]])
    policy = learned(fewer, seed)
    without, added, trained = (
        objective(policy, fewer),
        objective(policy.adapt(whole), whole),
        objective(learned(whole, seed), whole),
    )
    score, cost = oracle_at_lambda(whole.graph, np.arange(whole.graph.n_tasks), LAMBDA / whole.cost_scale_usd)
    best = float((score - LAMBDA * cost / whole.cost_scale_usd).mean())
    assert without < trained  # there is something to recover
    assert trained >= 0.95 * best
    return (added - without) / (trained - without)


@pytest.mark.parametrize(
    ("unseen", "seed"),
    [(3, 0), *(pytest.param(arm, seed, marks=pytest.mark.slow) for seed in range(1, 5) for arm in range(1, 5))],
)
def test_an_unseen_arm_is_used_from_its_descriptor(unseen: int, seed: int) -> None:
    """Cheapest and dearest arm are left out: beyond the arms that were seen there is nothing to go by."""
    assert share_recovered(unseen, seed) >= 0.8
