"""The same environment class on live models gives what is recorded of them."""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from routegym.core.vector_env import RoutingVectorEnv
from routegym.envs import workflow_of
from routegym.graph import Expander, Recording, Workflow, start_recording
from routegym.graph.library import load_recording
from routegym.pool.pool import load_pool
from routegym.tasks.taskset import TaskSet


def live_copy(recorded: Recording, workflow: Workflow, tasks: list[int]) -> tuple[Recording, Expander]:
    """An empty recording of some of the tasks, to be grown by the pool's models."""
    chosen = TaskSet(*(tuple(column[i] for i in tasks) for column in (
        recorded.tasks.ids, recorded.tasks.prompts, recorded.tasks.references, recorded.tasks.splits
    )))  # fmt: skip
    pool = load_pool()
    live = start_recording(recorded.name, workflow, pool, chosen)
    expander = Expander(workflow, pool, live)
    live.cost_scale_usd = recorded.cost_scale_usd  # scales belong to the whole recording
    return live, expander


@pytest.mark.parametrize("kind", ["agent_steps", "cascade", "attempts"])
def test_live_transitions_equal_the_recorded_ones(kind: str) -> None:
    recorded = load_recording(kind)
    pool = load_pool()
    workflow = workflow_of(kind, [arm.name for arm in pool.arms], recorded.tasks)
    tasks = recorded.split("test")[:12].tolist()
    live, expander = live_copy(recorded, workflow, tasks)
    ids = np.repeat(recorded.task_ids[tasks], len(pool.arms))
    envs = [
        RoutingVectorEnv(len(ids), source, split="all", autoreset_mode="Disabled", lambda_=0.3, expander=grower)
        for source, grower in ((recorded, None), (live, expander))
    ]
    options = {"task_id": ids}
    (seen, told), (seen_live, told_live) = (env.reset(seed=0, options=options) for env in envs)
    rng = np.random.default_rng(0)
    actions = np.tile(np.arange(len(pool.arms)), len(tasks))  # first every arm, then arms at random
    done = np.zeros(len(ids), dtype=bool)
    while not done.all():
        np.testing.assert_array_equal(seen, seen_live)
        np.testing.assert_array_equal(told["text"], told_live["text"])
        (seen, reward, *ends, told), (seen_live, reward_live, *ends_live, told_live) = (
            env.step(actions) for env in envs
        )
        np.testing.assert_array_equal(reward, reward_live)
        np.testing.assert_array_equal(ends, ends_live)
        for name in ("cost_usd", "score", "completion_tokens", "reasoning_tokens", "flops"):
            np.testing.assert_array_equal(told[name], told_live[name], err_msg=name)
        done |= ends[0] | ends[1]
        masks = envs[0].action_masks()
        np.testing.assert_array_equal(masks, envs[1].action_masks())
        actions = helpers.legal_actions(rng, masks[:, : recorded.graph.n_arms])
    assert live.graph.n_edges > len(ids)


def test_shipped_recordings_are_complete_and_belong_to_the_pool() -> None:
    pool = load_pool()
    for kind in helpers.KINDS:
        recording = load_recording(kind)
        assert recording.graph.complete
        assert recording.arms == pool.arms
        assert recording.prices == pool.prices
        dearest = recording.graph.node_reserve[recording.graph.task_start].max()
        assert dearest < recording.budget_range_usd[1]  # every arm is worth learning about
    tasks = load_recording("agent_steps").tasks
    assert len(tasks.ids) >= 3000
    assert set(tasks.splits) == {"train", "val", "test"}
