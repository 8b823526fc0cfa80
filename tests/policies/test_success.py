"""Success prediction: labels, the known optimum, prices, masks, safe files."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from helpers import Edge

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, RunError
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.success import (
    KNN,
    Boosting,
    Logistic,
    MatrixFactorization,
    SuccessPredictor,
    arm_outcomes,
    near_arm_visits,
)

ALGORITHMS: dict[str, Any] = {
    "knn": KNN(k=4),
    "logistic": Logistic(inverse_penalty=100.0),
    "boosting": Boosting(trees=40, min_leaf=1),
    "matrix_factorization": MatrixFactorization(rank=2, updates=300, batch_size=32),
}
FEATURES = ("signals", "tfidf")


def two_kinds() -> Recording:
    """Forty tasks of one call: the cheap arm does the easy half, the dear one all; signal and prompt tell which."""
    nodes, edges, task_of = [], [], []
    for task in range(40):
        start = len(nodes)
        nodes += [(0, None), (1, float(task % 2 == 0)), (1, 1.0)]
        edges += [Edge(start, 0, start + 1, tokens=2), Edge(start, 1, start + 2, tokens=10)]
        task_of += [task] * 3
    recording = helpers.hand_made(nodes, edges, splits=("train",) * 40, task_of=task_of)
    easy = np.arange(40) % 2 == 0
    recording.graph.node_signals[:, 0] = np.repeat(np.where(easy, 0.125, 0.875), 3)
    prompts = tuple(f"{'easy' if e else 'hard'} {i}" for i, e in enumerate(easy))
    recording.tasks = dataclasses.replace(recording.tasks, prompts=prompts)
    return recording


def fitted(name: str, recording: Recording, features: str = "signals") -> SuccessPredictor:
    policy: SuccessPredictor = dataclasses.replace(ALGORITHMS[name], features=features).fit(Problem(recording), 0)
    return policy


def env_for(policy: SuccessPredictor, recording: Recording, n: int) -> RoutingVectorEnv:
    form: Any = policy.observation
    return RoutingVectorEnv(n, recording, split="all", observation=form, info="lean", autoreset_mode="SameStep")


def test_outcomes_of_the_same_arm_from_everywhere() -> None:
    nodes = [(0, None), (1, None), (1, None), (2, 1.0), (2, 0.0), (2, 0.5)]
    edges = [
        Edge(0, 0, 1, 3), Edge(0, 0, 2, 5), Edge(0, 1, 2, 2),
        Edge(1, 0, 3, 1), Edge(1, 1, 4, 1),
        Edge(2, 0, 4, 7), Edge(2, 1, 5, 4),
    ]  # fmt: skip
    score, cost = arm_outcomes(helpers.hand_made(nodes, edges).graph)
    # The first arm's call at the start has two samples: to node 1, where it wins, and to node 2, where it fails.
    np.testing.assert_allclose(score[:3], [[0.5, 0.5], [1.0, 0.0], [0.0, 0.5]])
    np.testing.assert_allclose(cost[:3] * 1e6, [[(3 + 1 + 5 + 7) / 2, 2 * (2 + 4)], [1, 2], [7, 8]])
    assert np.isnan(score[3:]).all()
    assert np.isnan(cost[3:]).all()


def test_outcomes_with_a_control_are_those_of_one_more_call() -> None:
    nodes = [(0, None), (1, None), (1, None), *((2, score) for score in (1.0, 0.0, 0.5, 0.25)), (1, 0.125)]
    edges = [
        Edge(0, 0, 1, 3), Edge(0, 1, 2, 2), Edge(0, 2, 7),
        Edge(1, 0, 5, 1), Edge(1, 1, 6, 1), Edge(1, 2, 3),
        Edge(2, 0, 5, 4), Edge(2, 1, 6, 1), Edge(2, 2, 4),
    ]  # fmt: skip
    score, cost = arm_outcomes(helpers.hand_made(nodes, edges, controls=("accept",)).graph)
    np.testing.assert_allclose(score[:3], [[1.0, 0.0, 0.125], [0.5, 0.25, 1.0], [0.5, 0.25, 0.0]])
    np.testing.assert_allclose(cost[:3] * 1e6, [[3, 4, 0], [1, 2, 0], [4, 2, 0]])


def test_visits() -> None:
    nodes = [(0, None), (1, None), (1, None), (2, 1.0)]
    edges = [Edge(0, 0, 1), Edge(0, 1, 2), Edge(1, 0, 3), Edge(1, 1, 3), Edge(2, 0, 3), Edge(2, 1, 3)]
    graph = helpers.hand_made(nodes, edges, task_of=(0, 0, 0, 0)).graph
    node, edge, visits = near_arm_visits(graph, np.array([0]), 1.0)
    assert node.tolist() == [0, 1, 2]
    assert edge.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(visits, [1.0, 0.5, 0.5])


def test_the_nearest_situation_of_the_training_set_is_itself() -> None:
    recording = helpers.build("cascade", tasks=12)
    score, _ = arm_outcomes(recording.graph)
    starts = recording.graph.task_start[recording.split("train")]
    recording.graph.node_signals[starts, 0] = np.linspace(0, 1, len(starts))  # no two tasks look alike
    policy = KNN(k=1, situations=10**6).fit(Problem(recording), 0)
    env = RoutingVectorEnv(len(starts), recording)
    observation, _ = env.reset(options={"task_id": recording.split("train")})
    np.testing.assert_allclose(policy.predicted(observation), score[starts])


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_arm_that_the_situation_asks_for(name: str, features: str) -> None:
    recording = two_kinds()
    policy = fitted(name, recording, features)
    # The scale is a call of the dear arm: at lambda 0.2 it costs 0.2 and the cheap arm 0.02, and a success is worth
    # that; at lambda 2 it costs 2, and is not.
    for lambda_, counts in ((0.2, [20, 20]), (2.0, [40, 0])):
        table = rollout(policy, env_for(policy, recording, 40), np.arange(40), lambda_=lambda_)
        assert table.arm_counts.sum(axis=0).tolist() == counts
        assert table.score.mean() == (1.0 if lambda_ < 1 else 0.5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_higher_price_never_buys_a_dearer_arm(name: str) -> None:
    recording = helpers.build("cascade", tasks=40)
    policy = fitted(name, recording)
    env = RoutingVectorEnv(32, recording, autoreset_mode="SameStep")
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        _, cost = policy._outcomes(observation)
        chosen = []
        for lambda_ in (0.0, 0.05, 0.2, 1.0, 5.0, 1e12):
            rows = observation.copy()
            rows[:, policy.layout.columns["lambda"]] = lambda_ / (1 + lambda_)
            chosen.append(cost[np.arange(32), policy.predict(rows)[0]])
        assert (np.diff(chosen, axis=0) <= 1e-15).all()
        observation, *_ = env.step(helpers.legal_actions(rng, env.action_masks()))
    assert (chosen[-1] == cost.min(axis=1)).all()
    assert np.mean(chosen[0]) > np.mean(chosen[-1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masked_actions_are_never_taken(name: str) -> None:
    recording = helpers.build("agent_steps", tasks=20)
    policy = fitted(name, recording)
    env = RoutingVectorEnv(64, recording, budget_usd="sampled", autoreset_mode="SameStep")
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        masks = env.action_masks()
        random = masks & (rng.random(masks.shape) < 0.5)
        random[~random.any(axis=1)] = masks[~random.any(axis=1)]
        actions, _ = policy.predict(observation, action_masks=random)
        assert random[np.arange(64), actions].all()
        actions, _ = policy.predict(observation)  # the observation says it as well
        assert masks[np.arange(64), actions].all()
        observation, *_ = env.step(actions)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_files(name: str, features: str, tmp_path: Path) -> None:
    recording = helpers.build("cascade", tasks=20)
    policy = fitted(name, recording, features)
    save_policies(tmp_path, recording, {0: policy})
    again: Any = load_policies(tmp_path, recording)[0]
    env = env_for(policy, recording, 20)
    observation, _ = env.reset(seed=1)
    for _ in range(3):
        score = policy.predicted(observation)
        assert score.shape == (20, recording.graph.n_actions)
        assert score.dtype == np.float64
        assert ((score >= 0) & (score <= 1)).all()
        np.testing.assert_array_equal(score, again.predicted(observation))
        actions, _ = policy.predict(observation, action_masks=env.action_masks())
        np.testing.assert_array_equal(actions, again.predict(observation, action_masks=env.action_masks())[0])
        observation, *_ = env.step(actions)


def test_same_seed_same_policy() -> None:
    recording = helpers.build("agent_steps", tasks=20)
    algorithm = MatrixFactorization(situations=50, updates=20, batch_size=16)
    one, two, other = (algorithm.fit(Problem(recording), seed).to_state() for seed in (1, 1, 2))
    assert helpers.same(one, two)
    assert not helpers.same(one, other)


class Payload:
    """Would make a folder if it were made again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def foreign_files(folder: Path) -> dict[str, bytes]:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import FunctionTransformer
    from skops.io import dumps

    return {
        "a function": dumps(FunctionTransformer(os.mkdir, kw_args={"path": str(folder / "made")})),
        "a class": dumps(Payload(str(folder / "made"))),
        "another model": dumps(LinearRegression()),
        "no archive": b"nothing of the kind",
    }


