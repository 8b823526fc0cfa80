"""Tables of other people, read strictly: a column is what it should be, or an error names file, line and field."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from routegym.errors import ImportDataError
from routegym.tasks.taskset import SPLITS

__all__ = [
    "COLUMNS",
    "INVISIBLE",
    "Column",
    "cell_error",
    "column_names",
    "file_sha256",
    "json_lines",
    "line_of",
    "listing",
    "open_text",
    "read_json",
    "read_table",
    "with_files",
]

_BLOCK = 1 << 24  # bytes of CSV read at a time, and so the longest row
_ROWS = 1 << 16  # rows of JSON lines and Parquet read at a time
_DELIMITERS = ",;\t|"
#: Characters that cannot be seen, that break a line or that turn the direction of writing.
INVISIBLE = (
    "\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_PICKLE = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".npy", ".npz")
_TRUTH = {"true": "1", "false": "0"}
_SHOWN = 60  # characters of a value in a message
_NOT_UTF8 = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid UTF8")
_LARGEST_USD = 10_000.0


@dataclass(frozen=True)
class Column:
    """What the cells of a column must be."""

    kind: Literal["name", "text", "number", "count"]
    """``name``: a short text that is shown and compared, never empty; ``text``: any; ``number``: finite;
    ``count``: a whole number >= 0."""
    optional: bool = False
    """Whether the column may be absent, and its cells empty (null)."""
    high: float = math.inf
    """Largest number."""
    low: float = 0.0
    """Smallest number."""
    most: int = 1_000_000
    """Longest text, in characters."""
    among: tuple[str, ...] = ()
    """The only texts there are, if not all are allowed."""

    @property
    def is_share(self) -> bool:
        """Whether it is a number in [0, 1], where true and false are 1 and 0."""
        return self.kind == "number" and (self.low, self.high) == (0.0, 1.0)


_NAME = Column("name", most=400)

#: What is expected of every column that `routegym.graph.imports.data` knows.
COLUMNS: dict[str, Column] = {
    "query": _NAME,
    "arm": _NAME,
    "score": Column("number", high=1.0),
    "cost_usd": Column("number", optional=True, high=_LARGEST_USD),
    "prompt_tokens": Column("count", optional=True, high=2**31 - 1),
    "completion_tokens": Column("count", optional=True, high=2**31 - 1),
    "latency_s": Column("number", optional=True, high=1e7),
    "trial": Column("count", optional=True, high=1e6),
    "prompt": Column("text"),
    "kind": Column("text", optional=True, most=400),
    "reference": Column("text", optional=True),
    "split": Column("text", optional=True, among=SPLITS),
    "turn": Column("count", high=1e4),
    "feedback": Column("name", most=100),
    "reward": Column("number", optional=True, low=-1e6, high=1e6),
}


def read_table(
    path: Path | str,
    columns: Mapping[str, Column],
    names: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
) -> pa.Table:
    """Some columns of a CSV, JSON-lines or Parquet file (``.gz`` for the first two) as an Arrow table.

    Args:
        path: ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``, the text files also with ``.gz``.
        columns: what is read and what it must be, by the name it has in the result.
        names: where a column has another name in the file.
        delimiter: between the fields of a CSV file; a comma, or a tab for ``.tsv``, by default.

    Returns:
        The columns of these names that the file has: texts as string, numbers as float64, counts as int64; an
        empty cell of an optional column is null.

    Raises:
        ImportDataError: naming the file, the line (row, for Parquet) and the column, the value and the remedy.
    """
    path, names = Path(path), {name: name for name in columns} | dict(names or {})
    _check_delimiter(delimiter)
    named = {name: names[name] for name in columns}
    with _readable(path):
        _check_file(path)
        suffix = _suffix(path)
        if suffix in (".csv", ".tsv"):
            separator = delimiter or ("\t" if suffix == ".tsv" else ",")
            present = _present(path, _csv_header(path, separator), columns, named, separator)
            _check_quotes(path, separator)
            batches = _csv_batches(path, present, separator)
        elif suffix == ".jsonl":
            present = named
            batches = _json_batches(path, present, columns)
        else:
            present = _present(path, pq.read_schema(path).names, columns, named, None)
            batches = _parquet_batches(path, present)
        tables: list[pa.RecordBatch] = []
        first = 0
        for batch in batches:
            arrays = {
                name: _checked(batch[name], columns[name], _Place(path, present[name], first, suffix, delimiter))
                for name in present
            }
            first += len(batch)
            tables.append(pa.record_batch(arrays))
    if not first:
        raise ImportDataError(f"{path}: holds no rows; expected at least one; get the file again")
    table = pa.Table.from_batches(tables)
    empty = [name for name in table.column_names if columns[name].optional and table[name].null_count == len(table)]
    return table.drop_columns(empty) if empty else table


def read_json(path: Path | str) -> Any:
    """The content of a JSON file (``.gz`` too).

    Raises:
        ImportDataError: it is missing, or not JSON.
    """
    path = Path(path)
    with _readable(path):
        _check_file(path, table=False)
        with open_text(path) as file:
            text = file.read()
        try:
            found = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ImportDataError(f"{path}: not valid JSON ({error}); get the file again") from None
        if "\\ud" in text.lower() and not _whole(found):
            raise ImportDataError(f"{path}: half of a surrogate pair in a text; correct it")
        return found


def json_lines(path: Path | str, *, constants: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file (``.gz`` too) with the numbers of their lines, read as they are asked for.

    Args:
        path: of the file.
        constants: take NaN and Infinity as numbers, for somebody who refuses them where they are looked at.

    Raises:
        ImportDataError: the file is missing, or a line is no JSON object.
    """
    path = Path(path)
    refused = None if constants else _refuse_constant
    decode = json.JSONDecoder(parse_constant=refused, object_pairs_hook=_unique).decode
    with _readable(path):
        _check_file(path, table=False)
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = decode(line)
                except (ValueError, RecursionError) as error:
                    raise ImportDataError(
                        f"{path}, line {number}: not valid JSON ({error}); correct the line"
                    ) from None
                if not isinstance(row, dict):
                    raise ImportDataError(f"{path}, line {number}: {_shown(row)}; expected an object with named fields")
                if "\\ud" in line.lower() and (names := [name for name in row if not _whole({name: row[name]})]):
                    raise ImportDataError(
                        f"{path}, line {number}, field {_shown(names[0])}: half of a surrogate pair; correct the text"
                    )
                yield number, row


