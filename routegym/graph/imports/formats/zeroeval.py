"""ZeroEval: one JSON list per data set and model, with the question, the reference and the model's output.

Schema seen in github.com/yuchenlin/ZeroEval (WildEval/ZeroEval): ``result_dirs/gsm/Athene-70B.json``,
``result_dirs/crux/gpt-4o-mini-2024-07-18.json``, ``result_dirs/gsm.summary.json``, and the graders
``src/evaluation/{math_eval,crux_eval,mcqa_eval,eval_utils}.py``. Fields: ``id``, ``dataset``, ``question``, ``output``
(a list), ``answer``, or for multiple choice ``choices`` and ``correct_answer``. ``DATASET.summary.json`` beside the
folder states accuracies in percent.

The files hold no scores: outputs are graded here by the rules of those graders (gsm, math-l5: the first number of the
answer; crux: the literal; mmlu-redux: the letter). Other data sets of ZeroEval are refused. A fraction is read where
the source's grader evaluates any expression. Taken: questions, references and those grades. Not in the files: tokens
and costs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, entries_of_list, files_below, hashes
from routegym.graph.imports.reading import COLUMNS, Column

__all__ = ["read"]

_SUMMARY = ".summary.json"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_FRACTION = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")
_BOXED = re.compile(r"\\boxed{(\w+)}")
_PERCENT = re.compile(r"\d+(?:\.\d+)?")
_NAME = Column("name", most=200)
_TEXT = Column("text")
_ABSENT = object()


def read(source: Path | str) -> RoutingData:
    """A result file, or all result files below a folder such as ``result_dirs/gsm`` or ``result_dirs``.

    Raises:
        ImportDataError: naming file, entry and field; or a data set that cannot be graded here.
    """
    source = Path(source)
    paths = files_below(source, "*.json", "results of ZeroEval")
    results = [path for path in paths if not path.name.endswith(_SUMMARY)]
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    rows: dict[tuple[str, str], int] = {}
    for path in results:
        for entry in entries_of_list(path):
            dataset = entry.cell("dataset", _NAME)
            if dataset not in _GRADERS:
                raise entry.error("dataset", f"one that can be graded: {', '.join(_GRADERS)}; leave the file out")
            query = f"{dataset}/{entry.cell('id', COLUMNS['query'])}"
            if query not in queries:
                queries.add(query=query, prompt=_prompt(entry), kind=dataset, reference=_reference(entry))
            output = entry.list("output")
            if not output or not isinstance(output[0], str):
                raise entry.error("output", "a list that begins with a text")
            score = _GRADERS[dataset](entry, output[0], path.stem)
            responses.add(query=query, arm=path.stem, score=float(score))
            rows[path.stem, dataset] = rows.get((path.stem, dataset), 0) + 1
    summaries = {path.name.removesuffix(_SUMMARY): path for path in paths if path not in results}
    for dataset in {dataset for _, dataset in rows}:  # beside the folder, too
        beside = (source.parent if source.is_dir() else source.parent.parent) / f"{dataset}{_SUMMARY}"
        if dataset not in summaries and beside.is_file():
            summaries[dataset] = beside
    return RoutingData(
        name="zeroeval",
        responses=responses.table(source),
        queries=queries.table(source),
        stated=_stated(rows, {name: path for name, path in summaries.items() if name in _GRADERS}),
        notes=("graded here by the rules of the source's graders", "the source states neither tokens nor costs"),
        files=hashes(source, results),
    )


def _prompt(entry: Entry) -> str:
    question = str(entry.cell("question", COLUMNS["prompt"]))
    if "choices" not in entry.fields:
        return question
    choices = zip(_LETTERS, entry.list("choices"), strict=False)
    return "\n".join([question, *(f"{letter}) {choice}" for letter, choice in choices)])


def _reference(entry: Entry) -> str:
    return str(entry.cell("correct_answer" if "choices" in entry.fields else "answer", _TEXT))


def _stated(rows: dict[tuple[str, str], int], summaries: dict[str, Path]) -> dict[str, float]:
    """Accuracy of each model over its data sets, where a summary states it for all of them."""
    said: dict[tuple[str, str], float] = {}
    for dataset, path in summaries.items():
        for entry in entries_of_list(path):
            accuracy = entry.cell("Acc", Column("name", most=20))
            if not _PERCENT.fullmatch(accuracy):
                raise entry.error("Acc", "a percentage as text")
            said.setdefault((entry.cell("Model", _NAME), dataset), float(accuracy) / 100)
    found = {}
    for arm in {arm for arm, _ in rows}:
        mine = {dataset: count for (name, dataset), count in rows.items() if name == arm}
        if all((arm, dataset) in said for dataset in mine):
            found[arm] = sum(said[arm, dataset] * count for dataset, count in mine.items()) / sum(mine.values())
    return found


# -- grading as the source does ----------------------------------------------------------------
def _math(entry: Entry, output: str, model: str) -> bool:
    answer = _answer(_objects(output)[:1], output, model)
    if answer is _ABSENT:
        return False
    mine = _NUMBER.search(_plain(str(answer)))
    right = _NUMBER.search(_plain(str(entry.cell("answer", _TEXT)).replace("#", "").strip()))
    return mine is not None and right is not None and float(mine[0]) == float(right[0])


def _crux(entry: Entry, output: str, model: str) -> bool:
    answer = _answer(_objects(output)[:1], output, model)
    if answer is _ABSENT:
        return False
    bare = isinstance(answer, str) and not any(mark in answer for mark in "({[]})")
    if bare and not answer.replace(".", "", 1).isdigit() and answer.lower() not in ("true", "false"):
        answer = f"'{answer}'"  # the models often leave the quotation marks of a string away
    return bool(str(answer) == entry.cell("answer", _TEXT))


def _choice(entry: Entry, output: str, model: str) -> bool:
    choices, right = entry.list("choices"), entry.cell("correct_answer", _TEXT)
    if right not in choices:
        raise entry.error("correct_answer", "one of the choices")
    return bool(_answer(_objects(output)[-1:], output, "") == _LETTERS[choices.index(right)])


_GRADERS: dict[str, Callable[[Entry, str, str], bool]] = {
    "gsm": _math,
    "math-l5": _math,
    "crux": _crux,
    "mmlu-redux": _choice,
}


def _answer(objects: list[str], output: str, model: str) -> Any:
    """The answer in an output that should be a JSON object and often is not quite one, else `_ABSENT`."""
    for text in objects:
        try:
            found = json.loads(text.replace("\n", ""))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and "answer" in found:
            return found["answer"]
    for pattern, flags in (
        (r'"answer"\s*:\s*"([^"]*?)"', 0),
        (r'"answer"\s*:\s*"(.*?)"', re.DOTALL),
        (r'"answer"\s*:\s*([^,\s]*)', 0),
        (r"answer\s*:\s*([^,\s]*)", 0),
    ):
        if match := re.search(pattern, output, flags):
            return match[1]
    boxed = _BOXED.search(output) if "Llama-3.1" in model else None
    return {"answer": boxed[1]} if boxed else _ABSENT


def _objects(text: str) -> list[str]:
    """What stands between outermost braces, in order."""
    found, depth, start = [], 0, 0
    for at, mark in enumerate(text):
        if mark == "{":
            start = start if depth else at
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
            if not depth:
                found.append(text[start : at + 1])
    return found


def _plain(answer: str) -> str:
    """An answer without dollar signs and thousands separators, a fraction as a number."""
    answer = answer.replace("$", "").strip().replace(",", "")
    fraction = _FRACTION.fullmatch(answer)
    return str(float(fraction[1]) / float(fraction[2])) if fraction and float(fraction[2]) else answer
