from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from routegym.errors import CallRefusedError
from routegym.pool import Arm, Attempt, Completion, Request
from routegym.pool.tiers import Tier

ARM = Arm("m", "t", 1000, 80)


def tier(**fields: Any) -> Tier:
    return Tier(**{"arm": ARM, "endpoint": "e", "engine": "openai", "model": "M", "template": "{prompt}",
                   "max_tokens": 16, **fields})  # fmt: skip


def completion(*texts: str, lost: tuple[Attempt, ...] = ()) -> Completion:
    return Completion(
        texts=texts,
        logprobs=tuple(-0.1 * (1 + index) for index in range(len(texts))),
        finish_reasons=("stop",) * len(texts),
        tokens=(10, 4, 5, 6),
        latency_s=0.5,
        gpu_s=0.25,
        lost=lost,
    )


def test_the_prompt_takes_its_place_and_other_braces_stay() -> None:
    asked = tier(template='{"q": "{prompt}", {x}}').to_call(Request(ARM, "a {prompt} b", 3))
    assert asked.messages == (("user", '{"q": "a {prompt} b", {x}}'),)
    assert (asked.seed, asked.arm, asked.engine, asked.model, asked.max_tokens, asked.n) == (
        3,
        ARM,
        "openai",
        "M",
        16,
        1,
    )


def test_messages_follow_the_api() -> None:
    request = Request(ARM, "q")
    assert tier(system="s").to_call(request).messages == (("system", "s"), ("user", "q"))
    assert tier(api="completions").to_call(request).messages == (("prompt", "q"),)
    said = replace(request, history=(("user", "a"), ("assistant", "b")))
    assert tier(system="s").to_call(said).messages == (
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "q"),
    )
    told = replace(request, history=(("system", "mine"),))
    assert tier(system="s").to_call(told).messages == (("system", "mine"), ("user", "q"))
    with pytest.raises(CallRefusedError, match="takes no conversation"):
        tier(api="completions").to_call(said)


@pytest.mark.parametrize(
    "fields",
    [
        {"revision": "2"},
        {"adapter": "a"},
        {"api": "completions"},
        {"temperature": 0.5},
        {"samples": 2},
        {"stop": ("x",)},
        {"reasoning_effort": "low"},
        {"options": {"top_p": 0.9}},
        {"system": "s"},
        {"template": "{prompt}?"},
        {"model": "N"},
        {"engine": "vllm"},
        {"max_tokens": 17},
    ],
)
def test_everything_that_is_sent_is_in_the_key(fields: dict[str, Any]) -> None:
    request = Request(ARM, "q")
    assert tier(**fields).to_call(request).key != tier().to_call(request).key
    assert tier(answer="(x)", endpoint="other").to_call(request).key == tier().to_call(request).key


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        (None, "  12 \n", "12"),
        (None, "   ", ""),
        (r"answer is (-?\d+)", "the answer is 3. No, the answer is -12.", "-12"),
        (r"answer is (-?\d+)", "I do not know", ""),
        (r"answer is (-?\d+)", "", ""),
        (r"(?s)<a>(.*?)</a>", "<a>\n x </a> and", "x"),
        (r"x(y)?", "x", ""),
    ],
)
def test_the_answer_is_group_1_of_the_last_match(answer: str | None, text: str, expected: str) -> None:
    assert tier(answer=answer).to_response(completion(text)).text == expected


@pytest.mark.parametrize(
    ("texts", "winner", "agreement", "sample"),
    [
        (["1", "2", "2", "3", "2"], "2", 3 / 5, 1),
        (["3", "1", "1", "3", "2"], "3", 2 / 5, 0),  # as often, but earlier
        (["", "", "", "7", ""], "7", 1 / 5, 3),  # nothing usable has no vote
        (["", "", "", "", ""], "", 1.0, 0),
        ([" 4", "4 ", "5", "6", "7"], "4", 2 / 5, 0),
    ],
)
def test_samples_vote(texts: list[str], winner: str, agreement: float, sample: int) -> None:
    response = tier(samples=5, temperature=1.0).to_response(completion(*texts))
    assert (response.text, response.agreement) == (winner, agreement)
    assert response.logprob == pytest.approx(-0.1 * (1 + sample))


def test_costs_are_kept_apart() -> None:
    lost = (
        Attempt("m/t", "RateLimitError", "", (0, 0, 0, 0), 0.1),
        Attempt("m/t", "CallTimeoutError", "", (10, 0, 80, 0), 2.0),
    )
    response = tier().to_response(completion("x", lost=lost))
    assert response.tokens == (10, 4, 5, 6)
    assert response.lost_tokens == (10, 0, 80, 0)
    assert response.attempts == 3
    assert response.latency_s == pytest.approx(2.6)
    assert response.gpu_s == 0.25
    assert response.flops == 2 * 1000 * 25
    assert response.served_by is None
