from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routegym.errors import TaskError
from routegym.tasks import TaskSet, load_tasks, save_tasks, split_of
from routegym.tasks.files import FIELDS, MOST_CHARACTERS, read_tasks

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "1+1", "reference": "2", "split": "train", "grader": "numeric", "kind": "sum",
     "details": {"abs_tol": 0.5}},
    {"id": "b", "prompt": "Rome?\nYes, or no: \"quoted\", and ünï", "reference": "yes", "split": "test",
     "grader": "normalized"},
    {"id": "c", "prompt": "3", "reference": "3", "split": "val"},
]  # fmt: skip


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_text(rows: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    texts = [{field: row.get(field) for field in FIELDS} for row in rows]
    return [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in texts]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(as_text(rows)), path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    def quoted(value: str | None) -> str:
        return "" if value is None else '"' + value.replace('"', '""') + '"'

    lines = [",".join(FIELDS), *(",".join(quoted(row[field]) for field in FIELDS) for row in as_text(rows))]
    path.write_text("\r\n".join(lines) + "\r\n", newline="")
    return path


@pytest.mark.parametrize(("ending", "writer"), [("jsonl", write), ("csv", write_csv), ("parquet", write_parquet)])
def test_the_same_tasks_from_every_kind_of_file(
    tmp_path: Path, ending: str, writer: Callable[[Path, list[Any]], Path]
) -> None:
    tasks = load_tasks(writer(tmp_path / f"tasks.{ending}", ROWS))
    assert tasks == TaskSet(
        ids=("a", "b", "c"),
        prompts=tuple(row["prompt"] for row in ROWS),
        references=("2", "yes", "3"),
        splits=("train", "test", "val"),
        graders=("numeric", "normalized", "exact"),
        kinds=("sum", "", ""),
        details=('{"abs_tol": 0.5}', "", ""),
    )
    tasks.validate()


def test_saved_tasks_come_back(tmp_path: Path) -> None:
    tasks = load_tasks(write(tmp_path / "in.jsonl", ROWS))
    save_tasks(tasks, tmp_path / "new" / "out.jsonl")
    assert load_tasks(tmp_path / "new" / "out.jsonl") == tasks
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]
    with pytest.raises(TaskError, match=r"out\.csv: tasks are saved as JSON lines"):
        save_tasks(tasks, tmp_path / "out.csv")
    with pytest.raises(TaskError, match="cannot be written"):
        save_tasks(tasks, tmp_path / "in.jsonl" / "out.jsonl")


def test_only_prompt_and_reference_must_be_there(tmp_path: Path) -> None:
    rows = [{"question": f"{n}+1", "answer": str(n + 1), "extra": [n]} for n in range(50)]
    path = write(tmp_path / "tasks.jsonl", rows)
    tasks = load_tasks(path, prompt="question", reference="answer", default_grader="numeric")
    assert tasks.graders == ("numeric",) * 50
    assert tasks.splits == tuple(split_of(task) for task in tasks.ids)
    moved = load_tasks(write(tmp_path / "moved.jsonl", rows[::-1]), prompt="question", reference="answer")
    assert moved.ids == tasks.ids[::-1]  # names and splits do not depend on the place in the file
    assert moved.splits == tasks.splits[::-1]
    assert load_tasks(path, prompt="question", reference="answer", seed=1).splits != tasks.splits


def test_byte_order_marks_and_windows_lines_are_read(tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "", "  "]).encode())
    assert load_tasks(path).ids == ("a", "b", "c")
    table = write_csv(tmp_path / "tasks.csv", ROWS)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert load_tasks(table).ids == ("a", "b", "c")


def test_line_separators_inside_of_texts_end_no_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c", "reference": "d"}, ensure_ascii=False))
    assert load_tasks(path).prompts == ("a\u2028b\x85c",)


def test_characters_that_turn_the_writing_are_kept_and_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", [{"prompt": "a\u202eb", "reference": "d"}])
    with pytest.warns(UserWarning, match=r"tasks\.jsonl: line 1 and 0 more: .*direction of writing"):
        tasks = load_tasks(path)
    assert tasks.prompts == ("a\u202eb",)


