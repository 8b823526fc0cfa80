"""Readers of published formats: small files of each shape, made here, and exactly what is read from them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

import routegym.graph
from routegym.errors import ConfigError, ImportDataError
from routegym.graph.imports import RoutingData, to_recording
from routegym.graph.imports.data import QUERIES, RESPONSES, TURNS
from routegym.graph.imports.reading import file_sha256
from routegym.graph.imports.registry import FORMATS, import_data, read_data


# -- files -------------------------------------------------------------------------------------
def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    return write(path, json.dumps(content))


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(zip(*(table[column].to_pylist() for column in columns or table.column_names), strict=True))


def column(table: pa.Table, key: str, value: str) -> dict[Any, Any]:
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def check(data: RoutingData) -> RoutingData:
    """Tables of the agreed types, every row's query known, nothing dropped in silence."""
    for table, schema in ((data.responses, RESPONSES), (data.queries, QUERIES), (data.turns, TURNS)):
        for name in () if table is None else table.column_names:
            assert table.schema.field(name).type == schema[name], name
    assert set(data.responses["query"].to_pylist()) <= set(data.queries["query"].to_pylist())
    assert len(set(data.queries["query"].to_pylist())) == len(data.queries)
    return data


def read(name: str, source: Path, **options: Any) -> RoutingData:
    return check(read_data(name, source, **options))


# -- RouterBench -------------------------------------------------------------------------------
def routerbench_rows() -> list[dict[str, Any]]:
    def row(sample: str, prompt: str, small: Any, large: Any) -> dict[str, Any]:
        return {
            "sample_id": sample,
            "prompt": prompt,
            "eval_name": sample.split(".")[0],
            "small": small,
            "large": large,
            "small|model_response": "['x, y']",
            "small|total_cost": 0.001,
            "large|model_response": 'said "no"\nand left',
            "large|total_cost": 0.25,
            "oracle_model_to_route_to": "large",
        }

    return [
        row("arc.0", "['Which one?', 'And why?']", 0.25, 1.0),
        row("mmlu.0", "[no list", 1.0, ""),
        row("arc.0", "['Which one?', 'And why?']", 1.0, 1.0),
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_routerbench(tmp_path: Path, suffix: str) -> None:
    path = write_csv(tmp_path / "routerbench.csv", routerbench_rows())
    if suffix == "parquet":
        table = pa.Table.from_pylist([{k: v if v != "" else None for k, v in r.items()} for r in routerbench_rows()])
        path = tmp_path / "routerbench.parquet"
        pq.write_table(table, path)
    data = read("routerbench", path)
    assert rows(data.responses, "query", "arm", "score", "cost_usd") == [
        ("arc.0", "large", 1.0, 0.25),
        ("arc.0", "small", 0.25, 0.001),
        ("mmlu.0", "small", 1.0, 0.001),
    ]
    assert rows(data.queries, "query", "prompt", "kind") == [
        ("arc.0", "Which one?\n\nAnd why?", "arc"),
        ("mmlu.0", "[no list", "mmlu"),
    ]
    assert dict(data.dropped) == {"without a score": 1, "of a sample_id that occurs again": 2}
    assert data.files == {path.name: file_sha256(path)}


def test_routerbench_wants_a_score_beside_a_cost(tmp_path: Path) -> None:
    bare = [{"sample_id": "1", "prompt": "p", "eval_name": "e", "m|total_cost": 1}]
    with pytest.raises(ImportDataError, match=r"no column 'm' with the scores"):
        read("routerbench", write_csv(tmp_path / "a.csv", bare))
    with pytest.raises(ImportDataError, match=r"no column ends in '\|total_cost'"):
        read("routerbench", write_csv(tmp_path / "b.csv", [{"sample_id": "1"}]))
    wrong = [dict(row, large=7) if row["sample_id"] == "mmlu.0" else row for row in routerbench_rows()]
    with pytest.raises(ImportDataError, match=r"c.csv, line 4, field 'large': 7.0; expected a number from 0 to 1"):
        read("routerbench", write_csv(tmp_path / "c.csv", wrong))


def test_routerbench_refuses_pickles(tmp_path: Path) -> None:
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(ImportDataError, match=r"run code.*read_pickle\('routerbench_0shot.pkl'\).to_parquet"):
        read("routerbench", path)


# -- RouteLLM ----------------------------------------------------------------------------------
def test_routellm(tmp_path: Path) -> None:
    gsm = [
        {"prompt": "1 + 1, with\na break?", "weak": True, "strong": True, "weak_response": "2", "strong_response": "2"},
        {"prompt": "2 + 2?", "weak": False, "strong": True, "weak_response": "5", "strong_response": "4"},
    ]
    write_csv(tmp_path / "evals/gsm8k/gsm8k_responses.csv", gsm)
    write_csv(tmp_path / "evals/mmlu/responses/mmlu_anatomy.csv", [{"prompt": "A or B?", "weak": False, "strong": ""}])
    write_csv(tmp_path / "evals/other.csv", [{"something": 1}])
    data = read("routellm", tmp_path / "evals")
    assert rows(data.responses, "query", "arm", "score") == [
        ("gsm8k/0", "strong", 1.0),
        ("gsm8k/0", "weak", 1.0),
        ("gsm8k/1", "strong", 1.0),
        ("gsm8k/1", "weak", 0.0),
        ("mmlu_anatomy/0", "weak", 0.0),
    ]
    assert column(data.queries, "query", "prompt")["gsm8k/0"] == "1 + 1, with\na break?"
    assert column(data.queries, "query", "kind") == {
        "gsm8k/0": "gsm8k",
        "gsm8k/1": "gsm8k",
        "mmlu_anatomy/0": "mmlu_anatomy",
    }
    assert dict(data.dropped) == {"without a result": 1}
    assert set(data.files) == {"gsm8k/gsm8k_responses.csv", "mmlu/responses/mmlu_anatomy.csv"}
    assert set(data.responses.column_names) == {"query", "arm", "score"}


def test_routellm_errors(tmp_path: Path) -> None:
    with pytest.raises(ImportDataError, match=r"no \*.csv below this folder"):
        read("routellm", tmp_path)
    write_csv(tmp_path / "mmlu_a.csv", [{"prompt": "p", "weak": True}])
    write_csv(tmp_path / "mmlu_b.csv", [{"prompt": "p", "strong": True}])
    with pytest.raises(ImportDataError, match=r"mmlu_b.csv, line 1: models strong; mmlu_a.csv has weak"):
        read("routellm", tmp_path)
    path = write_csv(tmp_path / "c.csv", [{"prompt": "p", "weak": True}, {"prompt": "q", "weak": "perhaps"}])
    with pytest.raises(ImportDataError, match=r"c.csv, line 3, field 'weak': 'perhaps'; expected a number"):
        read("routellm", path)


# -- LLMRouter ---------------------------------------------------------------------------------
def llmrouter_line(task: str, number: int, arm: str, **changes: Any) -> dict[str, Any]:
    line = {
        "task_name": task,
        "query": f"{task} {number}?",
        "ground_truth": "4",
        "metric": "GSM8K",
        "choices": None,
        "task_id": None,
        "model_name": arm,
        "response": "four",
        "token_num": 12,
        "input_tokens": 10,
        "output_tokens": 2,
        "response_time": 0.5,
        "api_key_used": "",
        "performance": 1.0,
        "embedding_id": number,
    }
    return line | changes


def test_llmrouter_lines(tmp_path: Path) -> None:
    folder = tmp_path / "routing_data"
    train = [
        llmrouter_line("gsm8k", 0, "a"),
        llmrouter_line("gsm8k", 0, "b", performance=0.0, output_tokens=7),
        llmrouter_line("mmlu", 1, "a", response="ERROR: time out", performance=0.0, input_tokens=0, output_tokens=0),
        llmrouter_line("mmlu", 1, "b", response="API Error: 500", performance=0.0),
    ]
    write_lines(folder / "default_routing_train_data.jsonl", train)
    write_lines(folder / "default_routing_test_data.jsonl", [llmrouter_line("gsm8k", 2, "a", performance=None)])
    models = {"a": {"input_price": 0.2, "output_price": 0.4, "size": "7B"}, "b": {"input_price": 1, "output_price": 2}}
    prices = write_json(tmp_path / "default_llm.json", models)
    data = read("llmrouter", folder, prices=prices)
    assert rows(data.responses, "query", "arm", "score", "prompt_tokens", "completion_tokens", "latency_s") == [
        ("gsm8k/0", "a", 1.0, 10, 2, 0.5),
        ("gsm8k/0", "b", 0.0, 10, 7, 0.5),
    ]
    assert rows(data.queries, "query", "prompt", "kind", "reference", "split") == [
        ("gsm8k/0", "gsm8k 0?", "gsm8k", "4", "train")
    ]
    assert data.prices == {"a": (0.2, 0.4), "b": (1.0, 2.0)}
    assert dict(data.dropped) == {"of calls that failed": 2, "without a score": 1}
    assert set(data.files) == {
        "default_routing_train_data.jsonl",
        "default_routing_test_data.jsonl",
        "default_llm.json",
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("latest", None),
        ("constrained", None),
        ("routing_test_data", "test"),
        ("a-Train", "train"),
        ("train_test", None),
    ],
)
def test_llmrouter_splits_are_words_of_file_names(name: str, split: str | None, tmp_path: Path) -> None:
    data = read("llmrouter", write_lines(tmp_path / f"{name}.jsonl", [llmrouter_line("gsm8k", 0, "a")]))
    assert (data.queries["split"].to_pylist() if "split" in data.queries.column_names else [None]) == [split]


