"""Task sets in files: JSON lines, CSV and Parquet, read whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from routegym.errors import TaskError
from routegym.tasks.graders import check_details, check_grader
from routegym.tasks.taskset import SPLITS, TaskSet, prompt_hash, split_of

__all__ = ["FIELDS", "MOST_CHARACTERS", "SUFFIXES", "read_tasks", "save_tasks"]

#: The fields of a task; only prompt and reference must be there.
FIELDS = ("id", "prompt", "reference", "split", "grader", "kind", "details")

#: Longest text that a field may hold, in characters.
MOST_CHARACTERS = {
    "id": 200,
    "prompt": 1_000_000,
    "reference": 100_000,
    "split": 20,
    "grader": 200,
    "kind": 200,
    "details": 1_000_000,
}

#: Endings of the files that are read.
SUFFIXES = (".jsonl", ".csv", ".parquet")

_NEEDED = ("prompt", "reference")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def read_tasks(
    path: Path | str,
    columns: Mapping[str, str] | None = None,
    default_grader: str = "exact",
    seed: int = 0,
) -> TaskSet:
    """Tasks from a ``.jsonl``, ``.csv`` or ``.parquet`` file.

    Args:
        path: the file; text is UTF-8, with or without a byte order mark.
        columns: where a field of `FIELDS` has another name in the file, for example ``{"prompt": "question"}``.
        default_grader: where a task names none.
        seed: another seed gives another partition of the tasks that name no split.

    A task without an id is named by a hash of its prompt; a task without a split is put into one by a hash of its id.
    Columns that are no field of a task are left out.

    Raises:
        TaskError: anything is wrong; the message names the file, the line (the row of a Parquet file) and the field.

    Warns:
        UserWarning: a prompt or reference has characters that change the direction of writing.
    """
    path = Path(path)
    names = {field: field for field in FIELDS} | dict(columns or {})
    _check_columns(names, path)
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{path}: a task file ends in one of {', '.join(SUFFIXES)}; rename or convert it")
    if not path.is_file():
        raise TaskError(f"{path}: there is no such file; give the path of a task file")
    reader = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[path.suffix]
    found: dict[str, list[str]] = {field: [] for field in FIELDS}
    lines: dict[str, str] = {}
    splits: dict[str, tuple[str, str]] = {}
    turned: list[str] = []
    try:
        check_grader(default_grader)
        for where, row in reader(path, names):
            task = _task(row, names, where, default_grader, seed)
            if task["id"] in lines:
                raise TaskError(
                    f"{where}, field {names['id']!r}: id {task['id']!r} is already that of {lines[task['id']]}; "
                    "ids must be unique (a task without one is named after its prompt), rename or drop one"
                )
            lines[task["id"]] = where.rpartition(": ")[2]
            split, other = splits.setdefault(task["prompt"], (task["split"], where))
            if split != task["split"]:
                raise TaskError(
                    f"{where}, field {names['split']!r}: the prompt is in split {task['split']!r} here and in "
                    f"{split!r} at {other.rpartition(': ')[2]}; a prompt may be in one split only, drop one of them"
                )
            if _BIDI & set(task["prompt"] + task["reference"]):
                turned.append(where)
            for field, value in task.items():
                found[field].append(value)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    if not found["id"]:
        raise TaskError(f"{path}: holds no tasks; expected one task per line")
    if turned:
        warnings.warn(
            f"{turned[0]} and {len(turned) - 1} more: characters that change the direction of writing; "
            "what is shown may not be what a model reads",
            stacklevel=3,
        )
    return TaskSet(
        ids=tuple(found["id"]),
        prompts=tuple(found["prompt"]),
        references=tuple(found["reference"]),
        splits=tuple(found["split"]),
        graders=tuple(found["grader"]),
        kinds=tuple(found["kind"]),
        details=tuple(found["details"]),
    )


def save_tasks(tasks: TaskSet, path: Path | str) -> None:
    """Write tasks as JSON lines; `read_tasks` gives the same set back, but for the embedding, which is not kept.

    Raises:
        TaskError: the file does not end in ``.jsonl`` or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise TaskError(f"{path}: tasks are saved as JSON lines; let the name end in .jsonl")
    columns = (tasks.ids, tasks.prompts, tasks.references, tasks.splits, tasks.graders, tasks.kinds, tasks.details)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for values in zip(*columns, strict=True):
                row: dict[str, Any] = {field: value for field, value in zip(FIELDS, values, strict=True) if value}
                row |= {"prompt": values[1], "reference": values[2]}
                if "details" in row:
                    row["details"] = json.loads(row["details"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise TaskError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _check_columns(names: Mapping[str, str], path: Path) -> None:
    for field in names:
        if field not in FIELDS:
            close = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(FIELDS)}"
            raise TaskError(f"{path}: columns names {field!r}, which is no field of a task; {hint}")
    seen: dict[str, str] = {}
    for field, column in names.items():
        if seen.setdefault(column, field) != field:
            raise TaskError(f"{path}: column {column!r} is given for {seen[column]!r} and for {field!r}; give one each")


def _task(
    row: Mapping[str, Any], names: Mapping[str, str], where: str, default_grader: str, seed: int
) -> dict[str, str]:
    """The checked fields of one row."""
    _check_names(row, names, where)
    task: dict[str, str] = {}
    for field in FIELDS:
        place = f"{where}, field {names[field]!r}"
        value = row.get(names[field])
        if field == "details" and isinstance(value, dict):
            value = json.dumps(value, sort_keys=True)
        if value is None or (value == "" and field not in _NEEDED):
            if field in _NEEDED:
                raise TaskError(f"{place}: is missing or null; every task needs a {field}")
            continue
        if not isinstance(value, str):
            expected = "an object" if field == "details" else "text"
            raise TaskError(f"{place}: {value!r:.60} is no text; expected {expected}, put a number in quotes")
        task[field] = _checked_text(value, field, place)
    task.setdefault("id", prompt_hash(task["prompt"]))
    task.setdefault("split", split_of(task["id"], seed))
    task.setdefault("grader", default_grader)
    for field in ("kind", "details"):
        task.setdefault(field, "")
    if task["split"] not in SPLITS:
        raise TaskError(
            f"{where}, field {names['split']!r}: unknown split {task['split']!r}; expected one of {', '.join(SPLITS)}"
        )
    try:
        check_grader(task["grader"])
    except TaskError as error:
        raise TaskError(f"{where}, field {names['grader']!r}: {error}") from None
    if task["details"]:
        check_details(task["details"], f"{where}, field {names['details']!r}")
    return {field: task[field] for field in FIELDS}


def _check_names(row: Mapping[str, Any], names: Mapping[str, str], where: str) -> None:
    """Refuse columns whose name is nearly that of a field that is not there: they would be left out silently."""
    for field, column in names.items():
        if column in row:
            continue
        others = [name for name in row if name not in names.values()]
        close = difflib.get_close_matches(column, others, n=1, cutoff=0.75)
        if close:
            raise TaskError(
                f"{where}, field {column!r}: is not there, but {close[0]!r} is; rename it, or give the column's name"
            )
        if field in _NEEDED:
            raise TaskError(
                f"{where}, field {column!r}: is not among {', '.join(map(repr, row)) or 'no fields'}; every task needs "
                f"a {field}, give the name of its column"
            )


def _checked_text(value: str, field: str, place: str) -> str:
    if len(value) > MOST_CHARACTERS[field]:
        raise TaskError(
            f"{place}: has {len(value)} characters; at most {MOST_CHARACTERS[field]} are taken, shorten or drop it"
        )
    if field == "prompt" and not value.strip():
        raise TaskError(f"{place}: is empty; every task needs a prompt")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TaskError(f"{place}: is no valid Unicode (half of a character at {error.start}); repair it") from None
    if "\x00" in value:
        raise TaskError(f"{place}: has a NUL character; remove it")
    if field in ("id", "split", "grader", "kind"):
        odd = [character for character in value if unicodedata.category(character)[0] == "C"]
        if odd or value != value.strip():
            what = f"the invisible character U+{ord(odd[0]):04X}" if odd else "space at an end"
            raise TaskError(f"{place}: {value!r:.80} has {what}; remove it")
    return value


def _json_rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}: line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_refuse, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise TaskError(f"{where}: is not JSON ({error}); expected one object per line") from None
            if not isinstance(row, dict):
                raise TaskError(f"{where}: is {line.strip()!r:.60}; expected one JSON object per line")
            yield where, row


