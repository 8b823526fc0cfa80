"""How the embedded pool's models read and write arithmetic: a fixed-width code over 16 symbols.

A prompt ``58+7`` becomes the eight tokens ``058+007=``: both operands zero-padded to three digits, so that
every model input has one width and batches need no padding.

Direct answers are the three digits of the result and an end token, ``065.`` for 65: the highest digit comes
first, so a model has to work out every carry before it writes anything.
Written answers (control ``?`` in place of ``=``) put the work before the answer: for each column, lowest
first, its two-digit total with the carry included (units, tens; for subtraction digit, borrow), then
``=`` and the answer as above: ``058+007?516000=065.``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from routegym.errors import PoolError

__all__ = [
    "ANSWER_TOKENS",
    "END",
    "PROMPT_TOKENS",
    "VOCABULARY",
    "WRITTEN_TOKENS",
    "WRITTEN_WORK_TOKENS",
    "decode",
    "encode_answers",
    "encode_operations",
    "encode_prompts",
    "to_symbols",
]

#: Symbols by token id.
VOCABULARY = "0123456789+-*=?."
#: Token id that ends an answer.
END = VOCABULARY.index(".")
#: Width of every prompt.
PROMPT_TOKENS = 8
#: Tokens of a direct answer: three digits and the end.
ANSWER_TOKENS = 4
#: Tokens of the written-out work before the answer: three columns of two and ``=``.
WRITTEN_WORK_TOKENS = 7
#: Tokens of a written answer.
WRITTEN_TOKENS = WRITTEN_WORK_TOKENS + ANSWER_TOKENS

_ADD, _SUBTRACT, _MULTIPLY = (VOCABULARY.index(symbol) for symbol in "+-*")
_EQUALS = VOCABULARY.index("=")
_CONTROLS = {"direct": _EQUALS, "written": VOCABULARY.index("?")}
_PROMPT = re.compile(r"(0|[1-9][0-9]{0,2})([-+*])(0|[1-9][0-9]{0,2})")

IntArray = npt.NDArray[np.int64]


def encode_prompts(prompts: Sequence[str], template: str) -> IntArray:
    """Token ids of plain prompts such as ``58+7``, int64, shape (len(prompts), PROMPT_TOKENS).

    Args:
        prompts: operations on integers 0..999 without leading zeros.
        template: ``direct`` or ``written``.

    Raises:
        PoolError: the template is unknown or a prompt is no such operation.
    """
    rows = []
    for prompt in prompts:
        match = _PROMPT.fullmatch(prompt)
        if match is None:
            raise PoolError(
                f"prompt {prompt!r} cannot be encoded for the arithmetic pool; expected one operation "
                "(+, - or *) on integers 0..999 without leading zeros, for example '58+7'"
            )
        rows.append((int(match[1]), VOCABULARY.index(match[2]), int(match[3])))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return encode_operations(columns[:, 0], columns[:, 1], columns[:, 2], template)


def encode_operations(a: IntArray, op: IntArray, b: IntArray, template: str) -> IntArray:
    """Token ids of prompts given as arrays, int64, shape (N, PROMPT_TOKENS).

    Args:
        a: first operands 0..999, shape (N,).
        op: token ids of the operators, shape (N,).
        b: second operands 0..999, shape (N,).
        template: ``direct`` or ``written``.

    Raises:
        PoolError: the template is unknown.
    """
    control = np.full(len(a), _control(template), dtype=np.int64)
    return np.column_stack([_digits(a), op, _digits(b), control])


def encode_answers(a: IntArray, op: IntArray, b: IntArray, template: str) -> IntArray:
    """Token ids of the right answers, int64, shape (N, ANSWER_TOKENS or WRITTEN_TOKENS)."""
    _control(template)
    add, subtract = op == _ADD, op == _SUBTRACT
    result = np.where(add, a + b, np.where(subtract, a - b, a * b)) % 1000
    end = np.full(len(a), END, dtype=np.int64)
    answer = np.column_stack([_digits(result), end])
    if template == "direct":
        return answer
    columns: list[IntArray] = []
    carry = np.zeros(len(a), dtype=np.int64)
    for digit_a, digit_b in zip(_digits(a).T[::-1], _digits(b).T[::-1], strict=True):
        # The second factor has a single digit, so every column of a product is digit times b plus carry.
        total = np.where(add, digit_a + digit_b, np.where(subtract, digit_a - digit_b, digit_a * b)) + carry
        carry = total // 10
        columns += [total % 10, np.abs(carry)]
    return np.column_stack([*columns, np.full(len(a), _EQUALS, dtype=np.int64), answer])


def decode(tokens: Sequence[int]) -> str:
    """Plain decimal answer of generated tokens, or their raw symbols where they state no answer.

    Args:
        tokens: the generated token ids of one sample, the end token included where there is one.
    """
    raw = to_symbols(tokens)
    match = re.fullmatch(r"(?:[^=.]*=)?([0-9]{3})\.", raw)
    if match is None:
        return raw
    return str(int(match[1]))


def to_symbols(tokens: Sequence[int]) -> str:
    """The symbols of token ids as one string."""
    return "".join(VOCABULARY[token] for token in tokens)


def _control(template: str) -> int:
    if template not in _CONTROLS:
        raise PoolError(f"unknown template {template!r}; expected one of {', '.join(_CONTROLS)}")
    return _CONTROLS[template]


def _digits(values: IntArray) -> IntArray:
    """Three digits, highest first, shape (N, 3)."""
    return np.column_stack([values // 100, values // 10 % 10, values % 10]).astype(np.int64)
