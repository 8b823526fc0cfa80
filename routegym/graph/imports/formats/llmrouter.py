"""LLMRouter's routing data: one JSON line per query and model; or a JSON list of questions with scores by model.

Schema seen in github.com/ulab-uiuc/LLMRouter: ``llmrouter/data/README.md`` and
``llmrouter/data/api_calling_evaluation.py`` for the lines (``task_name``, ``query``, ``ground_truth``, ``model_name``,
``response``, ``input_tokens``, ``output_tokens``, ``response_time`` in seconds, ``performance`` in [0, 1],
``embedding_id``) and for the price list (``default_llm.json``: ``input_price`` and ``output_price`` in USD per million
tokens); ``data/dcrouter_preprocessed/test.json`` for the list (``question``, ``scores``).

Taken: all of these. Lines of calls that failed (a response that begins with ``ERROR`` or ``API Error``) are left out:
no answer is not a wrong answer. Not in the lines: costs, which follow from tokens and the price list. Not in the list:
tokens and costs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Gathered, entries_of_list, files_below, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column, read_table, with_files
from routegym.graph.imports.tables import with_prices
from routegym.graph.imports.wide import first_of_each, with_constant

__all__ = ["read"]

_COLUMNS = {
    "task": Column("name", most=200),
    "number": Column("count", high=2**31 - 1),
    "prompt": COLUMNS["prompt"],
    "reference": COLUMNS["reference"],
    "arm": COLUMNS["arm"],
    "answer": Column("text", optional=True, most=1 << 24),
    "score": Column("number", optional=True, high=1.0),
    "prompt_tokens": COLUMNS["prompt_tokens"],
    "completion_tokens": COLUMNS["completion_tokens"],
    "latency_s": COLUMNS["latency_s"],
}
_NAMES = {
    "task": "task_name",
    "number": "embedding_id",
    "prompt": "query",
    "reference": "ground_truth",
    "arm": "model_name",
    "answer": "response",
    "score": "performance",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "latency_s": "response_time",
}
_PRICE = Column("number", high=1e5)


def read(source: Path | str, prices: Path | str | None = None) -> RoutingData:
    """Routing data, as ``.jsonl`` or as the preprocessed ``.json``; or a folder with files of one of these kinds.

    Args:
        source: a file, or a folder: its ``*.jsonl`` files, else its ``*.json`` files.
        prices: the list of models that the calls were made with (``default_llm.json``); or see `with_prices`.

    Raises:
        ImportDataError: naming file, line and field.
    """
    source, prices = Path(source), None if prices is None else Path(prices)
    lists = source.suffix == ".json" or (source.is_dir() and not any(source.rglob("*.jsonl")))
    paths = files_below(
        source, "*.json" if lists else "*.jsonl", "routing data as .jsonl, or a list of questions as .json"
    )
    data = replace(_lists(source, paths) if lists else _lines(paths), files=hashes(source, paths))
    if prices is None:
        return data
    if prices.suffix == ".json":
        return replace(data, prices=_prices(prices), files=with_files(data.files, [prices]))
    return with_prices(data, prices)


def _lines(paths: list[Path]) -> RoutingData:
    tables, failed, ungraded = [], 0, 0
    for path in paths:
        table = read_table(path, _COLUMNS, _NAMES)
        answers = table["answer"] if "answer" in table.column_names else pa.nulls(len(table), pa.string())
        no_answer = pc.fill_null(pc.or_(pc.starts_with(answers, "ERROR"), pc.starts_with(answers, "API Error")), False)
        score = table["score"] if "score" in table.column_names else pa.nulls(len(table), pa.float64())
        graded = pc.is_valid(score)
        failed += pc.sum(no_answer).as_py()
        ungraded += pc.sum(pc.and_not(pc.invert(graded), no_answer)).as_py()
        split = [name for name in ("train", "test") if name in re.split(r"[\W_]+", path.stem.lower())]
        table = with_constant(table.filter(pc.and_not(graded, no_answer)), "split", split[0] if len(split) == 1 else "")
        tables.append(table)
    table = pa.concat_tables(tables, promote_options="default")
    number = table["number"].cast(pa.string())
    table = table.append_column("query", pc.binary_join_element_wise(table["task"], number, "/"))
    queries = first_of_each(table, "query")
    columns = {"query": queries["query"], "prompt": queries["prompt"], "kind": queries["task"]}
    if "reference" in queries.column_names:
        columns["reference"] = queries["reference"]
    if pc.all(pc.not_equal(queries["split"], "")).as_py():
        columns["split"] = queries["split"]
    return RoutingData(
        name="llmrouter",
        responses=table.select([name for name in RESPONSES if name in table.column_names]),
        queries=pa.table(columns),
        dropped={"of calls that failed": failed, "without a score": ungraded},
    )


def _lists(source: Path, paths: list[Path]) -> RoutingData:
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    for path in paths:
        for number, entry in enumerate(entries_of_list(path)):
            query = f"{path.stem}/{number}"
            queries.add(query=query, prompt=entry.cell("question", COLUMNS["prompt"]))
            scores = entry.object("scores")
            for arm in scores.fields:
                responses.add(query=query, arm=arm, score=scores.cell(arm, COLUMNS["score"]))
    return RoutingData(
        name="llmrouter",
        responses=responses.table(source),
        queries=queries.table(source),
        notes=("the source states neither tokens nor costs",),
    )


def _prices(path: Path) -> dict[str, tuple[float, float]]:
    models = object_of(path)
    found = {}
    for arm in models.fields:
        model = models.object(arm)
        found[arm] = (model.cell("input_price", _PRICE), model.cell("output_price", _PRICE))
    return found
