"""The server speaks the OpenAI protocol, keeps budgets to the cent, and logs what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from helpers import build, workflow_of
from prometheus_client.parser import text_string_to_metric_families
from router_service import Backend, Ladder, pool_of, served, service_of

from routegym.errors import (
    BudgetError,
    CallRefusedError,
    ConfigError,
    ImportDataError,
    PromptTooLongError,
    RateLimitError,
    RunError,
    StoreError,
)
from routegym.evaluation.off_policy import LoggedRows, ips
from routegym.policies.route_logs import read_routes
from routegym.serving import Router
from routegym.serving.route_log import RouteLog
from routegym.serving.router import rules_of
from routegym.serving.service import Ask, Service

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

#: USD of a call of the first and of the second arm: 10 prompt tokens and all that may be generated.
CHEAP, MIDDLE = (10 * 1 + 4 * 4 * 1) / 1e6, (10 * 10 + 5 * 4 * 10) / 1e6


def ask(url: str, prompt: str = "58+7", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "routegym", "messages": [{"role": "user", "content": prompt}], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def test_the_openai_client_is_answered(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["routegym"]
    messages: Any = [{"role": "user", "content": "58+7"}]
    whole = client.chat.completions.create(model="routegym", messages=messages)
    assert whole.choices[0].message.content == "m1/direct says 58+7"
    assert whole.model == "m1/direct"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (20, 9)
    events = list(
        client.chat.completions.create(
            model="routegym", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == "m1/direct says 58+7"
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage == whole.usage


def test_what_was_done_and_charged_is_told(url: str) -> None:
    answer = ask(url)
    assert answer.headers["x-routegym-calls"] == "m0/direct,m1/direct"
    assert float(answer.headers["x-routegym-cost-usd"]) == pytest.approx(CHEAP + MIDDLE)
    told = answer.json()["routegym"]
    assert told["calls"] == ["m0/direct", "m1/direct"]
    assert told["outcome"] == "done"
    assert answer.json()["id"] == answer.headers["x-routegym-route"]


def test_the_conversation_reaches_the_arms_and_is_paid_for(service: Service, url: str) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "58"}, {"type": "text", "text": "+7"}]},
    ]
    answer = ask(url, messages=messages)
    backend: Any = service.pool.backend
    assert backend.asked[0].history == (("system", "be brief"), ("user", "1+1"), ("assistant", "2"))
    assert backend.asked[0].prompt == "58+7"
    assert float(answer.headers["x-routegym-cost-usd"]) == pytest.approx(CHEAP + MIDDLE + 30 * 11 / 1e6)


@pytest.mark.parametrize("budget", [CHEAP, CHEAP + 0.9 * MIDDLE, CHEAP + MIDDLE + 1e-12])
def test_a_request_never_costs_more_than_its_budget(url: str, budget: float) -> None:
    answer = ask(url, headers={"X-Routegym-Budget-USD": f"{budget:.15g}"})
    assert answer.status_code == 200
    cost = float(answer.headers["x-routegym-cost-usd"])
    assert cost <= budget
    assert cost == pytest.approx(CHEAP + MIDDLE if budget > CHEAP + MIDDLE else CHEAP)


def test_a_budget_that_pays_for_nothing_is_told(url: str) -> None:
    answer = ask(url, headers={"X-Routegym-Budget-USD": str(CHEAP / 2)})
    assert answer.status_code == 402
    assert answer.json()["error"]["type"] == "insufficient_budget"
    assert "cheapest arm; give at least" in answer.json()["error"]["message"]


@pytest.mark.parametrize("threads", [1, 64])
def test_a_conversation_spends_its_budget_and_no_more(tmp_path: Path, threads: int) -> None:
    """R-06: each request holds what it may cost; 50 fit, 200 ask at once."""
    with service_of(tmp_path, Ladder(1)) as service, served(service) as url:
        headers = {
            "X-Routegym-Budget-USD": f"{CHEAP:.15g}",
            "X-Routegym-Conversation": "c",
            "X-Routegym-Conversation-Budget-USD": f"{50 * CHEAP + CHEAP / 2:.15g}",
        }
        with ThreadPoolExecutor(threads) as pool, httpx.Client() as client:
            body = {"model": "routegym", "messages": [{"role": "user", "content": "58+7"}]}

            def one(_: int) -> httpx.Response:
                return client.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)

            answers = list(pool.map(one, range(200 if threads > 1 else 60)))
        paid = [answer for answer in answers if answer.status_code == 200]
        assert len(paid) == 50  # none was refused that could be paid
        assert {answer.status_code for answer in answers} == {200, 402}
        assert sum(float(answer.headers["x-routegym-cost-usd"]) for answer in paid) == pytest.approx(50 * CHEAP)
        assert len(service.pool.backend.asked) == 50  # type: ignore[attr-defined]
        # another conversation has a budget of its own
        assert ask(url, headers=headers | {"X-Routegym-Conversation": "d"}).status_code == 200


def test_what_a_conversation_has_spent_survives_a_restart(tmp_path: Path) -> None:
    budget = 2.5 * (CHEAP + MIDDLE)
    calls = []
    for _ in range(2):
        with service_of(tmp_path) as service:
            calls += [
                service.answer(Ask("58+7", conversation="c", conversation_budget_usd=budget)).calls for _ in range(2)
            ]
    assert calls == [("m0/direct", "m1/direct")] * 2 + [("m0/direct",)] * 2  # what is left pays for small calls
    with service_of(tmp_path) as service, pytest.raises(BudgetError, match=r"conversation has spent|cheapest arm"):
        service.answer(Ask("58+7", conversation="c", conversation_budget_usd=2 * (CHEAP + MIDDLE)))


def test_a_call_that_fails_is_told_or_what_there_is_is_handed_in(service: Service, url: str) -> None:
    backend: Any = service.pool.backend
    backend.broken = {"m1/direct"}
    answer = ask(url)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "m0/direct says 58+7"
    assert answer.json()["routegym"]["outcome"] == "degraded"
    assert answer.json()["routegym"]["calls"] == ["m0/direct", "m1/direct"]
    assert float(answer.headers["x-routegym-cost-usd"]) == pytest.approx(CHEAP + 100 / 1e6)
    backend.broken = {"m0/direct"}
    answer = ask(url)
    assert answer.status_code == 502
    assert "it broke" in answer.json()["error"]["message"]
    answer = ask(url, stream=True)
    assert answer.status_code == 502


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"model": "gpt-4"}, 404, "expected 'routegym'"),
        ({"messages": []}, 400, "messages is missing"),
        ({"messages": "hello"}, 400, "messages is missing"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0]: role = 'robot'"),
        ({"messages": ["x"]}, 400, "messages[0]: role = None"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "expected 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content is no text"),
        ({"messages": [{"role": "user"}]}, 400, "content is no text"),
        ({"n": 2}, 400, "n = 2; expected 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported"),
        ({"stream": "no"}, 400, "expected true or false"),
        ({"stream_options": "x", "stream": True}, 400, "expected an object"),
    ],
)
def test_bad_requests_are_told_apart(url: str, fields: dict[str, Any], status: int, told: str) -> None:
    answer = ask(url, **fields)
    assert answer.status_code == status
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({"X-Routegym-Budget-USD": "much"}, 400, "expected a finite number > 0"),
        ({"X-Routegym-Budget-USD": "nan"}, 400, "expected a finite number > 0"),
        ({"X-Routegym-Budget-USD": "0"}, 400, "expected a finite number > 0"),
        ({"X-Routegym-Lambda": "-1"}, 400, "expected a finite number >= 0"),
        ({"X-Routegym-Conversation": "x" * 500}, 400, "500 characters"),
        ({"X-Routegym-Conversation-Budget-USD": "1"}, 400, "none is named"),
    ],
)
def test_bad_headers_are_told_apart(url: str, headers: dict[str, str], status: int, told: str) -> None:
    answer = ask(url, headers=headers)
    assert (answer.status_code, told in answer.json()["error"]["message"]) == (status, True)


def test_half_a_surrogate_pair_is_refused_before_anything_is_paid(service: Service, url: str) -> None:
    body = b'{"model": "routegym", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = httpx.post(f"{url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]
    assert not service.pool.backend.asked  # type: ignore[attr-defined]


def test_what_says_nothing_of_the_answer_is_taken(url: str) -> None:
    harmless = {"response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none", "tools": []}
    assert ask(url, **harmless, temperature=0.3, max_tokens=5, n=1, stream=None).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RateLimitError("slow down"), 429),
        (PromptTooLongError("too long"), 400),
        (CallRefusedError("no"), 400),
        (StoreError("the disk is full"), 500),
        (ZeroDivisionError("oh"), 500),
    ],
)
def test_errors_of_calls_have_their_statuses(
    service: Service, url: str, error: Exception, status: int, stream: bool
) -> None:
    def fail(requests: Any, on_result: Any = None) -> Any:
        raise error

    service.pool.backend.generate = fail  # type: ignore[method-assign]
    answer = ask(url, stream=stream)
    assert answer.status_code == status
    assert answer.json()["error"]["type"]


def test_a_call_of_which_nobody_knows_the_end_is_charged_at_its_worst(tmp_path: Path) -> None:
    """The answer came and could not be kept: it was paid for."""
    with service_of(tmp_path) as service:

        def fail(requests: Any, on_result: Any = None) -> Any:
            raise StoreError("the disk is full")

        service.pool.backend.generate = fail  # type: ignore[method-assign]
        wanted = Ask("58+7", conversation="c", conversation_budget_usd=2.5 * CHEAP)
        for _ in range(2):
            with pytest.raises(StoreError):
                service.answer(wanted)
        with pytest.raises(BudgetError, match="cheapest arm"):
            service.answer(wanted)
        assert service.log is not None
        lines = [json.loads(line) for line in service.log.path.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["failed", "failed"]
    assert sum(line["cost_usd"] for line in lines) == pytest.approx(2 * CHEAP)


def test_a_log_that_cannot_be_written_loses_no_answer(service: Service, url: str) -> None:
    assert service.log is not None
    service.log.close()
    assert ask(url).status_code == 200
    assert "routegym_log_errors_total 1.0" in httpx.get(f"{url}/metrics").text


def test_a_conversation_leaves_room_for_others(tmp_path: Path) -> None:
    """Its requests wait for each other, not in the places of everybody's."""
    with service_of(tmp_path) as service, served(service, concurrency=2) as url, ThreadPoolExecutor(8) as threads:
        gate = service.pool.backend.gate  # type: ignore[attr-defined]
        gate.clear()
        headers = {"X-Routegym-Conversation": "c", "X-Routegym-Conversation-Budget-USD": "1"}
        waiting = [threads.submit(ask, url, "1+1", headers) for _ in range(6)]
        while httpx.get(f"{url}/metrics").text.count("routegym_requests_in_flight 1.0") == 0:
            time.sleep(0.01)
        other = threads.submit(ask, url, "2+2")
        while httpx.get(f"{url}/metrics").text.count("routegym_requests_in_flight 2.0") == 0:
            time.sleep(0.01)
        gate.set()
        assert other.result().status_code == 200
        assert {answer.result().status_code for answer in waiting} == {200}


