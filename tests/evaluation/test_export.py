"""Tables hold what was recorded, and a Minari dataset what the environment plays."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import helpers
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from routegym.core import RoutingEnv
from routegym.errors import ConfigError, MissingEdgeError, MissingExtraError, RecordingError
from routegym.evaluation.export import export_minari, table_schema, write_table
from routegym.evaluation.summary import always_arm
from routegym.graph import Recording
from routegym.graph.library import load_recording

KINDS = helpers.KINDS


# -- tables ------------------------------------------------------------------------------------
def rows_of(recording: Recording, folder: Path) -> list[dict[str, Any]]:
    path = folder / "table.parquet"
    count = write_table(recording, path)
    table = pq.read_table(path)
    assert table.schema == table_schema(recording)
    assert len(table) == count
    return list(table.to_pylist())


@pytest.mark.parametrize("kind", ["single_call", "cascade"])
def test_a_row_for_every_task_and_arm(kind: str, tmp_path: Path) -> None:
    recording = load_recording(kind)
    rows = rows_of(recording, tmp_path)
    names = [arm.name for arm in recording.arms]
    ids = recording.tasks.ids
    assert [(row["task_id"], row["arm"]) for row in rows] == [(task, name) for task in ids for name in names]
    for number, name in enumerate(names):
        score, cost = always_arm(recording.graph, number)
        mine = rows[number :: len(names)]
        np.testing.assert_array_equal([row["score"] for row in mine], score)
        np.testing.assert_array_equal([row["cost_usd"] for row in mine], cost)
        assert {f"{row['model']}/{row['tier']}" for row in mine} == {name}
    for task, row in enumerate(rows[:: len(names)]):
        assert row["prompt"] == recording.tasks.prompts[task]
        assert row["split"] == recording.tasks.splits[task]
    right = np.array([row["answer"] == row["reference"] for row in rows])
    np.testing.assert_array_equal(right, [row["score"] == 1 for row in rows])
    price = recording.prices.prices["small"]
    row = rows[names.index("small/direct")]
    assert row["prompt_tokens"] * price.prompt + row["completion_tokens"] * price.completion == pytest.approx(
        row["cost_usd"] * 1e6
    )
    assert all(row["latency_s"] > 0 and row["served_by"] is None and row["lost_tokens"] == 0 for row in rows)
    about = pq.read_schema(tmp_path / "table.parquet").metadata
    assert about[b"content_hash"].decode() == recording.content_hash


def test_samples_are_rows_of_their_own(recordings: dict[str, Path], tmp_path: Path) -> None:
    recording = Recording.load(recordings["cascade_sampled"])
    rows = rows_of(recording, tmp_path)
    assert len(rows) == 20 * (3 + 2 + 1)
    assert [row["sample"] for row in rows[:6]] == [0, 1, 2, 0, 1, 0]
    by_task: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == "m0/direct":
            by_task.setdefault(row["task_id"], []).append(row["score"])
    means = [np.mean(by_task[task]) for task in recording.tasks.ids]
    np.testing.assert_allclose(means, always_arm(recording.graph, 0)[0])


def test_other_kinds_have_a_row_for_every_choice(recordings: dict[str, Path], tmp_path: Path) -> None:
    recording = Recording.load(recordings["agent_steps_sampled"])
    graph = recording.graph
    rows = rows_of(recording, tmp_path)
    assert len(rows) == graph.n_edges
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(graph.edges["cost_usd"].sum())
    assert sum(row["completion_tokens"] for row in rows) == graph.edges["tokens"][:, 2].sum()
    ended = [row for row in rows if row["status"] != "open"]
    assert {row["score"] for row in ended} == {0.0, 1.0}
    assert all(row["score"] is None for row in rows if row["status"] == "open")
    started = [row for row in rows if row["step"] == 0]
    prompts = dict(zip(recording.tasks.ids, recording.tasks.prompts, strict=True))
    assert all(row["situation"] == prompts[row["task_id"]] for row in started)
    follows = {(row["task_id"], row["step"], row["situation"]) for row in rows}
    assert all(
        (row["task_id"], row["step"] + 1, row["next_situation"]) in follows for row in rows if row["status"] == "open"
    )


def test_what_is_not_known_is_empty(recordings: dict[str, Path], tmp_path: Path) -> None:
    """A first call of a cascade that was never accepted has no score; fallbacks are named."""
    recording, expander = helpers.start("cascade", 5)
    starts = recording.graph.task_start
    expander.expand(np.repeat(starts, 3), np.tile(np.arange(3), 5))
    recording.graph.edges["fallback"][0] = 3
    recording.graph.edges["lost"][0] = (5, 6)
    rows = rows_of(recording, tmp_path)
    assert len(rows) == 15
    assert {row["score"] for row in rows} == {row["answer"] for row in rows} == {None}
    assert (rows[0]["served_by"], rows[0]["lost_tokens"]) == ("m2/direct", 11)
    assert rows[1]["served_by"] is None
    controls = Recording.load(recordings["cascade"])
    controls.kind = "another"
    accepted = [row for row in rows_of(controls, tmp_path) if row["action"] == "accept"]
    assert {(row["model"], row["tier"], row["cost_usd"]) for row in accepted} == {(None, None, 0.0)}


@pytest.mark.parametrize("kind", ["single_call", "agent_steps"])
def test_formats_say_the_same(recordings: dict[str, Path], tmp_path: Path, kind: str) -> None:
    recording = Recording.load(recordings[kind])
    odd = ('a "quoted", prompt\nof two lines; Zürich', *recording.tasks.prompts[1:])
    recording = replace(recording, tasks=replace(recording.tasks, prompts=odd))
    expected = rows_of(recording, tmp_path)
    write_table(recording, tmp_path / "t.jsonl", "jsonl")
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == expected
    write_table(recording, tmp_path / "new" / "t.csv")
    with (tmp_path / "new" / "t.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, float):
                assert float(mine[name]) == pytest.approx(value)
            else:
                assert mine[name] == ("" if value is None else str(value))


def test_a_table_is_written_whole_or_not_at_all(
    recordings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording.load(recordings["single_call"])
    path = tmp_path / "t.parquet"
    path.write_text("what was there")
    monkeypatch.setattr("routegym.evaluation.export._task_columns", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_table(recording, path)
    assert path.read_text() == "what was there"
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]
    with pytest.raises(ConfigError, match=r"format = 'xlsx'; expected one of parquet, csv, jsonl"):
        write_table(recording, path, "xlsx")


# -- Minari ------------------------------------------------------------------------------------
class Cheapest:
    """Always the first legal action; remembers how often it was asked."""

    observation = "flat"

    def predict(
        self, observation: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Any]:
        return action_masks.argmax(axis=1), state


class Reader(Cheapest):
    """Reads the text of the situation, and calls the dearest legal arm where it is long."""

    observation = "text"

    def predict(
        self, observation: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], Any]:
        long = np.array([len(text) > 12 for text in observation["text"]])
        last = action_masks.shape[1] - 1 - action_masks[:, ::-1].argmax(axis=1)
        return np.where(long, last, action_masks.argmax(axis=1)), state


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Minari with a folder of its own for datasets."""
    found = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    return found


