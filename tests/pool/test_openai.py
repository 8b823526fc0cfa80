from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import engine_contract as contract
import pytest
from engine_contract import Subject, completions, failure_of
from fault_server import FaultServer, answer, serving

from routegym.errors import CallRefusedError, CallTimeoutError, PoolError, PromptTooLongError
from routegym.pool.backend import Completion, Failure
from routegym.pool.openai import OpenAIEngine

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "::1"])


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture
def subject(server: FaultServer) -> Iterator[Subject]:
    yield from subject_at(server.url())


def subject_at(url: str, api: str = "chat", **settings: Any) -> Iterator[Subject]:
    engine = OpenAIEngine(url, **settings)
    yield Subject(engine, "openai", "tiny", fields={"api": api}, too_long="long " * 1000, per_sample_prompt=False)
    engine.close()


@pytest.fixture(params=["chat", "completions"])
def either(request: pytest.FixtureRequest, server: FaultServer) -> Iterator[Subject]:
    yield from subject_at(server.url(), request.param)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, either: Subject) -> None:
    check(either)


def test_a_chat_is_sent_as_it_is(server: FaultServer, subject: Subject) -> None:
    call = subject.call(
        "x",
        messages=(("system", "Be brief."), ("user", "1+1=é?")),
        max_tokens=7,
        temperature=0.5,
        n=2,
        seed=11,
        stop=("\n", "Q:"),
        options={"top_p": 0.9, "chat_template_kwargs": {"enable_thinking": False}},
    )
    completions(subject, [call])
    assert server.bodies["ok"] == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1=é?"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "n": 2,
            "seed": 11,
            "stop": ["\n", "Q:"],
            "logprobs": True,
            "top_p": 0.9,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert server.headers["ok"]["accept-encoding"] == "identity"
    assert "authorization" not in server.headers["ok"]


def test_a_reasoning_effort_moves_the_limit(server: FaultServer, subject: Subject) -> None:
    completions(subject, [subject.call("x", reasoning_effort="low", options={"logprobs": None, "seed": None})])
    [body] = server.bodies["ok"]
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": 12,
        "temperature": 0.0,
        "n": 1,
        "reasoning_effort": "low",
    }


def test_a_completion_is_sent_as_it_is(server: FaultServer) -> None:
    for subject in subject_at(server.url(), "completions", api_key="sk-0123456789"):
        completions(subject, [subject.call("1+1=")])
    assert server.bodies["ok"] == [
        {"model": "tiny", "prompt": "1+1=", "max_tokens": 12, "temperature": 0.0, "n": 1, "seed": 0, "logprobs": 1}
    ]
    assert server.headers["ok"]["authorization"] == "Bearer sk-0123456789"


def test_the_answer_is_read_sample_by_sample(server: FaultServer, either: Subject) -> None:
    [result] = completions(either, [either.call("1+1=", n=3, temperature=1.0, seed=5)])
    chat = either.fields["api"] == "chat"
    [body] = server.bodies["ok"]
    said = answer("/v1/chat/completions" if chat else "/v1/completions", body)
    for index, choice in enumerate(said["choices"]):
        assert result.texts[index] == (choice["message"]["content"] if chat else choice["text"])
        values = choice["logprobs"]
        values = [token["logprob"] for token in values["content"]] if chat else values["token_logprobs"]
        assert result.logprobs[index] == pytest.approx(sum(values) / len(values))
        assert result.finish_reasons[index] == choice["finish_reason"]
    assert result.tokens == (said["usage"]["prompt_tokens"], 0, said["usage"]["completion_tokens"], 0)


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("refusal", {"texts": ("",)}),
        ("tool-call", {"texts": ("",), "finish_reasons": ("tool_calls",)}),
        ("only-reasoning", {"texts": ("",), "finish_reasons": ("length",)}),
        ("filtered", {"texts": ("",), "finish_reasons": ("content_filter",)}),
        ("no-logprobs", {"logprobs": (0.0,)}),
        ("half-a-pair", {"texts": ("a\ufffd",)}),
        ("details", {"tokens": (5, 4, 4, 2)}),
    ],
)
def test_answers_that_are_odd_and_right(server: FaultServer, behaviour: str, expected: dict[str, Any]) -> None:
    for subject in subject_at(server.url(behaviour)):
        [result] = completions(subject, [subject.call("1+1=")])
        assert {name: getattr(result, name) for name in expected} == expected


