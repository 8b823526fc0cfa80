"""Recordings in other people's formats: plain tables, and episodes as a Minari dataset."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from routegym.errors import ConfigError, MissingExtraError
from routegym.graph.graph import OPEN, TERMINATED
from routegym.pool.arms import TOKEN_KINDS
from routegym.registration import ENV_IDS, kind_of

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from routegym.core.vector_env import Budget, RoutingVectorEnv
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["TABLE_FORMATS", "export_minari", "table_batches", "table_format", "table_schema", "write_table"]

#: Formats of `write_table`.
TABLE_FORMATS = ("parquet", "csv", "jsonl")

_ROWS = 1 << 16  # rows made and written at a time
_TASK_ARM_KINDS = ("single_call", "cascade")
_STATUS = np.array(["open", "terminated", "truncated"])
_EPISODES = 256  # episodes played side by side
_MINARI_FOLDER = "MINARI_DATASETS_PATH"

_Ints = npt.NDArray[np.int64]

_TASK = {"task_id": pa.string(), "split": pa.string(), "kind": pa.string()}
_ARM = {"model": pa.string(), "tier": pa.string(), "sample": pa.int16()}
_TAKEN = {
    "cost_usd": pa.float64(),
    **{f"{kind}_tokens": pa.int32() for kind in TOKEN_KINDS},
    "lost_tokens": pa.int32(),
    "latency_s": pa.float32(),
    "gpu_s": pa.float32(),
    "retries": pa.int16(),
    "served_by": pa.string(),
}


def table_schema(recording: Recording) -> pa.Schema:
    """Columns of the table of a recording.

    Where a task is one question (single_call, cascade), a row is a task and an arm called first (and accepted);
    elsewhere it is a recorded choice in a situation. Several samples are several rows.
    """
    signals = {f"signal_{name}": pa.float32() for name in recording.edge_signal_names}
    if recording.kind in _TASK_ARM_KINDS:
        asked = {"prompt": pa.string(), "reference": pa.string(), "arm": pa.string()}
        fields = _TASK | asked | _ARM | {"answer": pa.string(), "score": pa.float32()}
    else:
        choice = {"step": pa.int16(), "situation": pa.string(), "action": pa.string()}
        after = {"next_situation": pa.string(), "status": pa.string(), "score": pa.float32()}
        fields = _TASK | choice | _ARM | after
    about = {"recording": recording.name, "content_hash": recording.content_hash}
    return pa.schema(list((fields | _TAKEN | signals).items()), metadata=about)


def table_batches(recording: Recording) -> Iterator[pa.RecordBatch]:
    """The rows of the table, sorted by task, situation, arm and sample; see `table_schema`."""
    graph, schema = recording.graph, table_schema(recording)
    source, action = graph.edge_sources()
    chosen = np.arange(graph.n_edges)
    if recording.kind in _TASK_ARM_KINDS:
        chosen = np.flatnonzero((source == graph.task_start[graph.node_task[source]]) & (action < graph.n_arms))
    order = np.lexsort(
        (action[chosen], source[chosen], graph.node_step[source[chosen]], graph.node_task[source[chosen]])
    )
    chosen = chosen[order]
    for low in range(0, len(chosen), _ROWS):
        edges = chosen[low : low + _ROWS]
        columns = _task_columns(recording, graph.node_task[source[edges]])
        columns |= _arm_columns(recording, source[edges], action[edges], edges)
        if recording.kind in _TASK_ARM_KINDS:
            columns |= _answer_columns(recording, graph.edges["next"][edges].astype(np.int64))
        else:
            columns |= _situation_columns(recording, source[edges], graph.edges["next"][edges])
        yield pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def table_format(path: str | os.PathLike[str], form: str | None = None) -> str:
    """Format in which a table is written to a file.

    Args:
        path: of the file; its ending, in any case, may name one of `TABLE_FORMATS`.
        form: one of `TABLE_FORMATS`; None = the one that the ending names.

    Raises:
        ConfigError: `form` is another format, the ending names another one, or neither names one.
    """
    ending = Path(path).suffix[1:].lower()
    wanted = ending if form is None else form
    if wanted not in TABLE_FORMATS:
        if form is None:
            endings = ", ".join(f".{name}" for name in TABLE_FORMATS)
            raise ConfigError(f"{path}: its ending names no format; expected one of {endings}, or give the format")
        raise ConfigError(f"format = {form!r}; expected one of {', '.join(TABLE_FORMATS)}")
    if ending in TABLE_FORMATS and ending != wanted:
        raise ConfigError(f"{path}: format = {form!r}, but its ending says {ending}; change one of them")
    return wanted


def write_table(recording: Recording, path: str | os.PathLike[str], form: str | None = None) -> int:
    """Write the table, all of it or nothing; an empty cell of a CSV file, a null elsewhere, is what is not known.

    Args:
        path: file to write; one that exists is replaced.
        form: format; see `table_format`.

    Returns:
        Number of rows.

    Raises:
        ConfigError: no format is named, another one than those of `TABLE_FORMATS`, or two different ones.
    """
    form = table_format(path, form)
    path, schema, rows = Path(path), table_schema(recording), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        with _table_writer(draft, schema, form) as write:
            for batch in table_batches(recording):
                write(batch)
                rows += batch.num_rows
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return rows


@contextmanager
def _table_writer(path: Path, schema: pa.Schema, form: str) -> Iterator[Any]:
    if form == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            yield lambda batch: file.writelines(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in batch.to_pylist()
            )
    elif form == "csv":
        with pyarrow.csv.CSVWriter(path, schema) as writer:
            yield writer.write_batch
    else:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            yield writer.write_batch


def _task_columns(recording: Recording, task: npt.NDArray[Any]) -> dict[str, Any]:
    tasks = recording.tasks
    columns = {"task_id": tasks.ids, "split": tasks.splits, "kind": tasks.kinds}
    columns |= {"prompt": tasks.prompts, "reference": tasks.references}
    return {name: [values[index] for index in task.tolist()] for name, values in columns.items()}


def _arm_columns(
    recording: Recording, source: npt.NDArray[Any], action: npt.NDArray[Any], edges: _Ints
) -> dict[str, Any]:
    graph, records = recording.graph, recording.graph.edges[edges]
    names, n_controls = list(recording.action_names), len(recording.controls)
    called = action.tolist()
    models = [*(arm.model for arm in recording.arms), *[None] * n_controls]
    tiers = [*(arm.tier for arm in recording.arms), *[None] * n_controls]
    answering = [None, *names]
    columns: dict[str, Any] = {
        "arm": [names[index] for index in called],
        "model": [models[index] for index in called],
        "tier": [tiers[index] for index in called],
        "sample": edges - graph.edge_first[source, action],
        "cost_usd": records["cost_usd"],
        "lost_tokens": records["lost"].sum(axis=1),
        "served_by": [answering[index] for index in records["fallback"].tolist()],
    }
    columns["action"] = columns["arm"]
    columns |= {f"{kind}_tokens": records["tokens"][:, column] for column, kind in enumerate(TOKEN_KINDS)}
    columns |= {name: records[name] for name in ("latency_s", "gpu_s", "retries")}
    signals = enumerate(recording.edge_signal_names)
    return columns | {f"signal_{name}": records["signals"][:, column] for column, name in signals}


def _answer_columns(recording: Recording, after: _Ints) -> dict[str, Any]:
    """Answer and score of a first call: of the situation it leads to, or of that in which the answer is accepted."""
    graph = recording.graph
    if recording.controls:
        accepted = graph.edge_first[after, graph.n_arms]
        goes_on = (graph.node_status[after] == OPEN) & (accepted >= 0)
        after = np.where(goes_on, graph.edges["next"][accepted], after)
    graded = graph.node_status[after] == TERMINATED
    texts = recording.texts.take(after)
    answers = [text.removeprefix("= ") if known else None for text, known in zip(texts, graded, strict=True)]
    return {"answer": answers, "score": _known(graph.node_score[after])}


def _situation_columns(recording: Recording, source: npt.NDArray[Any], after: npt.NDArray[Any]) -> dict[str, Any]:
    graph = recording.graph
    return {
        "step": graph.node_step[source],
        "situation": recording.texts.take(source),
        "next_situation": recording.texts.take(after),
        "status": _STATUS[graph.node_status[after]].tolist(),
        "score": _known(graph.node_score[after]),
    }


def _known(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


# -- Minari ------------------------------------------------------------------------------------
def export_minari(
    recording: Recording,
    folder: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    behaviour: str = "random",
    source: str | None = None,
    episodes: int = 1000,
    split: str = "train",
    budget_usd: Budget = "sampled",
    lambda_: float = 0.2,
    seed: int = 0,
) -> str:
    """Play episodes on a recording and write them as a Minari dataset (HDF5).

    Observations are the flat ones, the last of an episode included. ``infos`` hold ``action_mask`` (what was legal),
    ``cost_usd`` (of the step that led here) and ``score`` (NaN while open), with one entry more than there are actions.
    Every episode keeps its seed and its options (``task_id``, ``budget_usd``, ``lambda``): an environment of the same
    settings that is reset with the seed meets the same episode, with or without the options.

    Args:
        recording: where the episodes are played.
        folder: where Minari looks for datasets (``MINARI_DATASETS_PATH``); others in it are left alone.
        policy: who chooses, asked for its deterministic choice; None = legal actions, all alike.
        behaviour: what the dataset is called after.
        source: name or path by which an environment finds the recording again; None = the dataset names none.
        episodes: how many, >= 1.
        split: tasks to play.
        budget_usd: hard cap, as in `RoutingVectorEnv`.
        lambda_: price of cost in the reward.
        seed: fixes tasks, budgets, responses and random choices.

    Returns:
        The id of the dataset, for ``minari.load_dataset``.

    Raises:
        MissingExtraError: Minari is not installed.
        ConfigError: an argument makes no sense, or there is such a dataset.
        MissingEdgeError: an action was chosen that was never recorded.
    """
    try:
        import minari
        from minari.data_collector import EpisodeBuffer

        import_module("h5py")  # Minari alone comes without it
    except ImportError:
        raise MissingExtraError("minari", "minari") from None
    if episodes < 1:
        raise ConfigError(f"episodes = {episodes}; expected at least 1")
    dataset_id = f"routegym/{_word(recording.name)}/{_word(behaviour)}-v0"
    place = Path(folder) / dataset_id
    if place.exists():
        raise ConfigError(f"{place}: there is such a dataset; name another folder, or delete it")
    settings: dict[str, Any] = {"split": split, "budget_usd": budget_usd, "lambda_": lambda_}
    played = [EpisodeBuffer(**episode) for episode in _play(recording, policy, episodes, seed, settings)]
    env = _env(recording, 1, settings)
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with _datasets_in(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Minari asks for an author, a link, ...
            minari.create_dataset_from_buffers(
                dataset_id,
                played,
                env=None if source is None else _env_spec(recording.kind, {"recording": source} | settings),
                observation_space=env.single_observation_space,
                action_space=env.single_action_space,
                algorithm_name=behaviour,
                description=f"{episodes} episodes of {behaviour} on the routegym recording {recording.name} "
                f"(content hash {recording.content_hash}), split {split}, seed {seed}",
                data_format="hdf5",
                requirements=["routegym"],
            )
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return dataset_id


def _play(
    recording: Recording, policy: Policy | None, episodes: int, seed: int, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The fields of an `EpisodeBuffer`, episode by episode."""
    form = getattr(policy, "observation", "flat")
    if form not in ("flat", "text"):
        raise ConfigError(
            f"the policy sees observations of form {form!r}; a dataset has flat ones: expected flat or text"
        )
    root = np.random.SeedSequence(seed)
    seeds, rng = root.generate_state(episodes), np.random.default_rng(root.spawn(1)[0])
    size = min(episodes, _EPISODES)
    env = _env(recording, size, settings, form)
    for low in range(0, episodes, size):
        own = seeds[np.minimum(np.arange(low, low + size), episodes - 1)]  # slots left over are not kept
        yield from _play_batch(env, policy, own.tolist(), rng)[: episodes - low]


