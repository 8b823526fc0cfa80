"""RouteLLM's answers to GSM8K and MMLU: one row per question, one column of True and False for either model.

Schema seen in github.com/lm-sys/RouteLLM: ``routellm/evals/gsm8k/gsm8k_responses.csv``,
``routellm/evals/mmlu/responses/mmlu_*.csv`` and their reader ``routellm/evals/benchmarks.py``. Columns: ``prompt``, one
per model with True or False, and for GSM8K ``<model>_response``.

Taken: prompt and results. Not in the files: ids (the number of the row is one), tokens, costs. The questions that the
repository lists as near its own training data (``contaminated_prompts.jsonl``) are kept: they concern its routers.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from routegym.errors import ImportDataError
from routegym.graph.imports.data import RoutingData
from routegym.graph.imports.objects import files_below, hashes
from routegym.graph.imports.reading import column_names
from routegym.graph.imports.wide import melt, read_wide, with_constant

__all__ = ["read"]

_RESPONSE = "_response"
_EXPECTED = "gsm8k_responses.csv or mmlu_*.csv, or a folder with such files"


def read(source: Path | str) -> RoutingData:
    """One of the CSV files, or all ``gsm8k_responses.csv`` and ``mmlu_*.csv`` below a folder.

    Raises:
        ImportDataError: naming file, line and field; or the files are of different models.
    """
    source = Path(source)
    paths = files_below(source, "*.csv", _EXPECTED)
    if source.is_dir():
        paths = [path for path in paths if path.name == "gsm8k_responses.csv" or path.name.startswith("mmlu_")]
        if not paths:
            raise ImportDataError(f"{source}: expected {_EXPECTED}")
    arms = _arms(paths[0])
    responses, queries, lost = [], [], 0
    for path in paths:
        if _arms(path) != arms:
            raise ImportDataError(
                f"{path}, line 1: models {', '.join(_arms(path))}; {paths[0].name} has {', '.join(arms)}"
            )
        kind = path.stem.removesuffix("_responses")
        table, found = read_wide(path, {"prompt": "prompt"}, {arm: {"score": arm} for arm in arms})
        table = table.append_column("query", pa.array([f"{kind}/{row}" for row in range(len(table))]))
        long, without = melt(table, found)
        lost += without
        responses.append(long)
        queries.append(with_constant(table.select(["query", "prompt"]), "kind", kind))
    return RoutingData(
        name="routellm",
        responses=pa.concat_tables(responses),
        queries=pa.concat_tables(queries),
        dropped={"without a result": lost},
        notes=("the source states neither tokens nor costs",),
        files=hashes(source, paths),
    )


def _arms(path: Path) -> list[str]:
    arms = [name for name in column_names(path) if name != "prompt" and not name.endswith(_RESPONSE)]
    if not arms:
        raise ImportDataError(f"{path}, line 1: no column of a model; expected {_EXPECTED}")
    return arms
