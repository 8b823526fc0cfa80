"""Tables with a column for every arm, turned into tables with a row for every answer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["first_of_each", "melt", "with_constant"]


def melt(query: pa.ChunkedArray, arms: Mapping[str, Mapping[str, pa.ChunkedArray]]) -> tuple[pa.Table, int]:
    """One row per query and arm, arm after arm.

    Args:
        query: names of the queries, (n,).
        arms: columns of each arm, (n,) each, by their name in the result; ``score`` must be among them.

    Returns:
        The table without the rows that have no score, and the number of those.
    """
    parts = []
    for arm, columns in arms.items():
        names = pa.repeat(pa.scalar(arm), len(query))
        parts.append(pa.table({"query": query, "arm": names, **columns}))
    table = pa.concat_tables(parts, promote_options="default")
    known = table.filter(pc.is_valid(table["score"]))
    return known, len(table) - len(known)


def first_of_each(table: pa.Table, column: str) -> pa.Table:
    """The first row of each value of a column, in order."""
    codes = table[column].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return table.take(np.sort(first))


def with_constant(table: pa.Table, column: str, value: str) -> pa.Table:
    """The table with one more column, the same text in every row."""
    return table.append_column(column, pa.repeat(pa.scalar(value), len(table)))