def test_what_was_paid_for_a_client_that_left_is_written_down(tmp_path: Path) -> None:
    with service_of(tmp_path) as service:
        gate = service.pool.backend.gate  # type: ignore[attr-defined]
        gate.clear()
        with served(service) as url:
            body = {"model": "routegym", "stream": True, "messages": [{"role": "user", "content": "58+7"}]}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=1)
            threading.Timer(1.0, gate.set).start()
        assert service.log is not None
        assert json.loads(service.log.path.read_text())["cost_usd"] == pytest.approx(CHEAP + MIDDLE)


def test_two_servers_do_not_write_one_log(service: Service) -> None:
    assert service.log is not None
    with pytest.raises(RunError, match="another server writes it"):
        RouteLog(service.log.path)


def test_what_is_no_json_or_too_much_is_refused(url: str) -> None:
    for content, status in ((b"{", 400), (b"[]", 400), (b"[" * 100_000, 400), (b"x" * (9 * 2**20), 413)):
        assert httpx.post(f"{url}/v1/chat/completions", content=content).status_code == status


def test_a_key_is_asked_for(service: Service) -> None:
    with served(service, api_key="secret-canary") as url:
        assert ask(url).status_code == 401
        assert ask(url, headers={"Authorization": "Bearer other"}).status_code == 401
        assert ask(url, headers={"Authorization": "Bearer secret-canary"}).status_code == 200
        assert httpx.post(f"{url}/v1/routes/x/score", json={"score": 1}).status_code == 401
    assert service.log is not None
    assert "secret-canary" not in service.log.path.read_text()


