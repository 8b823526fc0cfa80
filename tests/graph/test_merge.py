"""Parts of a recording put together are the recording; what contradicts itself is not put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routegym.errors import RecordingError, TaskError
from routegym.graph import OPEN, Recording, Texts, TransitionGraph
from routegym.graph.library import load_recording
from routegym.graph.merge import merge_recordings
from routegym.graph.storage import write_tables
from routegym.pool.arms import Price, PriceTable
from routegym.tasks import TaskSet

Cells = npt.NDArray[Any]


def part(recording: Recording, tasks: npt.ArrayLike, samples: Cells) -> Recording:
    """Some tasks of a recording, of each (node, action) the first so many samples, and what they lead to.

    `samples` is (n_nodes, n_actions), at most what was recorded.
    """
    graph = recording.graph
    chosen = np.asarray(tasks, dtype=np.int64)
    source, action = graph.edge_sources()
    kept = np.arange(graph.n_edges) - graph.edge_first[source, action] < samples[source, action]
    reached = np.zeros(graph.n_nodes, dtype=bool)
    reached[graph.task_start[chosen]] = True
    for step in range(int(graph.node_step.max()) + 1):
        now = kept & reached[source] & (graph.node_step[source] == step)
        reached[graph.edges["next"][now]] = True
    edges = np.flatnonzero(kept & reached[source])
    nodes = np.flatnonzero(reached)
    number = np.full(graph.n_nodes, -1)
    number[nodes] = np.arange(len(nodes))
    task_number = np.full(graph.n_tasks, -1)
    task_number[chosen] = np.arange(len(chosen))
    given = recording.tasks
    columns = {
        name: tuple(getattr(given, name)[task] for task in chosen)
        for name in ("ids", "prompts", "references", "splits", "graders", "kinds", "details")
    }
    found = Recording.empty(
        name=f"{recording.name} part",
        kind=recording.kind,
        arms=recording.arms,
        controls=recording.controls,
        prices=recording.prices,
        tasks=TaskSet(**columns, embedding=given.embedding[chosen], embedder=given.embedder),
        node_signal_names=recording.node_signal_names,
        edge_signal_names=recording.edge_signal_names,
    )
    rows = graph.nodes[nodes]
    found.graph.append_nodes(
        task=task_number[rows["task"]],
        step=rows["step"],
        status=rows["status"],
        score=rows["score"],
        signals=graph.node_signals[nodes],
        reserve_usd=np.where((rows["status"] == OPEN)[:, None], np.inf, np.nan).repeat(graph.n_actions, axis=1),
        running=rows["running"],
        last=rows["last"],
    )
    found.graph.task_start[:] = number[graph.task_start[chosen]]
    found.texts = Texts(recording.texts.arrow().take(nodes))
    records = graph.edges[edges]
    records["next"] = number[records["next"]]
    found.graph.append_edges(number[source[edges]], action[edges], records)
    found.graph.set_reserves()
    found.fix_scales()
    return found


def rest(recording: Recording, other: Recording) -> Recording:
    """What `other`, a part of the recording with all its tasks, leaves out, and the ways there."""
    graph = recording.graph
    places = [zip(r.graph.node_task, r.graph.node_step, r.texts, strict=True) for r in (recording, other)]
    keys, known = ([(int(task), int(step), text) for task, step, text in place] for place in places)
    number = {key: node for node, key in enumerate(keys)}
    samples = graph.edge_count.astype(np.int64)
    for node, key in enumerate(known):
        there = other.graph.edge_count[node] == samples[number[key]]
        samples[number[key], there] = 0
    source, action = graph.edge_sources()
    needed = (samples > 0).any(axis=1)
    for step in range(int(graph.node_step.max()), -1, -1):  # backwards: whatever leads to a situation that is needed
        edges = np.flatnonzero((graph.node_step[source] == step) & needed[graph.edges["next"]])
        needed[source[edges]] = True
        samples[source[edges], action[edges]] = graph.edge_count[source[edges], action[edges]]
    return part(recording, np.arange(graph.n_tasks), samples)


def content_hash(recording: Recording, folder: Path) -> str:
    recording.save(folder / "hashed")
    return recording.content_hash


@cache
def small(source: str) -> Recording:
    kind = source.removesuffix("_sampled")
    return helpers.build(kind, 8, samples=None if source == kind else {"m0/direct": 3, "m1/direct": 2})


SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]


def random_part(recording: Recording, rng: np.random.Generator, tasks: npt.ArrayLike | None = None) -> Recording:
    count = recording.graph.edge_count
    samples = np.where(rng.random(count.shape) < 0.7, rng.integers(0, count + 1), 0)
    return part(recording, np.arange(recording.graph.n_tasks) if tasks is None else tasks, samples)


def hashes(recordings: Sequence[Recording], factory: pytest.TempPathFactory) -> set[str]:
    return {write_tables(recording, factory.mktemp("tables")) for recording in recordings}


# -- the union ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["single_call", "cascade", pytest.param("agent_steps", marks=pytest.mark.slow)])
def test_halves_of_a_shipped_recording_by_task_are_the_recording(kind: str, tmp_path: Path) -> None:
    whole = load_recording(kind)
    side = np.random.default_rng(0).random(whole.graph.n_tasks) < 0.5
    halves = [part(whole, np.flatnonzero(tasks), whole.graph.edge_count) for tasks in (side, ~side)]
    merged = merge_recordings(halves[::-1], kind)
    assert content_hash(merged, tmp_path) == whole.content_hash
    assert merged.cost_scale_usd == whole.cost_scale_usd
    assert merged.budget_range_usd == whole.budget_range_usd
    assert merged.provenance["complete"] is True
    loaded = Recording.load(tmp_path / "hashed")
    np.testing.assert_array_equal(loaded.graph.edges["latency_s"], whole.graph.edges["latency_s"])


def test_halves_of_a_shipped_recording_by_edge_are_the_recording(tmp_path: Path) -> None:
    whole = load_recording("cascade")
    first = random_part(whole, np.random.default_rng(1))
    second = rest(whole, first)
    assert first.graph.n_edges < whole.graph.n_edges
    assert second.graph.n_edges < whole.graph.n_edges
    assert content_hash(merge_recordings([first, second], "whole"), tmp_path) == whole.content_hash


@pytest.mark.parametrize("source", SOURCES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_parts_that_cover_a_recording_are_the_recording(
    tmp_path_factory: pytest.TempPathFactory, source: str, seed: int
) -> None:
    whole = small(source)
    first = random_part(whole, np.random.default_rng(seed))
    parts = [first, rest(whole, first)]
    merged = [merge_recordings(order, "whole") for order in (parts, parts[::-1], [*parts, first])]
    assert hashes([*merged, whole], tmp_path_factory) == hashes([whole], tmp_path_factory)


@pytest.mark.parametrize("source", SOURCES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_neither_order_nor_repetition_makes_a_difference(
    tmp_path_factory: pytest.TempPathFactory, source: str, seed: int
) -> None:
    whole, rng = small(source), np.random.default_rng(seed)
    n_tasks = whole.graph.n_tasks
    parts = [random_part(whole, rng, np.sort(rng.permutation(n_tasks)[: rng.integers(1, n_tasks)])) for _ in range(3)]
    together = [merge_recordings(order, "m") for order in (parts, parts[::-1], parts * 2)]
    assert len(hashes(together, tmp_path_factory)) == 1
    assert hashes([merge_recordings(parts[:1], "m")], tmp_path_factory) == hashes(parts[:1], tmp_path_factory)
    # Every call of a part is there, as often as in the part that has most of its samples.
    merged = together[0]
    assert set(merged.tasks.ids) == {task_id for each in parts for task_id in each.tasks.ids}
    found, wanted = samples_of(merged), {}
    for each in parts:
        for cell, steps in samples_of(each).items():
            wanted[cell] = max(wanted.get(cell, []), steps, key=len)
    assert found == wanted


def samples_of(recording: Recording) -> dict[tuple[str, int, str, int], list[str]]:
    """Where the samples of each (task, step, situation, action) lead."""
    graph = recording.graph
    source, action = graph.edge_sources()
    found: dict[tuple[str, int, str, int], list[str]] = {}
    for edge, (node, number) in enumerate(zip(source.tolist(), action.tolist(), strict=True)):
        cell = recording.tasks.ids[graph.node_task[node]], int(graph.node_step[node]), recording.texts[node], number
        found.setdefault(cell, []).append(recording.texts[int(graph.edges["next"][edge])])
    return found


def test_tasks_keep_the_order_they_have(tmp_path: Path) -> None:
    """Also where it is not that of their names."""
    whole = small("single_call")
    shuffled = part(whole, [5, 2, 7, 0], whole.graph.edge_count)
    other = part(whole, [7, 3, 0], whole.graph.edge_count)
    ids = [whole.tasks.ids[task] for task in (5, 2, 7, 3, 0)]
    for pair in ([shuffled, other], [other, shuffled]):
        assert list(merge_recordings(pair, "m").tasks.ids) == ids
    backwards = part(whole, [0, 7], whole.graph.edge_count)
    assert list(merge_recordings([shuffled, backwards], "m").tasks.ids) == sorted(shuffled.tasks.ids)


def test_a_result_names_its_sources_and_is_complete_only_if_it_is(tmp_path: Path) -> None:
    whole = small("cascade")
    first, second = (part(whole, tasks, whole.graph.edge_count) for tasks in (range(4), range(4, 8)))
    first.provenance["licence"] = "CC-BY-4.0"
    for index, recording in enumerate((first, second)):
        recording.save(tmp_path / str(index))
    merged = merge_recordings([first, second], "both")
    assert [source["content_hash"] for source in merged.provenance["merged_from"]] == [
        first.content_hash,
        second.content_hash,
    ]
    assert merged.provenance["licence"] == "CC-BY-4.0 and not stated"
    assert merged.provenance["complete"] is True
    thin = random_part(whole, np.random.default_rng(0))
    assert merge_recordings([thin], "thin").provenance["complete"] is False


# -- contradictions ----------------------------------------------------------------------------
def changed(recording: Recording, change: Callable[[TransitionGraph], None]) -> Recording:
    """A copy with another graph."""
    copy = part(recording, np.arange(recording.graph.n_tasks), recording.graph.edge_count)
    change(copy.graph)
    return copy


def lead_elsewhere(graph: TransitionGraph) -> None:
    """The first two answers of a task that differ change places."""
    edges = graph.edges
    first = int(np.flatnonzero(edges["next"][:-1] != edges["next"][1:])[0])
    edges["next"][[first, first + 1]] = edges["next"][[first + 1, first]]


def other_tokens(graph: TransitionGraph) -> None:
    graph.edges["tokens"][0, 0] += 1


def other_score(graph: TransitionGraph) -> None:
    ended = np.flatnonzero(graph.node_status != OPEN)[0]
    graph.nodes["score"][ended] = 1 - graph.nodes["score"][ended]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lead_elsewhere,
            r"2 contradiction.*between mine, theirs: task 'arith-\d+', situation '.*', m\d/direct leads to",
        ),
        (other_tokens, "m0/direct has other tokens in mine and theirs"),
        (other_score, "another score in mine than in theirs"),
    ],
    ids=["answer", "tokens", "score"],
)
def test_contradictions_are_refused_or_the_first_is_right(
    tmp_path: Path, change: Callable[[TransitionGraph], None], message: str
) -> None:
    whole = small("single_call")
    other = changed(whole, change)
    expected = {id(r): content_hash(merge_recordings([r], "m"), tmp_path) for r in (whole, other)}
    assert len(set(expected.values())) == 2
    with pytest.raises(RecordingError, match=message):
        merge_recordings([whole, other], "m", labels=["mine", "theirs"])
    for pair in ([whole, other], [other, whole]):
        merged = merge_recordings(pair, "m", prefer="first")
        assert content_hash(merged, tmp_path) == expected[id(pair[0])]
        assert merged.provenance["preferred"] == "first"


def test_what_only_a_discarded_answer_led_to_goes_with_it(tmp_path: Path) -> None:
    whole = small("agent_steps")
    source, _ = whole.graph.edge_sources()
    first_calls = np.isin(source, whole.graph.task_start)
    samples = whole.graph.edge_count * np.isin(np.arange(whole.graph.n_nodes), whole.graph.task_start)[:, None]
    opening = part(whole, np.arange(whole.graph.n_tasks), samples)
    assert opening.graph.n_edges == first_calls.sum()
    other = changed(whole, lead_elsewhere)
    merged = merge_recordings([changed(opening, lead_elsewhere), whole], "m", prefer="first")
    assert content_hash(merge_recordings([merged, other], "m"), tmp_path) == content_hash(
        merge_recordings([other, merged], "m"), tmp_path
    )
    assert merged.graph.n_nodes <= whole.graph.n_nodes


def test_nothing_goes_on_from_where_the_preferred_recording_ends(tmp_path: Path) -> None:
    whole = small("agent_steps")
    opening = part(
        whole,
        np.arange(whole.graph.n_tasks),
        whole.graph.edge_count * np.isin(np.arange(whole.graph.n_nodes), whole.graph.task_start)[:, None],
    )
    graph = opening.graph
    later = np.flatnonzero(graph.node_step == 1)
    graph.nodes["status"][later], graph.nodes["score"][later] = 2, 0.0
    with pytest.raises(RecordingError, match="another status"):
        merge_recordings([opening, whole], "m")
    merged = merge_recordings([opening, whole], "m", prefer="first")
    assert content_hash(merged, tmp_path) == content_hash(opening, tmp_path)


def with_tasks(recording: Recording, **columns: Any) -> Recording:
    return replace(recording, tasks=replace(recording.tasks, **columns))


def test_recordings_that_cannot_be_one() -> None:
    whole = small("single_call")
    tasks = whole.tasks
    with pytest.raises(RecordingError, match="no recordings to merge"):
        merge_recordings([], "m")
    dearer = {**whole.prices.prices, "m0": Price(2.0, 0.0, 4.0, 0.0)}
    for other, message in (
        (small("cascade"), "kind: single_call and cascade"),
        (replace(whole, arms=whole.arms[::-1]), "arms: another order"),
        (
            replace(whole, arms=(*whole.arms[:2], replace(whole.arms[2], tier="slow"))),
            r"\['m2/direct'\] and \['m2/slow",
        ),
        (replace(whole, arms=(*whole.arms[:2], replace(whole.arms[2], max_completion_tokens=9))), "same names, m2/dir"),
        (replace(whole, prices=PriceTable("2026-01-01", "made up", dearer)), "prices: .*prompt=1.0.*prompt=2.0"),
        (replace(whole, edge_signal_names=("confidence", "other")), r"edge signals: \['valid'\] and \['other'\]"),
        (
            with_tasks(whole, references=("?", *tasks.references[1:])),
            "task 'arith-.*' has reference '.*' in .* and '\\?'",
        ),
        (with_tasks(whole, kinds=("sums",) * len(tasks)), "has kind '' in .* and 'sums'"),
        (with_tasks(whole, embedding=np.zeros((len(tasks), 2), np.float32)), "width of the embedding: none and 2"),
    ):
        with pytest.raises(RecordingError, match=message):
            merge_recordings([whole, other], "m")


def test_embeddings_are_kept_and_must_agree() -> None:
    whole = small("single_call")
    values = np.random.default_rng(0).random((len(whole.tasks), 3)).astype(np.float32)
    whole = with_tasks(whole, embedding=values, embedder="made up")
    first, second = (part(whole, tasks, whole.graph.edge_count) for tasks in (range(6), range(3, 8)))
    merged = merge_recordings([first, second], "m")
    np.testing.assert_array_equal(merged.tasks.embedding, values)
    assert merged.tasks.embedder == "made up"
    with pytest.raises(RecordingError, match="another embedding"):
        merge_recordings([whole, with_tasks(whole, embedding=values / 2)], "m")


@pytest.mark.parametrize("method", ["tfidf", "hashing"])
def test_tasks_that_were_embedded_apart_are_embedded_together(method: str, tmp_path: Path) -> None:
    whole = small("single_call")
    together = replace(whole, tasks=whole.tasks.with_embedding(method, dims=4))
    for sides in (([0, 2, 5, 6], [1, 3, 4, 7]), (range(5), range(2, 8))):
        halves = []
        for seed, side in enumerate(sides):
            half = part(whole, side, whole.graph.edge_count)
            halves.append(replace(half, tasks=half.tasks.with_embedding(method, dims=4, seed=seed)))
        for order in (halves, halves[::-1]):
            merged = merge_recordings(order, "m")
            assert merged.tasks == together.tasks
            assert content_hash(merged, tmp_path) == content_hash(together, tmp_path)
        assert merge_recordings([halves[1], halves[1]], "m").tasks == halves[1].tasks  # same tasks, nothing to do
    other = replace(halves[1], tasks=halves[1].tasks.with_embedding(method, dims=5))
    with pytest.raises(RecordingError, match=f"embedder: {method}, 4 columns and {method}, 5 columns"):
        merge_recordings([halves[0], other], "m")


def test_parts_of_tasks_that_were_embedded_together_are_embedded_as_they_were(tmp_path: Path) -> None:
    whole = small("single_call")
    whole = replace(whole, tasks=whole.tasks.with_embedding("hashing", dims=4))
    first, second = (part(whole, tasks, whole.graph.edge_count) for tasks in (range(4), range(4, 8)))
    assert content_hash(merge_recordings([first, second], "m"), tmp_path) == content_hash(whole, tmp_path)


def test_tasks_that_cannot_be_embedded_together() -> None:
    whole = small("single_call")
    apart = [part(whole, tasks, whole.graph.edge_count) for tasks in (range(4), range(4, 8))]
    embedded = [replace(r, tasks=r.tasks.with_embedding("hashing", dims=4)) for r in apart]
    with pytest.raises(RecordingError, match="embedder: hashing, 4 columns and none"):
        merge_recordings([embedded[0], apart[1]], "m")
    unseen = [with_tasks(r, splits=("test",) * len(r.tasks)) for r in embedded]
    with pytest.raises(TaskError, match="fitted on the training split"):
        merge_recordings(unseen, "m")


def test_a_prompt_is_in_one_split_only() -> None:
    whole = small("single_call")
    tasks = whole.tasks
    swapped = tuple("val" if split == "train" else "train" for split in tasks.splits)
    other = with_tasks(whole, ids=tuple(f"other-{name}" for name in tasks.ids), splits=swapped)
    with pytest.raises(TaskError, match="a prompt may be in one split only"):
        merge_recordings([whole, other], "m")


def test_recordings_without_calls(tmp_path: Path) -> None:
    whole = small("single_call")
    nothing = part(whole, np.arange(whole.graph.n_tasks), np.zeros_like(whole.graph.edge_count))
    for prefer in (None, "first"):
        empty = merge_recordings([nothing, nothing], "m", prefer=prefer)  # type: ignore[arg-type]
        assert content_hash(empty, tmp_path) == content_hash(nothing, tmp_path)
    assert content_hash(merge_recordings([nothing, whole], "m"), tmp_path) == content_hash(whole, tmp_path)
