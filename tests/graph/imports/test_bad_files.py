"""Hundreds of malformed files: each is refused with file, place and field, and nothing is written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routegym.cli.main import main
from routegym.errors import ImportDataError
from routegym.graph.imports import import_data

Row = dict[str, Any]
QUERIES, ARMS = ("q0", "q1", "q2", "q3"), ("small", "large")
FORMATS = ("csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet")


# -- good files, to be spoilt ------------------------------------------------------------------
def responses() -> list[Row]:
    return [
        {
            "query": query,
            "arm": arm,
            "score": float((number + large) % 2),
            "cost_usd": 0.001 * (1 + large),
            "prompt_tokens": 100 + number,
            "completion_tokens": 20 + number,
            "latency_s": 0.5,
            "trial": 0,
        }
        for number, query in enumerate(QUERIES)
        for large, arm in enumerate(ARMS)
    ]


def queries() -> list[Row]:
    # the first prompt has a line break, so that rows and lines of a CSV file differ
    return [
        {
            "query": name,
            "prompt": f"what is\n{number} + 2?",
            "kind": "sum",
            "reference": str(number + 2),
            "split": "train",
        }
        for number, name in enumerate(QUERIES)
    ]


def turns() -> list[Row]:
    return [
        {
            "query": query,
            "arm": arm,
            "turn": turn,
            "feedback": "ok",
            "prompt_tokens": 50,
            "completion_tokens": 10,
            "cost_usd": 0.0005 * (1 + large),
            "reward": 0.5,
            "trial": 0,
        }
        for query in QUERIES
        for large, arm in enumerate(ARMS)
        for turn in range(2)
    ]


def prices() -> list[Row]:
    return [{"arm": arm, "usd_in_per_m": 1.0, "usd_out_per_m": 2.0} for arm in ARMS]


TABLES: dict[str, Callable[[], list[Row]]] = {
    "responses": responses,
    "queries": queries,
    "turns": turns,
    "prices": prices,
}


def as_csv(rows: list[Row], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, rows: list[Row]) -> Path:
    """A table in the form that the name of its file says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        for key, values in columns.items():  # a column of Parquet has one type
            if len({type(value) for value in values} - {type(None)} - {float}) > 1 or str in map(type, values):
                columns[key] = [None if value is None else str(value) for value in values]
        pq.write_table(pa.table(columns), path)
        return path
    text = as_json(rows) if name.endswith(".jsonl") else as_csv(rows, "\t" if name.endswith(".tsv") else ",")
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def line_of(path: Path, row: int) -> str:
    """Where a row stands, told without the reader."""
    if path.name.endswith(".parquet"):
        return f"row {row + 1}"
    if ".jsonl" in path.name:
        return f"line {row + 1}"
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode()
    start, line = 0, 1
    for count in range(row + 1):  # records end where the quotation marks before are even
        while True:
            end = text.index("\n", start) + 1
            line += 1
            whole = text[:end].count('"') % 2 == 0
            start = end
            if whole:
                break
        del count
    return f"line {line}"