def test_prometheus_reads_the_metrics(service: Service, url: str) -> None:
    ask(url)
    ask(url, headers={"X-Routegym-Budget-USD": str(CHEAP / 2)})
    families = {f.name: f for f in text_string_to_metric_families(httpx.get(f"{url}/metrics").text)}

    def value(name: str, sample: str = "_total", **labels: str) -> float:
        return next(s.value for s in families[name].samples if s.name == name + sample and s.labels == labels)

    assert value("routegym_requests", outcome="done") == 1
    assert value("routegym_requests", outcome="budget") == 1
    assert value("routegym_calls", arm="m1/direct", result="answered") == 1
    assert value("routegym_cost_usd", arm="m0/direct") == pytest.approx(CHEAP)
    assert value("routegym_tokens", arm="m0/direct", kind="completion") == 4
    assert value("routegym_decision_seconds", "_count") == 3
    assert value("routegym_requests_in_flight", "") == 0
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_its_log_estimates_other_policies(tmp_path: Path) -> None:
    """Routes come back as episodes: what a policy that always asks the last arm is worth, from explored routes."""
    with service_of(tmp_path, Ladder(1), explore=0.6) as service, served(service) as url:
        for number in range(300):
            answer = ask(url, f"{number % 90 + 10}+7", headers={"X-Routegym-Budget-USD": "0.01"})
            name, calls = answer.headers["x-routegym-route"], answer.headers["x-routegym-calls"].split(",")
            if number % 10:
                score = {"score": float(calls[-1] == "m2/direct")}
                assert httpx.post(f"{url}/v1/routes/{name}/score", json=score).status_code == 200
        assert httpx.post(f"{url}/v1/routes/{name}/score", json={"score": 2}).status_code == 400
        assert httpx.post(f"{url}/v1/routes/{'x' * 32}/score", json={"score": 1}).status_code == 200
        assert service.log is not None
        path = service.log.path
    source = build("cascade", 12)
    read = read_routes(path, replace(source, tasks=source.tasks.with_embedding("hashing", dims=3)))
    log = read.log
    assert (len(log), read.unscored, read.failed, read.unknown) == (270, 30, 0, 1)
    assert log.need_usd.max() <= 0.01
    assert len(np.unique(log.task)) == 81  # of the prompts 10+7 to 99+7 those that were scored
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    scored = {line["id"] for line in lines if "score" in line}
    spent = [line["cost_usd"] for line in lines if "decisions" in line and line["id"] in scored]
    assert log.total_cost_usd.sum() == pytest.approx(sum(spent))
    assert "+7" not in path.read_text()  # no prompt is kept
    target = log.action == np.where(log.position == 0, 2, 3)
    found = ips(LoggedRows(log.reward(), log.propensity, target.astype(float), log.episode))
    assert found.low < 1.0 < found.high
    assert found.low > 0.2