def _csv_rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    limit = csv.field_size_limit(4 * max(MOST_CHARACTERS.values()))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header: list[str] | None = None
            try:
                for cells in reader:
                    where = f"{path}: line {reader.line_num}"
                    if header is None:
                        header = cells
                        twice = sorted({name for name in header if header.count(name) > 1})
                        if twice:
                            raise TaskError(f"{where}: column {twice[0]!r} is there twice; drop one")
                        continue
                    if not cells:
                        continue
                    if len(cells) != len(header):
                        raise TaskError(
                            f"{where}: {len(cells)} cells for {len(header)} columns; put text with commas in quotes"
                        )
                    yield where, dict(zip(header, cells, strict=True))
            except csv.Error as error:
                raise TaskError(f"{path}: line {reader.line_num}: is not CSV ({error}); close every quote") from None
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            twice = sorted({name for name in present if present.count(name) > 1})
            if twice:
                raise TaskError(f"{path}: column {twice[0]!r} is there twice; drop one")
            wanted = [name for name in present if name in names.values()]
            row = 0
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                for values in batch.to_pylist():
                    # All names are there, so that misspelt ones are found.
                    yield f"{path}: row {row}", dict.fromkeys(present) | values
                    row += 1
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{path}: is no Parquet file that can be read ({error}); write it again") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