def test_prompt_tokens_are_bounded_by_bytes(subject: Subject) -> None:
    engine = subject.engine
    for text in ("", "plain", "naïve", "日本語", "🦊", "\u0958" * 10, "ﷺ" * 5, "\ud800"):
        chat, plain = subject.call(text), subject.call(text, api="completions")
        size = len(text.encode("utf-8", "surrogatepass"))
        assert engine.count_prompt_tokens([chat])[0] >= size + 64
        assert engine.count_prompt_tokens([plain])[0] >= size + 1
    # Normal forms may be longer than the text: each of these becomes two characters of three bytes.
    assert engine.count_prompt_tokens([subject.call("\u0958" * 10, api="completions")])[0] >= 60
    one, many = subject.call("x"), subject.call("x", n=5)
    assert engine.count_prompt_tokens([one]) == engine.count_prompt_tokens([many])
    tools = subject.call("x", options={"tools": [{"name": "t" * 1000}]})
    assert engine.count_prompt_tokens([tools])[0] >= 1000


def test_prompts_are_counted_by_the_server_where_wanted(server: FaultServer) -> None:
    for subject in subject_at(server.url(), tokenize=True, context_tokens={"tiny": 20}):
        calls = [subject.call("one two three"), subject.call("one"), subject.call("one two three", seed=4)]
        assert subject.engine.count_prompt_tokens(calls[:2]) == [6, 4]
        assert subject.engine.count_prompt_tokens(calls) == [6, 4, 6]
        assert [body.get("add_generation_prompt") for body in server.bodies["ok"]] == [True, True]
        assert all(isinstance(result, Completion) for result in subject.run(calls))
        assert server.requests["ok"] == 5
        failure = failure_of(subject, subject.call("1 2 3 4 5 6"))
        assert isinstance(failure.error, PromptTooLongError)
        assert "9 prompt tokens and up to 12 of the answer do not fit the 20" in str(failure.error)
        assert failure.attempts == ()
        assert server.requests["ok"] == 6
        completions(subject, [subject.call("1 2 3 4 5")])


def test_a_server_that_cannot_count_is_asked_once(server: FaultServer) -> None:
    for subject in subject_at(server.url("tokenless"), tokenize=True):
        calls = [subject.call(str(index)) for index in range(5)]
        subject.run(calls[:1])
        bounds = subject.engine.count_prompt_tokens(calls)
        assert server.requests["tokenless"] == 2
    for subject in subject_at(server.url("ok")):
        assert bounds == subject.engine.count_prompt_tokens(calls)


def test_a_model_that_the_server_does_not_know_leaves_the_others_counted(server: FaultServer) -> None:
    for subject in subject_at(server.url("tokenless-other"), tokenize=True):
        known = subject.call("one two three")
        unknown = replace(known, model="other")
        assert subject.engine.count_prompt_tokens([unknown])[0] > 100
        assert subject.engine.count_prompt_tokens([known]) == [6]


def test_counting_is_part_of_the_deadline(server: FaultServer) -> None:
    for subject in subject_at(server.url("silent"), tokenize=True, timeout_s=1.0, attempts=1):
        began = time.monotonic()
        failure = failure_of(subject, subject.call("one"))
        assert time.monotonic() - began < 1.1
        assert isinstance(failure.error, CallTimeoutError)


def test_a_server_that_is_down_is_not_asked_to_count(server: FaultServer) -> None:
    for subject in subject_at(server.url("503"), tokenize=True, attempts=1, cooldown_s=60.0):
        subject.run([subject.call(str(index)) for index in range(5)])
        before = server.requests["503"]
        assert len(set(subject.engine.count_prompt_tokens([subject.call(str(n), max_tokens=9) for n in range(9)]))) == 1
        assert server.requests["503"] == before


