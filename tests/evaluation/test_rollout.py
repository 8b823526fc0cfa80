from __future__ import annotations

import numpy as np
import pytest

from routegym.core import RoutingVectorEnv
from routegym.core.rollout import rollout
from routegym.errors import ConfigError, TaskError
from routegym.evaluation.statistics import Sweep
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.policies.baselines import AlwaysArm, FirstLargeK, Random


@pytest.fixture
def recording(random_graph, as_recording):
    graph = random_graph(11, n_tasks=12, depth=4, width=3, samples=3)
    for array in (graph.node_reserve, graph.edges["cost_usd"]):
        assert array.size
    return as_recording(graph)


def same(one, two) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in one.__dataclass_fields__)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("num_envs", [1, 5, 40])
def test_neither_batch_nor_autoreset_mode_matters(mode, num_envs, recording):
    tasks = np.tile(np.arange(12), 3)
    policy = FirstLargeK(recording, 1, 2, 0)
    expected = rollout(policy, RoutingVectorEnv(7, recording), tasks, seed=3)
    env = RoutingVectorEnv(num_envs, recording, autoreset_mode=mode)
    assert same(rollout(policy, env, tasks, seed=3), expected)
    assert not same(rollout(policy, env, tasks, seed=4), expected)


def test_means_are_the_exact_expectations(recording):
    graph = recording.graph
    arm = 1
    masked = np.isnan(graph.node_reserve[:, arm]) & (graph.node_status == 0)
    action = always_arm_actions(graph, arm)
    policy = AlwaysArm(recording, arm)
    action[masked] = policy.predict(
        np.zeros((int(masked.sum()), policy.layout.width), dtype=np.float32),
        action_masks=~np.isnan(graph.node_reserve[masked]),
    )[0]
    score, cost = evaluate_choices(graph, action)
    tasks = np.repeat(np.arange(12), 800)
    table = rollout(policy, RoutingVectorEnv(1600, recording, info="lean"), tasks)
    start = graph.task_start
    assert table.score.reshape(12, 800).mean(axis=1) == pytest.approx(score[start], abs=0.08)
    assert table.cost_usd.mean() == pytest.approx(cost[start].mean(), rel=0.02)


def test_columns_add_up(recording):
    tasks = np.arange(12)
    floors = recording.graph.node_floor[recording.graph.task_start]
    budgets = np.where(np.isfinite(floors), floors, 1e-5) * 2
    table = rollout(Random(recording, 1), RoutingVectorEnv(5, recording), tasks, budgets, lambda_=0.5)
    assert len(table) == 12
    assert table.task.tolist() == tasks.tolist()
    assert (table.budget_usd == budgets).all()
    assert (table.lambda_ == 0.5).all()
    assert (table.arm_counts.sum(axis=1) == table.steps).all()
    assert (table.cost_usd <= budgets).all()
    assert not table.violations.any()
    assert ((table.score >= 0) & (table.score <= 1)).all()


def test_tasks_by_id(recording):
    policy, env = AlwaysArm(recording, 0), RoutingVectorEnv(2, recording)
    by_id, by_index = rollout(policy, env, ["t3", "t0", "t3"]), rollout(policy, env, [3, 0, 3])
    assert by_id.task.tolist() == ["t3", "t0", "t3"]
    assert (by_id.cost_usd == by_index.cost_usd).all()


def test_sweep_of_tables(recording):
    env = RoutingVectorEnv(4, recording)
    tables = [[rollout(Random(recording, s), env, np.arange(12), seed=s) for _ in (0, 1)] for s in (0, 1, 2)]
    sweep = Sweep.of(tables)
    assert sweep.scores.shape == (3, 2, 12)
    assert (sweep.costs[2, 1] == tables[2][1].cost_usd).all()


def test_bad_input(recording):
    policy, env = AlwaysArm(recording, 0), RoutingVectorEnv(2, recording)
    with pytest.raises(ConfigError, match=r"tasks have shape \(0,\)"):
        rollout(policy, env, [])
    with pytest.raises(ConfigError, match="budget_usd has shape"):
        rollout(policy, env, [0, 1, 2], [1.0, 2.0])
    with pytest.raises(TaskError, match="task 99"):
        rollout(policy, env, [99])
