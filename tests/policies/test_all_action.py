"""Policy evaluation on the graph against enumeration, and its gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch as th
from helpers import Edge, build, hand_made

from routegym.core.observation import ObservationLayout
from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, MissingEdgeError
from routegym.graph import OPEN, Recording
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction, objective
from routegym.policies.networks import Actor, make_actor
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.training import Training
from routegym.policies.unrolling import Evaluation, Unroller

KINDS = ("single_call", "cascade", "agent_steps")
SAMPLES = {"m0/direct": 3, "m1/direct": 2}


@cache
def recording_of(kind: str) -> Recording:
    return build(kind, 8, samples=SAMPLES)


def actor_of(recording: Recording, seed: int = 0) -> Actor:
    """A policy far from uniform, in float64."""
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        actor = make_actor("mlp", (8,), recording).double()
        for parameter in actor.parameters():
            parameter.data += 0.5 * th.randn_like(parameter)
    return actor


def act_of(actor: Actor) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    def act(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        with th.inference_mode():
            return np.asarray(actor(th.as_tensor(observation, dtype=th.float64)).softmax(dim=-1).numpy())

    return act


def episodes_of(recording: Recording, n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Start nodes, budgets (some of which bind, one without) and prices."""
    rng = np.random.default_rng(seed)
    tasks = rng.integers(recording.graph.n_tasks, size=n)
    low, high = recording.budget_range_usd
    budget = np.exp(rng.uniform(np.log(low), np.log(high), n))
    budget[0] = np.inf
    return recording.graph.task_start[tasks], budget, rng.uniform(0, 0.5, n)


class Enumeration:
    """Every trajectory of a policy in one episode, walked in plain Python with the rules of the documentation."""

    def __init__(self, recording: Recording, act: Any, budget: float, lambda_: float) -> None:
        self.recording, self.act, self.budget, self.lambda_ = recording, act, budget, lambda_
        self.visits: dict[bytes, float] = {}
        self.values: dict[bytes, npt.NDArray[np.float64]] = {}  # Q times visits; several situations may look alike

    def observation(self, node: int, edge: int, spent: float) -> npt.NDArray[np.float32]:
        graph, scale = self.recording.graph, self.recording.cost_scale_usd
        reserve = graph.node_reserve[node]
        seen = graph.edges["signals"][edge] if edge >= 0 else np.zeros(len(self.recording.edge_signal_names))
        remaining = self.budget - spent
        columns = [
            *graph.node_signals[node],
            *(0.0 if np.isnan(r) else min(r / scale, 1.0) for r in reserve),
            *seen,
            *(float(spent + r <= self.budget) for r in reserve),
            1.0 - scale / (scale + remaining),
            self.lambda_ / (1 + self.lambda_),
            graph.node_step[node] / (graph.node_step[node] + 4),
        ]
        return np.array(columns, dtype=np.float32)

    def walk(self, node: int, edge: int = -1, spent: float = 0.0, visited: float = 1.0) -> tuple[float, float]:
        """Expected score and cost from here on."""
        graph = self.recording.graph
        if graph.node_status[node] != OPEN:
            return float(graph.node_score[node]), 0.0
        legal = [a for a, r in enumerate(graph.node_reserve[node]) if spent + r <= self.budget]
        if not legal:
            return 0.0, 0.0
        observation = self.observation(node, edge, spent)
        probability = self.act(observation[None])[0]
        price = self.lambda_ / self.recording.cost_scale_usd
        q = np.zeros(graph.n_actions)
        total = np.zeros(2)
        for action in legal:
            first, count = int(graph.edge_first[node, action]), int(graph.edge_count[node, action])
            mean = np.zeros(2)
            for sample in range(first, first + count):
                cost = float(graph.edges["cost_usd"][sample])
                reach = visited * probability[action] / count
                score, later = self.walk(int(graph.edges["next"][sample]), sample, spent + cost, reach)
                mean += np.array([score, cost + later]) / count
            q[action] = mean[0] - price * mean[1]
            total += probability[action] * mean
        key = observation.tobytes()
        self.visits[key] = self.visits.get(key, 0.0) + visited
        self.values[key] = self.values.get(key, 0.0) + visited * q
        return float(total[0]), float(total[1])


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_all_trajectories(kind: str) -> None:
    recording = recording_of(kind)
    act = act_of(actor_of(recording))
    start, budget, lambda_ = episodes_of(recording, 6)
    found = Unroller(recording, None).evaluate(act, start, budget, lambda_, np.random.default_rng(0))
    bound, layout = 0, ObservationLayout.of(recording)
    for episode in range(len(start)):
        known = Enumeration(recording, act, budget[episode], lambda_[episode])
        score, cost = known.walk(int(start[episode]))
        assert found.score[episode] == pytest.approx(score, abs=1e-12)
        assert found.cost_usd[episode] == pytest.approx(cost, rel=1e-12)
        visits: dict[bytes, float] = {}
        values: dict[bytes, npt.NDArray[np.float64]] = {}
        for row in np.flatnonzero(found.episode == episode):
            key = found.observation[row].tobytes()
            visits[key] = visits.get(key, 0.0) + found.weight[row]
            values[key] = values.get(key, 0.0) + found.weight[row] * found.q[row]
            bound += int(not found.observation[row, layout.columns["affordable"]].all())
        assert visits == pytest.approx(known.visits, abs=1e-12)
        assert values.keys() == known.values.keys()
        for key, value in values.items():
            np.testing.assert_allclose(value, known.values[key], rtol=1e-9, atol=1e-12)
        rows = found.episode == episode
        assert found.value[rows][0] == pytest.approx(score - lambda_[episode] * cost / recording.cost_scale_usd)
    assert bound  # budgets did forbid something