def test_calls_run_at_once_and_not_more_than_allowed(server: FaultServer) -> None:
    for subject in subject_at(server.url("wait"), concurrency=5):
        threads = [threading.Thread(target=subject.run, args=(subject.calls(20),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.requests["wait"] == 40
        assert server.busiest == 5
        assert server.connections <= 10


def test_connections_are_used_again(server: FaultServer, subject: Subject) -> None:
    for _ in range(5):
        subject.run(subject.calls(1))
    assert server.connections == 1


@pytest.mark.parametrize(
    "settings", [{"requests_per_minute": 600}, {"tokens_per_minute": 600 * (12 + 4 / 4)}], ids=["requests", "tokens"]
)
def test_limits_per_minute_are_kept(server: FaultServer, settings: dict[str, Any]) -> None:
    # Ten calls a second, and one second's share at once.
    for subject in subject_at(server.url(), concurrency=30, **settings):
        started = time.monotonic()
        completions(subject, [subject.call("1+1=")] * 20)
        assert 0.9 < time.monotonic() - started < 3


def test_a_limit_below_one_call_only_takes_time(server: FaultServer) -> None:
    for subject in subject_at(server.url(), tokens_per_minute=1200):
        started = time.monotonic()
        completions(subject, [subject.call("1+1=", max_tokens=29)])
        assert 0.4 < time.monotonic() - started < 2


def test_the_end_of_an_engine(server: FaultServer) -> None:
    before = threading.active_count()
    engine = OpenAIEngine(server.url())
    assert threading.active_count() == before
    subject = Subject(engine, "openai", "tiny", fields={})
    subject.run(subject.calls(2))
    assert threading.active_count() == before + 1
    engine.close()
    engine.close()
    assert threading.active_count() == before
    with pytest.raises(PoolError, match="is closed; make a new engine"):
        subject.run(subject.calls(1))


def test_closing_ends_a_batch_of_another_thread(server: FaultServer) -> None:
    engine = OpenAIEngine(server.url("silent"))
    subject = Subject(engine, "openai", "tiny", fields={})
    caught: list[BaseException] = []

    def work() -> None:
        try:
            subject.run(subject.calls(3))
        except PoolError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while server.requests["silent"] < 3:
        time.sleep(0.01)
    engine.close()
    thread.join(5)
    assert "closed while it was in use" in str(caught[0])


def test_ctrl_c_gives_up_what_is_under_way_and_keeps_what_has_come(server: FaultServer) -> None:
    engine = OpenAIEngine(server.url("flaky3-silent"), concurrency=4)
    subject = Subject(engine, "openai", "tiny", fields={})
    got: list[int] = []

    def interrupt() -> None:
        while server.requests["flaky3-silent"] < 13:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def on_result(index: int, result: Completion | Failure) -> None:
        got.append(index)
        if len(got) == 1:
            threading.Thread(target=interrupt).start()
            # The others wait in the queue when the interrupt comes.
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        engine.complete(subject.calls(13), on_result)
    assert len(got) >= 10
    assert [index for index in set(got) if got.count(index) > 1] == [got[0]]  # the one that was interrupted
    before = server.requests["flaky3-silent"]
    time.sleep(0.1)
    assert server.requests["flaky3-silent"] == before
    completions(subject, subject.calls(5))
    engine.close()


def test_a_forked_process_has_its_own(server: FaultServer, subject: Subject) -> None:
    subject.run(subject.calls(2))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(20)
            code = 0 if all(isinstance(result, Completion) for result in subject.run(subject.calls(2))) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    completions(subject, subject.calls(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, "concurrency = 0; expected at least 1"),
        ({"attempts": 0}, "attempts = 0; expected at least 1"),
        ({"timeout_s": 0}, "timeout_s = 0; expected a number > 0"),
        ({"timeout_s": math.inf}, "timeout_s = inf"),
        ({"requests_per_minute": -1}, "requests_per_minute = -1"),
        ({"tokens_per_minute": math.nan}, "tokens_per_minute = nan"),
        ({"cooldown_s": -1}, "cooldown_s = -1"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        OpenAIEngine("http://127.0.0.1:8000/v1", **settings)


def test_what_cannot_be_sent_fails_without_an_attempt(server: FaultServer, subject: Subject) -> None:
    for call, message in [
        (subject.call("\ud800"), "cannot be encoded"),
        (subject.call("x", options={"max_tokens": 9}), "options must not hold max_tokens"),
        (subject.call("x", options={"stream": True, "n": 2}), "options must not hold n, stream"),
        (subject.call("x", options={"x": math.nan}), "cannot be encoded"),
        (subject.call("x", options={"x": object()}), "cannot be encoded"),
    ]:
        failure = failure_of(subject, call)
        assert isinstance(failure.error, CallRefusedError)
        assert message in str(failure.error)
        assert failure.attempts == ()
    with pytest.raises(PoolError, match=r"adapter 'poet'.*served_as"):
        subject.run([*subject.calls(1), subject.call("x", adapter="poet")])
    assert server.requests["ok"] == 0


def test_a_call_of_ten_megabytes(server: FaultServer) -> None:
    for subject in subject_at(server.url("wait"), timeout_s=30):
        [result] = completions(subject, [subject.call("x" * 10**7)])
        assert result.tokens[0] == 4
    assert len(json.dumps(server.bodies["wait"][0])) > 10**7
