"""RouterBench: one row per sample, for every model its score, its response and its cost.

Schema seen in github.com/withmartian/routerbench: ``convertors/common.py`` writes the table, ``utils.py`` and
``evaluate_routers.py`` read it, ``routers/abstract_router.py`` and ``routers/common.py`` price it. Columns:
``sample_id``, ``prompt`` (a list of messages as Python prints it), ``eval_name``, for every model M ``M`` (score in [0,
1]), ``M|model_response`` and ``M|total_cost`` in USD, and ``oracle_model_to_route_to``.

Taken: sample, prompt, benchmark, score and cost. Not in the table: tokens. The costs are the source's own, from token
counts and the price list of that repository, whose entries are dollars per million tokens divided by ten million.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow as pa

from routegym.errors import ImportDataError
from routegym.graph.imports.data import RoutingData
from routegym.graph.imports.objects import hashes
from routegym.graph.imports.reading import column_names
from routegym.graph.imports.wide import first_of_each, melt, read_wide

__all__ = ["read"]

_COST = "|total_cost"
_FACTS = {"query": "sample_id", "prompt": "prompt", "kind": "eval_name"}


def read(source: Path | str) -> RoutingData:
    """RouterBench's wide table as CSV or Parquet; its pickles are refused, with the way to convert them.

    Raises:
        ImportDataError: naming file, line and field.
    """
    source = Path(source)
    header = column_names(source)
    arms = [name.removesuffix(_COST) for name in header if name.endswith(_COST)]
    if not arms:
        raise ImportDataError(f"{source}: no column ends in {_COST!r}; expected one for every model")
    missing = [arm for arm in arms if arm not in header]
    if missing:
        raise ImportDataError(f"{source}: no column {missing[0]!r} with the scores of this model beside its cost")
    table, found = read_wide(source, _FACTS, {arm: {"score": arm, "cost_usd": arm + _COST} for arm in arms})
    once = first_of_each(table, "query")  # as the source's own evaluation does
    responses, without = melt(once, found)
    queries = once.select([name for name in _FACTS if name in once.column_names])
    place = queries.column_names.index("prompt")
    prompts = pa.array([_plain(prompt) for prompt in once["prompt"].to_pylist()], pa.string())
    return RoutingData(
        name="routerbench",
        responses=responses,
        queries=queries.set_column(place, "prompt", prompts),
        dropped={"without a score": without, "of a sample_id that occurs again": (len(table) - len(once)) * len(arms)},
        notes=(
            "costs are the source's own, from its token counts and its price list (dollars per million tokens divided "
            "by ten million); compare them with each other, not with bills",
        ),
        files=hashes(source, [source]),
    )


def _plain(prompt: str) -> str:
    """What was asked, where the source has written a list of messages as Python prints it."""
    if not prompt.startswith("["):
        return prompt
    try:
        messages = ast.literal_eval(prompt)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return prompt
    texts = isinstance(messages, list) and all(isinstance(message, str) for message in messages)
    return "\n\n".join(messages) if texts and any(message.strip() for message in messages) else prompt
