"""LLMRouterBench (OpenRouterBench): one JSON file per data set and model, with a header and one record per question.

Schema seen in github.com/ynulihao/LLMRouterBench: ``data_collector/storage.py`` writes the files,
``baselines/data_loader.py`` reads them. Files ``results/bench/DATASET/SPLIT/MODEL/DATASET-SPLIT-MODEL-TIME.json``:
``performance`` (mean score), ``counts``, ``model_name``, ``dataset_name``, ``split``, ``demo``, and ``records`` with
``index``, ``origin_query``, ``prompt``, ``prompt_tokens``, ``completion_tokens``, ``cost`` in USD, ``score`` (null
where nothing could be graded), ``ground_truth``.

Taken: all of these; of several files of one data set, split and model the one with the latest time in its name, and no
demonstrations, as the source's own loader does. Records without a score are left out (the loader counts them as 0). Not
in the files: the time of single answers.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, files_below, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column

__all__ = ["read"]

_TIME = re.compile(r"(\d{8}_\d{6})\.json$")
_NAME = Column("name", most=200)
_COUNT = Column("count", high=1e9)
_SHARE = Column("number", optional=True, high=1.0)


def read(source: Path | str) -> RoutingData:
    """A result file, or all ``*.json`` below a folder such as ``results/bench``.

    Raises:
        ImportDataError: naming file, record and field; or a question has different texts in two files.
    """
    source = Path(source)
    paths = files_below(source, "*.json", "results of LLMRouterBench (results/bench)")
    responses, queries, ungraded, demos = Gathered(RESPONSES), Gathered(QUERIES), 0, 0
    asked: dict[str, tuple[str, Path]] = {}
    stated: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    latest: dict[tuple[str, str, str], Path] = {}
    for path in paths:
        header = object_of(path)
        key = (header.cell("dataset_name", _NAME), header.cell("split", _NAME), header.cell("model_name", _NAME))
        if header.fields.get("demo"):
            demos += len(header.list("records"))
        elif key not in latest or _time(path) > _time(latest[key]):
            latest[key] = path
    for (dataset, split, arm), path in sorted(latest.items()):
        header = object_of(path)
        for record in header.objects("records"):
            query = f"{dataset}/{split}/{record.cell('index', COLUMNS['query'])}"
            prompt = _text(record.fields.get("origin_query")) or _text(record.fields.get("prompt"))
            if not prompt.strip():
                raise record.error("origin_query", "a text that is not blank")
            if query not in asked:
                asked[query] = (prompt, path)
                queries.add(
                    query=query, prompt=prompt, kind=dataset, reference=_text(record.fields.get("ground_truth"))
                )
            elif asked[query][0] != prompt:
                raise record.error("origin_query", f"the text that {asked[query][1]} has for {query!r}")
            score = record.cell("score", _SHARE)
            if score is None:
                ungraded += 1
                continue
            responses.add(query=query, arm=arm, score=score, **_spent(record))
        performance = header.cell("performance", _SHARE)
        if performance is not None:
            stated[arm].append((performance, header.cell("counts", _COUNT)))
    return RoutingData(
        name="llmrouterbench",
        responses=responses.table(source),
        queries=queries.table(source),
        stated={
            arm: sum(share * count for share, count in parts) / sum(count for _, count in parts)
            for arm, parts in stated.items()
            if sum(count for _, count in parts)
        },
        dropped={"without a score": ungraded, "of demonstrations": demos},
        files=hashes(source, sorted(latest.values())),
    )


def _spent(record: Entry) -> dict[str, Any]:
    return {
        "cost_usd": record.cell("cost", COLUMNS["cost_usd"]),
        "prompt_tokens": record.cell("prompt_tokens", COLUMNS["prompt_tokens"]),
        "completion_tokens": record.cell("completion_tokens", COLUMNS["completion_tokens"]),
    }


def _time(path: Path) -> str:
    """When a file was written, from its name; the empty text sorts before every time."""
    found = _TIME.search(path.name)
    return found[1] if found else ""


def _text(value: Any) -> str:
    """Questions and references may be lists or objects."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
