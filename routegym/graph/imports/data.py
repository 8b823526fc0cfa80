"""What somebody else recorded, in one form: the common ground of all importers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from routegym.errors import ImportDataError
from routegym.graph.imports.reading import COLUMNS

__all__ = ["ATTEMPT", "QUERIES", "RESPONSES", "TOKENS", "TURNS", "RoutingData", "with_trial"]

#: Columns of `RoutingData.responses`; those after ``score`` may be absent, or null where they are not known.
RESPONSES = {
    "query": pa.string(),
    "arm": pa.string(),
    "score": pa.float64(),
    "cost_usd": pa.float64(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "latency_s": pa.float64(),
    "trial": pa.int64(),
}

#: Columns of `RoutingData.queries`; those after ``prompt`` may be absent.
QUERIES = {
    "query": pa.string(),
    "prompt": pa.string(),
    "kind": pa.string(),
    "reference": pa.string(),
    "split": pa.string(),
}

#: Columns of `RoutingData.turns`; those after ``feedback`` may be absent, or null where they are not known.
TURNS = {
    "query": pa.string(),
    "arm": pa.string(),
    "turn": pa.int64(),
    "feedback": pa.string(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "cost_usd": pa.float64(),
    "reward": pa.float64(),
    "trial": pa.int64(),
}

#: Columns of counts of tokens, in `RoutingData.responses` and in `RoutingData.turns`.
TOKENS = ("prompt_tokens", "completion_tokens")

#: What a row of `RoutingData.responses` and its turns have in common.
ATTEMPT = ("query", "arm", "trial")


@dataclass(frozen=True)
class RoutingData:
    """Which arm got which query right at what cost, and perhaps how its attempt went turn by turn.

    Nothing is filled in: a cell that a source does not have is null here.

    Raises:
        ImportDataError: the tokens of an attempt are, or those of its turns sum to, more than a recording holds.
    """

    name: str
    """Of the data set."""
    responses: pa.Table
    """One row per (query, arm), or per (query, arm, trial): a subset of `RESPONSES`."""
    queries: pa.Table
    """One row per query: a subset of `QUERIES`."""
    turns: pa.Table | None = None
    """One row per turn of an attempt, turns counted from 0: a subset of `TURNS`."""
    whole_runs: bool = False
    """Whether a row is a run of several calls even where no turns are known, so that its tokens were not known before
    it."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """USD per million prompt and completion tokens of each arm, where the source has a price list."""
    unpriced: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Arms that a price list given beside the source lacks, and names in it that no arm has."""
    verdict: bool = False
    """Whether the environment itself told at run time if an attempt had succeeded (score 1)."""
    stated: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of each arm over all its rows as the source itself states it, to check what was read."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of the source that were left out, by reason."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know: estimated tokens, nominal prices, ..."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file that was read, by its name, and folders above it where that does not tell it from others."""

    def __post_init__(self) -> None:
        self._check_tokens(self.responses)
        if self.turns is not None:
            keys = [key for key in ATTEMPT if key in self.turns.column_names]
            counts = [column for column in TOKENS if column in self.turns.column_names]
            sums = self.turns.group_by(keys, use_threads=False).aggregate([(column, "sum") for column in counts])
            self._check_tokens(sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names]))

    def _check_tokens(self, attempts: pa.Table) -> None:
        for column in TOKENS:
            if column not in attempts.column_names:
                continue
            most = int(COLUMNS[column].high)
            above = attempts.filter(pc.greater(attempts[column], most))
            if len(above):
                first = above.slice(0, 1).to_pylist()[0]
                raise ImportDataError(
                    f"{self.name}: query {first['query']!r:.60}, arm {first['arm']!r:.60}: {column} come to "
                    f"{first[column]:,}; expected at most {most:,}; correct them"
                )


def with_trial(table: pa.Table) -> pa.Table:
    """A table with numbers of trials, 0 where it has none."""
    if "trial" not in table.column_names:
        return table.append_column("trial", pa.array(np.zeros(len(table), dtype=np.int64)))
    return table.set_column(table.column_names.index("trial"), "trial", pc.fill_null(table["trial"], 0))
