"""What can be read off an arithmetic expression without solving it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from routegym.tasks.arithmetic import LEVELS, Operation, level, next_operation, parse_value

__all__ = [
    "EXPRESSION_FEATURES",
    "OPERATION_FEATURES",
    "expression_features",
    "last_digit_verdict",
    "operation_features",
]

OPERATION_FEATURES = tuple(f"level_{name}" for name in LEVELS)
EXPRESSION_FEATURES = (
    *(f"next_{name}" for name in LEVELS),
    "left_add",
    "left_sub",
    "left_mul",
    "left_digits_1",
    "left_digits_2",
    "left_digits_3",
)

_MOST = 8.0  # more operations or operands left than this look alike


def operation_features(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """One-hot difficulty level of single operations such as ``58+7``, float32 (n, 9)."""
    return _levels([f"({text})" for text in texts])


def expression_features(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Level of the next operation, operations and operands left by kind; float32 (n, 15) in [0, 1]."""
    rows = np.zeros((len(texts), len(EXPRESSION_FEATURES)), dtype=np.float32)
    rows[:, : len(LEVELS)] = _levels(texts)
    for row, text in enumerate(texts):
        digits = [len(run) for run in "".join(c if c.isdigit() else " " for c in text).split()]
        counts = [text.count(operator) for operator in "+-*"] + [digits.count(size) for size in (1, 2, 3)]
        rows[row, len(LEVELS) :] = np.minimum(np.array(counts) / _MOST, 1.0)
    return rows


def last_digit_verdict(prompt: str, answer: str) -> bool:
    """Whether an answer to ``58*7`` passes the check of last digits: cheap, and blind to the other digits."""
    operation, value = next_operation(f"({prompt})"), parse_value(answer)
    if operation is None or value is None:
        return False
    return value % 10 == Operation(operation.a % 10, operation.op, operation.b % 10, (0, 0)).value % 10


def _levels(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    rows = np.zeros((len(texts), len(LEVELS)), dtype=np.float32)
    for row, text in enumerate(texts):
        operation = next_operation(text)
        if operation is not None:
            rows[row, LEVELS.index(level(operation))] = 1.0
    return rows