def _play_batch(
    env: RoutingVectorEnv, policy: Policy | None, seeds: list[int | None], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """One episode per seed."""
    size = env.num_envs
    observation, info = env.reset(seed=seeds)
    options = [
        {"task_id": str(task), "budget_usd": float(budget), "lambda": float(lambda_)}
        for task, budget, lambda_ in zip(info["task_id"], info["budget_usd"], info["lambda"], strict=True)
    ]
    cost, score = np.zeros(size), np.full(size, np.nan)
    state, start = None, np.ones(size, dtype=bool)
    playing, length = np.ones(size, dtype=bool), np.zeros(size, dtype=np.int64)
    seen: list[tuple[npt.NDArray[Any], ...]] = []
    done: list[tuple[npt.NDArray[Any], ...]] = []
    while True:
        masks = env.action_masks()
        seen.append((observation["flat"] if isinstance(observation, dict) else observation, masks, cost, score))
        if not playing.any():
            break
        if policy is None:
            action = np.where(masks, rng.random(masks.shape), -1.0).argmax(axis=1)
        else:
            action, state = policy.predict(observation, state, start, True, masks)
        observation, reward, terminated, truncated, info = env.step(action)
        done.append((action, reward, terminated, truncated))
        start = terminated | truncated
        cost, score = info["cost_usd"], np.where(start, info["score"], np.nan)
        length[playing] += 1
        playing &= ~start
    observations, masks, costs, scores = (np.stack(column) for column in zip(*seen, strict=True))  # (T + 1, N, ...)
    actions, rewards, terminations, truncations = (np.stack(column) for column in zip(*done, strict=True))  # (T, N)
    return [
        {
            "seed": seeds[slot],
            "options": options[slot],
            "observations": observations[: steps + 1, slot],
            "actions": actions[:steps, slot],
            "rewards": rewards[:steps, slot],
            "terminations": terminations[:steps, slot],
            "truncations": truncations[:steps, slot],
            "infos": {
                "action_mask": masks[: steps + 1, slot],
                "cost_usd": costs[: steps + 1, slot],
                "score": scores[: steps + 1, slot],
            },
        }
        for slot, steps in enumerate(length.tolist())
    ]


def _env(recording: Recording, size: int, settings: dict[str, Any], observation: str = "flat") -> RoutingVectorEnv:
    from routegym.core.vector_env import RoutingVectorEnv

    form: Any = observation
    return RoutingVectorEnv(size, recording, observation=form, autoreset_mode="Disabled", **settings)


def _env_spec(kind: str, keywords: dict[str, Any]) -> EnvSpec | None:
    """What makes the environment again; None where no registered one is of this kind."""
    import gymnasium

    for name in ENV_IDS:
        if kind_of(name) == kind:
            spec = copy.deepcopy(gymnasium.spec(name))
            spec.kwargs = keywords
            return spec
    return None


@contextmanager
def _datasets_in(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Let Minari find its datasets in a folder."""
    before = os.environ.get(_MINARI_FOLDER)
    os.environ[_MINARI_FOLDER] = str(Path(folder).resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MINARI_FOLDER]
        else:
            os.environ[_MINARI_FOLDER] = before


def _word(name: str) -> str:
    """A name that Minari takes."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "recording"