def test_a_log_that_is_not_one_is_told(tmp_path: Path, service: Service) -> None:
    source = build("cascade", 12)
    path = tmp_path / "log.jsonl"
    for text, told in (
        ("", "of 0 routes none has a score"),
        ('{"id": "a"}\n', "line 1, field format: None"),
        ("x\n", "line 1: not valid JSON"),
        ("[]\n", "line 1: '[]"),
        ('{"id": "a", "score": 7}\n', "line 1, field score: 7"),
        ('{"score": 1}\n', "line 1, field id: None"),
    ):
        path.write_text(text)
        with pytest.raises(ImportDataError) as raised:
            read_routes(path, source)
        assert told in str(raised.value)
    with pytest.raises(ImportDataError, match="cannot be read"):
        read_routes(tmp_path / "none.jsonl", source)
    served_one = service.answer(Ask("58+7"))
    assert service.log is not None
    service.log.score(served_one.id, 1.0)
    with pytest.raises(ImportDataError, match="line 1, field fingerprint"):  # the router's prompts are embedded
        read_routes(service.log.path, source)
    ours = replace(source, tasks=source.tasks.with_embedding("hashing", dims=3))
    whole = [json.loads(line) for line in service.log.path.read_text().splitlines()]
    assert len(read_routes(service.log.path, ours).log) == 1
    first = whole[0]["decisions"][0]
    for changes in (
        {"budget_usd": "a"},
        {"budget_usd": -1},
        {"lambda": None},
        {"decisions": 3},
        {"decisions": [first | {"propensity": 2}]},
        {"decisions": [first | {"propensity": None}]},
        {"decisions": [first | {"action": "nobody"}]},
        {"decisions": [first | {"legal": ["accept"]}]},
        {"decisions": [first | {"observation": ["a"] * len(first["observation"])}]},
        {"decisions": [first | {"cost_usd": -1}]},
        {"decisions": [first | {"reserve_usd": [1.0]}]},
    ):
        path.write_text("".join(json.dumps(line | changes if "format" in line else line) + "\n" for line in whole))
        with pytest.raises(ImportDataError, match="line 1: "):
            read_routes(path, ours)


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "routes.jsonl"
    for before, after in ((b"", b""), (b'{"a": 1}\n{"b"', b'{"a": 1}\n'), (b"x" * 200_000, b""), (b"{}\n", b"{}\n")):
        path.write_bytes(before)
        with RouteLog(path) as log:
            log.score("r", 0.5)
        kept = path.read_bytes()
        assert kept.startswith(after)
        assert json.loads(kept[len(after) :])["score"] == 0.5