def test_llmrouter_lists(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "test.json",
        [{"question": "p", "scores": {"a": 0.0, "b": 1.0}}, {"question": "q", "scores": {"b": 0.5}}],
    )
    data = read("llmrouter", path)
    assert rows(data.responses) == [("test/0", "a", 0.0), ("test/0", "b", 1.0), ("test/1", "b", 0.5)]
    assert rows(data.queries) == [("test/0", "p"), ("test/1", "q")]
    wrong = write_json(tmp_path / "wrong.json", [{"question": "p", "scores": {"a": 2}}])
    with pytest.raises(
        ImportDataError, match=r"wrong.json, entry 1, field 'scores.a': 2; expected a number from 0 to 1"
    ):
        read("llmrouter", wrong)
    huge = write(tmp_path / "huge.json", f'[{{"question": "p", "scores": {{"a": {10**400}}}}}]')
    with pytest.raises(ImportDataError, match=r"huge.json, entry 1, field 'scores.a': 10+; expected a number from 0"):
        read("llmrouter", huge)
    with pytest.raises(ImportDataError, match=r"line 1, field 'performance': 1.5; expected a number from 0 to 1"):
        read("llmrouter", write_lines(tmp_path / "x.jsonl", [llmrouter_line("t", 0, "a", performance=1.5)]))


# -- LLMRouterBench ----------------------------------------------------------------------------
def bench_file(
    root: Path, dataset: str, arm: str, scores: list[Any], time: str = "20251001_120000", **changes: Any
) -> Path:
    records = [
        {
            "index": number,
            "origin_query": ["a", number] if number == 2 else f"{dataset} {number}?",
            "prompt": "Q: ...",
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "cost": 0.01,
            "score": score,
            "prediction": "",
            "ground_truth": number,
            "raw_output": "",
        }
        for number, score in enumerate(scores, 1)
    ]
    known = [score for score in scores if score is not None]
    header = {
        "performance": sum(known) / len(scores),
        "counts": len(scores),
        "model_name": arm,
        "dataset_name": dataset,
        "split": "test",
        "demo": False,
        "records": records,
    }
    return write_json(root / dataset / "test" / arm / f"{dataset}-test-{arm}-{time}.json", header | changes)