# -- faults ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One malformed file among good ones."""

    name: str
    table: str
    """Which of the tables is bad."""
    form: str
    """Ending of its file."""
    spoil: Callable[[Path], tuple[str, ...]]
    """Write the bad file; what the message must say beside its name."""

    def __str__(self) -> str:
        return f"{self.table}.{self.form}: {self.name}"

    @property
    def fault(self) -> str:
        """What is wrong, wherever it is."""
        return self.name.partition(": ")[2].partition(" @")[0] or self.name

    def files(self, good: dict[str, Path], folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
        """All four tables, and what the message must say."""
        path = folder / f"{self.table}.{self.form}"
        said = self.spoil(path)
        return good | {self.table: path}, (path.name, *said)


NUMBER_FAULTS: dict[str, Any] = {
    "a word": "abc",
    "not a number": float("nan"),
    "infinite": float("inf"),
    "a unit": "5 USD",
    "a decimal comma": "0,5",
    "an underscore": "1_0",
    "other digits": "\uff11",
    "two points": "0.5.1",
    "far too large": 1e300,
    "far too small": -1e300,
}
NAME_FAULTS: dict[str, Any] = {
    "empty": "",
    "blank": " \t ",
    "null": None,
    "turns the direction": "a\u202eb",
    "isolates the direction": "a\u2067b",
    "invisible": "a\u200bb",
    "a line break": "a\nb",
    "a control character": "a\x07b",
    "a zero byte": "a\x00b",
    "far too long": "a" * 401,
}
#: Faults of cells by table and column.
CELLS: dict[str, dict[str, dict[str, Any]]] = {
    "responses": {
        "query": NAME_FAULTS,
        "arm": NAME_FAULTS,
        "score": NUMBER_FAULTS | {"negative": -0.1, "above one": 1.5, "a percentage": 87.0, "null": None},
        "cost_usd": NUMBER_FAULTS | {"negative": -0.01, "absurd": 50_000.0},
        "prompt_tokens": NUMBER_FAULTS | {"negative": -1, "a fraction": 10.5, "absurd": 2**40},
        "completion_tokens": NUMBER_FAULTS | {"negative": -1, "a fraction": 10.5},
        "latency_s": NUMBER_FAULTS | {"negative": -1.0},
        "trial": NUMBER_FAULTS | {"negative": -1, "a fraction": 0.5},
    },
    "queries": {
        "query": NAME_FAULTS,
        "prompt": {"empty": "", "blank": " \n ", "null": None, "of megabytes": "word " * 300_000},
        "split": {"unknown": "dev", "upper case": "Train"},
    },
    "turns": {
        "arm": {"empty": "", "turns the direction": "a\u202eb"},
        "turn": {"negative": -1, "a fraction": 0.5, "null": None, "a word": "first"},
        "feedback": {"empty": "", "null": None, "far too long": "a" * 101},
        "reward": {"a word": "good", "not a number": float("nan"), "absurd": 1e9},
    },
    "prices": {
        "arm": {"empty": "", "null": None},
        "usd_in_per_m": {"negative": -1.0, "absurd": 1e6, "null": None, "a word": "free", "a unit": "$3"},
        "usd_out_per_m": {"negative": -1.0, "absurd": 1e6, "null": None, "infinite": float("inf")},
    },
}


def cell_case(table: str, column: str, fault: str, value: Any, form: str, row: int) -> Case:
    def spoil(path: Path) -> tuple[str, ...]:
        rows = TABLES[table]()
        rows[row][column] = value
        write(path, rows)
        return line_of(path, row), repr(column)

    return Case(f"{column}: {fault} @{row}", table, form, spoil)


def cell_cases() -> Iterator[Case]:
    for table, columns in CELLS.items():
        forms = ("csv", "csv.gz", "jsonl", "parquet") if table == "responses" else ("csv", "jsonl", "parquet")
        for column, faults in columns.items():
            for number, (fault, value) in enumerate(faults.items()):
                for place, form in enumerate(forms):
                    row = (number + place) % len(TABLES[table]())
                    yield cell_case(table, column, fault, value, form, row)


def text_case(name: str, table: str, form: str, change: Callable[[str], str | bytes], *said: str) -> Case:
    """A fault of the text of a whole file."""

    def spoil(path: Path) -> tuple[str, ...]:
        rows = TABLES[table]()
        changed = change(as_json(rows) if "jsonl" in form else as_csv(rows, "\t" if form == "tsv" else ","))
        write_bytes(path, changed if isinstance(changed, bytes) else changed.encode())
        return said

    return Case(name, table, form, spoil)


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def in_line(number: int, change: Callable[[str], str]) -> Callable[[str], str]:
    """Change one line, counted from 1."""

    def changed(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines[number - 1] = change(lines[number - 1].rstrip("\n")) + "\n"
        return "".join(lines)

    return changed


class Bomb:
    """What a pickle may do."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was run",))


def file_cases() -> Iterator[Case]:
    for table in TABLES:
        first = next(iter(TABLES[table]()[0]))
        last = list(TABLES[table]()[0])[1 if table in ("queries", "prices") else 2]
        for form in ("csv", "csv.gz", "tsv"):
            yield text_case("empty", table, form, lambda text: "")
            yield text_case("nothing but line breaks", table, form, lambda text: "\n\n\n")
            yield text_case("a header and nothing else", table, form, lambda text: text.partition("\n")[0] + "\n")
            yield text_case("a header without its end", table, form, lambda text: text.partition("\n")[0])
            yield text_case("no header", table, form, lambda text: text.partition("\n")[2], "line 1", "column")
            yield text_case("a column missing", table, form, replaced(last, "other"), "line 1", repr(last))
            yield text_case(
                "a column twice",
                table,
                form,
                in_line(1, lambda line, a=first, b=last: line.replace(b, a)),
                "line 1",
                repr(first),
            )
            yield text_case(
                "another delimiter", table, form, lambda text: text.replace(",", ";").replace("\t", ";"), "';'"
            )
            yield text_case("a row too short", table, form, lambda text: text + "q9\n", "line", "1 field")
            mark = "\t" if form == "tsv" else ","
            yield text_case(
                "a row too long",
                table,
                form,
                lambda text, mark=mark: text + mark.join("abcdefghijkl") + "\n",
                "line",
                "12 fields",
            )
            yield text_case("a quotation mark left open", table, form, in_line(3, lambda line: f'"{line}'), "line")
            yield text_case(
                "not UTF-8", table, form, lambda text: text.replace("0", "\u00e9").encode("latin-1"), "line"
            )
            yield text_case("UTF-16", table, form, lambda text: text.encode("utf-16"), "line 1")
            yield text_case("noise", table, form, lambda text: bytes(range(256)) * 4)
        for form in ("jsonl", "jsonl.gz"):
            second = in_line
            yield text_case("empty", table, form, lambda text: "")
            yield text_case("nothing but line breaks", table, form, lambda text: "\n\n\n")
            yield text_case("a line cut off", table, form, second(2, lambda line: line[:-5]), "line 2")
            yield text_case("a list", table, form, second(2, lambda line: "[1, 2]"), "line 2")
            yield text_case("a bare number", table, form, second(2, lambda line: "7"), "line 2")
            yield text_case(
                "a whole array",
                table,
                form,
                lambda text: json.dumps([json.loads(x) for x in text.splitlines()], indent=1),
                "line 1",
            )
            yield text_case(
                "a key twice",
                table,
                form,
                second(2, lambda line, k=first: f'{{"{k}": "x", {line[1:]}'),
                "line 2",
                repr(first),
            )
            yield text_case(
                "a field missing", table, form, second(2, replaced(f'"{last}"', '"other"')), "line 2", repr(last)
            )
            yield text_case(
                "an object in a cell",
                table,
                form,
                second(2, lambda line, k=first: json.dumps(json.loads(line) | {k: {"a": 1}})),
                "line 2",
                repr(first),
            )
            yield text_case(
                "a list in a cell",
                table,
                form,
                second(2, lambda line, k=first: json.dumps(json.loads(line) | {k: [1]})),
                "line 2",
                repr(first),
            )
            yield text_case(
                "half a surrogate pair",
                table,
                form,
                second(2, lambda line, k=first: json.dumps(json.loads(line) | {k: "\ud800"})),
                "line 2",
                repr(first),
            )
            yield text_case(
                "a truth value as a name",
                table,
                form,
                second(2, lambda line, k=first: json.dumps(json.loads(line) | {k: True})),
                "line 2",
                repr(first),
            )
            yield text_case("nested without end", table, form, second(2, lambda line: "[" * 100_000), "line 2")
            yield text_case(
                "not UTF-8", table, form, lambda text: text.replace("a", "\u00e9").encode("latin-1"), "line 1"
            )
            yield text_case("noise", table, form, lambda text: bytes(range(256)) * 4)
        yield from parquet_cases(table, first, last)
        yield from container_cases(table)


def parquet_cases(table: str, first: str, last: str) -> Iterator[Case]:
    def case(name: str, change: Callable[[pa.Table], pa.Table], *said: str) -> Case:
        def spoil(path: Path) -> tuple[str, ...]:
            pq.write_table(change(pa.Table.from_pylist(TABLES[table]())), path)
            return said

        return Case(name, table, "parquet", spoil)

    def other(column: str, value: Any, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
        def change(content: pa.Table) -> pa.Table:
            place = content.column_names.index(column)
            return content.set_column(place, column, pa.array([value] * len(content), kind))

        return change

    yield case("no rows", lambda content: content.slice(0, 0))
    yield case("a column missing", lambda content: content.drop_columns(last), repr(last))
    yield case("a column twice", lambda content: content.append_column(first, content[first]), repr(first))
    for name, value, kind in (
        ("lists", [1], pa.list_(pa.int64())),
        ("objects", {"a": 1}, pa.struct({"a": pa.int64()})),
        ("bytes", b"\xff", pa.binary()),
        ("dates", 0, pa.timestamp("s")),
        ("truth values", True, pa.bool_()),
        ("fractions", 0.5, pa.float64()),
    ):
        yield case(name, other(first, value, kind), "row 1", repr(first))
    if table in ("responses", "prices"):
        column = "cost_usd" if table == "responses" else "usd_in_per_m"
        yield case("truth values as dollars", other(column, True, pa.bool_()), "row 1", repr(column))
        yield case("dates as dollars", other(column, 0, pa.timestamp("s")), "row 1", repr(column))


def container_cases(table: str) -> Iterator[Case]:
    """Files that are not what their names say."""

    def case(name: str, form: str, make: Callable[[Path], object], *said: str) -> Case:
        def spoil(path: Path) -> tuple[str, ...]:
            make(path)
            return said

        return Case(name, table, form, spoil)

    def cut(path: Path, form: str) -> None:
        write(path.with_name(f"whole.{form}"), TABLES[table]() * 50)
        whole = path.with_name(f"whole.{form}")
        content = whole.read_bytes()
        whole.unlink()
        path.write_bytes(content[: len(content) * 2 // 3])

    for form in ("csv.gz", "jsonl.gz", "parquet"):
        yield case("cut off", form, lambda path, form=form: cut(path, form))
    for form in ("csv.gz", "jsonl.gz"):
        yield case("not packed", form, lambda path: path.write_bytes(as_csv(TABLES[table]()).encode()))
        yield case("damaged", form, lambda path: path.write_bytes(gzip.compress(b"a,b\n" * 99)[:20] + bytes(40)))
    yield case("no Parquet", "parquet", lambda path: path.write_bytes(b"PAR1 and nothing of it"))
    for form in ("csv", "jsonl", "parquet"):
        yield case("a pickle under another name", form, lambda path: path.write_bytes(pickle.dumps(Bomb())), "pickle")
        yield case("a folder", form, lambda path: path.mkdir(), "folder")
        yield case("absent", form, lambda path: None, "no such file")
    for form in ("pkl", "pickle", "pt", "joblib", "npy", "pkl.gz"):
        yield case("a pickle", form, lambda path: path.write_bytes(pickle.dumps(Bomb())), "run code", "to_parquet")
    for form in ("xlsx", "json", "txt", "feather"):
        yield case("an unknown ending", form, lambda path: path.write_bytes(b"a,b\n1,2\n"), ".parquet")


def row_cases() -> Iterator[Case]:
    """Rows that contradict each other."""

    def double(table: str, form: str, key: str, change: Row) -> Case:
        def spoil(path: Path) -> tuple[str, ...]:
            rows = TABLES[table]()
            write(path, [*rows[:3], rows[1] | change, *rows[3:]] if len(rows) > 2 else [*rows, rows[1] | change])
            return line_of(path, 3 if len(rows) > 2 else 2), repr(key)

        return Case(f"a double of {key}", table, form, spoil)

    for form in FORMATS:
        yield double("responses", form, "trial", {"score": 0.5})
        yield double("queries", form, "query", {})
        yield double("turns", form, "turn", {"feedback": "error"})
        yield double("prices", form, "arm", {"usd_in_per_m": 9.0})


CASES = [*cell_cases(), *file_cases(), *row_cases()]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    return {name: write(folder / f"{name}.csv", rows()) for name, rows in TABLES.items()}


def read(paths: dict[str, Path], **options: Any) -> None:
    beside = {name: path for name, path in paths.items() if name != "responses"}
    import_data("table", paths["responses"], text="none", **beside, **options)


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 500
    assert len({str(case) for case in CASES}) == len(CASES)


def test_the_good_files_are_good(tmp_path: Path) -> None:
    for form in FORMATS:
        paths = {name: write(tmp_path / f"{name}.{form}", rows()) for name, rows in TABLES.items()}
        read(paths, kind="attempts")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_refused(case: Case, good: dict[str, Path], tmp_path: Path) -> None:
    paths, said = case.files(good, tmp_path)
    before = state(tmp_path)
    with pytest.raises(ImportDataError) as caught:
        read(paths)
    message = str(caught.value)
    for part in said:
        assert part in message, message
    assert len(message) < 1000
    assert message.isprintable(), message
    assert state(tmp_path) == before


SAMPLE = list({case.fault: case for case in CASES}.values())


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_the_command_says_one_line(
    case: Case, good: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, said = case.files(good, tmp_path)
    before = state(tmp_path)
    words = ["import", "table", str(paths["responses"]), "-o", str(tmp_path / "out"), "--text", "none"]
    words += ["--report", str(tmp_path / "report.md")]
    for name in ("queries", "turns", "prices"):
        words += [f"--{name}", str(paths[name])]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("error: ")
    for part in said:
        assert part in lines[0]
    assert state(tmp_path) == before