def column_names(path: Path | str) -> list[str]:
    """Names of the columns of a CSV or Parquet file.

    Raises:
        ImportDataError: the file is missing or is of another kind.
    """
    path = Path(path)
    with _readable(path):
        _check_file(path)
        if _suffix(path) == ".parquet":
            return list(pq.read_schema(path).names)
        if _suffix(path) == ".jsonl":
            raise ImportDataError(f"{path}: expected a .csv, .tsv or .parquet file, with a column for every arm")
        return _csv_header(path, "\t" if _suffix(path) == ".tsv" else ",")


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked if its name ends in ``.gz``; a byte order mark is passed over."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def file_sha256(path: Path | str) -> str:
    """sha256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_files(known: Mapping[str, str], paths: Iterable[Path]) -> dict[str, str]:
    """sha256 of files by their names, beside those of other files.

    A file whose name another file has is told from it by as many of the folders above it as that takes.
    """
    found = dict(known)
    for path in paths:
        digest, parts = file_sha256(path), path.absolute().parts[1:]
        tails = ("/".join(parts[-many:]) for many in range(1, len(parts) + 1))
        found[next(tail for tail in tails if found.get(tail, digest) == digest)] = digest
    return found


def cell_error(
    path: Path | str, row: int, column: str, value: Any, expected: str, delimiter: str | None = None
) -> ImportDataError:
    """What to say of a cell that `read_table` had no objection to.

    Args:
        path: of the table.
        row: of the cell, from 0.
        column: its name in the file.
        value: that it has.
        expected: what it should be, and the remedy.
        delimiter: as `read_table` was called with.
    """
    path = Path(path)
    return _Place(path, column, 0, _suffix(path), delimiter).error(row, value, expected)


def line_of(path: Path | str, row: int, delimiter: str | None = None) -> str:
    """``line 3`` of a file, in which a row begins (from 0); ``row 3`` (from 1) of a Parquet file."""
    path = Path(path)
    return _Place(path, "", 0, _suffix(path), delimiter).line(row)


@dataclass(frozen=True)
class _Place:
    """Where a batch of cells comes from, to name one of them."""

    path: Path
    column: str
    first: int
    suffix: str
    delimiter: str | None

    def error(self, row: int, value: Any, expected: str) -> ImportDataError:
        return ImportDataError(
            f"{self.path}, {self.line(self.first + row)}, field {self.column!r}: {_shown(value)}; expected {expected}"
        )

    def line(self, row: int) -> str:
        """The line of the file that a row begins with; rows may span lines."""
        if self.suffix == ".parquet":
            return f"row {row + 1}"
        with open_text(self.path) as file:
            if self.suffix == ".jsonl":
                number = next(islice((n for n, line in enumerate(file, 1) if line.strip()), row, None))
                return f"line {number}"
            before, found = 0, -1  # the header is row -1; lines without anything are no rows
            with _long_fields():
                reader = csv.reader(file, delimiter=self.delimiter or ("\t" if self.suffix == ".tsv" else ","))
                for cells in reader:
                    if cells and found == row:
                        return f"line {before + 1}"
                    found += bool(cells)
                    before = reader.line_num
        return f"row {row + 1}"


def _checked(cells: pa.Array, column: Column, place: _Place) -> pa.Array:
    """Cells as what their column says."""
    if column.kind in ("name", "text"):
        return _checked_text(cells, column, place)
    kind = cells.type
    if pa.types.is_boolean(kind) and column.is_share:
        cells = cells.cast(pa.int8())
    elif pa.types.is_string(kind):
        cells = _numbers(cells, column, place)
    elif not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        row = int(np.argmax(cells.is_valid()))
        raise place.error(row, cells[row].as_py(), "a number")
    values = cells.cast(pa.float64(), safe=False)
    if values.null_count and not column.optional:
        raise place.error(int(np.argmax(values.is_null())), None, "a number; drop the row or fill the cell")
    bounds = f"a number from {column.low:g} to {column.high:g}" if column.high < math.inf else "a finite number"
    if column.kind == "count":
        bounds = f"a whole number from 0 to {column.high:,.0f}"
    plain = values.fill_null(column.low).to_numpy(zero_copy_only=False)
    bad = ~((plain >= column.low) & (plain <= column.high) & np.isfinite(plain))
    if column.kind == "count":
        bad |= plain != np.floor(plain)
    if bad.any():
        row = int(np.argmax(bad))
        percent = column.is_share and plain[row] > 1 and 10 < plain.max() <= 100
        raise place.error(row, plain[row].item(), f"{bounds}{'; divide percentages by 100' if percent else ''}")
    return values.cast(pa.int64()) if column.kind == "count" else values


def _checked_text(cells: pa.Array, column: Column, place: _Place) -> pa.Array:
    kind = cells.type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):  # ids are often numbers
        row = int(np.argmax(cells.is_valid()))
        raise place.error(row, cells[row].as_py(), "text; put the column in quotes")
    cells = cells.cast(pa.string())
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(cells), ""), True)
    if column.optional:
        cells = pc.if_else(empty, pa.scalar(None, pa.string()), cells)
    else:
        blank = empty.to_numpy(zero_copy_only=False)
        if blank.any():
            row = int(np.argmax(blank))
            raise place.error(row, cells[row].as_py(), "text; an empty cell is not a name or a prompt")
    long = pc.fill_null(pc.greater(pc.utf8_length(cells), column.most), False).to_numpy(zero_copy_only=False)
    if long.any():
        row = int(np.argmax(long))
        length = len(cells[row].as_py())
        raise place.error(row, cells[row].as_py(), f"at most {column.most:,} characters, these are {length:,}; cut it")
    if column.among:
        known = pc.is_in(cells, pa.array([*column.among, "", None], pa.string())).to_numpy(zero_copy_only=False)
        if not known.all():
            row = int(np.argmin(known))
            raise place.error(row, cells[row].as_py(), f"one of {', '.join(column.among)}; rename or drop the column")
    if column.kind == "name":
        odd = pc.match_substring_regex(pc.fill_null(cells, ""), f"[{INVISIBLE}\\x00-\\x1f\\x7f]")
        if pc.any(odd).as_py():
            row = int(np.argmax(odd.to_numpy(zero_copy_only=False)))
            raise place.error(
                row,
                cells[row].as_py(),
                "a name without control characters and without characters that are invisible or turn the direction of "
                "writing",
            )
    return cells


def _numbers(cells: pa.Array, column: Column, place: _Place) -> pa.Array:
    """Texts as float64; an empty one is null, true and false are 1 and 0."""
    trimmed = pc.utf8_trim_whitespace(cells)
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        pass
    values: list[float | None] = []
    for row, text in enumerate(trimmed.to_pylist()):
        try:
            number = _TRUTH.get((text or "").lower(), text) if column.is_share else text
            values.append(None if number is None else float(number.replace("_", "?").encode("ascii")))
        except ValueError:
            or_truth = " (or true or false)" if column.is_share else ""
            raise place.error(
                row, text, f"a number, with a point and without unit or thousands separator{or_truth}"
            ) from None
    return pa.array(values, pa.float64())


def _shown(value: Any) -> str:
    """A value in a message: short, and nothing in it that a terminal obeys."""
    text = repr(value[: _SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _SHOWN + 2 else f"{text[: _SHOWN - 3]}..."


def listing(names: Iterable[str]) -> str:
    """Names in a message: not too many, and nothing in them that a terminal obeys."""
    text = ", ".join(names)[:300]
    return text if text.isprintable() else repr(text)


def _check_delimiter(delimiter: str | None) -> None:
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise ImportDataError(f"delimiter = {delimiter!r}; expected one ASCII character that is no quotation mark")


def _check_file(path: Path, table: bool = True) -> None:
    if path.name.lower().removesuffix(".gz").endswith(_PICKLE):
        raise ImportDataError(
            f"{path}: files of this kind run code when they are opened, so they are not read; convert it where nothing "
            "can be harmed (a container without network or secrets): "
            f"python -c \"import pandas; pandas.read_pickle('{path.name}').to_parquet('{path.stem}.parquet')\""
        )
    if path.is_dir():
        raise ImportDataError(f"{path}: is a folder; name the file")
    if not path.is_file():
        raise ImportDataError(f"{path}: there is no such file; check the path")
    if table and _suffix(path) not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise ImportDataError(f"{path}: expected a .csv, .tsv, .jsonl or .parquet file (.gz too); rename or convert it")
    if path.stat().st_size == 0:
        raise ImportDataError(f"{path}: is empty; get the file again")
    with path.open("rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ImportDataError(f"{path}: is a Python pickle under another name: it runs code when opened; not read")


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file where it cannot be read."""
    try:
        yield
    except ImportDataError:
        raise
    except UnicodeDecodeError:
        raise ImportDataError(f"{path}{_first_odd_line(path)}: not UTF-8 text; convert the file to UTF-8") from None
    except (pa.ArrowException, OSError, EOFError, csv.Error, zlib.error) as error:
        reason = " ".join(str(error).split())[:300]
        raise ImportDataError(f"{path}: cannot be read ({reason}); get or convert the file again") from None


