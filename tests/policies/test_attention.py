"""The arm-attention network: arms are told apart by what is known of them, never by their place in the pool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diagnostics
import helpers
import numpy as np
import numpy.typing as npt
import pytest
import torch as th

from routegym.core import RoutingVectorEnv
from routegym.core.observation import ObservationLayout
from routegym.errors import RunError
from routegym.graph import Recording, always_arm_actions, evaluate_choices, keep_arms
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import make_actor
from routegym.policies.networks.descriptors import describe, kind_signals
from routegym.policies.storage import load_policies, save_policies

ARMS = ("m0/direct", "m1/direct", "m2/direct")


def policy(recording: Recording, network: str = "attention", seed: int = 0) -> NetworkPolicy:
    """An untrained policy whose choices differ: the last layer is not near zero."""
    th.manual_seed(seed)
    actor = make_actor(network, (32, 32), recording)
    if network == "attention":
        th.nn.init.normal_(actor.network.score[0].weight)
    return NetworkPolicy(actor, network, (32, 32))


def observations(recording: Recording, budget_usd: float | None = None) -> npt.NDArray[np.float32]:
    """What random routes see, float32 (n, width)."""
    env = RoutingVectorEnv(64, recording, budget_usd=budget_usd or "sampled", lambda_=(0, 0.5), info="lean")
    seen = [env.reset(seed=1)[0].copy()]
    rng = np.random.default_rng(0)
    for _ in range(3):
        seen.append(env.step(helpers.legal_actions(rng, env.action_masks()))[0].copy())
    return np.concatenate(seen)


def reordered(recording: Recording, other: Recording, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Observations of one recording in the columns of another of a pool of the same arms."""
    names = ObservationLayout.of(recording).names
    return rows[:, [names.index(name) for name in ObservationLayout.of(other).names]]


# -- descriptors -------------------------------------------------------------------------------
def test_descriptors_of_arms_worked_out_by_hand(toy: Callable[..., Recording]) -> None:
    """Of the toy's arms, each call by another than ``large`` takes a third of what can still be had away."""
    recording = toy(control=False)
    known = describe(recording)
    price = np.log1p(np.array([8.0, 1.0, 3.0]) / 24.0 / 1e-3) / np.log1p(1e3)
    np.testing.assert_allclose(known.traits[:, 0], price, rtol=1e-6)
    assert known.traits[0, 1] == 1.0
    # Best scores before a call, over the situations of a task (calls, large, last arm): 1 at the start; after one
    # call 1 three times over (last arm) and 2/3; ...: the large arm keeps them, the others lose 1/3 of each.
    before = [1.0, *np.repeat([2 / 3, 1.0], 3), *np.repeat([1 / 3, 2 / 3, 1.0], 3)]
    lost = len(before) / 3
    np.testing.assert_allclose(known.traits[1:, 1], 1 - lost / sum(before), rtol=1e-6)
    assert known.accuracy.shape == (3, 0)
    assert not known.traits[:, 2:].any()


def test_accuracy_of_arms_is_that_of_single_calls_on_training_tasks() -> None:
    recording = helpers.build("cascade", 80)
    graph, known = recording.graph, describe(recording)
    kinds = kind_signals(recording.node_signal_names, graph.node_signals[graph.task_start])
    assert [recording.node_signal_names[column] for column in (kinds[0], kinds[-1])] == ["level_add1", "level_mul3"]
    start = graph.task_start[recording.split("train")]
    for arm in range(3):
        answered = graph.edges["next"][graph.edge_first[start, arm]]
        right = graph.node_score[graph.edges["next"][graph.edge_first[answered, 3]]]
        solved = np.max(
            [
                graph.node_score[
                    graph.edges["next"][graph.edge_first[graph.edges["next"][graph.edge_first[start, a]], 3]]
                ]
                for a in range(3)
            ],
            axis=0,
        )
        np.testing.assert_allclose(known.traits[arm, 1], right.sum() / solved.sum(), rtol=1e-6)
        for column, kind in enumerate(kinds):
            is_kind = graph.node_signals[start, kind] == 1
            if solved[is_kind].any():
                expected = right[is_kind].sum() / solved[is_kind].sum()
                np.testing.assert_allclose(known.accuracy[arm, column], expected, rtol=1e-6)
    assert not known.accuracy[3].any()
    assert known.traits[3].tolist() == [0, 0, 0, 0, 1]