def test_llmrouterbench(tmp_path: Path) -> None:
    root = tmp_path / "bench"
    bench_file(root, "aime", "a", [0.0, 0.0], "20240101_000000")
    bench_file(root, "aime", "a", [1.0, 0.0])
    bench_file(root, "aime", "a", [1.0, 1.0], "20260101_000000", demo=True)
    bench_file(root, "gpqa", "a", [1.0])
    bench_file(root, "aime", "b", [None, 0.5])
    data = read("llmrouterbench", root)
    assert rows(data.responses, "query", "arm", "score", "cost_usd", "prompt_tokens", "completion_tokens") == [
        ("aime/test/1", "a", 1.0, 0.01, 100, 50),
        ("aime/test/2", "a", 0.0, 0.01, 100, 50),
        ("aime/test/2", "b", 0.5, 0.01, 100, 50),
        ("gpqa/test/1", "a", 1.0, 0.01, 100, 50),
    ]
    assert rows(data.queries, "query", "prompt", "kind", "reference")[:2] == [
        ("aime/test/1", "aime 1?", "aime", "1"),
        ("aime/test/2", '["a", 2]', "aime", "2"),
    ]
    assert data.stated == {"a": pytest.approx(2 / 3), "b": 0.25}
    assert dict(data.dropped) == {"without a score": 1, "of demonstrations": 2}
    assert len(data.files) == 3


def test_llmrouterbench_errors(tmp_path: Path) -> None:
    bench_file(tmp_path, "aime", "a", [1.0])
    path = bench_file(tmp_path, "aime", "b", [1.0])
    content = json.loads(path.read_text())
    content["records"][0]["origin_query"] = "another?"
    write_json(path, content)
    with pytest.raises(
        ImportDataError, match=r"number 1 of records, field 'origin_query': 'another\?'; expected the text"
    ):
        read("llmrouterbench", tmp_path)
    write_json(path, {"dataset_name": "aime", "split": "test"})
    with pytest.raises(
        ImportDataError, match=r"b-20251001_120000.json, field 'model_name': is absent; expected a text"
    ):
        read("llmrouterbench", tmp_path)


# -- RouterEval --------------------------------------------------------------------------------
def test_routereval(tmp_path: Path) -> None:
    content = {
        "model": ["a", "b"],
        "prompt": {"train_prompt": ["p", "q"], "val_prompt": [], "test_prompt": ["r"]},
        "data": {
            "train_score": [[0.5, 1], [0, 0]],
            "val_score": [],
            "test_score": [[1.0, 0.25]],
            "train_tokens": [[1, 1]],
        },
    }
    data = read("routereval", write_json(tmp_path / "gsm8k.json", content))
    expected = [
        ("test/0", "a", 1.0),
        ("test/0", "b", 0.25),
        ("train/0", "a", 0.5),
        ("train/0", "b", 1.0),
        ("train/1", "a", 0.0),
        ("train/1", "b", 0.0),
    ]
    assert rows(data.responses) == expected
    assert rows(data.queries, "query", "prompt", "split") == [
        ("test/0", "r", "test"),
        ("train/0", "p", "train"),
        ("train/1", "q", "train"),
    ]
    table = pa.table(
        {
            "split": ["train", "train", "test"],
            "prompt": ["p", "q", "r"],
            "score/a": [0.5, 0, 1.0],
            "score/b": [1.0, 0, 0.25],
        }
    )
    pq.write_table(table, tmp_path / "gsm8k.parquet")
    assert rows(read("routereval", tmp_path / "gsm8k.parquet").responses) == expected


def test_routereval_refuses_pickles_and_its_snippet_works(tmp_path: Path) -> None:
    import pickle
    import subprocess
    import sys

    pytest.importorskip("pandas")
    group = {"model": ["a"], "prompt": {}, "data": {}}
    for split, score in (("train", 1.0), ("val", 0.0), ("test", 0.5)):
        group["prompt"][f"{split}_prompt"] = [f"{split}?"]  # type: ignore[index]  # a dict of dicts
        group["data"][f"{split}_score"] = [[score]]  # type: ignore[index]
    path = tmp_path / "arc.pkl"
    path.write_bytes(pickle.dumps({"easy": {"5": group}}))
    with pytest.raises(ImportDataError, match=r"runs code when it is opened.*`python convert.py arc.pkl`") as caught:
        read("routereval", path)
    snippet = write(tmp_path / "convert.py", "".join(caught.value.__notes__))
    subprocess.run([sys.executable, snippet, "arc.pkl"], cwd=tmp_path, check=True)
    data = read("routereval", tmp_path / "arc_easy_5.parquet")
    assert rows(data.responses) == [("test/0", "a", 0.5), ("train/0", "a", 1.0), ("val/0", "a", 0.0)]


def test_routereval_errors(tmp_path: Path) -> None:
    prompts = {"train_prompt": ["p"], "val_prompt": [], "test_prompt": []}
    short = {"model": ["a", "b"], "prompt": prompts, "data": {"train_score": [[1]], "val_score": [], "test_score": []}}
    with pytest.raises(
        ImportDataError, match=r"field 'data.train_score'.*2 numbers from 0 to 1 in every row; row 1 is \[1\]"
    ):
        read("routereval", write_json(tmp_path / "a.json", short))
    short["data"] = {"train_score": [], "val_score": [], "test_score": []}
    with pytest.raises(ImportDataError, match=r"a row for each of 1 prompts, these are 0"):
        read("routereval", write_json(tmp_path / "b.json", short))
    pq.write_table(pa.table({"split": ["dev"], "prompt": ["p"], "score/a": [1.0]}), tmp_path / "c.parquet")
    with pytest.raises(
        ImportDataError, match=r"c.parquet, row 1, field 'split': 'dev'; expected one of train, val, test"
    ):
        read("routereval", tmp_path / "c.parquet")


# -- RouterArena -------------------------------------------------------------------------------
def arena_line(index: str, arm: str, **changes: Any) -> dict[str, Any]:
    line = {
        "global_index": index,
        "question": f"{index}?",
        "llm_selected": arm,
        "generated_answer": "A",
        "token_usage": {"input_tokens": 349, "output_tokens": 120, "total_tokens": 469},
        "success": True,
        "provider": "x",
        "error": None,
        "evaluation_result": {
            "extracted_answer": "A",
            "ground_truth": "B",
            "score": 0.0,
            "metric": "m",
            "inference_cost": 0.002,
        },
    }
    return line | changes