def _first_odd_line(path: Path) -> str:
    """Where a text file stops being UTF-8."""
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f", line {number}, byte {error.start + 1} of it"
    return ""


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let `csv` read fields as long as a block."""
    before = csv.field_size_limit(_BLOCK)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_quotes(path: Path, delimiter: str) -> None:
    """Refuse a quotation mark that is not closed where it should be: rows that follow would count as one field."""
    with _open_bytes(path) as file:
        if not any(b'"' in part for part in iter(lambda: file.read(_BLOCK), b"")):
            return
    with open_text(path) as file, _long_fields():
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        before = 0
        try:
            for _ in reader:
                before = reader.line_num
        except csv.Error:
            raise ImportDataError(
                f"{path}, line {before + 1}: a quotation mark is not closed, or not doubled within quotation marks; "
                "close or double it"
            ) from None


def _csv_header(path: Path, delimiter: str) -> list[str]:
    with open_text(path) as file:
        for cells in csv.reader(file, delimiter=delimiter):
            if cells:
                return cells
    raise ImportDataError(f"{path}: is empty; get the file again")


def _present(
    path: Path,
    header: Sequence[str],
    columns: Mapping[str, Column],
    named: Mapping[str, str],
    delimiter: str | None,
) -> dict[str, str]:
    """The columns of a file that are wanted, by the names they get; all that are not optional must be there."""
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        where = path if delimiter is None else f"{path}, line 1"
        raise ImportDataError(f"{where}: column {twice[0]!r} occurs {header.count(twice[0])} times; rename one")
    missing = [column for name, column in named.items() if column not in header and not columns[name].optional]
    if missing:
        other = [mark for mark in _DELIMITERS if delimiter and mark != delimiter and mark in "".join(header)]
        hint = (
            f"its fields seem to be separated by {other[0]!r}, say so (--delimiter)" if other else "name it (--columns)"
        )
        where = path if delimiter is None else f"{path}, line 1"
        raise ImportDataError(f"{where}: no column {missing[0]!r}; it has {listing(header)}; {hint}")
    return {name: column for name, column in named.items() if column in header}


def _csv_batches(path: Path, present: Mapping[str, str], delimiter: str) -> Iterator[pa.RecordBatch]:
    odd: list[Any] = []
    read = list(dict.fromkeys(present.values()))  # one column may be wanted under several names

    def note(row: Any) -> str:
        odd.append(row)
        return "error"

    stream = pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None)
    try:
        with (
            stream,
            pacsv.open_csv(
                stream,
                pacsv.ReadOptions(block_size=_BLOCK, use_threads=False),
                pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(read, pa.string()),
                    include_columns=read,
                    strings_can_be_null=False,
                ),
            ) as reader,
        ):
            for batch in reader:
                yield pa.record_batch({name: batch[column] for name, column in present.items()})
    except pa.ArrowInvalid as error:
        place = _Place(path, "", 0, _suffix(path), delimiter)
        if odd:
            row = odd[0]
            where = "" if row.number is None else f", {place.line(row.number - 2)}"
            raise ImportDataError(
                f"{path}{where}: {row.actual_columns} fields where the header has {row.expected_columns} "
                f"({_shown(row.text or '')}); quote fields that contain the delimiter"
            ) from None
        if str(error).startswith("Empty CSV"):
            return  # a header and nothing else
        if undecodable := _NOT_UTF8.search(str(error)):
            column = _csv_header(path, delimiter)[int(undecodable[1])]
            raise ImportDataError(
                f"{path}{_first_odd_line(path)}, field {column!r}: not UTF-8 text; convert the file to UTF-8"
            ) from None
        if "straddl" in str(error) or "block" in str(error):
            raise ImportDataError(
                f"{path}: a row is longer than {_BLOCK:,} bytes; is a quotation mark missing?"
            ) from None
        raise


def _json_batches(path: Path, present: Mapping[str, str], columns: Mapping[str, Column]) -> Iterator[pa.RecordBatch]:
    needed = [column for name, column in present.items() if not columns[name].optional]
    found = json_lines(path, constants=True)
    known: set[str] = set()
    while part := list(islice(found, _ROWS)):
        for _, row in part:
            known.update(row)
        for number, row in part:
            if missing := [column for column in needed if column not in row]:
                remedy = "fill it in, or drop the line" if missing[0] in known else "name it (--columns)"
                raise ImportDataError(
                    f"{path}, line {number}: no field {missing[0]!r}; it has {listing(row)}; {remedy}"
                )
        yield pa.record_batch(
            {name: _json_cells(path, part, column, columns[name]) for name, column in present.items()}
        )


def _json_cells(path: Path, part: Sequence[tuple[int, dict[str, Any]]], name: str, column: Column) -> pa.Array:
    """Values of one field as texts, numbers or truth values, whichever they all are."""
    values = [row.get(name) for _, row in part]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, str} and column.kind in ("name", "text"):  # ids are often numbers
        values = [None if value is None else str(value) for value in values]
        return pa.array(values, pa.string())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float}:
        return pa.array([None if value is None else _float(value) for value in values], pa.float64())
    if kinds == {str}:
        return pa.array(values, pa.string())
    usual = float if column.kind in ("number", "count") else str
    wrong = next(row for row, value in enumerate(values) if value is not None and not _alike(value, usual))
    raise ImportDataError(
        f"{path}, line {part[wrong][0]}, field {name!r}: {_shown(values[wrong])}; expected one kind of value in the "
        f"whole column, {'a number' if usual is float else 'text'}"
    )


def _alike(value: Any, kind: type) -> bool:
    return type(value) is kind or (type(value) is int and kind is float)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _whole(value: Any) -> bool:
    """Whether all texts in a JSON value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet_batches(path: Path, present: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=list(present.values()), use_threads=False):
            yield pa.record_batch({name: _plain(batch[column]) for name, column in present.items()})


def _plain(cells: pa.Array) -> pa.Array:
    """Cells without the forms in which Parquet may keep texts."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    forms = pa.types.is_large_string(cells.type) or pa.types.is_string_view(cells.type)
    return cells.cast(pa.string()) if forms else cells


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return found
