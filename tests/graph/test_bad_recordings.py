"""Section 7 and R-27: a damaged recording is refused by name, field, value and remedy, and never half loaded."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import Edge, hand_made

import routegym
from routegym.errors import RecordingError, RoutegymError
from routegym.graph import Recording

TABLES = ("tasks", "nodes", "edges")


def reference() -> Recording:
    """Two tasks, a control action, several samples; complete."""
    nodes = [(0, None), (1, None), (2, 0.0), (2, 1.0), (0, None), (1, 0.5)]
    edges = [
        Edge(0, 0, 1, 2), Edge(0, 0, 2, 3), Edge(0, 1, 3, 4), Edge(0, 2, 2),
        Edge(1, 0, 2, 1), Edge(1, 1, 3, 4), Edge(1, 2, 2),
        Edge(4, 0, 5, 2), Edge(4, 1, 5, 2), Edge(4, 2, 5),
    ]  # fmt: skip
    return hand_made(nodes, edges, controls=("accept",), splits=("train", "test"), task_of=[0, 0, 0, 0, 1, 1])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference().save(tmp_path_factory.mktemp("original") / "r")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "r"))


def rewrite_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def sign(folder: Path) -> None:
    """Make the checksums and row counts right, so that only the content is wrong."""

    def change(meta: dict[str, Any]) -> None:
        for name in meta["files"]:
            if (folder / name).exists():
                meta["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()

    rewrite_meta(folder, change)


def rewrite_table(folder: Path, table: str, change: Callable[[dict[str, list[Any]]], Any]) -> None:
    path = folder / f"{table}.parquet"
    old = pq.read_table(path)
    columns = old.to_pydict()
    change(columns)
    fields = [(name, old.schema.field(name).type) for name in columns]
    new = pa.table({name: pa.array(columns[name], kind) for name, kind in fields})
    pq.write_table(new, path)
    rewrite_meta(folder, lambda meta: meta["counts"].update({table: len(new)}))
    sign(folder)


def put(column: str, row: int, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][row] = value

    return change


def take_rows(rows: list[int]) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        for name in columns:
            columns[name] = [columns[name][row] for row in rows]

    return change


NAN, INF = float("nan"), float("inf")

#: (table, change, what the message must say). Nodes by number: 0 start, 1 half-way, 2 and 3 ends; 4 start, 5 end.
CONTENT: list[tuple[str, Callable[..., None], str]] = [
    ("nodes", put("score", 2, 1.5), r"nodes, row 2: score = 1\.5; expected a score in \[0, 1\].*correct"),
    ("nodes", put("score", 2, -0.1), r"row 2: score = -0\.1"),
    ("nodes", put("score", 2, NAN), r"row 2: score = nan"),
    ("nodes", put("score", 0, 0.5), r"row 0: score = 0\.5; expected NaN while the situation is open"),
    ("nodes", put("status", 2, 3), r"row 2: status = 3; expected 0 \(open\)"),
    ("nodes", put("status", 0, 1), r"score = nan"),
    ("nodes", put("task", 1, 7), r"row 1: task = 7; expected a task index below 2"),
    ("nodes", put("task", 1, -1), r"row 1: task = -1"),
    ("nodes", put("task", 1, 1), r"edges, row 0: next = 1; expected a situation of the same task"),
    ("nodes", put("step", 0, -3), r"row 0: step = -3; expected no negative number"),
    ("nodes", put("step", 1, 0), r"edges, row 0: next = 1; expected .* cycle"),
    ("nodes", put("step", 3, 0), r"edges, row 2: next = 3; expected .* cycle"),
    ("nodes", put("signal_n", 1, NAN), r"row 1: signal n = nan; expected a number in \[0, 1\]"),
    ("nodes", put("signal_n", 1, 1.01), r"row 1: signal n = 1\.01"),
    ("nodes", put("text", 1, None), r"nodes\.parquet: column 'text' has empty cells; fill or drop"),
    ("edges", put("next", 0, 99), r"edges, row 0: next = 99; expected a node below 6"),
    ("edges", put("next", 0, -1), r"row 0: next = -1"),
    ("edges", put("next", 5, 1), r"row 5: next = 1; expected .* cycle"),
    ("edges", put("next", 0, 5), r"row 0: next = 5; expected a situation of the same task"),
    ("edges", put("next", 0, 2), r"nodes, row 1: node = 1; expected a situation that some edge leads to"),
    ("edges", put("node", 9, 5), r"edges, row 9: node = 5; expected an open situation"),
    ("edges", put("node", 9, 77), r"edges\.parquet, row 9: node = 77; expected 0 to 5; rebuild"),
    ("edges", put("action", 9, 9), r"edges\.parquet, row 9: action = 9; expected 0 to 2"),
    ("edges", put("action", 0, -1), r"row 0: action = -1"),
    ("edges", put("completion", 0, -2), r"edges, row 0: tokens = .*-2.*; expected no negative"),
    ("edges", put("prompt", 0, -1), r"row 0: tokens"),
    ("edges", put("completion", 0, 11), r"row 0: completion \+ reasoning tokens = 11; expected at most the arm's"),
    ("edges", put("completion", 3, 1), r"row 3: completion \+ reasoning tokens = 1"),
    ("edges", put("latency_s", 1, NAN), r"row 1: latency_s = nan; expected a finite number >= 0"),
    ("edges", put("latency_s", 1, -1.0), r"row 1: latency_s = -1\.0"),
    ("edges", put("flops", 1, INF), r"row 1: flops = inf"),
    ("edges", put("signal_e", 1, -0.5), r"row 1: signal e = -0\.5"),
    ("edges", put("completion", 0, None), r"edges\.parquet: column 'completion' has empty cells"),
    ("edges", take_rows([1, 3, 0, 2, 4, 5, 6, 7, 8, 9]), r"row 2: node 0, action 0 comes after node 0, action 2.*sort"),
    ("edges", take_rows([4, 5, 6, 0, 1, 2, 3, 7, 8, 9]), r"edges\.parquet, row 3: node 0, action 0 comes after node 1"),
    ("edges", take_rows([0, 1, 2, 3, 7, 8, 9]), r"nodes, row 1: node = 1; expected an edge for every arm .*complete"),
    ("edges", take_rows([0, 1, 2, 3, 4, 5, 7, 8, 9]), r"nodes, row 1: node = 1; expected an edge for every arm"),
    ("tasks", put("id", 1, "t0"), r"tasks\.parquet: .*'t0' occurs twice.*rename"),
    ("tasks", put("id", 1, ""), r"tasks\.parquet: .*empty"),
    ("tasks", put("split", 1, "exam"), r"tasks\.parquet: .*unknown split 'exam'"),
    ("tasks", put("prompt", 1, "q0"), r"tasks\.parquet: .*'q0' is in split 'test' and also in 'train'"),
    ("tasks", put("start", 1, 99), r"tasks, row 1: start = 99; expected a node below 6"),
    ("tasks", put("start", 1, -1), r"tasks, row 1: start = -1"),
    ("tasks", put("start", 1, 0), r"tasks, row 1: start = 0; expected a node of the same task"),
    ("tasks", put("start", 1, 5), r"tasks, row 1: start = 5; expected an open situation"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "change", "message"), CONTENT, ids=map(str, range(len(CONTENT))))
def test_inconsistent_content(folder: Path, table: str, change: Callable[..., None], message: str) -> None:
    rewrite_table(folder, table, change)
    with pytest.raises(RecordingError, match=message) as caught:
        Recording.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("table", TABLES)
def test_missing_and_mistyped_columns(folder: Path, table: str) -> None:
    path = folder / f"{table}.parquet"
    whole = pq.read_table(path)
    for name in whole.column_names:
        pq.write_table(whole.drop_columns([name]), path)
        sign(folder)
        with pytest.raises(RecordingError, match=rf"{table}\.parquet: column '{name}' is missing; expected .*rebuild"):
            Recording.load(folder)
        index = whole.column_names.index(name)
        other = pa.array(["x"] * len(whole)) if whole.schema.types[index] != pa.string() else pa.array([1] * len(whole))
        pq.write_table(whole.set_column(index, name, other), path)
        sign(folder)
        with pytest.raises(RecordingError, match=rf"{table}\.parquet: column '{name}' is (string|int64); expected"):
            Recording.load(folder)


@pytest.mark.parametrize("table", TABLES)
def test_truncated_missing_and_foreign_files(folder: Path, table: str) -> None:
    path = folder / f"{table}.parquet"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", b"PAR1", whole + b"x", b"\x00" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=rf"{table}\.parquet: its sha256 .*truncated or damaged; copy"):
            Recording.load(folder)
        if content != whole + b"x":
            sign(folder)
            with pytest.raises(RecordingError, match=rf"{table}\.parquet: not a readable Parquet file"):
                Recording.load(folder)
            rewrite_meta(folder, lambda meta: meta["files"].update({path.name: hashlib.sha256(whole).hexdigest()}))
    path.unlink()
    with pytest.raises(RecordingError, match=rf"{table}\.parquet: missing; copy the whole"):
        Recording.load(folder)


META: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m.update(schema_version=4), r"schema_version = 4; this routegym reads versions \(1, 2, 3\); rebuild"),
    (lambda m: m.pop("schema_version"), r"schema_version = None"),
    (lambda m: m.update(format="minari"), r"field format: .*'minari'"),
    (lambda m: m.pop("prices"), r"field prices: Field required"),
    (lambda m: m.update(colour="red"), r"field colour: Extra inputs"),
    (lambda m: m.update(cost_scale_usd=0), r"field cost_scale_usd: .*greater than 0.*got '0'"),
    (lambda m: m.update(cost_scale_usd=NAN), r"field cost_scale_usd"),
    (lambda m: m.update(budget_range_usd=[3, 1]), r"field budget_range_usd: 3\.0 > 1\.0"),
    (lambda m: m.update(budget_range_usd=[-1, 1]), r"field budget_range_usd\.0"),
    (lambda m: m.update(arms=[]), r"field arms"),
    (lambda m: m["arms"][0].update(max_completion_tokens=0), r"field arms\.0\.max_completion_tokens"),
    (lambda m: m["arms"][0].update(max_completion_tokens=10**30), r"field arms\.0\.max_completion_tokens"),
    (lambda m: m["arms"][0].update(parameters=-1), r"field arms\.0\.parameters"),
    (lambda m: m["arms"][1].update(model="a0"), r"field arms and controls: \['a0/t'\] occur twice.*rename"),
    (lambda m: m.update(controls=["accept", "accept"]), r"field arms and controls: \['accept'\]"),
    (lambda m: m["arms"][0].update(model=""), r"meta\.json: .*model must not be empty"),
    (lambda m: m["prices"]["usd_per_million_tokens"].pop("a0"), r"meta\.json: no price for model 'a0'.*add its price"),
    (lambda m: m["prices"]["usd_per_million_tokens"]["a0"].update(prompt=-1), r"field prices.*a0\.prompt"),
    (lambda m: m["prices"]["usd_per_million_tokens"]["a0"].update(prompt=NAN), r"field prices.*a0\.prompt"),
    (lambda m: m["files"].pop("edges.parquet"), r"field files: .*expected a sha256 for each"),
    (lambda m: m["files"].update({"../../secret": "0"}), r"field files"),
    (lambda m: m["counts"].update(nodes=5), r"nodes\.parquet: 6 rows, meta\.json says 5; copy or rebuild"),
    (lambda m: m["counts"].update(edges=2**31 - 1), r"edges\.parquet: 10 rows, meta\.json says 2147483647"),
    (lambda m: m["counts"].update(tasks=10**30), r"field counts\.tasks"),
    (lambda m: m.update(node_signal_names=["n", "n"]), r"field node_signal_names: \['n'\] occur twice"),
    (lambda m: m.update(edge_signal_names=["other"]), r"column 'signal_other' is missing"),
    (lambda m: m.update(controls=[]), r"action = 2; expected 0 to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), META, ids=map(str, range(len(META))))
def test_bad_metadata(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    rewrite_meta(folder, change)
    with pytest.raises(RecordingError, match=message) as caught:
        Recording.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"[" * 200_000, b"9" * 10_000,
     b'{"schema_version": 2', b'{"schema_version": 2}', b"{}"],
)  # fmt: skip
def test_metadata_that_is_no_metadata(folder: Path, text: bytes) -> None:
    (folder / "meta.json").write_bytes(text)
    with pytest.raises(RecordingError, match=r"meta\.json: .*(copy or rebuild|rebuild|Field required)"):
        Recording.load(folder)


def test_what_is_no_recording(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RecordingError, match=r"meta\.json: no such file; a recording is a folder"):
            Recording.load(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordingError, match="no such file"):
        routegym.load_recording(tmp_path / "file")
    with pytest.raises(RecordingError, match="'agent_stepz': no folder of this path and no shipped recording"):
        routegym.load_recording("agent_stepz")
    for wrong in (None, 3, b"x", {"a": 1}):
        with pytest.raises(RecordingError, match="expected a name, the path of a folder, or a Recording"):
            routegym.load_recording(wrong)  # type: ignore[arg-type]


def test_a_close_name_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routegym.graph.library.shipped_recordings", lambda: ("agent_steps", "cascade"))
    with pytest.raises(RecordingError, match="did you mean 'agent_steps'"):
        routegym.load_recording("agent_stepz")


def test_an_attempt_that_is_the_last_is_under_way(tmp_path: Path) -> None:
    recording = helpers.build("attempts", 3)
    graph = recording.graph
    row = int(np.argmax(graph.node_last))
    graph.nodes["running"][row] = -1
    with pytest.raises(RecordingError, match=rf"nodes, row {row}: last = 1; expected 0 where no attempt is under way"):
        recording.save(tmp_path / "bad")


def test_an_inconsistent_recording_is_not_saved(tmp_path: Path) -> None:
    recording = reference()
    recording.graph.edges["next"][0] = 5
    with pytest.raises(RecordingError, match=r"hand, edges, row 0: next = 5; expected a situation of the same task"):
        recording.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []
    recording = reference()
    recording.texts.extend(["one too many"])
    with pytest.raises(RecordingError, match="7 texts for 6 situations"):
        recording.save(tmp_path / "r")


def test_negative_and_nan_costs_in_memory_are_not_saved(tmp_path: Path) -> None:
    for value in (-1.0, NAN, INF):
        recording = reference()
        recording.graph.edges["cost_usd"][2] = value
        with pytest.raises(RecordingError, match=rf"edges, row 2: cost_usd = {value}; expected a finite number >= 0"):
            recording.save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_samples_of_one_choice_stand_together() -> None:
    recording = reference()
    recording.graph.append_edges([0], [0], recording.graph.edges[:1].copy())
    with pytest.raises(RecordingError, match=r"2 row\(s\) repeat a \(node, action\) that stands elsewhere"):
        recording.save("/nonexistent")


# -- fuzzing -----------------------------------------------------------------------------------
WEIRD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, -(10**40), 0.5, NAN, INF, -INF, 1e308, 1e-320, "", "x",
    "é\u202e", "\ufeff", "a\r\nb", "\x00", "x" * 10_000, [], [1], {}, {"a": None}, [[]], "nan", "-1", "\ud800",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of nested JSON."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found += places(part, (*path, key))
    return found


def only_our_errors(folder: Path) -> bool:
    """Whether a load was refused; anything but a RoutegymError fails the test."""
    try:
        Recording.load(folder)
    except RoutegymError as error:
        message = str(error)
    else:
        return False
    assert str(folder) in message
    return True


def test_every_metadata_field_with_every_weird_value(folder: Path) -> None:
    """More than 1,000 configurations."""
    meta = json.loads((folder / "meta.json").read_text())
    tried = refused = 0
    for path in places(meta):
        for weird in WEIRD:
            changed = json.loads(json.dumps(meta))
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if parent[path[-1]] == weird:
                continue
            parent[path[-1]] = weird
            (folder / "meta.json").write_text(json.dumps(changed))
            tried += 1
            refused += only_our_errors(folder)
    assert tried > 1000
    assert refused > 0.8 * tried


def test_metadata_bytes(folder: Path) -> None:
    whole = (folder / "meta.json").read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            kind = rng.randrange(3)
            if kind == 0:
                content[place] = rng.randrange(256)
            elif kind == 1:
                del content[place : place + rng.randint(1, 40)]
            else:
                content[place:place] = rng.choice([b"\x00", b"\xff", b'"', b"{", b"1e999", b"\r\n", b"NaN"])
        (folder / "meta.json").write_bytes(content)
        only_our_errors(folder)


def test_table_cells(folder: Path, original: Path) -> None:
    """Random cells of signed tables: 250 recordings, each refused or as good as before."""
    rng = random.Random(1)
    tables = {name: pq.read_table(original / f"{name}.parquet") for name in TABLES}
    numbers = [0, 1, -1, 2, 5, 99, 2**15 - 1, 2**31 - 1, -(2**31), NAN, INF, 1e30, 0.5]
    refused = 0
    for _ in range(250):
        name = rng.choice(TABLES)
        table = tables[name]
        columns = table.to_pydict()
        column = rng.choice(table.column_names)
        kind = table.schema.field(column).type
        row = rng.randrange(len(table))
        value: Any = rng.choice(["", "t0", "q0", "train", "\x00", None]) if kind == pa.string() else rng.choice(numbers)
        if pa.types.is_integer(kind):
            limits = np.iinfo(kind.to_pandas_dtype())
            value = int(np.clip(value, limits.min, limits.max)) if np.isfinite(value) else 0
        elif value is not None and kind != pa.string():
            value = float(value)
        columns[column][row] = value
        fresh = pa.table({n: pa.array(v, table.schema.field(n).type) for n, v in columns.items()})
        pq.write_table(fresh, folder / f"{name}.parquet")
        sign(folder)
        refused += only_our_errors(folder)
        shutil.copy(original / f"{name}.parquet", folder / f"{name}.parquet")
    assert refused > 60


def test_table_bytes(folder: Path, original: Path) -> None:
    """Flipped bytes below a right checksum, as of someone who forges a file: 250 recordings."""
    rng = random.Random(2)
    for _ in range(250):
        name = f"{rng.choice(TABLES)}.parquet"
        content = bytearray((original / name).read_bytes())
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (folder / name).write_bytes(content)
        sign(folder)
        only_our_errors(folder)
        shutil.copy(original / name, folder / name)


def test_the_reference_itself_loads(folder: Path) -> None:
    sign(folder)
    assert Recording.load(folder).graph.complete
