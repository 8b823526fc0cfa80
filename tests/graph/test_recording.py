"""Recordings survive the disk, have one name for one content, and grow to the same end by any way."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import routegym
from routegym.core import RoutingEnv, RoutingVectorEnv
from routegym.errors import ConfigError, MissingEdgeError, RecordingError
from routegym.graph import OPEN, Expander, Recording, Texts, explore
from routegym.graph.library import load_recording

SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]


def content(recording: Recording) -> dict[str, Any]:
    """Everything a recording says, named by situation instead of by number."""
    graph = recording.graph
    names = [
        (int(t), int(s), text) for t, s, text in zip(graph.node_task, graph.node_step, recording.texts, strict=True)
    ]
    node, action = graph.edge_sources()
    edges: dict[Any, list[Any]] = {}
    for row, (n, a) in enumerate(zip(node.tolist(), action.tolist(), strict=True)):
        edge = graph.edges[row].tolist()
        fields = dict(zip(graph.edges.dtype.names or (), edge, strict=True))
        fields["next"] = names[fields["next"]]
        edges.setdefault((names[n], a), []).append({k: np.asarray(v).tolist() for k, v in fields.items()})
    return {
        "nodes": {
            name: (int(graph.node_status[i]), repr(graph.node_score[i]), graph.node_signals[i].tolist())
            for i, name in enumerate(names)
        },
        "edges": edges,
        "starts": [names[i] for i in graph.task_start],
        "about": [
            getattr(recording, field.name)
            for field in dataclasses.fields(recording)
            if field.name not in ("graph", "texts", "content_hash")
        ],
    }


@pytest.mark.parametrize("source", SOURCES)
def test_saved_and_loaded_recordings_are_equal(recordings: dict[str, Path], tmp_path: Path, source: str) -> None:
    kind = source.removesuffix("_sampled")
    made = helpers.build(kind) if source == kind else helpers.build(kind, 20, samples={"m0/direct": 3, "m1/direct": 2})
    loaded = Recording.load(made.save(tmp_path / "a"))
    assert content(made) == content(loaded)
    assert loaded.graph.complete
    again = Recording.load(loaded.save(tmp_path / "b"))
    assert content(loaded) == content(again)
    assert made.content_hash == loaded.content_hash == again.content_hash
    for name in ("tasks.parquet", "nodes.parquet", "edges.parquet", "meta.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() == (recordings[source] / name).read_bytes()


def test_numbers_of_situations_do_not_matter_to_the_environment(tmp_path: Path) -> None:
    """An episode on the recording in memory is the episode on the one from disk."""
    made = helpers.build("agent_steps", samples={"m0/direct": 3})
    loaded = Recording.load(made.save(tmp_path / "r"))
    envs = [RoutingVectorEnv(20, r, budget_usd="sampled") for r in (made, loaded)]
    assert helpers.same(*(env.reset(seed=0) for env in envs))
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = helpers.legal_actions(rng, envs[0].action_masks())
        assert helpers.same(*(env.step(actions) for env in envs))


def test_latency_is_stored_but_is_no_content(tmp_path: Path) -> None:
    recording = helpers.build("cascade", 5)
    recording.save(tmp_path / "a")
    first = recording.content_hash
    recording.graph.edges["latency_s"] += 1.0
    recording.save(tmp_path / "b")
    assert recording.content_hash == first
    assert Recording.load(tmp_path / "b").graph.edges["latency_s"].min() >= 1.0


@pytest.mark.parametrize("field", ["tokens", "next", "flops", "signals"])
def test_content_changes_the_hash(tmp_path: Path, field: str) -> None:
    recording = helpers.build("single_call", 5)
    recording.save(tmp_path / "a")
    first = recording.content_hash
    edges = recording.graph.edges
    if field == "next":
        edges["next"][[0, 1]] = edges["next"][[1, 0]]
    else:
        edges[field][0] = edges[field][0] * 0 if field != "flops" else 1.0
    recording.provenance["complete"] = False
    recording.save(tmp_path / "b")
    assert recording.content_hash != first


@pytest.mark.parametrize("kind", helpers.KINDS)
@pytest.mark.parametrize("samples", [None, {"m0/direct": 3}])
def test_a_recording_grown_by_episodes_equals_one_explored_at_once(
    tmp_path: Path, kind: str, samples: dict[str, int] | None
) -> None:
    whole = helpers.build(kind, 15, samples=samples)
    grown, expander = helpers.start(kind, 15, samples=samples)
    grown.fix_scales()
    env = RoutingVectorEnv(6, grown, split="all", expander=expander, autoreset_mode=AutoresetMode.SAME_STEP)
    observation, _ = env.reset(seed=3)
    rng = np.random.default_rng(5)
    for _ in range(15):
        assert observation in env.observation_space
        observation, *_ = env.step(helpers.legal_actions(rng, env.action_masks()))
    halfway = grown.graph.n_edges
    assert 0 < halfway < whole.graph.n_edges
    whole.save(tmp_path / "whole")
    # from disk, by another expander
    loaded = Recording.load(grown.save(tmp_path / "half"))
    pool = helpers.SimulatedPool()
    again = Expander(helpers.workflow_of(kind, pool), pool, loaded, samples)
    for recording, grower in ((grown, expander), (loaded, again)):
        explore(grower)
        recording.provenance["complete"] = True
        recording.fix_scales()
        recording.save(tmp_path / "full")
        assert recording.content_hash == whole.content_hash
        assert content(recording) == content(whole)


def test_worst_cases_of_what_is_missing_come_back_with_the_pool(tmp_path: Path) -> None:
    recording, expander = helpers.start("cascade", 5)
    recording.fix_scales()
    expander.expand([0], [1])
    reserve = recording.graph.node_reserve.copy()
    loaded = Recording.load(recording.save(tmp_path / "r"))
    assert np.isinf(loaded.graph.node_reserve).any()
    pool = helpers.SimulatedPool()
    Expander(helpers.workflow_of("cascade", pool), pool, loaded)
    names = zip(recording.graph.node_task, recording.texts, strict=True)
    by_name = dict(zip(names, reserve.tolist(), strict=True))
    for task, text, row in zip(loaded.graph.node_task, loaded.texts, loaded.graph.node_reserve, strict=True):
        assert row.tolist() == by_name[task, text]
    assert np.array_equal(loaded.graph.node_floor, np.fmin.reduce(loaded.graph.node_reserve, axis=1))


def test_live_episodes_equal_recorded_ones() -> None:
    """With an expander or without, the same seeds and choices give the same episodes."""
    whole = helpers.build("agent_steps", 15)
    live, expander = helpers.start("agent_steps", 15)
    live.fix_scales()
    live.cost_scale_usd, live.budget_range_usd = whole.cost_scale_usd, whole.budget_range_usd
    envs = [
        RoutingVectorEnv(8, whole, budget_usd="sampled"),
        RoutingVectorEnv(8, live, budget_usd="sampled", expander=expander),
    ]
    a, b = (env.reset(seed=0) for env in envs)
    assert helpers.same(a, b)
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = helpers.legal_actions(rng, envs[0].action_masks())
        assert helpers.same(*(env.step(actions) for env in envs))


def test_replay_names_what_is_missing() -> None:
    recording, expander = helpers.start("agent_steps", 5)
    recording.fix_scales()
    expander.expand([2], [1])
    env = RoutingEnv(recording, split="all")
    env.reset(seed=0, options={"task_id": 2})
    before = env.vector.node.copy(), env.vector.ledger.spent_usd.copy()
    task = recording.tasks.ids[2]
    with pytest.raises(MissingEdgeError, match=rf"task '{task}', node 2, arm 'm0/direct'; .*expander"):
        env.step(0)
    assert helpers.same(before, (env.vector.node, env.vector.ledger.spent_usd))
    env.step(1)


# -- expanders ---------------------------------------------------------------------------------
def test_expanders_refuse_what_is_not_theirs() -> None:
    recording, expander = helpers.start("cascade", 3)
    pool = helpers.SimulatedPool()
    with pytest.raises(RecordingError, match="kind 'cascade' cannot be grown by a 'agent_steps' workflow"):
        Expander(helpers.workflow_of("agent_steps", pool), pool, recording)
    other = helpers.SimulatedPool(arms=pool.arms[:2])
    with pytest.raises(RecordingError, match="are not the pool's"):
        Expander(expander.workflow, other, recording)
    with pytest.raises(ConfigError, match="another recording"):
        RoutingEnv(helpers.build("cascade", 3), expander=expander)


@pytest.mark.parametrize("samples", [{"m0/direct": 0}, {"m0/direct": 256}, {"m9/direct": 1}])
def test_numbers_of_samples_are_checked(samples: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"samples\['m\d/direct'\] = \d+; expected 1 to 255"):
        helpers.start("cascade", 3, samples=samples)


def requests_of(expander: Any) -> list[Any]:
    """A list that fills with what the expander's backend is asked."""
    sent: list[Any] = []
    backend = expander.pool.backend

    class Listening:
        count_prompt_tokens = staticmethod(backend.count_prompt_tokens)

        def generate(self, requests: Any) -> Any:
            sent.extend(requests)
            return backend.generate(requests)

    expander.pool.backend = Listening()
    return sent


