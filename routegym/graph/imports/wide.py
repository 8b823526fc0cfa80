"""Tables with a column for every arm, turned into tables with a row for every answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["first_of_each", "melt", "with_constant"]


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