@pytest.mark.parametrize("kind", [*KINDS, "agent_steps_sampled"])
@pytest.mark.parametrize("policy", [None, Cheapest(), Reader()], ids=["random", "cheapest", "reader"])
def test_a_dataset_is_what_the_environment_plays(
    minari: Any, recordings: dict[str, Path], tmp_path: Path, kind: str, policy: Any
) -> None:
    recording = Recording.load(recordings[kind])
    name = export_minari(
        recording, tmp_path / "data", policy=policy, behaviour="mine", episodes=13, seed=4, split="all"
    )
    assert name == f"routegym/{recording.name}/mine-v0"
    dataset = minari.load_dataset(name)
    assert dataset.total_episodes == 13
    env = RoutingEnv(recording, split="all", budget_usd="sampled", lambda_=0.2)
    assert dataset.observation_space == env.observation_space
    assert dataset.action_space == env.action_space
    kept = list(dataset.storage.get_episode_metadata(range(13)))
    assert len({about["seed"] for about in kept}) == 13
    for number, (episode, about) in enumerate(zip(dataset.iterate_episodes(), kept, strict=True)):
        options = about["options"] if number % 2 else {}  # the seed alone says it all
        observation, info = env.reset(seed=about["seed"], options=options)
        infos = episode.infos
        assert about["options"] == {name: info[name] for name in ("task_id", "budget_usd", "lambda")}
        for step, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.observations[step], observation)
            np.testing.assert_array_equal(infos["action_mask"][step], env.action_masks())
            assert infos["action_mask"][step][action]
            assert np.isnan(infos["score"][step])
            observation, reward, terminated, truncated, info = env.step(action)
            assert episode.rewards[step] == reward
            assert episode.terminations[step] == terminated
            assert episode.truncations[step] == truncated
            assert infos["cost_usd"][step + 1] == info["cost_usd"]
        assert terminated or truncated
        np.testing.assert_array_equal(episode.observations[-1], observation)
        assert infos["score"][-1] == info["score"]
        assert len(episode.observations) == len(episode.actions) + 1 == len(infos["action_mask"])


