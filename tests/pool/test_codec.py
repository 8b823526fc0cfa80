from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routegym.errors import PoolError
from routegym.pool.codec import (
    ANSWER_TOKENS,
    PROMPT_TOKENS,
    VOCABULARY,
    WRITTEN_TOKENS,
    decode,
    encode_answers,
    encode_operations,
    encode_prompts,
    to_symbols,
)
from routegym.tasks import next_operation


def answer_to(prompt: str, template: str) -> list[int]:
    """Token ids of the right answer."""
    operation = next_operation(f"({prompt})")
    assert operation is not None
    numbers = (operation.a, VOCABULARY.index(operation.op), operation.b)
    a, op, b = (np.array([number], dtype=np.int64) for number in numbers)
    tokens = encode_answers(a, op, b, template)[0].tolist()
    assert np.array_equal(encode_operations(a, op, b, template), encode_prompts([prompt], template))
    return [int(token) for token in tokens]


@pytest.mark.parametrize(
    ("prompt", "asked", "direct", "written"),
    [
        ("58+7", "058+007", "065.", "516000=065."),
        ("3-5", "003-005", "998.", "819191=998."),
        ("987*9", "987*009", "883.", "368788=883."),
        ("999+1", "999+001", "000.", "010101=000."),
    ],
)
def test_examples(prompt: str, asked: str, direct: str, written: str) -> None:
    assert to_symbols(encode_prompts([prompt], "direct")[0].tolist()) == f"{asked}="
    assert to_symbols(encode_prompts([prompt], "written")[0].tolist()) == f"{asked}?"
    assert to_symbols(answer_to(prompt, "direct")) == direct
    assert to_symbols(answer_to(prompt, "written")) == written


operands = st.integers(0, 999)
operations = st.one_of(
    st.builds(lambda a, op, b: f"{a}{op}{b}", operands, st.sampled_from("+-"), operands),
    st.builds(lambda a, b: f"{a}*{b}", operands, st.integers(2, 9)),
)


@given(prompt=operations, template=st.sampled_from(["direct", "written"]))
def test_right_answers_decode_to_the_exact_value(prompt: str, template: str) -> None:
    operation = next_operation(f"({prompt})")
    assert operation is not None
    tokens = answer_to(prompt, template)
    assert len(tokens) == (WRITTEN_TOKENS if template == "written" else ANSWER_TOKENS)
    assert decode(tokens) == str(operation.value)


@pytest.mark.parametrize("raw", ["", "0", "065", "65.", "0065.", "0+5.", "51=600=065.", "065.5", "516000", "=."])
def test_answers_that_state_no_value_come_back_raw(raw: str) -> None:
    assert decode([VOCABULARY.index(symbol) for symbol in raw]) == raw


@pytest.mark.parametrize("prompt", ["", "58", "58+", "1000+1", "058+7", "58 + 7", "58/7", "(58+7)", "58+7+1", "-3+5"])
def test_prompts_that_are_no_operation_are_refused(prompt: str) -> None:
    with pytest.raises(PoolError, match="cannot be encoded"):
        encode_prompts(["1+1", prompt], "direct")


def test_shapes_and_templates() -> None:
    assert encode_prompts([], "direct").shape == (0, PROMPT_TOKENS)
    assert encode_prompts(["1+1"] * 3, "written").dtype == np.int64
    with pytest.raises(PoolError, match="unknown template 'spoken'; expected one of direct, written"):
        encode_prompts(["1+1"], "spoken")