def test_routerarena(tmp_path: Path) -> None:
    lines = [
        arena_line("AIME_112", "a"),
        arena_line(
            "Live_Code_7", "a", evaluation_result={"score": 1, "inference_cost": 0.5, "ground_truth": {"tests": []}}
        ),
        arena_line("AIME_3", "a", success=False, evaluation_result=None),
        arena_line("AIME_4", "a", evaluation_result=None),
    ]
    write_lines(tmp_path / "a.jsonl", lines)
    data = read("routerarena", tmp_path)
    assert rows(data.responses, "query", "arm", "score", "cost_usd", "prompt_tokens", "completion_tokens") == [
        ("AIME_112", "a", 0.0, 0.002, 349, 120),
        ("Live_Code_7", "a", 1.0, 0.5, 349, 120),
    ]
    assert rows(data.queries, "query", "prompt", "kind") == [
        ("AIME_112", "AIME_112?", "AIME"),
        ("Live_Code_7", "Live_Code_7?", "Live_Code"),
    ]
    assert column(data.queries, "query", "reference") == {"AIME_112": "B", "Live_Code_7": None}
    assert dict(data.dropped) == {"of calls that failed": 1, "that were not graded": 1}
    write_lines(tmp_path / "b.jsonl", [arena_line("AIME_1", "b", token_usage=None)])
    with pytest.raises(ImportDataError, match=r"b.jsonl, line 1, field 'token_usage': None; expected an object"):
        read("routerarena", tmp_path)


# -- MMR-Bench ---------------------------------------------------------------------------------
def test_mmrbench(tmp_path: Path) -> None:
    table = [
        {
            "dataset_idx": "SEEDBench2_Plus_0",
            "question": "What is shown?",
            "answer": "7",
            "a_prediction": "7",
            "a_correct": True,
            "a_token": 3,
            "a_cost": 0.0,
            "b_correct": 0.0,
            "b_cost": 0.7,
            "c_correct": 1,
        },
        {
            "dataset_idx": "MMStar_5",
            "question": "Where?",
            "answer": "",
            "a_prediction": "",
            "a_correct": False,
            "a_token": 5,
            "a_cost": 0.0,
            "b_correct": "",
            "b_cost": 0.9,
            "c_correct": 1,
        },
    ]
    data = read("mmrbench", write_csv(tmp_path / "MMR_Bench.csv", table))
    assert rows(data.responses.select(["query", "arm", "score", "cost_usd"])) == [
        ("MMStar_5", "a", 0.0, 0.0),
        ("SEEDBench2_Plus_0", "a", 1.0, 0.0),
        ("SEEDBench2_Plus_0", "b", 0.0, 0.7),
    ]
    assert sorted(data.responses["completion_tokens"].to_pylist(), key=str) == [3, 5, None]
    assert column(data.queries, "query", "kind") == {"SEEDBench2_Plus_0": "SEEDBench2_Plus", "MMStar_5": "MMStar"}
    assert dict(data.dropped) == {"without a result": 1}
    assert "a cost of 0 for a:" in data.notes[-1]
    with pytest.raises(ImportDataError, match="no model has both"):
        read("mmrbench", write_csv(tmp_path / "x.csv", [{"dataset_idx": "1", "question": "p", "a_correct": 1}]))


# -- ZeroEval ----------------------------------------------------------------------------------
def zero_entry(dataset: str, number: int, output: str, **facts: Any) -> dict[str, Any]:
    return {
        "session_id": f"{dataset}-#{number}",
        "chat_history": ["..."],
        "output": [output],
        "generator": "x",
        "dataset": dataset,
        "id": f"{dataset}-#{number}",
        "question": f"{dataset} {number}?",
    } | facts


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ('{"reasoning": "...", "answer": "$1,218.50 per day"}', "# 1218.5", True),
        ('```json\n{"reasoning": "it\n is", "answer": 18}\n``` {"answer": "7"}', "# 18", True),
        ('{"reasoning": "a "quoted" word", "answer": "18"}', "18", True),  # not quite JSON
        ("reasoning: ... answer: 18, surely", "18", True),
        ('{"answer": "3/4"}', "0.75", True),
        ('{"answer": "-3"}', "3", False),
        ('{"answer": null}', "18", False),
        ("The result is \\boxed{18}.", "18", True),
        ("I do not know.", "18", False),
    ],
)
def test_zeroeval_grades_mathematics_by_the_first_number(
    tmp_path: Path, output: str, reference: str, right: bool
) -> None:
    path = tmp_path / "Meta-Llama-3.1-8B.json"
    data = read("zeroeval", write_json(path, [zero_entry("gsm", 0, output, answer=reference)]))
    assert data.responses["score"].to_pylist() == [float(right)]


def test_zeroeval_reads_boxed_answers_of_one_family_only(tmp_path: Path) -> None:
    path = write_json(tmp_path / "other.json", [zero_entry("gsm", 0, "\\boxed{18}", answer="18")])
    assert read("zeroeval", path).responses["score"].to_pylist() == [0.0]


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ('{"answer": "ab c"}', "'ab c'", True),
        ('{"answer": "[1, 2]"}', "[1, 2]", True),
        ('{"answer": [1, 2]}', "[1, 2]", True),
        ('{"answer": "3.5"}', "3.5", True),
        ('{"answer": "True"}', "True", True),
        ('{"answer": null}', "None", True),
        ('{"answer": "ab"}', "'abc'", False),
    ],
)
def test_zeroeval_grades_crux_by_the_literal(tmp_path: Path, output: str, reference: str, right: bool) -> None:
    path = write_json(tmp_path / "m.json", [zero_entry("crux", 0, output, answer=reference)])
    assert read("zeroeval", path).responses["score"].to_pylist() == [float(right)]