def test_accuracy_is_that_of_a_whole_attempt() -> None:
    """Where an attempt takes several turns: the score of the arm alone over that of the best arm of each task."""
    recording = helpers.build("attempts", 40)
    train = np.flatnonzero(np.array(recording.tasks.splits) == "train")
    starts = recording.graph.task_start[train]
    alone = np.array(
        [evaluate_choices(recording.graph, always_arm_actions(recording.graph, arm))[0][starts] for arm in range(3)]
    )
    expected = alone.sum(axis=1) / alone.max(axis=0).sum()
    np.testing.assert_allclose(describe(recording).traits[:3, 1], expected, rtol=1e-6)
    assert 0 < expected[0] < expected[2] <= 1


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_descriptors_look_at_training_tasks_only(kind: str) -> None:
    recording = helpers.build(kind, 60)
    before = describe(recording)
    ended = recording.graph.nodes["score"]
    held_out = ~np.isin(recording.graph.node_task, recording.split("train"))
    ended[held_out & ~np.isnan(ended)] = 0.0
    source, _ = recording.graph.edge_sources()
    recording.graph.edges["cost_usd"][held_out[source]] = 0.0
    for one, other in zip(before, describe(recording), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32
        assert ((one >= 0) & (one <= 1)).all()


# -- the network -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_permuted_pool_permutes_the_choice(kind: str) -> None:
    recording = helpers.build(kind)
    other = keep_arms(recording, (ARMS[2], ARMS[0], ARMS[1]))
    chooses = policy(recording)
    rows = observations(recording)
    permuted = chooses.adapt(other)
    there = reordered(recording, other, rows)
    place = [recording.action_names.index(name) for name in other.action_names]
    np.testing.assert_allclose(permuted.logits(there), chooses.logits(rows)[:, place], rtol=1e-4, atol=1e-5)
    chosen = chooses.predict(rows)[0]
    assert len(set(chosen.tolist())) > 1
    np.testing.assert_array_equal(np.array(place)[permuted.predict(there)[0]], chosen)


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_an_arm_that_is_gone_is_an_arm_that_is_masked(kind: str) -> None:
    """Whatever is known or seen of an arm that cannot be chosen, the others are weighed as if it were not there."""
    recording = helpers.build(kind)
    layout = ObservationLayout.of(recording)
    chooses = policy(recording)
    rows = observations(recording)
    rows[:, layout.columns["affordable"].start + 1] = 0.0
    before = chooses.probabilities(rows)
    assert (before[:, 1] == 0).all()
    with th.no_grad():
        chooses.actor.network.traits[1] = 0.7
        chooses.actor.network.accuracy[1] = 0.3
    rows[:, layout.columns["arm_reserve"].start + 1] = 0.9
    np.testing.assert_array_equal(chooses.probabilities(rows), before)


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_what_is_learned_does_not_depend_on_the_number_of_arms(kind: str) -> None:
    recording = helpers.build(kind)
    fewer = keep_arms(recording, ARMS[:2])
    shapes = [{n: p.shape for n, p in make_actor("attention", (16,), r).named_parameters()} for r in (recording, fewer)]
    assert shapes[0] == shapes[1]
    moved = policy(fewer).adapt(recording)
    np.testing.assert_array_equal(moved.actor.network.traits, describe(recording).traits)


def test_a_fresh_policy_is_near_uniform(toy: Callable[..., Recording]) -> None:
    recording = toy(control=True)
    th.manual_seed(0)
    rows = th.as_tensor(observations(recording, budget_usd=1e9))
    probability = make_actor("attention", (64, 64), recording)(rows).softmax(dim=-1)
    np.testing.assert_allclose(probability.detach(), 0.25, atol=0.01)


# -- saving and adapting -----------------------------------------------------------------------
def test_it_is_saved_with_its_descriptors(tmp_path: Path) -> None:
    recording = helpers.build("cascade")
    chooses = policy(recording)
    chooses.actor.network.traits[0, 2] = 0.5  # another machine is slower
    save_policies(tmp_path, recording, {3: chooses})
    loaded = load_policies(tmp_path, recording)[3]
    rows = observations(recording)
    assert isinstance(loaded, NetworkPolicy)
    np.testing.assert_array_equal(loaded.logits(rows), chooses.logits(rows))


def test_it_is_loaded_for_another_pool_when_asked_to(tmp_path: Path) -> None:
    recording = helpers.build("cascade")
    fewer = keep_arms(recording, ARMS[1:])
    save_policies(tmp_path, recording, {0: policy(recording)})
    with pytest.raises(RunError, match=r"other actions .*adapt it: load_policies\(folder, recording, adapt=True\)"):
        load_policies(tmp_path, fewer)
    loaded = load_policies(tmp_path, fewer, adapt=True)[0]
    assert isinstance(loaded, NetworkPolicy)
    rows = observations(fewer)
    np.testing.assert_array_equal(loaded.logits(rows), policy(recording).adapt(fewer).logits(rows))


def test_what_cannot_be_adapted(tmp_path: Path) -> None:
    recording = helpers.build("cascade")
    fewer = keep_arms(recording, ARMS[1:])
    with pytest.raises(RunError, match=r"network = 'mlp' belongs to its pool .*train with network = 'attention'"):
        policy(recording, "mlp").adapt(fewer)
    with pytest.raises(RunError, match=r"other columns of the situation than those of 'agent_steps'"):
        policy(recording).adapt(helpers.build("agent_steps"))
    save_policies(tmp_path, recording, {0: policy(recording, "mlp")})
    with pytest.raises(RunError, match=r"or train one for this recording$"):
        load_policies(tmp_path, fewer)
    with pytest.raises(RunError, match="belongs to its pool"):
        load_policies(tmp_path, fewer, adapt=True)


def test_a_trained_policy_chooses_the_same_in_a_permuted_pool() -> None:
    recording = diagnostics.build(diagnostics.Credit())
    other = keep_arms(recording, ("large/t", "small/t"))
    learned = AllAction(updates=20, tasks_per_update=16, network="attention", hidden=(32,)).fit(
        Problem(recording, budget_usd=None, lambda_=0.2)
    )
    rows = observations(recording)
    chosen = learned.predict(rows)[0]
    assert 0.1 < chosen.mean() < 0.9
    np.testing.assert_array_equal(1 - learned.adapt(other).predict(reordered(recording, other, rows))[0], chosen)
