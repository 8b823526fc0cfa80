"""Swap noise: what learners are shown of tasks' embeddings, and that it keeps them from learning few tasks by heart."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from helpers import Edge, build, hand_made
from test_resume import RESUMED

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.graph import Recording
from routegym.policies.algorithm import Problem, algorithm_class
from routegym.policies.bopo import BoPO, Boundary
from routegym.policies.training_env import TrainingEnv

WIDTH = 24
LEARNERS = ("all_action", "ppo", "maskable_ppo", "recurrent_ppo", "ppo_lagrangian", "grpo", "rloo", "bopo", "masrouter")


@cache
def recording(width: int = WIDTH) -> Recording:
    """Single calls with embeddings that say nothing."""
    made = build("single_call", 80)
    noise = np.random.default_rng(0).random((80, width), dtype=np.float32)
    made.tasks = replace(made.tasks, embedding=noise, embedder="noise")
    return made


def env_of(prior: float, n: int = 500, **options: Any) -> TrainingEnv:
    return Problem(recording(), lambda_=0.1).env(n, embedding_prior=prior, **options)


def play(env: RoutingVectorEnv, steps: int) -> list[Any]:
    """Observations while every episode takes its first legal action."""
    return [env.step(env.action_masks().argmax(axis=1))[0] for _ in range(steps)]


def test_only_embeddings_are_swapped_each_column_for_that_of_a_training_task() -> None:
    tasks = recording().split("train")
    env = env_of(len(tasks))  # as many tasks that say nothing as there are
    shown, _ = env.reset(seed=3)
    real, _ = env_of(0.0).reset(seed=3)
    place = env.layout.columns["task"]
    others = np.delete(np.arange(env.layout.width), place)
    np.testing.assert_array_equal(shown[:, others], real[:, others])
    known = recording().tasks.embedding[tasks]
    for column in range(WIDTH):
        assert np.isin(shown[:, place][:, column], known[:, column]).all()
    swapped = (shown[:, place] != real[:, place]).mean()
    assert swapped == pytest.approx(0.5 * (1 - 1 / len(tasks)), abs=0.02)
    assert env.observation_space.contains(shown)


@pytest.mark.parametrize("prior", [-5.0, float("inf"), float("nan")])
def test_caution_that_is_none_is_refused(prior: float) -> None:
    with pytest.raises(ConfigError, match=r"embedding_prior = .*; expected a finite number >= 0"):
        env_of(prior, 4)


def test_other_forms_of_observations_go_without_caution_only() -> None:
    problem = Problem(recording())
    assert problem.env(4, observation="index").reset(seed=0)[0].shape == (4,)
    assert problem.env(4, observation="dict").reset(seed=0)[0].keys() >= {"task", "step"}
    with pytest.raises(ConfigError, match="observation = 'dict' with embedding_prior = 10; only flat"):
        problem.env(4, 10, observation="dict")


def test_a_reset_that_is_refused_changes_nothing() -> None:
    plain, refused = env_of(300.0, 8), env_of(300.0, 8)
    for env in (plain, refused):
        env.reset(seed=1)
        play(env, 3)
    with pytest.raises(ConfigError):
        refused.reset(seed=-1)
    np.testing.assert_array_equal(play(plain, 1), play(refused, 1))


def test_without_caution_and_without_embeddings_it_is_the_environment_itself() -> None:
    plain = RoutingVectorEnv(32, recording(), lambda_=0.1, budget_usd="sampled", autoreset_mode="SameStep")
    env = env_of(0.0, 32)
    np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0])
    np.testing.assert_array_equal(play(env, 3), play(plain, 3))
    bare = build("single_call", 20)
    cautious, careless = (Problem(bare).env(32, embedding_prior=prior) for prior in (300.0, 0.0))
    np.testing.assert_array_equal(cautious.reset(seed=1)[0], careless.reset(seed=1)[0])
    np.testing.assert_array_equal(play(cautious, 3), play(careless, 3))


@pytest.mark.parametrize("copy", [True, False])
def test_a_seed_fixes_what_is_swapped(copy: bool) -> None:
    env = env_of(300.0, copy=copy)
    first = [env.reset(seed=5)[0].copy(), *(np.array(shown) for shown in play(env, 2))]
    again = [env.reset(seed=5)[0].copy(), *(np.array(shown) for shown in play(env, 2))]
    np.testing.assert_array_equal(first, again)
    real, _ = env_of(0.0).reset(seed=5)
    place = env.layout.columns["task"]
    swapped = [shown[:, place] != real[:, place] for shown in (first[0], env.reset(seed=5)[0])]
    np.testing.assert_array_equal(*swapped)
    assert (env.swap(real.copy()) != env.swap(real.copy())).any(), "every look is another"


def test_it_goes_on_where_its_state_was_taken() -> None:
    env, other = env_of(300.0, 64), env_of(300.0, 64)
    env.reset(seed=2)
    shown = play(env, 3)[-1]
    np.testing.assert_array_equal(other.restore(env.state()), shown)
    np.testing.assert_array_equal(play(other, 3), play(env, 3))


def test_a_state_of_another_environment_is_refused() -> None:
    env = env_of(300.0, 4)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="swaps"):
        env.restore({name: array for name, array in env.state().items() if name != "swaps"})


def coins(tasks: int = 60) -> Recording:
    """Two arms, each right on half of the tasks, by chance; embeddings that say nothing."""
    rng = np.random.default_rng(1)
    nodes, edges, task_of = [], [], []
    for task in range(tasks):
        nodes += [(0, None), (1, float(rng.integers(2))), (1, float(rng.integers(2)))]
        edges += [Edge(3 * task, arm, 3 * task + 1 + arm) for arm in range(2)]
        task_of += 3 * [task]
    made = hand_made(nodes, edges, splits=("train",) * tasks, task_of=task_of)
    made.tasks = replace(made.tasks, embedding=rng.random((tasks, WIDTH), dtype=np.float32), embedder="noise")
    return made


def test_few_tasks_are_not_learned_by_heart() -> None:
    tossed = coins()
    tasks = tossed.split("train")
    reached = {}
    for prior in (0.0, 300.0):
        learner = algorithm_class("all_action")(updates=150, embedding_prior=prior)
        policy = learner.fit(Problem(tossed, budget_usd=None, lambda_=0.0))
        env = RoutingVectorEnv(len(tasks), tossed, info="lean", autoreset_mode="SameStep")
        reached[prior] = rollout(policy, env, tasks).score.mean()
    # Embeddings say nothing: what is gained by them on the tasks that were learned from is memory.
    assert reached[0.0] > 0.7, "by heart, three quarters can be right"
    assert reached[300.0] < reached[0.0] - 0.05


def test_a_warm_start_is_cautious_too() -> None:
    problem = Problem(recording())
    learners = [BoPO(**RESUMED["bopo"], embedding_prior=prior) for prior in (0.0, 300.0)]
    shown = [one.demonstrations(problem, Boundary.measure(problem, 0), 0)[0] for one in learners]
    place = env_of(0.0, 1).layout.columns["task"]
    known = recording().tasks.embedding
    real, swapped = ([(known == row[place]).all(axis=1).any() for row in rows] for rows in shown)
    assert all(real)
    assert not any(swapped)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_is_shown_it(name: str) -> None:
    settings = RESUMED[name]
    kinds = algorithm_class(name)
    policies = [kinds(**settings, embedding_prior=prior).fit(Problem(recording()), 0) for prior in (0.0, 300.0)]
    arrays = [policy.to_state()[1] for policy in policies]
    assert any(not np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0])
    with pytest.raises(ConfigError, match=r"embedding_prior = -1"):
        kinds(**settings, embedding_prior=-1)
    with pytest.raises(ConfigError, match=r"embedding_prior = inf; expected a finite number"):
        kinds(**settings, embedding_prior=float("inf"))