def test_zeroeval(tmp_path: Path) -> None:
    root = tmp_path / "result_dirs"
    good, bad = '{"answer": "4"}', '{"answer": "5"}'
    write_json(root / "gsm/a.json", [zero_entry("gsm", 0, good, answer="# 4"), zero_entry("gsm", 1, bad, answer="# 4")])
    write_json(root / "gsm/b.json", [zero_entry("gsm", 0, bad, answer="# 4")])
    choice = {"choices": ["red", "blue"], "correct_answer": "blue"}
    write_json(
        root / "mmlu-redux/a.json", [zero_entry("mmlu-redux", 7, '{"answer": "A"} so {"answer": "B"}', **choice)]
    )
    write_json(root / "gsm.summary.json", [{"Model": "a", "Acc": "50.00", "Total": 2}, {"Model": "b", "Acc": "0.00"}])
    write_json(root / "mmlu-redux.summary.json", [{"Model": "a", "Acc": "100.00"}])
    data = read("zeroeval", root)
    assert rows(data.responses) == [
        ("gsm/gsm-#0", "a", 1.0),
        ("gsm/gsm-#0", "b", 0.0),
        ("gsm/gsm-#1", "a", 0.0),
        ("mmlu-redux/mmlu-redux-#7", "a", 1.0),
    ]
    assert rows(data.queries, "query", "prompt", "kind", "reference")[2] == (
        "mmlu-redux/mmlu-redux-#7",
        "mmlu-redux 7?\nA) red\nB) blue",
        "mmlu-redux",
        "blue",
    )
    assert data.stated == {"a": pytest.approx(2 / 3), "b": 0.0}
    assert read("zeroeval", root / "gsm").stated == {"a": 0.5, "b": 0.0}
    assert set(data.files) == {"gsm/a.json", "gsm/b.json", "mmlu-redux/a.json"}
    path = write_json(root / "zebra.json", [zero_entry("zebra-grid", 0, "{}")])
    with pytest.raises(
        ImportDataError, match=r"zebra.json, entry 1, field 'dataset': 'zebra-grid'; expected one that can"
    ):
        read("zeroeval", path)


# -- MINT --------------------------------------------------------------------------------------
def mint_line(task: Any, said: list[str], success: bool, **changes: Any) -> dict[str, Any]:
    history = [{"role": "user", "content": "Task:"}]
    for message in said:
        history += [
            {"role": "assistant", "content": "<execute>"},
            {"role": "user", "content": f"Observation:\n{message}"},
        ]
    history.append({"role": "assistant", "content": "<solution>"})
    state = {
        "history": history,
        "finished": True,
        "success": success,
        "token_counter": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        "terminate_reason": "task_success" if success else "max_steps",
        "error": None,
    }
    return {
        "state": state | changes,
        "task": {"task_name": "reasoning", "task_id": task, "prompt": f"{task}?", "reference": "6", "metadata": {}},
    }


def test_mint(tmp_path: Path) -> None:
    where = "max5_p2+tool+cd/reasoning/gsm8k/results.jsonl"
    lines = [
        mint_line(0, ["42\nYou have 4 steps left.", "Your answer is wrong.\nYou have"], True),
        mint_line(1, ["Traceback\nTypeError: no", "I don't understand your input. \nIf"], False),
        mint_line(1, [], True),
    ]
    write_lines(tmp_path / "small/F=None" / where, lines)
    free = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    write_lines(tmp_path / "large/F=None" / where, [mint_line(0, [], True, token_counter=free)])
    advised = "Your answer is wrong.\n\nExpert feedback:\nTypeError: is what I would expect"
    write_lines(
        tmp_path / "small/F=large/PHF=no_GT-textual" / where, [mint_line(0, [advised], False, error="too long")]
    )
    write_lines(tmp_path / "small/F=None/max2_p2+tool+cd/reasoning/gsm8k/results.jsonl", [mint_line(0, [], False)])
    data = read("mint", tmp_path)
    assert data.whole_runs
    assert rows(data.responses.select(["query", "arm", "score"])) == [
        ("gsm8k/0", "large", 1.0),
        ("gsm8k/0", "small", 1.0),
        ("gsm8k/1", "small", 0.0),
    ]
    assert column(data.responses, "arm", "prompt_tokens") == {"large": None, "small": 100}
    assert data.turns is not None
    assert rows(data.turns, "query", "arm", "turn", "feedback") == [
        ("gsm8k/0", "large", 0, "success"),
        ("gsm8k/0", "small", 0, "output"),
        ("gsm8k/0", "small", 1, "wrong"),
        ("gsm8k/0", "small", 2, "success"),
        ("gsm8k/1", "small", 0, "error"),
        ("gsm8k/1", "small", 1, "invalid"),
        ("gsm8k/1", "small", 2, "end"),
    ]
    assert rows(data.queries) == [("gsm8k/0", "0?", "gsm8k", "6"), ("gsm8k/1", "1?", "gsm8k", "6")]
    assert data.verdict
    assert dict(data.dropped) == {"of a task that occurs again": 1}

    everything = read("mint", tmp_path, max_steps=None, feedback=True)
    assert set(everything.responses["arm"].to_pylist()) == {
        "large@k5",
        "small@k5",
        "small@k2",
        "small@k5+large (no_GT-textual)",
    }
    assert everything.turns is not None
    told = everything.turns.filter(pa.compute.equal(everything.turns["arm"], "small@k5+large (no_GT-textual)"))
    assert told["feedback"].to_pylist() == ["wrong", "end"]  # what the environment said, not the adviser
    assert "1 runs ended with an error" in everything.notes[-1]
    single = read("mint", tmp_path / "large/F=None" / where)
    assert single.responses["arm"].to_pylist() == ["large"]


def test_mint_errors(tmp_path: Path) -> None:
    where = tmp_path / "small/F=None/max5_p2+tool+cd/reasoning/gsm8k/results.jsonl"
    write_lines(where, [mint_line(0, [], True)])
    with pytest.raises(ImportDataError, match="none of 1 files is of max_steps = 3"):
        read("mint", tmp_path, max_steps=3)
    with pytest.raises(ConfigError, match="max_steps = 0"):
        read("mint", tmp_path, max_steps=0)
    with pytest.raises(ImportDataError, match="the path does not tell the run; expected AGENT/F=FEEDBACK"):
        read("mint", write_lines(tmp_path / "other/results.jsonl", [mint_line(0, [], True)]))
    write(where, where.read_text() + "{]\n")
    with pytest.raises(ImportDataError, match=r"results.jsonl, line 2: not valid JSON"):
        read("mint", tmp_path / "small")


