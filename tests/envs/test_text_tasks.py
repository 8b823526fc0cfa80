"""Single calls and cascades on tasks that are not arithmetic, with graders and embeddings of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.core.observation import ObservationLayout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.envs import workflow_of
from routegym.errors import ConfigError
from routegym.graph import Expander, Recording, explore, start_recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Failure, Request, Response
from routegym.tasks.taskset import TaskSet


class Parrot:
    """Answers with the last word of the prompt; the second arm shouts."""

    def generate(
        self, requests: Sequence[Request], on_result: Callable[..., None] | None = None
    ) -> list[Response | Failure]:
        texts = [r.prompt.split()[-1].upper() if r.arm.model == "b" else r.prompt.split()[-1] for r in requests]
        return [
            Response(text, (5, 0, 1, 0), 0.1, 1.0, -0.5, lost_tokens=(5, 0, 9, 0) if text == "FOX" else (0, 0, 0, 0),
                     attempts=2 if text == "FOX" else 1, gpu_s=0.25)
            for text in texts
        ]  # fmt: skip

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [5] * len(requests)


@dataclass
class Pool:
    arms: tuple[Arm, ...] = (Arm("a", "t", 1, 9), Arm("b", "t", 1, 9, charged_attempts=2))
    prices: PriceTable = field(
        default_factory=lambda: PriceTable("2026-01-01", "made up", {m: Price(1, 0, 2, 0) for m in "ab"})
    )
    backend: Parrot = field(default_factory=Parrot)


TASKS = TaskSet(
    ids=("w0", "w1", "w2"),
    prompts=("say owl", "say fox", "say EEL"),
    references=("owl", "fox", "EEL"),
    splits=("train", "val", "test"),
    graders=("exact", "normalized", "exact"),
    kinds=("bird", "beast", "fish"),
    embedding=np.eye(3, 4, dtype=np.float32),
    embedder="made up",
)


def record(env: str) -> Recording:
    pool = Pool()
    workflow = workflow_of(env, [arm.name for arm in pool.arms], TASKS)
    recording = start_recording("words", workflow, pool, TASKS)
    explore(Expander(workflow, pool, recording))
    recording.provenance["complete"] = True
    recording.fix_scales()
    return recording


@pytest.mark.parametrize("env", ["routegym/SingleCall-v0", "routegym/Cascade-v0"])
def test_graders_and_embeddings_survive_the_files(env: str, tmp_path: Path) -> None:
    recording = record(env)
    loaded = Recording.load(recording.save(tmp_path / "words"))
    assert loaded.tasks.graders == TASKS.graders
    assert loaded.tasks.kinds == TASKS.kinds
    assert loaded.tasks.embedder == "made up"
    np.testing.assert_array_equal(loaded.tasks.embedding, TASKS.embedding)
    for name in ("cost_usd", "gpu_s", "retries", "lost"):
        assert sorted(loaded.graph.edges[name].ravel()) == sorted(recording.graph.edges[name].ravel())
    loaded.save(tmp_path / "again")
    assert loaded.content_hash == recording.content_hash


def test_answers_are_graded_as_the_task_says() -> None:
    recording = record("single_call")
    graph = recording.graph
    target = graph.edges["next"][graph.edge_first[graph.task_start]]
    # exact: only the quiet arm; normalised: both; exact with capitals: both
    np.testing.assert_array_equal(graph.node_score[target], [[1, 0], [1, 1], [1, 1]])


def test_the_embedding_is_seen_in_every_situation() -> None:
    recording = record("cascade")
    place = ObservationLayout.of(recording).columns["task"]
    env = RoutingVectorEnv(3, recording, split="all", autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0, options={"task_id": [0, 1, 2]})
    np.testing.assert_array_equal(observation[:, place], TASKS.embedding)
    observation, *_ = env.step([0, 1, 0])
    np.testing.assert_array_equal(observation[:, place], TASKS.embedding)
    assert env.single_observation_space.contains(observation[0])


def test_info_keeps_retries_apart() -> None:
    env = RoutingVectorEnv(2, record("single_call"), split="all", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": ["w1", "w1"]})
    *_, info = env.step([0, 1])
    assert info["retries"].tolist() == [0, 1]
    assert info["lost_tokens"].tolist() == [0, 14]
    assert info["gpu_s"].tolist() == [0.25, 0.25]
    assert info["served_by"].tolist() == [0, 1]
    np.testing.assert_allclose(info["cost_usd"], [7e-6, 7e-6 + 23e-6])


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ConfigError, match="env = 'chess'; expected one of"):
        workflow_of("chess", ["a/t"], TASKS)


def test_arithmetic_tasks_show_their_levels(recordings: Any) -> None:
    tasks = Recording.load(recordings["single_call"]).tasks
    assert workflow_of("single_call", [], tasks).node_signal_names
    assert not workflow_of("single_call", [], TASKS).node_signal_names
