"""A recording with fewer arms says of those that stay what the whole one says, and nothing of the others."""

from __future__ import annotations

from pathlib import Path

import helpers
import numpy as np
import numpy.typing as npt
import pytest

from routegym.core import RoutingVectorEnv
from routegym.errors import ConfigError, PoolError
from routegym.graph import OPEN, Recording, always_arm_actions, evaluate_choices, keep_arms, vary_arms
from routegym.graph.subset import arm_signals, keep_actions

ARMS = ("m0/direct", "m1/direct", "m2/direct")


def values(recording: Recording, arm: str) -> npt.NDArray[np.float64]:
    """Expected score and cost of every task when one arm is always called, (2, n_tasks)."""
    graph = recording.graph
    action = always_arm_actions(graph, recording.action_names.index(arm))
    return np.stack(evaluate_choices(graph, action))[:, graph.task_start]


@pytest.mark.parametrize("kind", [*helpers.KINDS, "agent_steps_sampled"])
@pytest.mark.parametrize("names", [ARMS[:1], ARMS[1:], (ARMS[2], ARMS[0])], ids=["first", "last two", "swapped"])
def test_what_stays_has_the_same_values_and_masks(
    recordings: dict[str, Path], tmp_path: Path, kind: str, names: tuple[str, ...]
) -> None:
    whole = Recording.load(recordings[kind])
    part = keep_arms(whole, names)
    assert part.action_names == (*names, *whole.controls)
    assert part.graph.complete
    assert part.graph.n_nodes < whole.graph.n_nodes
    for name in names:
        np.testing.assert_array_equal(values(part, name), values(whole, name))
    start = part.graph.node_reserve[part.graph.task_start]
    columns = [whole.action_names.index(name) for name in part.action_names]
    np.testing.assert_array_equal(start, whole.graph.node_reserve[whole.graph.task_start][:, columns])

    loaded = Recording.load(part.save(tmp_path / "part"))
    assert part.content_hash not in ("", whole.content_hash)
    assert loaded.action_names == part.action_names
    assert loaded.provenance["kept_from"] == {"name": whole.name, "content_hash": whole.content_hash}
    np.testing.assert_array_equal(values(loaded, names[0]), values(whole, names[0]))


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_route_of_arms_that_stay_plays_the_same_and_sees_the_same(recordings: dict[str, Path], kind: str) -> None:
    whole = Recording.load(recordings[kind])
    names = (ARMS[2], ARMS[0])
    part = keep_arms(whole, names)
    there = [whole.action_names.index(name) for name in part.action_names]
    envs = [RoutingVectorEnv(8, one, budget_usd=None, lambda_=0.3, autoreset_mode="Disabled") for one in (whole, part)]
    seen = [env.reset(seed=0, options={"task_id": np.arange(8)})[0] for env in envs]
    rng, over = np.random.default_rng(0), np.zeros(8, dtype=bool)
    while not over.all():
        for column, name in enumerate(envs[1].layout.names):
            other = seen[0][:, envs[0].layout.names.index(name)]
            np.testing.assert_array_equal(seen[1][:, column], other, err_msg=name)
        masks = envs[1].action_masks()
        np.testing.assert_array_equal(masks, envs[0].action_masks()[:, there])
        action = helpers.legal_actions(rng, masks)
        results = [env.step(np.array(there)[action] if env is envs[0] else action) for env in envs]
        seen = [result[0] for result in results]
        for one, other in zip(results[0][1:4], results[1][1:4], strict=True):
            np.testing.assert_array_equal(one, other)
        over |= results[0][2] | results[0][3]


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_all_arms_in_their_order_are_the_whole_recording(
    recordings: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    whole = Recording.load(recordings[kind])
    same = keep_arms(whole, ARMS)
    assert same.budget_range_usd == whole.budget_range_usd
    same.save(tmp_path / "same")
    assert same.content_hash == whole.content_hash
    assert keep_arms(whole, ARMS, keep_scales=False).cost_scale_usd == whole.cost_scale_usd


def test_scales_stay_or_are_fixed_anew(recordings: dict[str, Path]) -> None:
    whole = Recording.load(recordings["single_call"])
    cheap, dear = keep_arms(whole, ARMS[:1]), keep_arms(whole, ARMS[2:])
    assert cheap.cost_scale_usd == dear.cost_scale_usd == whole.cost_scale_usd
    assert cheap.budget_range_usd == whole.budget_range_usd
    low, high = dear.budget_range_usd
    assert high == whole.budget_range_usd[1]
    assert low == dear.graph.node_reserve[dear.graph.task_start, 0].max()  # the least that pays for every first call
    RoutingVectorEnv(4, dear, budget_usd="sampled").reset(seed=0)
    own = keep_arms(whole, ARMS[:1], keep_scales=False)
    assert own.cost_scale_usd == values(whole, ARMS[0])[1, whole.split("train")].mean()


def test_signals_of_an_arm_go_with_it(recordings: dict[str, Path]) -> None:
    whole = Recording.load(recordings["cascade"])
    part = keep_arms(whole, (ARMS[2], ARMS[0]))
    before = [name for name in whole.node_signal_names if not name.startswith("tried_")]
    assert part.node_signal_names == (*before, "tried_m2/direct", "tried_m0/direct")
    called = part.graph.edges["next"][part.graph.edge_first[part.graph.task_start, 0]]
    assert (part.graph.node_signals[called, -2:] == [1, 0]).all()


def test_signals_per_arm_are_told_by_their_names() -> None:
    names = ("level", "tried_a/t", "best_b/t", "tried_x_a/t", "half_a/t", "best_a/t", "best_x_a/t", "tried_b/t")
    found = arm_signals(names, ("b/t", "a/t", "x_a/t"))
    assert found == {"tried": (7, 1, 3), "best": (2, 5, 6)}


def test_kept_actions_are_the_only_legal_ones(recordings: dict[str, Path]) -> None:
    """Attempts that nobody can abandon: the recording is left as it is, scales and signals stay."""
    whole = Recording.load(recordings["attempts"])
    graph = whole.graph
    legal = np.ones(graph.node_reserve.shape, dtype=bool)
    busy = np.flatnonzero(graph.node_running >= 0)
    legal[busy] = np.arange(graph.n_actions) == graph.node_running[busy][:, None]
    part = keep_actions(whole, legal)
    kept = part.graph
    busy = kept.node_running >= 0
    assert busy.any()
    masks = ~np.isnan(kept.node_reserve)
    assert (masks[busy].sum(axis=1) == 1).all()
    assert (masks[busy].argmax(axis=1) == kept.node_running[busy]).all()
    assert masks[(kept.node_status == OPEN) & ~busy].all()
    assert kept.complete
    assert part.cost_scale_usd == whole.cost_scale_usd
    assert part.node_signal_names == whole.node_signal_names
    for arm in range(3):
        pairs = [evaluate_choices(g, always_arm_actions(g, arm)) for g in (graph, kept)]
        for before, after in zip(*pairs, strict=True):
            np.testing.assert_array_equal(before[graph.task_start], after[kept.task_start])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["m0/direct", "m9/direct"], r"no arm 'm9/direct'; expected some of m0"), ([], "at least one")],
)
def test_arms_that_cannot_be_kept(names: list[str], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        keep_arms(helpers.build("single_call", 20), names)
    with pytest.raises(PoolError, match="each only once"):
        keep_arms(helpers.build("single_call", 20), ["m0/direct", "m0/direct"])


def test_varied_arms_mask_a_part_of_the_pool_for_each_training_task(recordings: dict[str, Path]) -> None:
    whole = Recording.load(recordings["agent_steps"])
    part = vary_arms(whole, 0.5, seed=1)
    graph = part.graph
    train = np.isin(graph.node_task, part.split("train"))
    is_open = graph.node_status == OPEN
    assert not np.isnan(graph.node_reserve[is_open & ~train]).any()
    legal = ~np.isnan(graph.node_reserve[graph.task_start[part.split("train")]])
    assert legal[:, 0].all()  # the cheapest stays
    assert 0.25 < legal[:, 1:].mean() < 0.75
    for task in part.split("train"):  # the same part in all situations of a task
        rows = ~np.isnan(graph.node_reserve[is_open & (graph.node_task == task)])
        assert (rows == rows[0]).all()
    np.testing.assert_array_equal(values(part, ARMS[0]), values(whole, ARMS[0]))
    assert helpers.same(vary_arms(whole, 0.5, seed=1).graph.nodes, graph.nodes)
    assert not helpers.same(vary_arms(whole, 0.5, seed=2).graph.node_reserve, graph.node_reserve)
    env = RoutingVectorEnv(16, part, split="train", budget_usd="sampled")
    env.reset(seed=0)
    assert env.action_masks().any(axis=1).all()


def test_a_probability_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"drop = 1; expected a probability in \[0, 1\)"):
        vary_arms(helpers.build("single_call", 20), 1)