# -- InterCode ---------------------------------------------------------------------------------
def intercode_entry(task: int, rewards: list[float], valid: list[bool], **facts: Any) -> dict[str, Any]:
    return {
        "environment": "ic_sql",
        "dataset": "./data/spider/dev_spider.json",
        "task_id": task,
        "query": f"{task}?",
        "turn_history": {
            "actions": ["SELECT"] * len(rewards),
            "observations": ["[]"] * len(valid),
            "rewards": rewards,
            "valid_action": valid,
        },
        "summary": {"max_reward": max(rewards), "max_reward_idx": 0, "turns_taken": len(rewards), "turns_max": 10},
    } | facts


def test_intercode(tmp_path: Path) -> None:
    runs = {
        "0": intercode_entry(0, [0.0, 0.5, 1.0], [False, True, True], hardness="easy"),
        "1": intercode_entry(1, [0.9, 0], [True], hardness="hard"),
    }
    write_json(tmp_path / "gpt-3.5/ic_sql_multiturn_gpt-3.5_10_turns.json", runs)
    write_json(tmp_path / "gpt-3.5/ic_sql_multiturn_gpt-3.5_10_turns_handicap.json", {"0": runs["0"]})
    write_json(tmp_path / "gpt-3.5/ic_sql_multiturn_gpt-3.5-1_turns.json", {"0": intercode_entry(0, [1], [True])})
    write_json(tmp_path / "gpt-3.5/ic_sql_react_10_turns.json", {"0": {"other": 1}})
    bash = intercode_entry(0, [0.7], [True], environment="ic_bash", dataset="./nl2bash/nl2bash_fs_1.json")
    write_json(tmp_path / "gpt-4/ic_bash_multiturn_gpt-4_10_turns_fs_1.json", {"0": bash})
    data = read("intercode", tmp_path)
    assert data.whole_runs
    assert rows(data.responses) == [
        ("bash/nl2bash_fs_1/0", "gpt-4", 0.0),
        ("sql/dev_spider/0", "gpt-3.5", 1.0),
        ("sql/dev_spider/0", "gpt-3.5+handicap", 1.0),
        ("sql/dev_spider/1", "gpt-3.5", 0.0),
    ]
    assert data.turns is not None
    mine = data.turns.filter(pa.compute.equal(data.turns["arm"], "gpt-3.5"))
    assert rows(mine, "query", "turn", "feedback", "reward") == [
        ("sql/dev_spider/0", 0, "invalid", 0.0),
        ("sql/dev_spider/0", 1, "output", 0.5),
        ("sql/dev_spider/0", 2, "solved", 1.0),
        ("sql/dev_spider/1", 0, "output", 0.9),
        ("sql/dev_spider/1", 1, "blocked", 0.0),
    ]
    assert column(data.queries, "query", "kind") == {
        "bash/nl2bash_fs_1/0": "bash",
        "sql/dev_spider/0": "easy",
        "sql/dev_spider/1": "hard",
    }
    assert data.verdict
    assert set(read("intercode", tmp_path, max_turns=None).responses["arm"].to_pylist()) == {
        "gpt-3.5@10",
        "gpt-3.5@10+handicap",
        "gpt-3.5@1",
        "gpt-4@10",
    }


def test_intercode_errors(tmp_path: Path) -> None:
    path = tmp_path / "ic_sql_multiturn_m_10_turns.json"
    broken = intercode_entry(0, [0.0, 1.0], [True, True])
    broken["turn_history"]["actions"] = ["SELECT"]
    with pytest.raises(
        ImportDataError, match=r"field '0.turn_history.rewards': \[0.0, 1.0\]; expected one for every action"
    ):
        read("intercode", write_json(path, {"0": broken}))
    with pytest.raises(ImportDataError, match="no run is of max_turns = 3"):
        read("intercode", path, max_turns=3)
    with pytest.raises(ImportDataError, match=r"expected a name such as ic_sql_multiturn_MODEL_10_turns.json"):
        read("intercode", write_json(tmp_path / "run.json", {}))


# -- BFCL --------------------------------------------------------------------------------------
def bfcl_folder(root: Path) -> Path:
    def answers(ids: Iterable[str], **facts: Any) -> list[dict[str, Any]]:
        return [
            {"id": id, "result": "[f()]", "input_token_count": 70, "output_token_count": 5, "latency": 0.5} | facts
            for id in ids
        ]

    def question(id: str, *turns: list[str]) -> dict[str, Any]:
        return {
            "id": id,
            "question": [[{"role": "user", "content": text} for text in turn] for turn in turns],
            "function": [],
        }

    score, result, data = root / "score", root / "result", root / "bfcl_eval/data"
    failed = {"id": "multiple_1", "model_name": "a", "valid": False}
    header = {"accuracy": 2 / 3, "correct_count": 2, "total_count": 3}
    write_lines(score / "a/non_live/BFCL_v4_multiple_score.json", [header, failed])
    write_lines(result / "a/non_live/BFCL_v4_multiple_result.json", answers(f"multiple_{n}" for n in range(3)))
    write_lines(data / "BFCL_v4_multiple.json", [question(f"multiple_{n}", [f"{n}?"]) for n in range(3)])
    write_lines(
        score / "a/multi_turn/BFCL_v4_multi_turn_base_score.json",
        [{"accuracy": 1.0, "correct_count": 1, "total_count": 1}],
    )
    nested = {"input_token_count": [[10, 20], [30]], "output_token_count": [[1], [2]], "latency": [[0.25], [0.5]]}
    write_lines(result / "a/multi_turn/BFCL_v4_multi_turn_base_result.json", answers(["multi_turn_base_0"], **nested))
    write_lines(data / "BFCL_v4_multi_turn_base.json", [question("multi_turn_base_0", ["first"], [], ["then", "more"])])
    write_lines(
        score / "a/agentic/BFCL_v4_web_search_base_score.json", [{"accuracy": 0, "correct_count": 0, "total_count": 4}]
    )
    return root