def test_only_policies_that_answer_questions_are_served(tmp_path: Path) -> None:
    for kind, told in (("agent_steps", "for agent_steps"), ("attempts", "says when a task is solved")):
        recording, pool = build(kind, 12), pool_of(Backend())
        router = Router(recording, Ladder(), workflow_of(kind, pool), pool=pool)
        with pytest.raises(ConfigError, match=told):
            Service(router, pool, tmp_path)
    assert rules_of(build("single_call", 12)).kind == "single_call"


def test_the_command_serves_and_lets_requests_end(tmp_path: Path) -> None:
    """A run that was trained is served with the embedded pool; SIGTERM while a request is under way loses nothing."""
    run, port_file = tmp_path / "run", tmp_path / "out"
    command = [sys.executable, "-m", "routegym"]
    train = ["train", "--env", "routegym/Cascade-v0", "--algo", "all_action", "--set", "updates=2", "--seeds", "1"]
    environment = os.environ | {"ROUTER_KEY": "canary-key", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *train, "--no-evaluate", "--out", run], check=True, capture_output=True, env=environment)
    with port_file.open("wb") as out:
        serve = ["serve", run, "--port", "0", "--budget-usd", "0.01", "--api-key-env", "ROUTER_KEY"]
        process = subprocess.Popen([*command, *serve], stderr=out, stdout=out, env=environment)
        try:
            deadline = time.monotonic() + 120
            while "answers on" not in (said := port_file.read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            url = said.split("answers on ")[1].split("/v1")[0]
            with ThreadPoolExecutor(8) as pool:
                key = {"Authorization": "Bearer canary-key"}
                answers = [pool.submit(ask, url, f"{n}*7", key) for n in range(10, 40)]
                assert answers[0].result().status_code == 200
                process.send_signal(signal.SIGTERM)
                found = []
                for answer in answers:
                    try:
                        found.append(answer.result().status_code)
                    except httpx.TransportError:  # came after the server had stopped listening
                        found.append(0)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    lines = (run / "routes.jsonl").read_text().splitlines()
    assert len(lines) == found.count(200)
    assert set(found) <= {200, 0}
    assert "canary-key" not in port_file.read_text()


def test_wrong_arguments_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from routegym.cli.main import main

    for arguments, told in (
        (["--concurrency", "0"], "concurrency = 0"),
        (["--port", "70000"], "port = 70000"),
        (["--api-key-env", "NOT_SET_ANYWHERE"], "the variable is not set"),
        ([], "no such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", str(tmp_path / "run"), *arguments])
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
