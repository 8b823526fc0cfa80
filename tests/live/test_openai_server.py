"""The openai engine against a real vLLM server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import engine_contract as contract
import pytest
from engine_contract import Subject, completions, failure_of

from routegym.errors import CallRefusedError, CallTimeoutError, PoolError, PromptTooLongError
from routegym.pool.openai import OpenAIEngine

PROMPTS = (
    "Count: 1, 2, 3,",
    "The capital of France is",
    "Once upon a time there was a",
    "Red, green and",
    "The opposite of hot is",
)
#: More tokens than any context that a small server has.
TOO_LONG = "word " * 5000


@pytest.fixture(scope="module")
def engine(url: str, model: str) -> Iterator[OpenAIEngine]:
    engine = OpenAIEngine(url, concurrency=32, timeout_s=600.0, attempts=2, tokenize=True)
    yield engine
    engine.close()


@pytest.fixture(params=["chat", "completions"])
def subject(request: pytest.FixtureRequest, engine: OpenAIEngine, model: str) -> Subject:
    return Subject(
        engine,
        "openai",
        model,
        prompts=PROMPTS,
        fields={"api": request.param},
        max_tokens=8,
        too_long=TOO_LONG,
        per_sample_prompt=False,
    )


# vLLM's server refuses several greedy samples, which that check asks for; see below.
CHECKS = [check for check in contract.CHECKS if check is not contract.greedy_answers_need_no_seed]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, subject: Subject) -> None:
    check(subject)


def test_greedy_answers_need_no_seed_and_there_is_one_of_each(subject: Subject) -> None:
    one, two = (completions(subject, subject.calls(5, seed=seed)) for seed in (0, 1))
    assert [result.texts for result in one] == [result.texts for result in two]
    failure = failure_of(subject, subject.call(PROMPTS[0], n=3))
    assert isinstance(failure.error, CallRefusedError)
    assert "greedy" in str(failure.error)


def test_samples_are_charged_together_and_their_prompt_once(subject: Subject) -> None:
    one, five = completions(subject, [subject.call(PROMPTS[2], n=n, temperature=1.0) for n in (1, 5)])
    assert sum(five.tokens[:2]) == sum(one.tokens[:2])
    assert len(set(five.texts)) > 1
    assert five.tokens[2] > one.tokens[2]


def test_prompts_are_counted_exactly(subject: Subject) -> None:
    calls = subject.calls(len(PROMPTS))
    counted = subject.engine.count_prompt_tokens(calls)
    assert counted == [sum(result.tokens[:2]) for result in completions(subject, calls)]


def test_a_long_common_beginning_is_cached(subject: Subject) -> None:
    beginning = f"Tell me more about the year {time.time_ns()}. " + "It was a long and quiet year. " * 30
    first, second = (completions(subject, [subject.call(beginning + end)])[0] for end in ("And then", "But why"))
    assert first.tokens[1] < 128
    assert second.tokens[1] >= 128
    assert abs(sum(first.tokens[:2]) - sum(second.tokens[:2])) < 10


def test_a_stop_text_ends_the_answer(subject: Subject) -> None:
    call = subject.call("Count: 1, 2, 3,", max_tokens=64, stop=("6",))
    [result] = completions(subject, [call])
    assert "6" not in result.texts[0]


def test_log_probabilities_are_of_the_tokens_that_came(subject: Subject) -> None:
    sure, unsure = completions(subject, [subject.call("1 2 3 4 5 6 7 8 9", temperature=t, seed=3) for t in (0.0, 2.0)])
    assert unsure.logprobs[0] < sure.logprobs[0] < 0


@pytest.mark.parametrize("name", ["no-such-model", "no-such-adapter"])
def test_an_unknown_model_or_adapter_is_refused_and_free(name: str, subject: Subject, engine: OpenAIEngine) -> None:
    unknown = Subject(engine, "openai", name, fields=subject.fields)
    failure = failure_of(unknown, unknown.call("hello"))
    assert isinstance(failure.error, CallRefusedError)
    assert name in str(failure.error)
    assert [sum(attempt.tokens) for attempt in failure.attempts] == [0]


def test_an_adapter_of_a_server_is_asked_as_a_model(subject: Subject) -> None:
    with pytest.raises(PoolError, match="name it in served_as"):
        subject.run([subject.call("hello", adapter="poet")])


def test_a_prompt_that_does_not_fit_is_named_so(subject: Subject) -> None:
    failure = failure_of(subject, subject.call(TOO_LONG))
    assert isinstance(failure.error, PromptTooLongError)


def test_an_answer_that_takes_too_long_is_charged_at_its_worst(url: str, model: str) -> None:
    engine = OpenAIEngine(url, timeout_s=0.25, attempts=1)
    hasty = Subject(engine, "openai", model, max_tokens=400)
    failure = failure_of(hasty, hasty.call("Once upon a time", options={"ignore_eos": True}))
    engine.close()
    assert isinstance(failure.error, CallTimeoutError)
    [attempt] = failure.attempts
    assert attempt.tokens[2] == 400