def test_equal_requests_are_sent_once() -> None:
    recording, expander = helpers.start("single_call", 4)
    sent = requests_of(expander)
    expander.expand([0, 0, 1], [0, 0, 0])
    expander.expand([0, 1], [0, 0])
    assert len(sent) == 2
    assert recording.graph.n_edges == 2


def test_seeds_depend_on_arm_prompt_and_sample_alone() -> None:
    seeds = []
    for order in ([0, 1, 2], [2, 0, 1]):
        _, expander = helpers.start("single_call", 4, samples={"m0/direct": 3})
        sent = requests_of(expander)
        for node in order:
            expander.expand([node, node], [0, 1])
        seeds.append(sorted((r.arm.name, r.prompt, r.seed) for r in sent))
    assert seeds[0] == seeds[1]
    assert len({seed for *_, seed in seeds[0]}) == len(seeds[0]) == 3 * (3 + 1)


# -- the folder --------------------------------------------------------------------------------
def test_loading_by_name_path_and_object(recordings: dict[str, Path]) -> None:
    path = recordings["cascade"]
    loaded = routegym.load_recording(path)
    assert routegym.load_recording(str(path)) is loaded  # once per process
    assert routegym.load_recording(loaded) is loaded


def test_save_replaces_a_recording_and_nothing_else(tmp_path: Path) -> None:
    recording = helpers.build("single_call", 3)
    target = tmp_path / "r"
    recording.save(target)
    helpers.build("single_call", 4).save(target)
    assert Recording.load(target).graph.n_tasks == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(RecordingError, match="exists and is not a recording; name another folder"):
        recording.save(other)
    assert (other / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("failing", ["write_tables", "write_text", "replace_1", "replace_2"])
def test_a_failing_save_leaves_the_old_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    target = tmp_path / "r"
    helpers.build("single_call", 3).save(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    fresh = helpers.build("single_call", 4)
    with monkeypatch.context() as patch:
        if failing == "write_tables":
            patch.setattr("routegym.graph.storage.pq.ParquetWriter.write_table", fail)
        elif failing == "write_text":
            patch.setattr(Path, "write_text", fail)
        else:
            calls = []
            replace = os.replace

            def sometimes(*paths: Any) -> None:
                calls.append(paths)
                if len(calls) == int(failing[-1]):
                    fail()
                replace(*paths)

            patch.setattr(os, "replace", sometimes)
        with pytest.raises(OSError, match="No space left"):
            fresh.save(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_texts_are_a_sequence_that_grows(recordings: dict[str, Path]) -> None:
    texts = Recording.load(recordings["single_call"]).texts
    known = list(texts)
    texts.extend(["one", "two"])
    assert (len(texts), texts[-1], texts[len(known)], texts[0]) == (len(known) + 2, "two", "one", known[0])
    assert texts[len(known) - 1 : len(known) + 1] == [known[-1], "one"]
    assert list(texts) == texts.arrow().to_pylist() == [*known, "one", "two"]
    with pytest.raises(IndexError):
        texts[len(texts)]
    assert list(Texts()) == []


#: Peak memory of a process of its own, less what any load takes; ru_maxrss would start at the parent's.
MEMORY = """
import re, sys
from routegym.graph import Recording
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
Recording.load(sys.argv[1])
before = peak()
graph = Recording.load(sys.argv[2]).graph
print((peak() - before) / graph.nbytes, graph.n_edges)
"""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a million edges: 2,000 tasks of 100 steps, five edges at each."""
    tasks, steps, arms = 2000, 100, 5
    from routegym.graph import TERMINATED, edge_dtype
    from routegym.pool.arms import Arm, Price, PriceTable
    from routegym.tasks import TaskSet

    names = tuple(f"t{i}" for i in range(tasks))
    recording = Recording.empty(
        name="large", kind="hand", arms=[Arm(f"a{i}", "t", 1, 9) for i in range(arms)], controls=(),
        prices=PriceTable("d", "n", {f"a{i}": Price(1, 1, i, i) for i in range(arms)}),
        tasks=TaskSet(names, names, names, ("train",) * tasks),
        node_signal_names=("a", "b", "c"), edge_signal_names=("d", "e"),
    )  # fmt: skip
    step = np.tile(np.arange(steps + 1), tasks)
    is_open = step < steps
    recording.graph.append_nodes(
        task=np.repeat(np.arange(tasks), steps + 1), step=step,
        status=np.where(is_open, OPEN, TERMINATED), score=np.where(is_open, np.nan, 1.0),
        signals=np.zeros((len(step), 3)), reserve_usd=np.where(is_open, np.inf, np.nan)[:, None].repeat(arms, 1),
    )  # fmt: skip
    recording.graph.task_start[:] = np.arange(tasks) * (steps + 1)
    recording.texts.extend(map(str, step))
    node = np.flatnonzero(is_open).repeat(arms)
    records = np.zeros(len(node), dtype=edge_dtype(2))
    records["next"], records["tokens"][:, 2] = node + 1, 3
    recording.graph.append_edges(node, np.tile(np.arange(arms), len(node) // arms), records)
    recording.cost_scale_usd = 1.0
    return recording.save(tmp_path_factory.mktemp("large") / "r")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
def test_loading_takes_less_than_twice_the_memory(million: Path, recordings: dict[str, Path]) -> None:
    paths = [str(recordings["single_call"]), str(million)]
    done = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    growth, edges = map(float, done.stdout.split())
    assert edges == 1_000_000
    assert 1.0 < growth < 2.0


def test_meta_says_where_it_comes_from(recordings: dict[str, Path]) -> None:
    meta = json.loads((recordings["cascade"] / "meta.json").read_text())
    assert meta["schema_version"] == 3
    assert len(meta["content_hash"]) == 64
    assert meta["prices"]["date"] == "2026-01-01"
    assert meta["counts"]["edges"] == load_recording(recordings["cascade"]).graph.n_edges