def test_several_samples_count_equally() -> None:
    edges = [Edge(0, 0, 1, 2), Edge(0, 0, 2, 4), Edge(0, 0, 2, 6), Edge(0, 1, 2, 5)]
    recording = hand_made([(0, None), (1, 1.0), (1, 0.0)], edges)

    def evenly(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.full((len(observation), 2), 0.5)

    lambda_ = np.array([0.3])
    found = Unroller(recording, None).evaluate(evenly, np.array([0]), np.array([np.inf]), lambda_, _rng())
    price = 0.3 / recording.cost_scale_usd
    np.testing.assert_allclose(found.q, [[1 / 3 - price * 4e-6, -price * 10e-6]])
    np.testing.assert_allclose([found.score[0], found.cost_usd[0]], [1 / 6, 7e-6])


@pytest.mark.parametrize("width", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["cascade", "agent_steps"])
def test_drawing_situations_is_unbiased(kind: str, width: float) -> None:
    recording = recording_of(kind)
    actor = actor_of(recording, seed=1)
    copies = 4000
    start, budget, lambda_ = (np.repeat(one[1:3], copies) for one in episodes_of(recording, 3, seed=5))
    once = slice(None, None, copies)
    exact = Unroller(recording, None).evaluate(act_of(actor), start[once], budget[once], lambda_[once], _rng())
    drawn = Unroller(recording, width).evaluate(act_of(actor), start, budget, lambda_, _rng())
    assert len(drawn.weight) / copies < len(exact.weight) / 2
    for estimate, value in ((drawn.score, exact.score), (drawn.cost_usd, exact.cost_usd)):
        parts = estimate.reshape(2, copies)
        np.testing.assert_array_less(
            np.abs(parts.mean(axis=1) - value), 5 * parts.std(axis=1) / np.sqrt(copies) + 1e-12
        )
    # many copies of one episode: the mean of the drawn gradients comes close to the exact one, and closer with more
    truth, near = gradient(actor, exact), gradient(actor, drawn)
    assert np.linalg.norm(near - truth) < 0.1 * np.linalg.norm(truth)
    assert drawn.weight.sum() / len(start) == pytest.approx(exact.weight.sum() / 2, rel=0.01)


@pytest.mark.parametrize("kind", ["cascade", "agent_steps"])
def test_gradient_is_that_of_the_objective(kind: str) -> None:
    recording = recording_of(kind)
    actor = actor_of(recording, seed=2)
    start, budget, lambda_ = episodes_of(recording, 5, seed=3)
    unroller = Unroller(recording, None)

    def expected() -> float:
        found = unroller.evaluate(act_of(actor), start, budget, lambda_, _rng())
        return float((found.score - lambda_ * found.cost_usd / recording.cost_scale_usd).mean())

    mine = gradient(actor, unroller.evaluate(act_of(actor), start, budget, lambda_, _rng()))
    flat = th.nn.utils.parameters_to_vector(actor.parameters()).detach().clone()
    step = 1e-5
    chosen = np.argsort(-np.abs(mine))[:: max(len(mine) // 25, 1)]
    for coordinate in chosen:
        sides = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[coordinate] += sign * step
            th.nn.utils.vector_to_parameters(moved, actor.parameters())
            sides.append(expected())
        numerical = (sides[0] - sides[1]) / (2 * step)
        assert mine[coordinate] == pytest.approx(numerical, rel=1e-4, abs=1e-8)
    assert np.abs(mine).max() > 1e-3


def gradient(actor: Actor, found: Evaluation) -> npt.NDArray[np.float64]:
    actor.zero_grad()
    objective(actor, found)[0].backward()
    return np.concatenate([p.grad.numpy().ravel() for p in actor.parameters() if p.grad is not None])


@pytest.mark.parametrize("kernel", ["numpy", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_situations_look_as_in_the_environment(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEGYM_KERNEL", kernel)
    recording = recording_of(kind)
    n = 40
    env = RoutingVectorEnv(
        n, recording, budget_usd="sampled", lambda_=(0.0, 0.5), autoreset_mode="Disabled", info="lean"
    )
    observation, _ = env.reset(seed=4)
    start, budget, lambda_ = env.node.copy(), env.ledger.budget_usd.copy(), env.lambda_.copy()
    found = Unroller(recording, None).evaluate(act_of(actor_of(recording)), start, budget, lambda_, _rng())
    known = [{row.tobytes() for row in found.observation[found.episode == episode]} for episode in range(n)]
    rng, ended, met = _rng(), np.zeros(n, dtype=bool), 0
    while not ended.all():
        for episode in np.flatnonzero(~ended):
            assert observation[episode].tobytes() in known[episode]
            met += 1
        actions = np.where(env.action_masks(), rng.random((n, recording.graph.n_actions)), -1).argmax(axis=1)
        observation, _, terminated, truncated, _ = env.step(actions)
        ended |= terminated | truncated
    assert met >= n


def test_exact_values_are_what_the_environment_pays() -> None:
    recording = build("agent_steps", 8)  # one sample of each edge: a greedy policy is deterministic
    policy = AllAction(updates=2, tasks_per_update=8, hidden=(8,)).fit(Problem(recording))
    env = RoutingVectorEnv(8, recording, split="all", info="lean", autoreset_mode="SameStep")
    tasks, budget = np.arange(8), recording.budget_range_usd[1] / 3
    table = rollout(policy, env, tasks, budget_usd=budget, lambda_=0.1)

    def greedy(observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.eye(recording.graph.n_actions)[policy.predict(observation, deterministic=True)[0]]

    found = Unroller(recording, 1).evaluate(
        greedy, recording.graph.task_start, np.full(8, budget), np.full(8, 0.1), _rng()
    )
    np.testing.assert_array_equal(found.score, table.score)
    np.testing.assert_allclose(found.cost_usd, table.cost_usd, rtol=1e-12)


def test_metrics_and_files(tmp_path: Any) -> None:
    recording = recording_of("cascade")
    records: list[Any] = []
    algorithm = AllAction(updates=3, tasks_per_update=16, hidden=(8,))
    policy = algorithm.fit(Problem(recording), 5, Training(report=records.append))
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(record["seed"] == 5 and 0 <= record["score"] <= 1 and record["cost_usd"] > 0 for record in records)
    save_policies(tmp_path, recording, {5: policy})
    observation = RoutingVectorEnv(32, recording).reset(seed=0)[0]
    again: Any = load_policies(tmp_path, recording)[5]
    np.testing.assert_array_equal(again.probabilities(observation), policy.probabilities(observation))


def test_the_global_generators_are_left_alone() -> None:
    before = th.get_rng_state()
    AllAction(updates=1, tasks_per_update=4, hidden=(4,)).fit(Problem(recording_of("single_call")))
    assert th.equal(before, th.get_rng_state())


def test_a_recording_with_gaps_is_refused() -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1)], complete=False)
    recording.graph.node_reserve[0] = 1e-6
    with pytest.raises(MissingEdgeError, match=r"'a1/t'.*complete recording"):
        AllAction(updates=1, tasks_per_update=4, hidden=(4,)).fit(Problem(recording, budget_usd=None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"updates": 0}, "updates = 0"),
        ({"width": 0.5}, "width = 0.5; expected a number >= 1"),
        ({"ent_coef": -1.0}, "ent_coef = -1.0"),
        ({"hidden": ()}, "hidden = "),
    ],
)
def test_senseless_hyperparameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AllAction(**values)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