def test_bfcl(tmp_path: Path) -> None:
    data = read("bfcl", bfcl_folder(tmp_path))
    assert rows(data.responses, "query", "arm", "score", "prompt_tokens", "completion_tokens", "latency_s") == [
        ("multi_turn_base_0", "a", 1.0, 60, 3, 0.75),
        ("multiple_0", "a", 1.0, 70, 5, 0.5),
        ("multiple_1", "a", 0.0, 70, 5, 0.5),
        ("multiple_2", "a", 1.0, 70, 5, 0.5),
    ]
    assert rows(data.queries)[:2] == [
        ("multi_turn_base_0", "first\n\nthen\n\nmore", "multi_turn_base"),
        ("multiple_0", "0?", "multiple"),
    ]
    assert data.stated == {"a": 0.75}
    assert dict(data.dropped) == {"of web_search_base, whose questions are not there": 4}
    assert len(data.files) == 4
    assert data.whole_runs  # one category of several turns is enough


def test_bfcl_of_single_turns_is_of_single_calls(tmp_path: Path) -> None:
    bfcl_folder(tmp_path)
    for path in tmp_path.rglob("*multi_turn*.json"):
        path.unlink()
    data = replace(read("bfcl", tmp_path), prices={"a": (2.0, 30.0)})
    assert not data.whole_runs
    assert (to_recording(data, text="none").recording.graph.edges["charge_usd"] == 0).all()
    whole = replace(read("bfcl", bfcl_folder(tmp_path)), prices={"a": (2.0, 30.0)})
    edges = to_recording(whole, text="none").recording.graph.edges
    assert sorted(edges["charge_usd"].tolist()) == pytest.approx([60 * 2e-6 + 3 * 30e-6, *[70 * 2e-6 + 5 * 30e-6] * 3])


def test_bfcl_errors(tmp_path: Path) -> None:
    bfcl_folder(tmp_path)
    path = tmp_path / "score/a/non_live/BFCL_v4_multiple_score.json"
    whole = path.read_text()
    write(path, whole.replace("multiple_1", "multiple_9"))
    with pytest.raises(ImportDataError, match="they are not of one run; grade it again or leave both out"):
        read("bfcl", tmp_path)
    write(path, whole.replace('"total_count": 3', '"total_count": "3"'))
    with pytest.raises(
        ImportDataError, match=r"multiple_score.json, line 1, field 'total_count': '3'; expected a number"
    ):
        read("bfcl", tmp_path)
    write(path, whole)
    results = tmp_path / "result/a/non_live/BFCL_v4_multiple_result.json"
    for count in ("1e999", "1e10", "[[0.5]]"):
        bfcl_folder(tmp_path)
        write(results, results.read_text().replace('"input_token_count": 70', f'"input_token_count": {count}', 1))
        with pytest.raises(ImportDataError, match=r"multiple_result.json, line 1, .*(not valid|whole numbers)"):
            read("bfcl", tmp_path)
    with pytest.raises(ImportDataError, match="there is no such folder; name the one that holds score and result"):
        read("bfcl", tmp_path / "score")


# -- SWE-bench ---------------------------------------------------------------------------------
def test_swebench(tmp_path: Path) -> None:
    for name, resolved in (("20250726_mini_a", (True, False)), ("20250802_mini_b", (True, None))):
        details = {
            "django__django-1": {"resolved": resolved[0], "cost": 0.5, "api_calls": 30},
            "sympy__sympy-22": {"resolved": resolved[1], "cost": None, "api_calls": 2},
        }
        write_json(tmp_path / name / "per_instance_details.json", details)
    write(tmp_path / "20250726_mini_a/metadata.yaml", "info:\n  name: Mini + A\n  resolved: 50.0\n  date: 2025-07-26\n")
    data = read("swebench", tmp_path)
    assert data.whole_runs
    assert rows(data.responses.select(["query", "arm", "score"])) == [
        ("django__django-1", "20250726_mini_a", 1.0),
        ("django__django-1", "20250802_mini_b", 1.0),
        ("sympy__sympy-22", "20250726_mini_a", 0.0),
    ]
    assert data.responses["cost_usd"].to_pylist() == [0.5, None, 0.5]
    assert rows(data.queries) == [
        ("django__django-1", "django__django-1", "django/django"),
        ("sympy__sympy-22", "sympy__sympy-22", "sympy/sympy"),
    ]
    assert data.stated == {"20250726_mini_a": 0.5}
    assert dict(data.dropped) == {"that were not graded": 1}
    issues = [{"instance_id": "django__django-1", "problem_statement": "It fails."}]
    issues.append({"instance_id": "sympy__sympy-22", "problem_statement": "It is wrong."})
    path = write_csv(tmp_path / "issues.csv", issues)
    asked = read("swebench", tmp_path, issues=str(path))
    assert column(asked.queries, "query", "prompt") == {
        "django__django-1": "It fails.",
        "sympy__sympy-22": "It is wrong.",
    }
    assert asked.files["issues.csv"] == file_sha256(path)
    write_csv(path, issues[:1])
    with pytest.raises(ImportDataError, match=r"field 'sympy__sympy-22': .* expected one of the 1 instances of"):
        read("swebench", tmp_path, issues=path)
    write_json(tmp_path / "20250726_mini_a/per_instance_details.json", {"x-1": {"resolved": "yes", "cost": 1}})
    with pytest.raises(
        ImportDataError, match=r"details.json, field 'x-1.resolved': 'yes'; expected true, false or null"
    ):
        read("swebench", tmp_path)


