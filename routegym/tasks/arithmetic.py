"""Arithmetic tasks on three-digit registers: every value, right or wrong, is an integer modulo 1000.

A task is a fully parenthesised expression such as ``(((7+58)*3)-(120-41))``. It is solved one
operation at a time, always the leftmost innermost ``(a op b)``, whose text is replaced by the answer.
Because all arithmetic is modulo 1000, any answer of one to three digits is again a legal operand:
a wrong answer leads to another situation, never out of the problem.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from routegym.errors import TaskError
from routegym.tasks.taskset import TaskSet, split_of

__all__ = [
    "LEVELS",
    "MODULUS",
    "Operation",
    "evaluate",
    "generate_tasks",
    "level",
    "next_operation",
    "parse_value",
    "substitute",
]

#: All arithmetic is done modulo this.
MODULUS = 1000

#: Difficulty levels: operation and number of digits (the larger operand's; for * the first operand's).
LEVELS = ("add1", "add2", "add3", "sub1", "sub2", "sub3", "mul1", "mul2", "mul3")

# Not beside another digit or parenthesis: its value would run into what stands there.
_REDUCIBLE = re.compile(r"(?<![0-9)])\(([0-9]{1,3})([-+*])([0-9]{1,3})\)(?![0-9(])")
_VALUE = re.compile(r"0|[1-9][0-9]{0,2}")
_LEVEL_NAMES = {"+": "add", "-": "sub", "*": "mul"}
_OPERATORS = ("+", "-", "*")
_OPERATOR_SHARES = (0.40, 0.35, 0.25)
_LEAF_DIGIT_SHARES = (0.60, 0.22, 0.18)
_UNWRAPPED_SHARE = 0.85
_ATTEMPTS = 1000


@dataclass(frozen=True)
class Operation:
    """One reducible operation inside an expression."""

    a: int
    """First operand, 0..999."""
    op: str
    """``+``, ``-`` or ``*``."""
    b: int
    """Second operand, 0..999."""
    span: tuple[int, int]
    """Where it stands in the expression, its parentheses included: ``text[span[0]:span[1]]``."""

    @property
    def prompt(self) -> str:
        """What a model is asked, for example ``58+7``."""
        return f"{self.a}{self.op}{self.b}"

    @property
    def value(self) -> int:
        """The exact result modulo 1000."""
        if self.op == "+":
            return (self.a + self.b) % MODULUS
        if self.op == "-":
            return (self.a - self.b) % MODULUS
        return (self.a * self.b) % MODULUS


def next_operation(text: str) -> Operation | None:
    """The leftmost innermost operation that can be done now, None where there is none."""
    match = _REDUCIBLE.search(text)
    if match is None:
        return None
    return Operation(int(match[1]), match[2], int(match[3]), match.span())


def substitute(text: str, operation: Operation, value: int) -> str:
    """The expression after `operation` was answered with `value`.

    Raises:
        TaskError: `value` is outside 0..999.
    """
    if not 0 <= value < MODULUS:
        raise TaskError(f"value {value} is outside 0..{MODULUS - 1}; reduce it modulo {MODULUS} first")
    start, end = operation.span
    return f"{text[:start]}{value}{text[end:]}"


def evaluate(text: str) -> int:
    """Exact value of an expression modulo 1000, by exact steps.

    Raises:
        TaskError: the text is no fully parenthesised expression of +, - and * over 0..999.
    """
    rest = text
    while (operation := next_operation(rest)) is not None:
        rest = substitute(rest, operation, operation.value)
    value = parse_value(rest)
    if value is None:
        raise TaskError(
            f"expression {text!r} cannot be evaluated (it stops at {rest!r}); expected a fully parenthesised "
            "expression of +, - and * over integers 0..999 without leading zeros or spaces"
        )
    return value


def parse_value(text: str) -> int | None:
    """The value that an answer states, None where it is malformed.

    Strict: one to three ASCII digits and nothing else, without leading zeros.
    """
    return int(text) if _VALUE.fullmatch(text) else None


def level(operation: Operation) -> str:
    """Difficulty level of an operation, one of `LEVELS`."""
    largest = operation.a if operation.op == "*" else max(operation.a, operation.b)
    return f"{_LEVEL_NAMES[operation.op]}{len(str(largest))}"


def generate_tasks(count: int, operations: tuple[int, int] = (3, 6), seed: int = 0) -> TaskSet:
    """Random tasks, no expression twice; the first k tasks are the same for every `count` >= k.

    Args:
        count: number of tasks.
        operations: fewest and most operations of a task; (1, 1) gives single operations.
        seed: task i is drawn from ``SeedSequence([seed, i])``, so that neighbouring seeds share nothing.

    Raises:
        TaskError: a number is out of range, or there are not enough different expressions.
    """
    low, high = operations
    if count < 1:
        raise TaskError(f"count = {count}; expected at least 1 task")
    if not 1 <= low <= high:
        raise TaskError(f"operations = {operations}; expected 1 <= fewest <= most")
    if seed < 0:
        raise TaskError(f"seed = {seed}; expected an integer >= 0")
    seen: set[str] = set()
    prompts = []
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        for _ in range(_ATTEMPTS):
            text = _expression(rng, int(rng.integers(low, high + 1)))
            if text not in seen:
                break
        else:
            raise TaskError(
                f"no new expression found for task {index} of {count} with operations = {operations}; "
                "ask for fewer tasks or more operations"
            )
        seen.add(text)
        prompts.append(text)
    ids = tuple(f"arith-{index:05d}" for index in range(count))
    return TaskSet(
        ids=ids,
        prompts=tuple(prompts),
        references=tuple(str(evaluate(text)) for text in prompts),
        splits=tuple(split_of(task_id) for task_id in ids),
    )


def _expression(rng: np.random.Generator, operations: int) -> str:
    """A random expression with that many operations; the second operand of * is a literal 2..9."""
    if operations == 0:
        digits = int(rng.choice(3, p=_LEAF_DIGIT_SHARES)) + 1
        return str(int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits)))
    op = _OPERATORS[int(rng.choice(3, p=_OPERATOR_SHARES))]
    if op == "*":
        return f"({_expression(rng, operations - 1)}*{int(rng.integers(2, 10))})"
    size = int(rng.integers(operations))
    left, right = _expression(rng, size), _expression(rng, operations - 1 - size)
    # Differences that wrap around modulo 1000 mostly have three digits and would crowd out the easy steps.
    if op == "-" and evaluate(left) < evaluate(right) and rng.random() < _UNWRAPPED_SHARE:
        left, right = right, left
    return f"({left}{op}{right})"
