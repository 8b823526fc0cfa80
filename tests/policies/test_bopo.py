"""BoPO-style training: taxonomy, rewards and advantages by hand, what the warm start imitates."""

from __future__ import annotations

from math import sqrt

import diagnostics
import numpy as np
import pytest
import torch
from helpers import Edge, hand_made

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError
from routegym.graph import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.bopo import (
    EASY,
    HARD,
    INTRACTABLE,
    BoPO,
    Boundary,
    cheapest_success,
    difficulty,
    guided_advantages,
)

TINY = {"steps": 2000, "n_envs": 64, "group_size": 4, "batch_size": 128, "hidden": (8,), "sft_tasks": 100}


def test_difficulty_by_majority() -> None:
    """Of five roll-outs: 3 of 5 is a majority, 2 of 5 is not; small first."""
    two, three = [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]
    small, large = np.array([three, two, two, three], bool), np.array([three, three, two, two], bool)
    assert difficulty(small, large).tolist() == [EASY, HARD, INTRACTABLE, EASY]
    assert difficulty(small, large, majority=0.2).tolist() == [EASY] * 4
    assert difficulty(small, large, majority=0.7).tolist() == [INTRACTABLE] * 4


def two_steps() -> Recording:
    """Three tasks of two calls: one that anyone solves, one whose second call needs the large arm, one nobody solves.

    A node per word of arms taken. A call takes 2 tokens in the first and second task and 3 in the third, so that
    always-small costs 4e-6 or 6e-6 USD and always-large, at twice the price, 8e-6 or 12e-6.
    """
    nodes, edges, task_of = [], [], []
    for task in range(3):
        base, tokens = 7 * task, 2 + (task == 2)
        nodes += [(0, None), (1, None), (1, None)]
        nodes += [(2, float(task == 0 or (task == 1 and second == 1))) for _ in range(2) for second in range(2)]
        task_of += [task] * 7
        for first in range(2):
            edges.append(Edge(base, first, base + 1 + first, tokens))
        for first in range(2):
            for second in range(2):
                edges.append(Edge(base + 1 + first, second, base + 3 + 2 * first + second, tokens))
    return hand_made(nodes, edges, limits=(3, 3), splits=("train",) * 3, task_of=task_of)


def problem(**settings) -> Problem:
    return Problem(two_steps(), **{"budget_usd": None, "lambda_": 0.5} | settings)


@pytest.fixture(scope="module")
def boundary() -> Boundary:
    return Boundary.measure(problem(), seed=0)


def test_boundaries_of_a_hand_made_recording(boundary: Boundary) -> None:
    assert (boundary.small, boundary.large) == (0, 1)
    assert boundary.difficulty.tolist() == [EASY, HARD, INTRACTABLE]
    assert boundary.score.shape == boundary.cost_usd.shape == (2, 3, 5)
    np.testing.assert_allclose(boundary.score.mean(axis=2), [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_allclose(boundary.cost_usd.mean(axis=2), [[4e-6, 4e-6, 6e-6], [8e-6, 8e-6, 12e-6]])


def test_arms_can_be_named() -> None:
    found = Boundary.measure(problem(), 0, small="a1/t", large="a0/t")
    assert (found.small, found.large) == (1, 0)
    assert found.difficulty.tolist() == [EASY, EASY, INTRACTABLE]


def test_normalised_cost(boundary: Boundary) -> None:
    """Between always-small (0) and always-large (1) of the task, clipped at both ends."""
    task = np.array([0, 1, 2, 2, 0, 0])
    cost = np.array([4, 8, 9, 6, 1, 40]) * 1e-6
    np.testing.assert_allclose(boundary.cost_norm(task, cost, c_max=2.0), [0, 1, 0.5, 0, 0, 2], atol=1e-5)


def test_reward(boundary: Boundary) -> None:
    """Score, half as much again for a hard task, less lambda times the normalised cost."""
    task, score = np.array([0, 1, 1, 2]), np.array([1.0, 1.0, 0.0, 0.0])
    cost, lambda_ = np.array([6, 6, 8, 9]) * 1e-6, np.array([0.2, 0.2, 0.4, 0.4])
    found = boundary.reward(task, score, cost, lambda_, r_hard=0.5, c_max=2.0)
    np.testing.assert_allclose(found, [0.9, 1.4, -0.4, -0.2], atol=1e-5)


def test_boundary_rewards_under_a_budget(boundary: Boundary) -> None:
    """Without one always-large wins the hard task, 1.5 - 0.5; with 6e-6 USD it fails half way, at -0.5 * 0.5."""
    small, large = boundary.references(
        np.array([1, 1]), np.array([np.inf, 6e-6]), np.array([0.5, 0.5]), r_hard=0.5, c_max=2.0
    )
    np.testing.assert_allclose(small, [0, 0], atol=1e-5)
    np.testing.assert_allclose(large, [1.0, -0.25], atol=1e-5)


def test_append_by_hand() -> None:
    """0, 1 with boundaries 0 and 3: mean 1, std sqrt(6 / 4). A group of equals is judged by the boundaries."""
    found = guided_advantages([[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0], [3.0, 2.0], "append")
    np.testing.assert_allclose(found[0], np.array([-1.0, 0.0]) / (sqrt(1.5) + 1e-4))
    np.testing.assert_allclose(found[1], np.array([-0.5, -0.5]) / (sqrt(0.75) + 1e-4))


def test_floor_by_hand() -> None:
    """First group: the best boundary, 3, is above the mean; second: the mean, 1.5, is above 1."""
    found = guided_advantages([[0.0, 1.0], [1.0, 2.0]], [0.0, 0.0], [3.0, 1.0], "floor")
    np.testing.assert_allclose(found[0], np.array([-3.0, -2.0]) / (sqrt(1.5) + 1e-4))
    np.testing.assert_allclose(found[1], np.array([-0.5, 0.5]) / (sqrt(0.5) + 1e-4))


def test_without_guidance_it_is_grpo() -> None:
    found = guided_advantages([[0.0, 1.0], [0.5, 0.5]], [0.0, 0.0], [3.0, 1.0], "none")
    np.testing.assert_allclose(found, [[-0.5 / 0.5001, 0.5 / 0.5001], [0, 0]], atol=1e-12)


@pytest.mark.parametrize(("guidance", "middle"), [("append", 1.0), ("floor", 3.0), ("none", 0.5)])
def test_without_scaling(guidance, middle: float) -> None:
    found = guided_advantages([[0.0, 1.0]], [0.0], [3.0], guidance, "none")
    np.testing.assert_allclose(found, [[-middle, 1.0 - middle]], atol=1e-12)


def test_the_cheapest_success_is_imitated_on_hard_tasks_only() -> None:
    success = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]], bool)
    cost = np.array([[1, 5, 3, 4], [1, 2, 3, 4], [9, 1, 1, 1], [1, 2, 3, 4.0]])
    assert cheapest_success(success, cost, np.array([True, True, False, False])).tolist() == [2, 0, 0, 0]


