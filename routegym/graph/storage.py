"""Parquet tables and JSON metadata of a recording, written and read in slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routegym.errors import RecordingError, RoutegymError
from routegym.graph.graph import OPEN, TransitionGraph, edge_dtype
from routegym.graph.pricing import edge_costs
from routegym.graph.recording import SCHEMA_VERSION, TABLES, Recording, Texts
from routegym.graph.validate import validate_graph
from routegym.pool.arms import TOKEN_KINDS, Arm, Price, PriceTable
from routegym.tasks.taskset import TaskSet

__all__ = ["RecordingMeta", "read_meta", "read_tables", "write_tables"]

_ROWS = 1 << 18  # rows written at a time, a few tens of MB; this is the row group of the files
_ROWS_READ = 1 << 15  # rows read at a time: what is held beside the graph while it loads
# Columns where some situation has an attempt under way, or one that no other arm may take over from.
_Attempts = {"running": pa.int16(), "last": pa.uint8()}
_AttemptDefaults = {"running": -1, "last": 0}
_NodeTable = {"task": pa.int32(), "step": pa.int16(), "status": pa.uint8(), "score": pa.float32()}
_EdgeTable = {"node": pa.int32(), "action": pa.int16(), "next": pa.int32()} | dict.fromkeys(TOKEN_KINDS, pa.int32())
_Measured = {"latency_s": pa.float32(), "flops": pa.float64()}
_TaskTable = {"id": pa.string(), "prompt": pa.string(), "reference": pa.string(), "split": pa.string()}
_MOST_EMBEDDED = 4096
# Columns that a file has only where some row needs them, and what stands in their place otherwise.
_Faults = {"lost_prompt": pa.int32(), "lost_completion": pa.int32(), "gpu_s": pa.float32()} | {
    "fallback": pa.int16(),
    "retries": pa.uint16(),
    "charge_usd": pa.float64(),
}
_TaskDefaults = {"grader": "exact", "kind": "", "details": ""}
_OptionalTaskTable = dict.fromkeys(_TaskDefaults, pa.string()) | {
    f"embedding_{column}": pa.float32() for column in range(_MOST_EMBEDDED)
}
_UNHASHED = ("latency_s", "gpu_s", "retries")  # they measure the machine that recorded

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


#: Versions 1 and 2 lack columns that only some recordings need.
_READABLE = (1, 2, SCHEMA_VERSION)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Arm(_Strict):
    model: str
    tier: str
    parameters: Count
    max_completion_tokens: Annotated[int, Field(gt=0, lt=2**31)] | None
    charged_attempts: Annotated[int, Field(ge=1, lt=256)] = 1
    fallback: str | None = None
    max_gpu_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_charge_usd: Amount = 0.0


class _Price(_Strict):
    prompt: Amount
    cached: Amount
    completion: Amount
    reasoning: Amount
    gpu_hour: Amount = 0.0


class _Prices(_Strict):
    date: str
    note: str
    usd_per_million_tokens: dict[str, _Price]


class _Counts(_Strict):
    tasks: Annotated[int, Field(ge=1, lt=2**31)]
    nodes: Annotated[int, Field(ge=1, lt=2**31)]
    edges: Annotated[int, Field(ge=0, lt=2**31)]


class RecordingMeta(_Strict):
    """``meta.json`` of a recording."""

    format: Literal["routegym-recording"]
    schema_version: int
    name: str
    kind: str
    closed: bool = False
    arms: Annotated[list[_Arm], Field(min_length=1)]
    controls: list[str]
    prices: _Prices
    node_signal_names: list[str]
    edge_signal_names: list[str]
    cost_scale_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    budget_range_usd: tuple[Amount, Amount]
    counts: _Counts
    content_hash: str
    embedder: str = ""
    provenance: dict[str, Any]
    files: dict[str, str]


def read_meta(folder: Path) -> RecordingMeta:
    """Read and check ``meta.json``.

    Raises:
        RecordingError: it is missing, not JSON, of another schema version, or a field is wrong.
    """
    path = folder / "meta.json"
    if not path.is_file():
        raise RecordingError(f"{path}: no such file; a recording is a folder with meta.json and three Parquet tables")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # also numbers too long and nesting too deep for Python
        raise RecordingError(f"{path}: not valid JSON ({error}); copy or rebuild the recording") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version not in _READABLE:
        raise RecordingError(
            f"{path}: schema_version = {version!r}; this routegym reads versions {_READABLE}; "
            "rebuild the recording, or install the routegym that wrote it"
        )
    try:
        meta = RecordingMeta.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordingError(f"{path}: field {field}: {first['msg']} (got {str(first['input'])[:80]!r})") from None
    if set(meta.files) != set(TABLES):
        raise RecordingError(f"{path}: field files: {sorted(meta.files)}; expected a sha256 for each of {TABLES}")
    low, high = meta.budget_range_usd
    if low > high:
        raise RecordingError(f"{path}: field budget_range_usd: {low} > {high}; expected (lowest, highest)")
    arms = [f"{arm.model}/{arm.tier}" if arm.tier else arm.model for arm in meta.arms]
    for index, arm in enumerate(meta.arms):
        if arm.fallback is not None and arm.fallback not in arms:
            raise RecordingError(
                f"{path}: field arms.{index}.fallback: {arm.fallback[:80]!r} is no arm; "
                f"expected one of {', '.join(arms)}"
            )
    actions = [*arms, *meta.controls]
    for field, names in (
        ("arms and controls", actions),
        ("node_signal_names", meta.node_signal_names),
        ("edge_signal_names", meta.edge_signal_names),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RecordingError(f"{path}: field {field}: {twice} occur twice; names must be unique, rename one")
    return meta


def write_tables(recording: Recording, folder: Path) -> str:
    """Write the three tables and return the content hash of what they hold.

    Situations are numbered anew by task, step and text, so that the files and their hash do not depend on the
    order in which a recording has grown.
    """
    graph, digest = recording.graph, hashlib.sha256()
    tasks = recording.tasks
    by_name = _canonical_order(recording)
    number = np.empty(graph.n_nodes, dtype=np.int32)
    number[by_name] = np.arange(graph.n_nodes, dtype=np.int32)
    graded = {"grader": tasks.graders, "kind": tasks.kinds, "details": tasks.details}
    graded = {name: values for name, values in graded.items() if {*values} - {_TaskDefaults[name]}}
    embedding = _embedding_names(tasks.embedding.shape[1])
    _write(
        folder / "tasks.parquet",
        _TaskTable
        | {"start": pa.int32()}
        | dict.fromkeys(graded, pa.string())
        | dict.fromkeys(embedding, pa.float32()),
        graph.n_tasks,
        lambda part: {
            "id": tasks.ids[part],
            "prompt": tasks.prompts[part],
            "reference": tasks.references[part],
            "split": tasks.splits[part],
            "start": number[graph.task_start[part]],
            **{name: values[part] for name, values in graded.items()},
            **{name: tasks.embedding[part, column] for column, name in enumerate(embedding)},
        },
        digest,
    )
    texts = recording.texts.arrow().take(pa.array(by_name))
    known = _NodeTable | {
        name: kind for name, kind in _Attempts.items() if (graph.nodes[name] != _AttemptDefaults[name]).any()
    }
    _write(
        folder / "nodes.parquet",
        known | {"text": pa.string()} | _signal_fields(recording.node_signal_names),
        graph.n_nodes,
        lambda part: {
            **{name: graph.nodes[name][by_name[part]] for name in known},
            "text": texts.slice(part.start, part.stop - part.start).to_pylist(),
            **_signal_columns(recording.node_signal_names, graph.node_signals[by_name[part]]),
        },
        digest,
    )
    node, action = graph.edge_sources()
    node = number[node]
    order = np.lexsort((action, node))  # stable: samples keep their order
    node, action = node[order], action[order]
    faults = {name: kind for name, kind in _Faults.items() if _fault(graph.edges, name).any()}
    _write(
        folder / "edges.parquet",
        _EdgeTable | _Measured | faults | _signal_fields(recording.edge_signal_names),
        graph.n_edges,
        lambda part: {
            "node": node[part],
            "action": action[part],
            "next": number[graph.edges["next"][order[part]]],
            **{kind: graph.edges["tokens"][order[part], column] for column, kind in enumerate(TOKEN_KINDS)},
            **{name: graph.edges[name][order[part]] for name in _Measured},
            **{name: _fault(graph.edges, name)[order[part]] for name in faults},
            **_signal_columns(recording.edge_signal_names, graph.edges["signals"][order[part]]),
        },
        digest,
    )
    digest.update(json.dumps([recording.kind, list(recording.action_names)]).encode())
    return digest.hexdigest()


def _canonical_order(recording: Recording) -> npt.NDArray[np.int64]:
    """Node ids sorted by task, step and text."""
    graph = recording.graph
    columns = {
        "task": graph.node_task.copy(),
        "step": graph.node_step.copy(),
        "text": recording.texts.arrow(),
    }
    order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
    return order.to_numpy(zero_copy_only=False).astype(np.int64)  # type: ignore[no-any-return]


def _fault(records: npt.NDArray[np.void], name: str) -> npt.NDArray[Any]:
    """One column of `_Faults` as a view of edge records."""
    if name.startswith("lost_"):
        return np.asarray(records["lost"][:, int(name == "lost_completion")])
    return np.asarray(records[name])


def _optional(path: Path, known: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Those of the known columns that a file has; a file that cannot be read has none, `_open` says why."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return {}
    return {name: kind for name, kind in known.items() if name in names}


def _embedding_names(width: int) -> list[str]:
    return [f"embedding_{column}" for column in range(width)]


def _signal_fields(names: tuple[str, ...]) -> dict[str, pa.DataType]:
    return {f"signal_{name}": pa.float32() for name in names}


def _signal_columns(names: tuple[str, ...], values: npt.NDArray[Any]) -> dict[str, Any]:
    return {f"signal_{name}": values[:, column] for column, name in enumerate(names)}


def _write(path: Path, fields: dict[str, pa.DataType], rows: int, columns: Any, digest: Any) -> None:
    schema = pa.schema(list(fields.items()))
    ids = dict.fromkeys({"node", "next", "task", "start"} & fields.keys(), "DELTA_BINARY_PACKED")  # a third of plain
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=12,
        use_dictionary=[name for name in fields if name not in ids],
        column_encoding=ids,
    ) as writer:
        for low in range(0, rows, _ROWS):
            values = columns(slice(low, min(low + _ROWS, rows)))
            arrays = {
                name: pa.array(
                    np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v, type=schema.field(name).type
                )
                for name, v in values.items()
            }
            writer.write_table(pa.table(arrays, schema=schema))
            for name, array in arrays.items():
                if name in _UNHASHED:
                    continue
                digest.update(name.encode())
                if pa.types.is_string(array.type):
                    digest.update("\x00".join(array.to_pylist()).encode())
                else:
                    digest.update(array.to_numpy(zero_copy_only=False).tobytes())


def read_tables(folder: Path, meta: RecordingMeta) -> Recording:
    """Stream the tables into a recording and validate it.

    Raises:
        RecordingError: a table lacks a column, has nulls, or its content is inconsistent.
    """
    try:
        arms = tuple(Arm(**arm.model_dump()) for arm in meta.arms)
        usd = meta.prices.usd_per_million_tokens
        prices = PriceTable(
            date=meta.prices.date,
            note=meta.prices.note,
            prices={model: Price(**price.model_dump()) for model, price in usd.items()},
        )
        prices.per_token(arms)
    except RoutegymError as error:
        raise RecordingError(f"{folder / 'meta.json'}: {error}") from error
    node_names, edge_names = tuple(meta.node_signal_names), tuple(meta.edge_signal_names)
    counts = meta.counts
    task_fields = _TaskTable | {"start": pa.int32()} | _optional(folder / "tasks.parquet", _OptionalTaskTable)
    attempts = _optional(folder / "nodes.parquet", _Attempts)
    node_fields = _NodeTable | attempts | {"text": pa.string()} | _signal_fields(node_names)
    faults = _optional(folder / "edges.parquet", _Faults)
    edge_fields = _EdgeTable | _Measured | faults | _signal_fields(edge_names)
    tables = (
        (folder / "tasks.parquet", task_fields, counts.tasks),
        (folder / "nodes.parquet", node_fields, counts.nodes),
        (folder / "edges.parquet", edge_fields, counts.edges),
    )
    for table in tables:  # before any memory is taken for what meta.json says
        with _open(*table):
            pass
    graph = TransitionGraph(
        n_tasks=counts.tasks,
        n_arms=len(arms),
        n_actions=len(arms) + len(meta.controls),
        node_signals=len(node_names),
        edge_signals=len(edge_names),
        nodes=counts.nodes,  # room for edges is made once, below: they are most of it
    )
    width = sum(name.startswith("embedding_") for name in task_fields)
    embedding = np.zeros((counts.tasks, width), dtype=np.float32)
    columns: dict[str, list[str]] = {name: [] for name, kind in task_fields.items() if kind == pa.string()}
    for low, batch in _batches(*tables[0]):
        for name, values in columns.items():
            values.extend(batch[name].to_pylist())
        graph.task_start[low : low + len(batch)] = batch["start"].to_numpy()
        for column, name in enumerate(_embedding_names(width)):
            embedding[low : low + len(batch), column] = batch[name].to_numpy()
    try:
        tasks = TaskSet(
            ids=tuple(columns["id"]),
            prompts=tuple(columns["prompt"]),
            references=tuple(columns["reference"]),
            splits=tuple(columns["split"]),
            graders=tuple(columns.get("grader", ())),
            kinds=tuple(columns.get("kind", ())),
            details=tuple(columns.get("details", ())),
            embedding=embedding,
            embedder=meta.embedder,
        )
    except RoutegymError as error:
        raise RecordingError(f"{folder / 'tasks.parquet'}: {error}") from error

    texts = []
    unrecorded = np.nan if meta.closed else np.inf
    for _, batch in _batches(*tables[1]):
        status = batch["status"].to_numpy()
        graph.append_nodes(
            task=batch["task"].to_numpy(),
            step=batch["step"].to_numpy(),
            status=status,
            score=batch["score"].to_numpy(zero_copy_only=False),
            signals=_signal_matrix(batch, node_names),
            reserve_usd=np.where((status == OPEN)[:, None], unrecorded, np.nan).repeat(graph.n_actions, axis=1),
            **{name: batch[name].to_numpy() for name in attempts},
        )
        texts.append(batch["text"].cast(pa.large_string()))

    path = folder / "edges.parquet"
    node, action = np.zeros(counts.edges, dtype=np.int32), np.zeros(counts.edges, dtype=np.int16)
    records = np.zeros(counts.edges, dtype=edge_dtype(len(edge_names)))
    for low, batch in _batches(*tables[2]):
        part = slice(low, low + len(batch))
        node[part], action[part] = batch["node"].to_numpy(), batch["action"].to_numpy()
        rows = records[part]
        rows["next"] = batch["next"].to_numpy()
        for column, kind in enumerate(TOKEN_KINDS):
            rows["tokens"][:, column] = batch[kind].to_numpy()
        for name in _Measured:
            rows[name] = batch[name].to_numpy()
        for name in faults:
            _fault(rows, name)[:] = batch[name].to_numpy()
        bad = (rows["fallback"] < 0) | (rows["fallback"] > len(arms))
        if bad.any():
            row = int(np.argmax(bad))
            raise RecordingError(
                f"{path}, row {low + row}: fallback = {rows['fallback'][row]}; expected 0 (none) to {len(arms)} "
                "(1 + the arm that answered); rebuild the recording"
            )
        rows["signals"] = _signal_matrix(batch, edge_names)
        rows["cost_usd"], rows["reserve_usd"] = edge_costs(prices, arms, action[part], rows)
    _check_order(path, node, action, counts.nodes, graph.n_actions)
    graph.append_edges(node, action, records)
    graph.set_reserves()
    recording = Recording(
        name=meta.name,
        kind=meta.kind,
        arms=arms,
        controls=tuple(meta.controls),
        prices=prices,
        tasks=tasks,
        graph=graph,
        texts=Texts(pa.concat_arrays(texts)),
        node_signal_names=node_names,
        edge_signal_names=edge_names,
        provenance=meta.provenance,
        cost_scale_usd=meta.cost_scale_usd,
        budget_range_usd=meta.budget_range_usd,
        content_hash=meta.content_hash,
        closed=meta.closed,
    )
    validate_graph(recording, str(folder))
    return recording


def _check_order(path: Path, node: npt.NDArray[Any], action: npt.NDArray[Any], n_nodes: int, n_actions: int) -> None:
    for name, value, limit in (("node", node, n_nodes), ("action", action, n_actions)):
        bad = (value < 0) | (value >= limit)
        if bad.any():
            row = int(np.argmax(bad))
            raise RecordingError(
                f"{path}, row {row}: {name} = {value[row]}; expected 0 to {limit - 1}; rebuild the recording"
            )
    unsorted = (np.diff(node) < 0) | ((np.diff(node) == 0) & (np.diff(action) < 0))
    if unsorted.any():
        row = int(np.argmax(unsorted)) + 1
        raise RecordingError(
            f"{path}, row {row}: node {node[row]}, action {action[row]} comes after node {node[row - 1]}, action "
            f"{action[row - 1]}; expected rows sorted by node and action; sort the edges"
        )


def _signal_matrix(batch: pa.RecordBatch, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    columns = [batch[f"signal_{name}"].to_numpy() for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((len(batch), 0), dtype=np.float32)


@contextmanager
def _open(path: Path, fields: dict[str, pa.DataType], rows: int) -> Iterator[pq.ParquetFile]:
    """A table whose columns, types and length are as expected."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            for name, kind in fields.items():
                found = [field.type for field in schema if field.name == name]
                if found != [kind]:
                    raise RecordingError(
                        f"{path}: column {name!r} is {' and '.join(map(str, found)) or 'missing'}; expected {kind}; "
                        "rebuild the recording"
                    )
            if file.metadata.num_rows != rows:
                raise RecordingError(
                    f"{path}: {file.metadata.num_rows} rows, meta.json says {rows}; copy or rebuild the recording"
                )
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: not a readable Parquet file ({error}); copy or rebuild it") from error


def _batches(path: Path, fields: dict[str, pa.DataType], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(first row, batch) over a table that is checked first."""
    with _open(path, fields, rows) as file:
        low = 0
        for batch in file.iter_batches(batch_size=_ROWS_READ, columns=list(fields), use_threads=False):
            for name in fields:
                if batch[name].null_count:
                    raise RecordingError(f"{path}: column {name!r} has empty cells; fill or drop those rows")
            batch.validate(full=True)  # text that is no UTF-8 would be met much later
            if low + len(batch) > rows:
                break
            yield low, batch
            low += len(batch)
        pa.default_memory_pool().release_unused()
        if low != rows:
            raise RecordingError(f"{path}: not the {rows} rows that it announces; copy or rebuild the recording")
