"""The Berkeley function-calling leaderboard: per model and category the failures, beside all answers.

Schema seen in github.com/ShishirPatil/gorilla, ``berkeley-function-call-leaderboard``: files below ``score/`` and
``result/``, ``bfcl_eval/eval_checker/eval_runner.py`` and ``eval_runner_helper.py``. A file
``score/MODEL/**/BFCL_vN_CATEGORY_score.json`` has a first line with ``accuracy``, ``correct_count`` and ``total_count``
and a line with ``id`` for every answer that failed; ``result/MODEL/**/BFCL_vN_CATEGORY_result.json`` has a line for
every answer: ``id``, ``input_token_count``, ``output_token_count`` and ``latency`` in seconds (nested lists in the
categories with several turns); ``bfcl_eval/data/BFCL_vN_CATEGORY.json`` has a line with ``id`` and ``question`` for
every task.

Taken: all of these; what did not fail is right. Answers of several turns are whole runs, whose tokens nobody knows
before; where some answers are, all count as such. Categories without answers or without questions are left out and
counted. Not taken: the functions that a question may use. Not in the files: costs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from routegym.errors import ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, entries_of_lines, files_below, hashes
from routegym.graph.imports.reading import COLUMNS, Column

__all__ = ["read"]

_FILE = re.compile(r"BFCL_v\d+_(?P<category>.+?)(?:_(?:score|result))?\.json")
_COUNT = Column("count", high=1e7)
_SPENT = {"input_token_count": "prompt_tokens", "output_token_count": "completion_tokens", "latency": "latency_s"}


def read(source: Path | str) -> RoutingData:
    """The folder that holds ``score``, ``result`` and the questions (``bfcl_eval/data`` or ``data``).

    Raises:
        ImportDataError: naming file, line and field; or scores and answers do not belong together.
    """
    source = Path(source)
    scores = _by_model(source / "score", "_score.json")
    results = _by_model(source / "result", "_result.json")
    asked = _questions(source)
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    right: defaultdict[str, int] = defaultdict(int)
    total: defaultdict[str, int] = defaultdict(int)
    used: list[Path] = []
    whole_runs = False
    dropped: defaultdict[str, int] = defaultdict(int)
    for (arm, category), path in sorted(scores.items()):
        header, failed = _failures(path)
        count, correct = header.cell("total_count", _COUNT), header.cell("correct_count", _COUNT)
        if (arm, category) not in results or category not in asked:
            missing = "questions" if category not in asked else "answers"
            dropped[f"of {category}, whose {missing} are not there"] += count
            continue
        answers = {entry.cell("id", COLUMNS["query"]): entry for entry in entries_of_lines(results[arm, category])}
        if len(answers) != count or count - correct != len(failed) or not failed <= set(answers):
            raise ImportDataError(
                f"{path}: {count} answers, {len(failed)} of them failed, {correct} right; "
                f"{results[arm, category]} has {len(answers)}: they are not of one run; grade it again or "
                "leave both out"
            )
        questions = asked[category]
        for query, answer in answers.items():
            if query not in questions:
                raise answer.error("id", f"one of the questions of {category}")
            whole_runs = whole_runs or any(isinstance(answer.fields.get(field), list) for field in _SPENT)
            if query not in queries:
                queries.add(query=query, prompt=questions[query], kind=category)
            responses.add(
                query=query,
                arm=arm,
                score=float(query not in failed),
                **{name: _total(answer, field, COLUMNS[name]) for field, name in _SPENT.items()},
            )
        right[arm] += correct
        total[arm] += count
        used += [path, results[arm, category]]
    return RoutingData(
        name="bfcl",
        responses=responses.table(source),
        queries=queries.table(source),
        whole_runs=whole_runs,
        stated={arm: right[arm] / count for arm, count in total.items()},
        dropped=dropped,
        notes=("the functions that a question offers are not part of its prompt", "the source states no costs"),
        files=hashes(source, used),
    )


def _by_model(folder: Path, ending: str) -> dict[tuple[str, str], Path]:
    """Files of a folder by model (the first folder below it) and category."""
    if not folder.is_dir():
        raise ImportDataError(f"{folder}: there is no such folder; name the one that holds score and result")
    found: dict[tuple[str, str], Path] = {}
    for path in files_below(folder, f"BFCL_v*{ending}", "files of the leaderboard"):
        name = _FILE.fullmatch(path.name)
        parts = path.relative_to(folder).parts
        if name is None or len(parts) < 2:
            raise ImportDataError(f"{path}: expected MODEL/BFCL_vN_CATEGORY{ending}")
        key = (parts[0], name["category"])
        if key in found:
            raise ImportDataError(f"{path}: {found[key]} is of the same model and category; keep one")
        found[key] = path
    return found


def _questions(source: Path) -> dict[str, dict[str, str]]:
    """Texts of the questions by category and id."""
    folder = next((f for f in (source / "bfcl_eval" / "data", source / "data") if f.is_dir()), None)
    if folder is None:
        raise ImportDataError(
            f"{source}: neither bfcl_eval/data nor data is there; copy the questions beside the scores"
        )
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("BFCL_v*.json")):
        if name := _FILE.fullmatch(path.name):
            lines = entries_of_lines(path)
            found[name["category"]] = {line.cell("id", COLUMNS["query"]): _text(line) for line in lines}
    return found


def _text(line: Entry) -> str:
    """The messages of all turns of a question."""
    turns = [turn for turn in line.list("question") if isinstance(turn, list)]
    contents = [message.get("content") for turn in turns for message in turn if isinstance(message, dict)]
    text = "\n\n".join(content for content in contents if isinstance(content, str))
    if not text.strip():
        raise line.error("question", "turns with messages that have a content")
    return text


def _failures(path: Path) -> tuple[Entry, set[str]]:
    lines = entries_of_lines(path)
    header = next(lines, None)
    if header is None:
        raise ImportDataError(f"{path}: holds no line; expected accuracy, correct_count and total_count in the first")
    return header, {line.cell("id", COLUMNS["query"]) for line in lines}


def _total(answer: Entry, field: str, column: Column) -> float | None:
    """A number, or the sum of the numbers of nested lists; None where there is none."""

    def numbers(value: Any) -> list[float]:
        if isinstance(value, list):
            return [number for inside in value for number in numbers(inside)]
        if not isinstance(value, (int, float)) or not value >= 0:
            raise answer.error(field, "a number >= 0, or lists of such")
        return [value]

    if answer.fields.get(field) is None:
        return None
    total = sum(numbers(answer.fields[field]))
    if total > column.high or (column.kind == "count" and total != int(total)):
        kind = "whole numbers" if column.kind == "count" else "numbers"
        raise answer.error(field, f"{kind} that sum to {column.high:,.0f} at most")
    return total
