"""MMR-Bench: one row per question about a picture, for every model whether it was right and what it cost.

Schema seen in github.com/Hunter-Wrynn/MMR-Bench: ``src/mmrbench/data/mllm_data.py`` reads the table,
``scripts/merge_vlmeval_results_to_mmr.py`` writes it. Columns: ``dataset_idx``, ``question``, ``answer``, and for every
model M ``M_correct`` (0 or 1), ``M_cost`` and perhaps ``M_token`` (tokens of its answer).

Taken: all of these. Not taken: the pictures, so that a router sees the question alone. The cost is in "any consistent
unit"; models that the script has merged in cost 0. An empty result is left out (the source's reader fills in the mean).
Not in the table: tokens of the prompts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from routegym.errors import ImportDataError
from routegym.graph.imports.data import RoutingData
from routegym.graph.imports.objects import hashes
from routegym.graph.imports.reading import column_names
from routegym.graph.imports.wide import melt, read_wide

__all__ = ["read"]

_CORRECT, _COST, _TOKEN = "_correct", "_cost", "_token"
_PARTS = {"score": _CORRECT, "cost_usd": _COST, "completion_tokens": _TOKEN}
_FACTS = {"query": "dataset_idx", "prompt": "question", "reference": "answer"}


def read(source: Path | str) -> RoutingData:
    """The table ``MMR_Bench.csv`` or one of its parts, as CSV or Parquet.

    Raises:
        ImportDataError: naming file, line and field.
    """
    source = Path(source)
    header = column_names(source)
    arms = [name.removesuffix(_CORRECT) for name in header if name.endswith(_CORRECT)]
    arms = [arm for arm in arms if arm + _COST in header]
    if not arms:
        raise ImportDataError(f"{source}: no model has both a column M{_CORRECT} and a column M{_COST}")
    table, found = read_wide(
        source, _FACTS, {arm: {part: arm + ending for part, ending in _PARTS.items()} for arm in arms}
    )
    responses, without = melt(table, found)
    queries = table.select([name for name in _FACTS if name in table.column_names])
    kind = pa.array([query.rpartition("_")[0] for query in table["query"].to_pylist()])
    costs = {arm: columns["cost_usd"] for arm, columns in found.items() if columns["cost_usd"] in table.column_names}
    free = [arm for arm, column in costs.items() if not np.any(pc.fill_null(table[column], 0.0).to_numpy())]
    notes = ["costs are in a unit that the source leaves open, taken as USD", "pictures are not part of the prompts"]
    if free:
        notes.append(
            f"the source states a cost of 0 for {', '.join(free)}: no price was known when they were merged in"
        )
    return RoutingData(
        name="mmrbench",
        responses=responses,
        queries=queries.append_column("kind", kind),
        dropped={"without a result": without},
        notes=tuple(notes),
        files=hashes(source, [source]),
    )