def demonstrated(task_problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of the reserve, steps and actions of what is imitated."""
    boundary = Boundary.measure(task_problem, seed=0)
    observation, action = BoPO(**TINY | {"sft_tasks": 300}).demonstrations(task_problem, boundary, seed=0)
    columns = ObservationLayout.of(task_problem.recording).columns
    return observation[:, columns["step"].start], observation[:, columns["affordable"]], action


def test_labels_of_the_warm_start() -> None:
    """Hard tasks: small first, large for the call that needs it; the others: always small. 16 draws find it always
    but for a chance of about 1 in 40, when the cheapest success found is always-large."""
    step, _, action = demonstrated(problem())
    assert len(action) == 2 * 300
    first, second = action[step == 0], action[step > 0]
    assert len(first) == len(second) == 300
    assert second.mean() == pytest.approx(1 / 3, abs=0.08)  # a third of the drawn tasks is hard
    assert first.mean() < 0.05


def test_labels_obey_the_budget() -> None:
    """8e-6 USD allows worst cases of 3 and 6, not of 6 and 6: the second large call must follow a small one, 2 + 6."""
    step, affordable, action = demonstrated(problem(budget_usd=8e-6))
    assert (affordable[np.arange(len(action)), action] > 0.5).all()
    assert action[step > 0].mean() == pytest.approx(1 / 3, abs=0.08)
    assert action[step == 0].max() == 0
    step, _, action = demonstrated(problem(budget_usd=7e-6))  # the hard task cannot be won: fail cheaply
    assert action.max() == 0


def test_the_warm_start_sees_through_its_labels() -> None:
    """Credit: the cheapest success found is not always the cheapest there is, but only hard letters (H) need large."""
    task_problem = Problem(diagnostics.build(diagnostics.Credit()), budget_usd=None, lambda_=0.2)
    algorithm = BoPO(**TINY | {"sft_tasks": 600, "sft_epochs": 10, "learning_rate": 0.01})
    boundary = Boundary.measure(task_problem, seed=0)
    observation, action = algorithm.demonstrations(task_problem, boundary, seed=0)
    hard = observation[:, task_problem.recording.node_signal_names.index("next_H")] > 0.5
    assert 0.7 < (action == hard).mean() < 0.98
    logits = algorithm.imitate(task_problem, boundary, seed=0)(torch.as_tensor(observation))
    assert (logits.argmax(dim=1).numpy() == hard).mean() > 0.95


@pytest.mark.parametrize("guidance", ["append", "floor"])
def test_the_same_seed_gives_the_same_weights(guidance) -> None:
    def flat(seed: int) -> np.ndarray:
        policy = BoPO(**TINY, guidance=guidance).fit(problem(budget_usd="sampled", lambda_=(0.0, 0.5)), seed)
        return np.concatenate([p.detach().numpy().ravel() for p in policy.actor.parameters()])

    weights = [flat(seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"guidance": "ceiling"}, "guidance = 'ceiling'"),
        ({"scale": "per_term"}, "scale = 'per_term'"),
        ({"rollouts": 0}, "rollouts = 0"),
        ({"c_max": float("nan")}, "c_max = nan"),
        ({"majority": 1.0}, "majority = 1.0"),
        ({"r_hard": -1.0}, "r_hard = -1.0"),
        ({"n_envs": 100}, "group_size = 8 does not divide n_envs = 100"),
    ],
)
def test_bad_input(changes: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BoPO(**changes)


def test_bad_arms() -> None:
    with pytest.raises(ConfigError, match=r"arm 'a9' is not in the pool of 'hand'; expected one of \['a0/t', 'a1/t'\]"):
        Boundary.measure(problem(), 0, small="a9")
    with pytest.raises(ConfigError, match="small and large are both 'a0/t'"):
        Boundary.measure(problem(), 0, small="a0/t", large="a0/t")