ODD_VALUES: dict[str, Any] = {
    "number": 12,
    "float": 1.5,
    "true": True,
    "list": ["a"],
    "object": {"a": {"b": 1}},
    "half a character": "\ud800",
    "NUL": "a\x00b",
    "too long": "LONG",
    "null": None,
    "empty": "",
}
REFUSED = {
    field: {"number", "float", "true", "list", "object", "half a character", "NUL", "too long"} for field in FIELDS
}
REFUSED["prompt"] |= {"null", "empty"}
REFUSED["reference"] |= {"null"}
REFUSED["details"] -= {"object"}
SHORT = ("id", "split", "grader", "kind")
ODD_SHORT = ("\u202ea", "a\u200b", " a", "a ", "a\n", "\ufeffa", "a\tb", "\u2067a", "\x1b[2Ja", "a\r")
ODD_LINES = (
    "{",
    "[1, 2]",
    '"text"',
    "null",
    "12",
    "{} {}",
    '{"prompt": "p", "reference": NaN}',
    '{"prompt": "p", "reference": "r", "details": {"a": Infinity}}',
    '{"prompt": "p", "reference": "r", "reference": "s"}',
    '{"prompt": "p" "reference": "r"}',
    "{'prompt': 'p', 'reference': 'r'}",
    '{"prompt": "p", "reference": "r",}',
    '{"prompt": "p\nq", "reference": "r"}',
    '{"prompt": "p", "refrence": "r"}',
    '{"promt": "p", "reference": "r"}',
    '{"prompt": "p", "reference": "r", "spilt": "test"}',
    '{"prompt": "p", "reference": "r", "graders": "exact"}',
    '{"reference": "r"}',
    '{"prompt": "p"}',
    "{}",
    '{"prompt": "p", "reference": "r", "split": "dev"}',
    '{"prompt": "p", "reference": "r", "split": "Train"}',
    '{"prompt": "p", "reference": "r", "grader": "numerc"}',
    '{"prompt": "p", "reference": "r", "details": "{"}',
    '{"prompt": "p", "reference": "r", "details": "[]"}',
    '{"prompt": "p", "reference": "r", "details": "{\\"a\\": NaN}"}',
    '{"prompt": " \\t", "reference": "r"}',
    '{"id": "a", "prompt": "p", "reference": "r"}',
    '{"prompt": "1+1", "reference": "r", "split": "test"}',
    "[" * 100_000,
    "\x00",
    "prompt,reference",
)


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files with one mistake each, and what the message must name."""
    number = 0

    def path(ending: str) -> Path:
        nonlocal number
        number += 1
        return folder / f"bad{number}.{ending}"

    for row in range(len(ROWS)):
        for field in FIELDS:
            for name in sorted(REFUSED[field]):
                value = ODD_VALUES[name]
                value = "x" * (MOST_CHARACTERS[field] + 1) if value == "LONG" else value
                rows = [*ROWS[:row], {**ROWS[row], field: value}, *ROWS[row + 1 :]]
                yield write(path("jsonl"), rows), f"line {row + 1}, field '{field}'"
                texts = [{**other, field: None} for other in as_text(ROWS)]
                texts[row] |= {field: value}
                if isinstance(value, str) and name != "half a character":
                    if row == 0:
                        yield write_parquet(path("parquet"), [*texts[:1], *ROWS[1:]]), f"row {row}, field '{field}'"
                    if name not in ("NUL", "null"):
                        rows = [*ROWS[:row], {**ROWS[row], field: value}, *ROWS[row + 1 :]]
                        yield write_csv(path("csv"), rows), f", field '{field}'"
                elif not isinstance(value, str | None):
                    column = [None if index != row else value for index in range(3)]
                    table = pa.Table.from_pylist(as_text(ROWS))
                    place = table.schema.get_field_index(field)
                    file = path("parquet")
                    pq.write_table(table.set_column(place, field, pa.array(column)), file)
                    if field not in ("prompt", "reference") or row == 0:
                        yield file, f"row {row}, field '{field}'"
        for field in SHORT:
            for value in ODD_SHORT:
                rows = [*ROWS[:row], {**ROWS[row], field: value}, *ROWS[row + 1 :]]
                yield write(path("jsonl"), rows), f"line {row + 1}, field '{field}'"
                yield write_parquet(path("parquet"), rows), f"row {row}, field '{field}'"
    good = [json.dumps(row) for row in ROWS]
    for place in range(4):
        for line in ODD_LINES:
            if place == 0 and ('"id": "a"' in line or '"1+1"' in line):
                continue  # these collide with the first good row, which must come before
            file = path("jsonl")
            file.write_text("\n".join([*good[:place], line, *good[place:]]), newline="")
            yield file, f"line {place + 1}"
    for cut in range(1, 40):
        file = path("jsonl")
        file.write_text("\n".join(good)[: len(good[0]) - cut])
        yield file, "line 1"
    whole = write_parquet(path("parquet"), ROWS).read_bytes()
    for cut in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1):
        file = path("parquet")
        file.write_bytes(whole[:cut])
        yield file, "is no Parquet file"
    for text, named in (
        ("", "holds no tasks"),
        ("prompt,reference\n", "holds no tasks"),
        ("prompt,reference\na,b,c\n", "line 2: 3 cells for 2 columns"),
        ("prompt,reference\na\n", "line 2: 1 cells for 2 columns"),
        ("prompt,prompt,reference\na,b,c\n", "line 1: column 'prompt'"),
        ('prompt,reference\na,"b\n', "line 2: is not CSV"),
        ('prompt,reference\na,"b"c\n', "line 2: is not CSV"),
        ("promt,reference\na,b\n", "line 2, field 'prompt'"),
        ("a;b\n", "holds no tasks"),
        ("prompt;reference\na;b\n", "line 2, field 'prompt'"),
    ):
        file = path("csv")
        file.write_text(text)
        yield file, named
    for ending in ("jsonl", "csv"):
        for data in (b"\xff\xfe{\x00}\x00", b'{"prompt": "\xe9", "reference": "r"}'):
            file = path(ending)
            file.write_bytes(data)
            yield file, "is not UTF-8"
    for ending in ("txt", "json", "JSONL", "gz"):
        file = path(ending)
        file.write_text("{}")
        yield file, "ends in one of .jsonl, .csv, .parquet"
    empty = path("jsonl")
    empty.write_text("\n\n")
    yield empty, "holds no tasks"
    yield path("jsonl"), "there is no such file"
    yield folder, "ends in one of"


@pytest.mark.filterwarnings("ignore:.*direction of writing")
def test_every_mistake_names_its_file_and_place(tmp_path: Path) -> None:
    count = 0
    for path, named in bad_files(tmp_path):
        count += 1
        with pytest.raises(TaskError) as caught:
            read_tasks(path)
        message = str(caught.value)
        assert message.startswith(str(path)), message
        assert named in message, (named, message[:500])
        assert len(message) < 1000
        path.unlink() if path.is_file() else None
    assert count >= 500


def test_ten_megabytes_of_prompt_are_refused_with_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", [{"prompt": "x" * 10_000_000, "reference": "r"}])
    with pytest.raises(TaskError, match=r"line 1, field 'prompt': has 10000000 characters; at most 1000000"):
        load_tasks(path)


def test_columns_must_be_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", ROWS)
    with pytest.raises(TaskError, match=r"columns names 'prompts'.*did you mean 'prompt'"):
        read_tasks(path, {"prompts": "a"})
    with pytest.raises(TaskError, match="column 'a' is given for 'prompt' and for 'reference'"):
        read_tasks(path, {"prompt": "a", "reference": "a"})
    with pytest.raises(TaskError, match="unknown grader 'exakt'; did you mean 'exact'"):
        read_tasks(path, default_grader="exakt")