# -- terminal-bench ----------------------------------------------------------------------------
def terminal_trial(task: str, resolved: Any, tokens: Any = 0) -> dict[str, Any]:
    return {
        "id": "...",
        "trial_name": f"{task}.1-of-1.x",
        "task_id": task,
        "instruction": f"{task}!",
        "is_resolved": resolved,
        "failure_mode": "unset",
        "parser_results": None,
        "total_input_tokens": tokens,
        "total_output_tokens": tokens,
        "agent_started_at": "2025-08-10T05:27:22.500000+00:00",
        "agent_ended_at": "2025-08-10T05:27:32.000000+00:00" if resolved is not None else None,
    }


def test_terminalbench(tmp_path: Path) -> None:
    def run(name: str, *trials: dict[str, Any]) -> None:
        accuracy = sum(bool(trial["is_resolved"]) for trial in trials) / len(trials)
        path = tmp_path / name / "results.json"
        write_json(path, {"id": "...", "results": list(trials), "n_resolved": 0, "accuracy": accuracy})
        write_json(path.parent / "t/t.1-of-1/results.json", trials[0])  # those of single trials are not read again

    run("20250811_agent_m/run1", terminal_trial("fix-git", True), terminal_trial("oom", False))
    run("20250811_agent_m/run2", terminal_trial("fix-git", False))
    run("20250901_agent_n/run1", terminal_trial("fix-git", True, 900), terminal_trial("oom", None, None))
    data = read("terminalbench", tmp_path)
    assert data.whole_runs
    assert rows(data.responses.select(["query", "arm", "trial", "score", "latency_s"])) == [
        ("fix-git", "20250811_agent_m", 0, 1.0, 9.5),
        ("fix-git", "20250811_agent_m", 1, 0.0, 9.5),
        ("fix-git", "20250901_agent_n", 0, 1.0, 9.5),
        ("oom", "20250811_agent_m", 0, 0.0, 9.5),
    ]
    assert data.responses["prompt_tokens"].to_pylist() == [None, None, None, 900]
    assert rows(data.queries) == [("fix-git", "fix-git!"), ("oom", "oom!")]
    assert data.stated == {"20250811_agent_m": pytest.approx(1 / 3)}  # the other's counts what was not graded as failed
    assert dict(data.dropped) == {"that were not graded": 1}
    assert len(read("terminalbench", tmp_path / "20250901_agent_n/run1").responses) == 1
    with pytest.raises(ImportDataError, match=r"no results.json in this folder or below it"):
        read("terminalbench", tmp_path / "20250811_agent_m/run1/t/t.1-of-1/none")


def test_terminalbench_times_and_runs_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "m/run1/results.json"
    mixed = terminal_trial("fix-git", True) | {"agent_started_at": "2025-08-10T05:27:22"}
    write_json(path, {"results": [mixed], "accuracy": 1.0})
    with pytest.raises(ImportDataError, match=r"field '.*agent_ended_at': .*; expected a time with a zone"):
        read("terminalbench", tmp_path)
    write_json(path, {"results": [terminal_trial("fix-git", True)], "accuracy": 1.0})
    write_json(tmp_path / "n/run1/results.json", {"results": [], "accuracy": 0.0})  # nothing was run
    assert read("terminalbench", tmp_path).stated == {"m": 1.0}


# -- all formats -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_it_takes_and_where_its_schema_was_seen(name: str) -> None:
    module = import_module(FORMATS[name].partition(":")[0])
    if ".formats." in FORMATS[name]:
        text = " ".join((module.__doc__ or "").split())
        assert "Schema seen in " in text
        assert "Taken: " in text
        assert "Not in the " in text


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("table", "steps")])
def test_every_format_says_what_is_wrong_with_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportDataError, match="nowhere"):
        read(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_function(name: str) -> None:
    imported = getattr(routegym.graph, f"import_{name}")
    assert imported.__name__ == f"import_{name}"
    with pytest.raises(ImportDataError, match="nowhere"):
        imported(Path("nowhere"))


def test_a_format_that_is_not_known() -> None:
    with pytest.raises(AttributeError, match="no attribute 'import_excel'"):
        _ = routegym.graph.import_excel
    with pytest.raises(ImportDataError, match="format = 'routerbnch'; did you mean 'routerbench'"):
        read_data("routerbnch", Path("nowhere"))


def test_formats_become_recordings(tmp_path: Path) -> None:
    table = [dict(row, large=1.0) for row in routerbench_rows()]
    single = import_data("routerbench", write_csv(tmp_path / "routerbench.csv", table), text="none")
    assert [arm.name for arm in single.recording.arms] == ["small", "large"]
    assert single.recording.tasks.ids == ("arc.0", "mmlu.0")
    lines = [llmrouter_line("t", n, arm) for n in range(3) for arm in ("a", "b")]
    prices = write_json(tmp_path / "llm.json", {arm: {"input_price": 1, "output_price": 2} for arm in "ab"})
    path = write_lines(tmp_path / "routing.jsonl", lines)
    cascade = import_data("llmrouter", path, prices=prices, kind="cascade", text="none")
    cost = cascade.recording.graph.edges["cost_usd"]
    assert cost[cost > 0].tolist() == pytest.approx([14e-6] * int((cost > 0).sum()))


def test_agents_are_watched_turn_by_turn(tmp_path: Path) -> None:
    entries = {str(n): intercode_entry(n, [0.0, 0.5, float(n)], [False, True, True]) for n in range(2)}
    for arm in ("small", "large"):
        write_json(tmp_path / f"runs/ic_sql_multiturn_{arm}_10_turns.json", entries)
    calls = write_csv(
        tmp_path / "calls.csv",
        [{"arm": "small", "usd_per_call": 0.001}, {"arm": "large", "usd_per_call": 0.01}],
    )
    imported = import_data("intercode", tmp_path / "runs", prices=calls, kind="attempts", text="none")
    recording = imported.recording
    assert recording.kind == "attempts"
    assert [arm.name for arm in recording.arms] == ["small", "large"]
    assert {f"feedback_{said}" for said in ("invalid", "output", "solved")} < set(recording.node_signal_names)
    cost = recording.graph.edges["cost_usd"]
    assert sorted(set(np.round(cost[cost > 0], 9).tolist())) == [0.001, 0.01]
