"""Tables with columns for every arm, turned into tables with a row for every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from routegym.graph.imports.reading import COLUMNS, Column, read_table

__all__ = ["first_of_each", "melt", "read_wide", "with_constant"]


def read_wide(
    path: Path,
    facts: Mapping[str, str],
    arms: Mapping[str, Mapping[str, str]],
    kinds: Mapping[str, Column] = COLUMNS,
) -> tuple[pa.Table, dict[str, dict[str, str]]]:
    """Columns of a file with columns for every arm, whose cells may be empty.

    Args:
        path: of the file.
        facts: columns of the queries in the file, by the names they get.
        arms: each arm's columns in the file, ``score`` among them, by what they hold.
        kinds: what the cells of the columns must be, by those names.

    Returns:
        The table, and the names of each arm's columns in it, as `melt` takes them.

    Raises:
        ImportDataError: naming file, line and field.
    """
    names, wanted = dict(facts), {name: kinds[name] for name in facts}
    found = {arm: {part: f"{part}{number}" for part in parts} for number, (arm, parts) in enumerate(arms.items())}
    for arm, parts in arms.items():
        for part, column in parts.items():
            names[found[arm][part]] = column
            wanted[found[arm][part]] = replace(kinds[part], optional=True)
    return read_table(path, wanted, names), found


def melt(table: pa.Table, arms: Mapping[str, Mapping[str, str]]) -> tuple[pa.Table, int]:
    """One row per query and arm, arm after arm.

    Args:
        table: with a column ``query``, (n,), and those of the arms.
        arms: names of each arm's columns, ``score`` among them, by the names they get; the table may lack some.

    Returns:
        The rows that have a score, and the number of those that have none.
    """
    parts, no_score = [], pa.nulls(len(table), pa.float64())
    for arm, columns in arms.items():
        cells = {"query": table["query"], "arm": pa.repeat(pa.scalar(arm), len(table)), "score": no_score}
        cells |= {name: table[column] for name, column in columns.items() if column in table.column_names}
        parts.append(pa.table(cells))
    whole = pa.concat_tables(parts, promote_options="default")
    known = whole.filter(pc.is_valid(whole["score"]))
    return known, len(whole) - len(known)


def first_of_each(table: pa.Table, column: str) -> pa.Table:
    """The first row of each value of a column, in order."""
    codes = table[column].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return table.take(np.sort(first))


def with_constant(table: pa.Table, column: str, value: str) -> pa.Table:
    """The table with one more column, the same text in every row."""
    return table.append_column(column, pa.repeat(pa.scalar(value), len(table)))
