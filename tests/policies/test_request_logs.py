"""Requests that somebody's router served become episodes from which other policies are estimated."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routegym.errors import BudgetError, ConfigError, ImportDataError
from routegym.evaluation.off_policy import LoggedRows, ips, snips
from routegym.graph.imports.convert import to_recording
from routegym.graph.imports.data import RoutingData
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem, algorithm_class
from routegym.policies.logs import ENDED, EpisodeLog, relabel
from routegym.policies.request_logs import import_requests

ARMS = ("m0/direct", "m1/direct", "m2/direct")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return helpers.build("single_call", 20)


@pytest.fixture
def problem(recording: Recording) -> Problem:
    return Problem(recording, budget_usd=0.01)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def request(recording: Recording, task: int, **values: Any) -> dict[str, Any]:
    row = {"query": recording.tasks.ids[task], "arm": ARMS[1], "score": 1, "propensity": 0.5, "cost_usd": 2e-4}
    return {name: value for name, value in (row | values).items() if value is not None}


def test_a_request_is_an_episode_of_one_row(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    rows = [
        request(recording, 7, score=0.25),
        request(recording, 3, arm=ARMS[0], candidates=[ARMS[0], ARMS[2]], cost_usd=1e-5),
        request(recording, 7, query=None, prompt=recording.tasks.prompts[7], arm=ARMS[2], score=0, propensity=1.0),
    ]
    log = import_requests(write(tmp_path / "log.jsonl", rows), problem, lambda_=0.1)
    assert log.task.tolist() == [7, 3, 7]
    assert log.action.tolist() == [1, 0, 2]
    assert log.score.tolist() == [0.25, 1.0, 0.0]
    assert log.propensity.tolist() == [0.5, 0.5, 1.0]
    assert log.cost_usd.tolist() == [2e-4, 1e-5, 2e-4]
    assert log.legal.tolist() == [[True] * 3, [True, False, True], [True] * 3]
    assert log.outcome.tolist() == [ENDED] * 3
    assert log.episode.tolist() == [0, 1, 2]
    assert np.isinf(log.budget_usd).all()
    assert log.lambda_.tolist() == [0.1] * 3
    log.check_fits(problem)

    env = problem.env(2, autoreset_mode="Disabled", split="all")
    shown, _ = env.reset(seed=1, options={"task_id": [7, 3], "budget_usd": np.inf, "lambda": 0.1})
    expected = shown[[0, 1, 0]]
    expected[1, log.columns.index(f"affordable/{ARMS[1]}")] = 0.0
    np.testing.assert_array_equal(log.observation, expected)

    graph = recording.graph
    reserve = graph.node_reserve[graph.task_start[[7, 3, 7]]]
    reserve = np.maximum(reserve, [1e-5, 2e-4, 2e-4])  # of each arm the largest logged cost, or its worst case
    reserve[1, 1] = np.nan
    np.testing.assert_array_equal(log.reserve_usd, reserve)
    np.testing.assert_allclose(
        log.reward(), log.score - 0.1 * log.cost_usd / recording.cost_scale_usd, rtol=1e-12, atol=1e-12
    )


def test_tokens_are_charged_at_the_recordings_prices(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    rows = [request(recording, 0, cost_usd=None, prompt_tokens=100, completion_tokens=30)]
    log = import_requests(write(tmp_path / "log.jsonl", rows), problem)
    assert log.cost_usd[0] == pytest.approx((100 * 10 + 30 * 40) / 1e6)
    both = [request(recording, 0, cost_usd=0.5, prompt_tokens=100, completion_tokens=30)]
    assert import_requests(write(tmp_path / "log.jsonl", both), problem).cost_usd.tolist() == [0.5]


def test_a_policy_is_estimated_from_a_log_of_another(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    """Every outcome of two arms, each as often as it was likely to be logged: the estimate is the mean itself."""
    score = np.random.default_rng(0).integers(0, 2, (20, 2)).astype(float)
    chance = (0.25, 0.75)
    rows = [
        request(recording, task, arm=ARMS[arm], score=score[task, arm], propensity=chance[arm], cost_usd=1e-5)
        for task in range(20)
        for arm, times in enumerate((1, 3))
        for _ in range(times)
    ]
    log = import_requests(write(tmp_path / "log.jsonl", rows), problem)
    first = LoggedRows(log.reward(), log.propensity, target=log.action == 0, group=log.task)
    assert ips(first).estimate == pytest.approx(score[:, 0].mean())
    assert snips(first).estimate == pytest.approx(score[:, 0].mean())
    mixed = LoggedRows(log.reward(), log.propensity, target=np.full(len(log), 0.5))
    assert ips(mixed).estimate == pytest.approx(score.mean())


def test_forms_of_gateways(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    prompt = recording.tasks.prompts[4]
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    usage, dollars = {"prompt_tokens": 10, "completion_tokens": 2}, 10 * 1e-5 + 2 * 4e-5
    openai = {
        "id": "batch_req_1", "custom_id": recording.tasks.ids[4], "error": None, "score": 1, "propensity": 0.5,
        "response": {"status_code": 200, "body": {"model": "small-2026-01-01", "usage": usage}},
    }  # fmt: skip
    litellm = {
        "id": "1", "model": "small-2026-01-01", "messages": said, "response_cost": dollars, "score": 1, **usage,
        "metadata": {"requester_metadata": {"propensity": 0.5}},
    }  # fmt: skip
    weave = {
        "id": "1", "inputs": {"model": "small-2026-01-01", "messages": said}, "attributes": {"propensity": 0.5},
        "summary": {
            "score": 1,
            "usage": {"small.1": {"prompt_tokens": 4, "completion_tokens": 2}, "tiny": {"prompt_tokens": 6}},
        },
    }  # fmt: skip
    plain = import_requests(write(tmp_path / "plain.jsonl", [request(recording, 4, cost_usd=dollars)]), problem)
    elsewhere = {"propensity": "metadata.requester_metadata.propensity"}
    for form, row, columns in (("openai", openai, {}), ("litellm", litellm, elsewhere), ("weave", weave, {})):
        path = write(tmp_path / f"{form}.jsonl", [row])
        log = import_requests(path, problem, form=form, columns=columns, arms={"small-2026-01-01": ARMS[1]})
        equal(log, plain)


def test_tables_and_compressed_lines_hold_the_same(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    rows = [
        {**request(recording, task, arm=ARMS[task % 2], propensity=0.25), "candidates": "|".join(ARMS[:2])}
        for task in range(6)
    ]
    lines = write(tmp_path / "log.jsonl", [row | {"candidates": list(ARMS[:2])} for row in rows])
    squeezed = tmp_path / "log.jsonl.gz"
    squeezed.write_bytes(gzip.compress(lines.read_bytes()))
    with (tmp_path / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = pa.Table.from_pylist(rows).rename_columns({"arm": "model"})
    pq.write_table(table, tmp_path / "log.parquet")
    expected = import_requests(lines, problem)
    assert expected.legal.tolist() == [[True, True, False]] * 6
    equal(import_requests(squeezed, problem), expected)
    equal(import_requests(tmp_path / "log.csv", problem), expected)
    equal(import_requests(tmp_path / "log.parquet", problem, columns={"arm": "model"}), expected)


def test_a_log_over_a_closed_recording_can_be_shown_under_budgets(tmp_path: Path) -> None:
    """Its recording knows one arm per query and charges calls, not tokens; the log says what else could be chosen."""
    data = RoutingData(
        name="closed",
        responses=pa.table(
            {"query": ["q0", "q1"], "arm": ["cheap", "dear"], "score": [0.0, 1.0], "cost_usd": [0.001, 0.02]}
        ),
        queries=pa.table({"query": ["q0", "q1"], "prompt": ["zero", "one"], "split": ["train", "train"]}),
    )
    recording = to_recording(data, missing="mask", text="none").recording
    problem = Problem(recording)
    rows = [
        {"prompt": "zero", "arm": "cheap", "score": 0, "propensity": 0.5, "cost_usd": 0.001},
        {"prompt": "one", "arm": "dear", "score": 1, "propensity": 0.5, "cost_usd": 0.03},
    ]
    log = import_requests(write(tmp_path / "log.jsonl", rows), problem)
    assert log.legal.all()
    assert log.reserve_usd.tolist() == [[0.001, 0.03], [0.001, 0.03]]
    short = relabel(log, 0.01)
    assert short.action.tolist() == [0, -1]
    assert short.legal.tolist() == [[True, False], [True, False]]

    tokens = {"prompt": "zero", "arm": "cheap", "score": 0, "propensity": 1, "prompt_tokens": 9, "completion_tokens": 9}
    with pytest.raises(ImportDataError, match=r"line 1: has no cost, and the recording does not charge arm 'cheap' by"):
        import_requests(write(tmp_path / "log.jsonl", [tokens]), problem)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"propensity": 0}, r"line 2, field 'propensity': 0\.0; expected the probability"),
        ({"propensity": 1.5}, r"line 2, field 'propensity': 1\.5; expected a number from 0 to 1"),
        ({"propensity": None}, r"line 2, field 'propensity': .*expected a number"),
        ({"score": "good"}, r"line 2, field 'score': 'good'; expected a number"),
        ({"score": -1}, r"line 2, field 'score': -1; expected a number from 0 to 1"),
        ({"arm": "m1/dirct"}, r"line 2, field 'arm': 'm1/dirct' is no arm of the recording; did you mean 'm1/direct'"),
        ({"arm": None}, r"line 2, field 'arm': .*expected a text"),
        ({"query": "elsewhere"}, r"line 2, field 'query': 'elsewhere' is not in recording 'single_call'; import the"),
        ({"query": None}, r"line 2: has no 'query' or 'prompt'; name the field"),
        ({"query": None, "prompt": [{"role": "system", "content": "x"}]}, r"field 'prompt': .*message of role 'user'"),
        ({"query": None, "prompt": "Who?"}, r"line 2, field 'prompt': 'Who\?' is not in recording"),
        ({"cost_usd": None}, r"line 2: has neither a cost nor tokens; name the field"),
        ({"cost_usd": None, "prompt_tokens": 3}, r"line 2: has neither a cost nor tokens; name the field"),
        ({"cost_usd": -0.1}, r"line 2, field 'cost_usd': -0\.1; expected a number from 0"),
        ({"candidates": [ARMS[0]]}, r"line 2, field 'candidates': has not the arm that was chosen, 'm1/direct'"),
        ({"candidates": [1, 2]}, r"line 2, field 'candidates': \[1, 2\]; expected names of arms"),
        ({"candidates": ["m9"]}, r"line 2, field 'candidates': 'm9' is no arm of the recording"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(
    tmp_path: Path, recording: Recording, problem: Problem, values: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "log.jsonl", [request(recording, 0), request(recording, 1, **values)])
    with pytest.raises(ImportDataError, match=message):
        import_requests(path, problem)


def test_bad_arguments_are_named(tmp_path: Path, recording: Recording, problem: Problem) -> None:
    path = write(tmp_path / "log.jsonl", [request(recording, 0)])
    with pytest.raises(ConfigError, match="form = 'langfuse'; expected one of flat, openai, litellm, weave"):
        import_requests(path, problem, form="langfuse")
    with pytest.raises(ConfigError, match="columns names 'model'; expected some of query, prompt, arm"):
        import_requests(path, problem, columns={"model": "arm"})
    with pytest.raises(ConfigError, match="is of kind 'cascade'; expected 'single_call'"):
        import_requests(path, Problem(helpers.build("cascade", 10)))
    with pytest.raises(BudgetError, match="lambda"):
        import_requests(path, problem, lambda_=-1.0)
    with pytest.raises(ImportDataError, match="there is no such file"):
        import_requests(tmp_path / "other.jsonl", problem)
    blank = tmp_path / "blank.jsonl"
    blank.write_text("\n\n", encoding="utf-8")
    with pytest.raises(ImportDataError, match="holds no requests"):
        import_requests(blank, problem)
    table = tmp_path / "log.csv"
    table.write_text("query,arm,score,propensity,cost_usd\nq,m1/direct,1,0,1\n", encoding="utf-8")
    with pytest.raises(ImportDataError, match=r"log\.csv, row 1, field 'query': 'q' is not in recording"):
        import_requests(table, problem)


def test_the_page_on_imports_shows_it(
    tmp_path: Path, recording: Recording, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text(encoding="utf-8")
    code = page.partition("## Logs of a router in service")[2].partition("```python\n")[2].partition("```")[0]
    rows = [request(recording, task, arm=ARMS[task % 2], cost_usd=0, score=task % 2) for task in range(10)]
    write(tmp_path / "requests.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    policy = algorithm_class("always")(arm=ARMS[1]).fit(Problem(recording))
    exec(code, {"recording": recording, "policy": policy})
    assert capsys.readouterr().out.startswith("Interval(estimate=1.0,")


def equal(one: EpisodeLog, other: EpisodeLog) -> None:
    for name in ("observation", "action", "propensity", "legal", "task", "score"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("reserve_usd", "cost_usd"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, err_msg=name)
