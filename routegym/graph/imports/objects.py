"""Objects of JSON files, read strictly: a field is what it should be, or an error names file, place and field."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from routegym.errors import ImportDataError
from routegym.graph.imports.reading import INVISIBLE, Column, file_sha256, json_lines, read_json

__all__ = ["Entry", "Gathered", "entries_of_lines", "entries_of_list", "files_below", "hashes", "object_of"]

_ODD = re.compile(f"[{INVISIBLE}\\x00-\\x1f\\x7f]")
_SHOWN = 60  # characters of a wrong value in a message
_MISSING = object()


@dataclass(frozen=True)
class Entry:
    """One object of a JSON file and where it stands."""

    path: Path
    place: str
    """``line 3`` or ``entry 7``, counted from 1; empty where the object is the whole file."""
    fields: Mapping[str, Any]
    inside: str = ""
    """Name of the field that holds the object, with a point after it; empty where none does."""

    def cell(self, field: str, column: Column) -> Any:
        """A text or a number, checked as the cells of a table are; None where it may be absent and is (or is null).

        Raises:
            ImportDataError: naming file, place and field.
        """
        value = self.fields.get(field)
        if value is None or (value == "" and column.optional):
            if column.optional:
                return None
            raise self.error(field, "a text" if column.kind in ("name", "text") else "a number")
        return (
            self._text(field, value, column) if column.kind in ("name", "text") else self._number(field, value, column)
        )

    def flag(self, field: str) -> bool | None:
        """true, false, or None for null.

        Raises:
            ImportDataError: it is absent or something else.
        """
        value = self.fields.get(field, _MISSING)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(field, "true, false or null")

    def object(self, field: str) -> Entry:
        """An object inside this one."""
        value = self.fields.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "an object with named fields")
        return Entry(self.path, self.place, value, f"{self.inside}{field}.")

    def list(self, field: str) -> list[Any]:
        """A list inside this object."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            raise self.error(field, "a list")
        return value

    def objects(self, field: str) -> Iterator[Entry]:
        """The objects of a list inside this object."""
        for number, value in enumerate(self.list(field), 1):
            if not isinstance(value, dict):
                raise self.error(field, f"a list of objects; number {number} is none")
            place = f"{self.place}, " if self.place else ""
            yield Entry(self.path, f"{place}number {number} of {field}", value)

    def error(self, field: str, expected: str) -> ImportDataError:
        """What to raise where a field is not what it should be."""
        where = f", {self.place}" if self.place else ""
        value = self.fields.get(field, _MISSING)
        found = "is absent" if value is _MISSING else f"{value!r:.{_SHOWN}}"
        return ImportDataError(f"{self.path}{where}, field {self.inside + field!r}: {found}; expected {expected}")

    def _text(self, field: str, value: Any, column: Column) -> str:
        if column.kind == "name" and type(value) is int:  # ids are often numbers
            value = str(value)
        if not isinstance(value, str):
            raise self.error(field, "a text")
        if not column.optional and not value.strip():
            raise self.error(field, "a text that is not blank")
        if len(value) > column.most:
            raise self.error(field, f"at most {column.most:,} characters, these are {len(value):,}")
        if column.kind == "name" and _ODD.search(value):
            raise self.error(field, "a name without control characters and invisible characters")
        return value

    def _number(self, field: str, value: Any, column: Column) -> float | int:
        if not isinstance(value, (int, float)) or (isinstance(value, float) and not math.isfinite(value)):
            raise self.error(field, "a number")
        if not column.low <= value <= column.high or (column.kind == "count" and value != int(value)):
            kind = "a whole number" if column.kind == "count" else "a number"
            bounds = f" from {column.low:g} to {column.high:g}" if column.high < math.inf else f" >= {column.low:g}"
            raise self.error(field, kind + bounds)
        return int(value) if column.kind == "count" else float(value)


class Gathered:
    """Rows gathered one by one, then a table whose columns have the types of a schema."""

    def __init__(self, schema: Mapping[str, pa.DataType]) -> None:
        self._schema = schema
        self._cells: dict[str, list[Any]] = {name: [] for name in schema}
        self._first = next(iter(schema))
        self._known: set[Any] = set()

    def __len__(self) -> int:
        return len(self._cells[self._first])

    def __contains__(self, value: Any) -> bool:
        """Whether a row has this in the first column."""
        return value in self._known

    def add(self, **cells: Any) -> None:
        """Add a row; what is not named is null."""
        self._known.add(cells.get(self._first))
        for name, column in self._cells.items():
            column.append(cells.get(name))

    def table(self, source: Path) -> pa.Table:
        """The rows so far; columns in which nothing is known are left out.

        Raises:
            ImportDataError: there are none.
        """
        if not len(self):
            raise ImportDataError(f"{source}: nothing in it can be used; see what the format expects")
        arrays = {name: pa.array(cells, self._schema[name]) for name, cells in self._cells.items()}
        return pa.table({name: array for name, array in arrays.items() if array.null_count < len(array)})


def entries_of_lines(path: Path) -> Iterator[Entry]:
    """The objects of a JSON-lines file (``.gz`` too), read as they are asked for."""
    for number, fields in json_lines(path):
        yield Entry(path, f"line {number}", fields)


def entries_of_list(path: Path) -> Iterator[Entry]:
    """The objects of the list that a JSON file holds.

    Raises:
        ImportDataError: the file holds something else.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ImportDataError(f"{path}: holds {type(content).__name__}; expected a list of objects")
    for number, fields in enumerate(content, 1):
        if not isinstance(fields, dict):
            raise ImportDataError(f"{path}, entry {number}: {fields!r:.{_SHOWN}}; expected an object with named fields")
        yield Entry(path, f"entry {number}", fields)


def object_of(path: Path) -> Entry:
    """The object that a JSON file holds.

    Raises:
        ImportDataError: the file holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ImportDataError(f"{path}: holds {type(content).__name__}; expected an object with named fields")
    return Entry(path, "", content)


def files_below(source: Path, pattern: str, expected: str) -> list[Path]:
    """The source itself if it is a file, else all files below it whose names match, sorted.

    Raises:
        ImportDataError: there is none.
    """
    if source.is_dir():
        found = sorted(path for path in source.rglob(pattern) if path.is_file())
        if not found:
            raise ImportDataError(f"{source}: no {pattern} below this folder; expected {expected}")
        return found
    if not source.exists():
        raise ImportDataError(f"{source}: there is no such file or folder; expected {expected}")
    return [source]


def hashes(source: Path, paths: Iterable[Path]) -> dict[str, str]:
    """sha256 of files by their names, below the source if that is a folder."""
    folder = source if source.is_dir() else source.parent
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
