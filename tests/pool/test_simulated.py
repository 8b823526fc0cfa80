from __future__ import annotations

import math

import pytest

from routegym.errors import PoolError
from routegym.pool import Arm, Request, SimulatedBackend
from routegym.tasks import LEVELS, parse_value

ARM = Arm("toy", "direct", 1000, 4)
PROMPTS = [f"{a}+{b}" for a in range(100, 150) for b in range(100, 140)]


def backend(accuracy: float, malformed: float = 0.0) -> SimulatedBackend:
    return SimulatedBackend({"toy/direct": dict.fromkeys(LEVELS, accuracy)}, malformed)


def share_right(simulated: SimulatedBackend, seed: int = 0) -> float:
    answers = simulated.generate([Request(ARM, prompt, seed) for prompt in PROMPTS])
    right = [answer.text == str(eval(prompt) % 1000) for answer, prompt in zip(answers, PROMPTS, strict=True)]
    return sum(right) / len(right)


def test_answers_have_the_given_accuracy() -> None:
    assert share_right(backend(1.0)) == 1.0
    assert share_right(backend(0.0)) == 0.0
    assert abs(share_right(backend(0.7)) - 0.7) < 4 * math.sqrt(0.7 * 0.3 / len(PROMPTS))


def test_answers_depend_on_the_request_only() -> None:
    requests = [Request(ARM, prompt, seed) for prompt in PROMPTS[:50] for seed in (0, 1)]
    simulated = backend(0.5)
    together = simulated.generate(requests)
    assert together == [simulated.generate([request])[0] for request in requests]
    assert [answer.text for answer in together[::2]] != [answer.text for answer in together[1::2]]


def test_wrong_answers_may_be_malformed() -> None:
    answers = backend(0.0, malformed=1.0).generate([Request(ARM, prompt) for prompt in PROMPTS[:20]])
    assert all(parse_value(answer.text) is None for answer in answers)


def test_tokens_and_operations() -> None:
    request = Request(ARM, "1+1")
    simulated = backend(0.5)
    (answer,) = simulated.generate([request])
    assert answer.tokens == (8, 0, 4, 0)
    assert simulated.count_prompt_tokens([request]) == [8]
    assert answer.flops == 2 * 1000 * 12
    assert answer.logprob == pytest.approx(math.log(0.5))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(PoolError, match=r"malformed = 1\.5"):
        backend(0.5, malformed=1.5)
    with pytest.raises(PoolError, match=r"level 'add1' is 1\.2"):
        backend(1.2)
    with pytest.raises(PoolError, match="level 'add2' is None"):
        SimulatedBackend({"toy/direct": {"add1": 1.0}})
    with pytest.raises(PoolError, match="no simulated accuracy for arm 'toy/direct'"):
        SimulatedBackend().generate([Request(ARM, "1+1")])
    with pytest.raises(PoolError, match="is no operation"):
        backend(0.5).generate([Request(ARM, "hello")])