def test_the_environment_can_be_had_back(minari: Any, recordings: dict[str, Path], tmp_path: Path) -> None:
    source = str(recordings["cascade"])
    recording = load_recording(source)
    name = export_minari(recording, tmp_path / "data", source=source, episodes=3, budget_usd=None, lambda_=0.5)
    dataset = minari.load_dataset(name)
    env = dataset.recover_environment()
    assert isinstance(env, gym.Env)
    about = next(iter(dataset.storage.get_episode_metadata([2])))
    observation, _ = env.reset(seed=about["seed"])
    np.testing.assert_array_equal(observation, dataset[2].observations[0])
    assert about["options"]["budget_usd"] == np.inf
    assert about["options"]["lambda"] == 0.5


def test_the_seed_fixes_a_dataset_and_the_batch_does_not(
    minari: Any, recordings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording.load(recordings["agent_steps"])
    found = {}
    for label, seed, batch in (("a", 1, 256), ("b", 1, 256), ("c", 2, 256), ("d", 1, 4)):
        monkeypatch.setattr("routegym.evaluation.export._EPISODES", batch)
        name = export_minari(recording, tmp_path / "data", behaviour=label, policy=Cheapest(), episodes=10, seed=seed)
        found[label] = [episode.observations.tobytes() for episode in minari.load_dataset(name).iterate_episodes()]
    assert found["a"] == found["b"] == found["d"]
    assert found["a"] != found["c"]


def test_random_actions_are_legal_and_alike(minari: Any, recordings: dict[str, Path], tmp_path: Path) -> None:
    recording = Recording.load(recordings["single_call"])
    name = export_minari(recording, tmp_path / "data", episodes=150, budget_usd=None)
    actions = np.concatenate([episode.actions for episode in minari.load_dataset(name).iterate_episodes()])
    counts = np.bincount(actions, minlength=3)
    assert abs(counts - 50).max() < 5 * np.sqrt(150 * 2 / 9)  # five standard deviations


def test_mistakes_leave_nothing_behind(minari: Any, recordings: dict[str, Path], tmp_path: Path) -> None:
    recording, data = Recording.load(recordings["agent_steps"]), tmp_path / "data"
    with pytest.raises(ConfigError, match="episodes = 0; expected at least 1"):
        export_minari(recording, data, episodes=0)
    reader = Cheapest()
    reader.observation = "index"
    with pytest.raises(ConfigError, match="form 'index'; a dataset has flat ones"):
        export_minari(recording, data, policy=reader, episodes=2)
    with pytest.raises(RecordingError, match="no task in split 'nowhere'"):
        export_minari(recording, data, episodes=2, split="nowhere")
    unfinished, _ = helpers.start("single_call", 5)
    unfinished.fix_scales()
    with pytest.raises(MissingEdgeError):
        export_minari(unfinished, data, episodes=2, split="all", budget_usd=None)
    with pytest.raises(RecordingError, match="no folder of this path"):
        export_minari(recording, data, episodes=2, source="no such recording")
    assert not list(data.rglob("*.hdf5"))
    before = os.environ["MINARI_DATASETS_PATH"]
    export_minari(recording, data, episodes=2)
    assert os.environ["MINARI_DATASETS_PATH"] == before
    with pytest.raises(ConfigError, match="there is such a dataset; name another folder"):
        export_minari(recording, data, episodes=2)


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_without_minari(
    recordings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"routegym\[minari\]"):
        export_minari(Recording.load(recordings["single_call"]), tmp_path, episodes=1)
