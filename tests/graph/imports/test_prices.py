"""Price lists beside data that state no costs: of tokens, or of calls."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from routegym.errors import ImportDataError
from routegym.evaluation.import_report import import_report
from routegym.graph.imports.data import RoutingData
from routegym.graph.imports.reading import COLUMNS, read_table
from routegym.graph.imports.registry import import_data, read_data
from routegym.graph.imports.tables import with_prices


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def routellm(folder: Path) -> Path:
    return write(folder / "gsm8k_responses.csv", "prompt,weak,strong\none?,True,True\ntwo?,False,True\n")


def test_a_price_per_call_makes_a_recording_of_bare_results(tmp_path: Path) -> None:
    prices = write(tmp_path / "calls.csv", "arm,usd_per_call\nstrong,0.01\nweak,0.0005\n")
    source = routellm(tmp_path)
    with pytest.raises(ImportDataError, match="no row has tokens and a price of its arm"):
        import_data("routellm", source, text="none")
    imported = import_data("routellm", source, prices=prices, text="none")
    recording = imported.recording
    assert [arm.name for arm in recording.arms] == ["weak", "strong"]
    reserve = recording.graph.node_reserve[recording.graph.task_start]
    assert reserve.tolist() == [[0.0005, 0.01]] * 2
    assert imported.data.notes == (
        "the source states neither tokens nor costs",
        "costs are a flat price for every call, not what anybody paid",
    )
    assert set(imported.data.files) == {"gsm8k_responses.csv", "calls.csv"}


def test_each_turn_is_a_call(tmp_path: Path) -> None:
    turns = {"query": ["q", "q", "q", "q", "r"], "arm": ["a", "a", "a", "b", "a"], "turn": [0, 1, 0, 0, 0]}
    data = RoutingData(
        name="agents",
        responses=pa.table(
            {"query": ["q", "q", "q", "r", "r"], "arm": ["a", "b", "a", "a", "c"], "score": [1.0] * 5,
             "trial": pa.array([0, None, 1, None, None], pa.int64())}
        ),
        queries=pa.table({"query": ["q", "r"], "prompt": ["Q", "R"]}),
        turns=pa.table({**turns, "feedback": ["x"] * 5, "trial": [0, 0, 1, 0, 0]}),
    )  # fmt: skip
    prices = write(tmp_path / "calls.jsonl", '{"arm": "a", "usd_per_call": 1}\n{"arm": "b", "usd_per_call": 0.25}\n')
    priced = with_prices(data, prices)
    assert priced.responses["cost_usd"].to_pylist() == [2.0, 0.25, 1.0, 1.0, None]
    assert priced.responses.drop_columns("cost_usd").equals(data.responses)


def test_a_price_of_tokens_serves_every_format(tmp_path: Path) -> None:
    trial = {
        "task_id": "hello", "instruction": "Greet.", "is_resolved": True, "failure_mode": "unset",
        "total_input_tokens": 1000, "total_output_tokens": 10, "agent_started_at": None, "agent_ended_at": None,
    }  # fmt: skip
    run = tmp_path / "agent" / "run"
    run.mkdir(parents=True)
    write(run / "results.json", json.dumps({"results": [trial], "accuracy": 1.0}))
    prices = write(tmp_path / "tokens.csv", "arm,usd_in_per_m,usd_out_per_m\nagent,3,15\n")
    data = read_data("terminalbench", tmp_path / "agent", prices=prices)
    assert data.prices == {"agent": (3.0, 15.0)}
    recording = import_data("terminalbench", tmp_path / "agent", prices=prices, text="none").recording
    assert recording.graph.edges["cost_usd"].tolist() == pytest.approx([1000 * 3e-6 + 10 * 15e-6])


def test_prices_that_cannot_be(tmp_path: Path) -> None:
    source = routellm(tmp_path)
    twice = write(tmp_path / "twice.csv", "arm,usd_per_call\nweak,1\nweak,2\n")
    with pytest.raises(ImportDataError, match=r"twice.csv, line 3, field 'arm': 'weak'; expected one price"):
        read_data("routellm", source, prices=twice)
    other = write(tmp_path / "other.csv", "arm,price\nweak,1\n")
    with pytest.raises(ImportDataError, match=r"other.csv, line 1: no column 'usd_in_per_m'; it has arm, price"):
        read_data("routellm", source, prices=other)
    empty = write(tmp_path / "empty.csv", "arm,usd_per_call\nweak,1\nstrong,\n")
    with pytest.raises(ImportDataError, match=r"empty.csv, line 3, field 'usd_per_call': .*expected a number"):
        read_data("routellm", source, prices=empty)
    both = write(tmp_path / "both.csv", "arm,usd_in_per_m,usd_out_per_m,usd_per_call\nweak,1,2,3\n")
    with pytest.raises(ImportDataError, match=r"both.csv: has prices of tokens and of calls; leave one"):
        read_data("routellm", source, prices=both)
    outcomes = write(tmp_path / "outcomes.csv", "query,arm,score,cost_usd\nq,weak,1,0.5\n")
    calls = write(tmp_path / "calls.csv", "arm,usd_per_call\nweak,1\n")
    with pytest.raises(ImportDataError, match=r"calls.csv: prices of calls, but outcomes states costs; leave"):
        read_data("table", outcomes, prices=calls)
    with pytest.raises(ImportDataError, match="format 'routellm' takes no queries; it takes prices"):
        read_data("routellm", source, queries=source)


@pytest.mark.parametrize(
    "prices", ["arm,usd_in_per_m,usd_out_per_m\n{},3,15\n{},1,1\n", "arm,usd_per_call\n{},0.01\n{},0.1\n"]
)
def test_prices_of_other_arms(prices: str, tmp_path: Path) -> None:
    rows = "".join(f"q{query},{arm},1,100,{10 + query}\n" for query in range(3) for arm in ("weak", "strong"))
    path = write(tmp_path / "rows.csv", f"query,arm,score,prompt_tokens,completion_tokens\n{rows}")
    none = write(tmp_path / "none.csv", prices.format("Weak", "STRONG"))
    message = "none.csv: prices of STRONG, Weak, and the arms of rows are strong, weak; give them the same names"
    with pytest.raises(ImportDataError, match=message):
        import_data("table", path, prices=none, text="none")
    one = write(tmp_path / "one.csv", prices.format("weak", "Strong"))
    report = import_report(import_data("table", path, prices=one, text="none"))
    said = "strong is not in the recording: the price list lacks it, and has Strong, which no row has"
    assert said in report.warnings
    assert [arm.name for arm in report.arms] == ["weak"]


def test_numbers_of_json_may_be_ids_or_too_large(tmp_path: Path) -> None:
    path = write(tmp_path / "ids.jsonl", '{"query": 7, "score": 1}\n{"query": 12, "score": 0}\n')
    columns = {name: COLUMNS[name] for name in ("query", "score")}
    table = read_table(path, columns)
    assert table["query"].to_pylist() == ["7", "12"]
    assert table["score"].to_pylist() == [1.0, 0.0]
    for digits in (19, 400):
        large = write(tmp_path / "large.jsonl", f'{{"query": "q", "score": {10**digits}}}\n')
        with pytest.raises(ImportDataError, match=r"large.jsonl, line 1, field 'score': .*expected a number from 0 to"):
            read_table(large, columns)