@pytest.mark.parametrize("kind", ["a function", "a class", "another model", "no archive"])
def test_files_with_anything_else_are_refused(kind: str, tmp_path: Path) -> None:
    """R-16: nothing in a file is executed."""
    recording = two_kinds()
    policy = fitted("boosting", recording)
    state, arrays = policy.to_state()
    content = foreign_files(tmp_path)[kind]
    arrays["model/regressor/1"] = np.frombuffer(content, dtype=np.uint8)
    with pytest.raises(RunError, match="regressor"):
        SuccessPredictor.from_state(recording, state, arrays)
    assert not (tmp_path / "made").exists()


def test_the_wrong_form_of_observation() -> None:
    recording = two_kinds()
    flat, _ = RoutingVectorEnv(2, recording).reset(seed=0)
    with pytest.raises(ConfigError, match='tfidf and expects observation="text"'):
        fitted("logistic", recording, "tfidf").predict(flat)
    text, _ = RoutingVectorEnv(2, recording, observation="text").reset(seed=0)
    with pytest.raises(ConfigError, match='signals and expects observation="flat"'):
        fitted("logistic", recording).predict(text)


@pytest.mark.parametrize(
    ("algorithm", "values"),
    [
        (KNN, {"k": 0}),
        (KNN, {"features": "words"}),
        (Logistic, {"inverse_penalty": 0.0}),
        (Logistic, {"situations": 0}),
        (Logistic, {"random_share": 0.0}),
        (Boosting, {"leaves": 1}),
        (Boosting, {"trees": 0}),
        (MatrixFactorization, {"rank": 0}),
        (MatrixFactorization, {"max_ngrams": -1}),
    ],
)
def test_bad_hyperparameters(algorithm: Any, values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"{name} = {value!r}; expected"):
        algorithm(**values)
