"""RouterArena's cached results: one JSON line per question, one file per model.

Schema seen in github.com/RouteWorks/RouterArena: ``cached_results/claude-3-haiku-20240307.jsonl`` and
``llm_evaluation/run.py``. Fields: ``global_index`` (data set and number), ``question``, ``llm_selected``, ``success``,
``token_usage`` (``input_tokens``, ``output_tokens``) and ``evaluation_result`` (``score``, ``inference_cost`` in USD,
``ground_truth``).

Taken: all of these. Lines of calls that failed (``success`` false) and lines that were not graded are left out and
counted. The costs follow from the prices in that repository's ``model_cost``. Not in the files: latencies.
"""

from __future__ import annotations

from pathlib import Path

from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, entries_of_lines, files_below, hashes
from routegym.graph.imports.reading import COLUMNS

__all__ = ["read"]


def read(source: Path | str) -> RoutingData:
    """One file of cached results, or all ``*.jsonl`` below a folder such as ``cached_results``.

    Raises:
        ImportDataError: naming file, line and field.
    """
    source = Path(source)
    paths = files_below(source, "*.jsonl", "cached results of RouterArena")
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    failed = ungraded = 0
    for path in paths:
        for line in entries_of_lines(path):
            query = line.cell("global_index", COLUMNS["query"])
            if not line.flag("success"):
                failed += 1
                continue
            if line.fields.get("evaluation_result") is None:
                ungraded += 1
                continue
            result = line.object("evaluation_result")
            if query not in queries:
                _ask(queries, query, line, result)
            usage = line.object("token_usage")
            responses.add(
                query=query,
                arm=line.cell("llm_selected", COLUMNS["arm"]),
                score=result.cell("score", COLUMNS["score"]),
                cost_usd=result.cell("inference_cost", COLUMNS["cost_usd"]),
                prompt_tokens=usage.cell("input_tokens", COLUMNS["prompt_tokens"]),
                completion_tokens=usage.cell("output_tokens", COLUMNS["completion_tokens"]),
            )
    return RoutingData(
        name="routerarena",
        responses=responses.table(source),
        queries=queries.table(source),
        dropped={"of calls that failed": failed, "that were not graded": ungraded},
        files=hashes(source, paths),
    )


def _ask(queries: Gathered, query: str, line: Entry, result: Entry) -> None:
    truth = result.fields.get("ground_truth")
    queries.add(
        query=query,
        prompt=line.cell("question", COLUMNS["prompt"]),
        kind=query.rpartition("_")[0] or None,
        reference=truth if isinstance(truth, str) else None,
    )
