"""Every planted leak is found, and clean recordings raise no alarm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from routegym.evaluation.leaks import Leak, find_leaks
from routegym.graph import Recording
from routegym.graph.imports import RoutingData, to_recording
from routegym.graph.library import load_recording, shipped_recordings
from routegym.tracking.run import Run, RunConfig

N, ARMS = 240, ("small", "large")
NOUNS = ("river", "engine", "table", "yellow", "market", "window")
WORDS = [f"{noun}{letter}" for noun in NOUNS for letter in "abcdefghijklm"]


def prompts_of(seed: int, count: int = N) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(WORDS, 14))} question {number}?" for number in range(count)]


def scores_of(seed: int, count: int = N) -> npt.NDArray[np.bool_]:
    """Who is right, (tasks, arms)."""
    return np.random.default_rng(seed + 1000).random((count, 2)) < (0.4, 0.7)


def clean(
    seed: int = 0, prompts: list[str] | None = None, splits: list[str] | None = None, ids: list[str] | None = None
) -> Recording:
    """A small recording in which nothing leaks."""
    prompts = prompts_of(seed) if prompts is None else prompts
    count = len(prompts)
    right = scores_of(seed, count)
    rng = np.random.default_rng(seed)
    ids = [f"task-{number}" for number in rng.permutation(count)] if ids is None else ids
    splits = rng.choice(["train", "val", "test"], count, p=(0.6, 0.2, 0.2)).tolist() if splits is None else splits
    rows = [(task, arm) for task in range(count) for arm in range(2)]
    responses = pa.table(
        {
            "query": [ids[task] for task, _ in rows],
            "arm": [ARMS[arm] for _, arm in rows],
            "score": [float(right[row]) for row in rows],
            "cost_usd": [0.001 * 10**arm for _, arm in rows],
        }
    )
    queries = pa.table({"query": ids, "prompt": prompts, "split": splits})
    recording = to_recording(RoutingData("clean", responses, queries), text="none").recording
    tasks = recording.tasks
    noise = np.random.default_rng(seed + 7).random((count, 6)).astype(np.float32)
    recording.tasks = replace(tasks, embedding=noise, embedder="noise")
    return recording


def with_column(recording: Recording, column: npt.NDArray[np.floating]) -> Recording:
    """The same with another column of what is seen of a prompt."""
    tasks = recording.tasks
    embedding = np.column_stack([tasks.embedding, column]).astype(np.float32)
    recording.tasks = replace(tasks, embedding=embedding)
    return recording


def right_of(recording: Recording) -> npt.NDArray[np.float64]:
    graph = recording.graph
    edges = graph.edges[graph.edge_first[graph.task_start]]
    return np.asarray(graph.node_score[edges["next"]], dtype=np.float64)


# -- planted leaks: a recording, and the kind that must be found -------------------------------
def in_two_splits(change: Callable[[str], str]) -> Callable[[], Recording]:
    def plant() -> Recording:
        prompts = prompts_of(3)
        splits = ["train"] * 150 + ["test"] * 90
        for row in range(5):
            prompts[200 + row] = change(prompts[row])
        order = np.random.default_rng(1).permutation(N)
        return clean(3, [prompts[row] for row in order], [splits[row] for row in order])

    return plant


def observed(column: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.floating]]) -> Callable[[], Recording]:
    def plant() -> Recording:
        recording = clean(5)
        return with_column(recording, column(right_of(recording)))

    return plant


def noisy(values: npt.NDArray[np.floating], width: float, seed: int = 0) -> npt.NDArray[np.floating]:
    return np.clip(values + np.random.default_rng(seed).uniform(-width, width, len(values)), 0, 1)


def best_arm(right: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    return np.where(right[:, 0] > 0, 0.0, np.where(right[:, 1] > 0, 0.5, 1.0))


def in_order(
    by: Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.floating]], ids: Callable[[int], str]
) -> Callable[[], Recording]:
    """Tasks whose file was sorted by something that nobody may know."""

    def plant() -> Recording:
        right = scores_of(9)
        order = np.argsort(by(right), kind="stable")
        return sorted_recording(right[order], [ids(number) for number in range(N)])

    return plant


def sorted_recording(right: npt.NDArray[np.bool_], ids: list[str], shuffle: bool = False) -> Recording:
    order = np.random.default_rng(2).permutation(N) if shuffle else np.arange(N)
    splits = np.random.default_rng(4).choice(["train", "test"], N).tolist()
    responses = pa.table(
        {
            "query": [ids[task] for task in order for _ in ARMS],
            "arm": [arm for _ in order for arm in ARMS],
            "score": [float(right[task, arm]) for task in order for arm in range(2)],
            "cost_usd": [0.001 * 10**arm for _ in order for arm in range(2)],
        }
    )
    prompts = prompts_of(9)
    queries = pa.table({"query": [ids[t] for t in order], "prompt": [prompts[t] for t in order], "split": splits})
    return to_recording(RoutingData("sorted", responses, queries), text="none").recording


def numbered_by_score() -> Recording:
    right = scores_of(9)
    rank = np.argsort(np.argsort(right[:, 1] + np.random.default_rng(0).random(N) / 2))
    return sorted_recording(right, [f"q{number:04d}" for number in rank], shuffle=True)


def named_by_score() -> Recording:
    right = scores_of(9)
    ids = [f"{'solved' if right[task, 0] else 'failed'}-{task}" for task in range(N)]
    return sorted_recording(right, ids, shuffle=True)


def splits_in_order(splits: list[str]) -> Callable[[], Recording]:
    return lambda: clean(11, splits=splits)


def verdict_seen() -> Recording:
    """A cascade in which a signal of the situation after a call is its score."""
    recording = copy.deepcopy(helpers.build("cascade", 120))
    graph = recording.graph
    source, action = graph.edge_sources()
    accept = np.flatnonzero(action == graph.n_arms)
    column = recording.node_signal_names.index("length")
    graph.node_signals[source[accept], column] = graph.node_score[graph.edges["next"][accept]]
    return recording


def reserved(reserve: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.floating]]) -> Callable[[], Recording]:
    """What the first arm reserves at the start is made of whether the arms are right; NaN where it is not legal."""

    def plant() -> Recording:
        recording = clean(13)
        graph = recording.graph
        graph.node_reserve[graph.task_start, 0] = reserve(right_of(recording))
        return recording

    return plant


PLANTED: dict[str, tuple[str, Callable[[], Recording]]] = {
    "case": ("duplicate", in_two_splits(str.upper)),
    "white space": ("duplicate", in_two_splits(lambda text: text.replace(" ", "  \n"))),
    "a full stop": ("duplicate", in_two_splits(lambda text: text.replace("?", " ."))),
    "everything at once": ("duplicate", in_two_splits(lambda text: f"  {text.title().replace('?', '!')}\n")),
    "a word more": ("near_duplicate", in_two_splits(lambda text: f"{text} please")),
    "a word less": ("near_duplicate", in_two_splits(lambda text: text.partition(" ")[2])),
    "a word replaced": ("near_duplicate", in_two_splits(lambda text: text.replace(text.split()[4], "entirely"))),
    "words exchanged": ("near_duplicate", in_two_splits(lambda text: " ".join([*text.split()[1:], text.split()[0]]))),
    "the score of an arm": ("observation", observed(lambda right: right[:, 1])),
    "the score of the cheap arm": ("observation", observed(lambda right: right[:, 0])),
    "the score turned round": ("observation", observed(lambda right: 1 - right[:, 1])),
    "the score in noise": ("observation", observed(lambda right: noisy(right[:, 1] * 0.6 + 0.2, 0.2))),
    "the score, nearly always": ("observation", observed(lambda right: noisy(right[:, 0] * 0.5 + 0.25, 0.252))),
    "a tiny difference": ("observation", observed(lambda right: 0.5 + 1e-4 * right[:, 1])),
    "the number of the best arm": ("observation", observed(best_arm)),
    "the best arm in no order": ("observation", observed(lambda right: (best_arm(right) + 0.5) % 1.25)),
    "the scores as bits": ("observation", observed(lambda right: (right[:, 0] + 2 * right[:, 1]) / 3)),
    "the reserve of an arm": ("observation", reserved(lambda right: 0.002 - 0.001 * right[:, 0])),
    "which arm is legal": ("observation", reserved(lambda right: np.where(right[:, 1] > 0, 0.001, np.nan))),
    "the verdict after a call": ("observation", verdict_seen),
    "a file sorted by score": ("order", in_order(lambda right: right[:, 1], lambda number: f"q{(number * 77) % N}")),
    "a file sorted by failure": ("order", in_order(lambda right: ~right[:, 0], lambda number: f"q{(number * 77) % N}")),
    "ids numbered by score": ("order", numbered_by_score),
    "ids named by score": ("order", named_by_score),
    "splits one after the other": ("order", splits_in_order(["train"] * 150 + ["test"] * 90)),
    "three splits one after the other": ("order", splits_in_order(["train"] * 150 + ["val"] * 30 + ["test"] * 60)),
    "held out tasks first": ("order", splits_in_order(["test"] * 90 + ["train"] * 150)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "plant"), PLANTED.values(), ids=PLANTED)
def test_a_planted_leak_is_found(kind: str, plant: Callable[[], Recording]) -> None:
    found = find_leaks(plant())
    assert {leak.kind for leak in found} == {kind}, list(map(str, found))
    assert all(str(leak).isprintable() for leak in found)


def test_every_pair_is_named() -> None:
    (leak,) = find_leaks(in_two_splits(lambda text: f"{text} please")())
    assert len(leak.tasks) == 5
    assert leak.what.startswith("10 tasks")


# -- runs --------------------------------------------------------------------------------------
def run_folder(path: Path, recording: Recording, split: str | None = "test") -> Path:
    """A run on a recording, as far as leaks are concerned."""
    place = recording.save(path / "recording")
    config = RunConfig(
        env="routegym/SingleCall-v0", recording=str(place), content_hash=recording.content_hash, algo="all_action",
        hyperparameters={}, seeds=[0], budget_usd=None, lambda_=0.0, threads=1, versions={}, machine="any",
    )  # fmt: skip
    run = Run(path / "run")
    run.start(config)
    if split is not None:
        run.write_json("metrics.json", {"split": split})
    return run.path


def kinds(found: list[Leak]) -> list[str]:
    return [leak.kind for leak in found]


def test_a_run_on_its_own_recording(tmp_path: Path) -> None:
    recording = clean(20)
    assert find_leaks(recording, run_folder(tmp_path / "a", recording)) == []
    assert find_leaks(recording, Run(run_folder(tmp_path / "b", recording, None))) == []
    for split in ("train", "all"):
        assert kinds(find_leaks(recording, run_folder(tmp_path / split, recording, split))) == ["trained_on"]


def test_held_out_tasks_that_were_trained_on_elsewhere(tmp_path: Path) -> None:
    prompts = prompts_of(30)
    trained = clean(30, prompts, ["train"] * 1 + ["train", "test"] * 119 + ["train"])
    run = run_folder(tmp_path, trained)
    other = prompts_of(31)
    assert find_leaks(clean(31, other), run) == []
    known = [task for task, split in zip(prompts, trained.tasks.splits, strict=True) if split == "train"][:4]
    rng = np.random.default_rng(0)
    splits = rng.choice(["train", "test"], N).tolist()
    held = [row for row in range(N) if splits[row] == "test"]
    for row, prompt in zip(held, known, strict=False):
        other[row] = prompt.upper()
    (leak,) = find_leaks(clean(31, other, splits), run)
    assert leak.kind == "trained_on"
    assert len(leak.tasks) == 4
    assert leak.what.startswith("4 held-out tasks")


@pytest.mark.parametrize("merged", [False, True])
def test_tasks_of_the_same_seed(merged: bool, tmp_path: Path) -> None:
    def made_with(recording: Recording, source: str, seed: int) -> Recording:
        told = {"tasks": {"source": source}, "seed": seed}
        recording.provenance |= {"merged_from": [{"provenance": told}]} if merged else told
        return recording

    run = run_folder(tmp_path, made_with(clean(40), "reasoning_gym:chain_sum:500+tasks.jsonl", 3))
    for source, seed, expected in (
        ("reasoning_gym:chain_sum:800", 3, ["seed"]),
        ("reasoning_gym:chain_sum:500", 4, []),
        ("reasoning_gym:leg_counting:500", 3, []),
        ("tasks.jsonl", 3, []),
    ):
        assert kinds(find_leaks(made_with(clean(41), source, seed), run)) == expected, (source, seed)


# -- no false alarms ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", shipped_recordings())
def test_shipped_recordings_are_clean(name: str) -> None:
    assert find_leaks(load_recording(name)) == []


@pytest.mark.parametrize("seed", range(50, 70))
def test_clean_recordings_are_clean(seed: int) -> None:
    assert find_leaks(clean(seed)) == []


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_small_recordings_are_clean(kind: str, recordings: dict[str, Path]) -> None:
    assert find_leaks(Recording.load(recordings[kind])) == []


def test_a_good_predictor_is_no_leak() -> None:
    """What tells a lot, and not nearly everything, is what routing lives on."""
    recording = clean(80)
    right = right_of(recording)
    column = noisy(right[:, 1] * 0.3 + 0.35, 0.25)
    assert find_leaks(with_column(recording, column)) == []


def test_few_tasks_are_separated_by_luck() -> None:
    tasks = 12
    recording = clean(90, prompts_of(90, tasks), ["train"] * 6 + ["test"] * 6)
    right = right_of(recording)
    assert [leak for leak in find_leaks(with_column(recording, right[:, 1])) if leak.kind == "observation"] == []


def test_a_leak_can_be_kept_as_json() -> None:
    leak = Leak("order", "what", "remedy", (("a" * 90, "b"),))
    assert "a" * 90 not in str(leak)
    assert json.loads(json.dumps(str(leak))) == str(leak)
