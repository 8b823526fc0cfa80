from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routegym.errors import TaskError
from routegym.tasks import (
    LEVELS,
    Operation,
    evaluate,
    generate_tasks,
    level,
    next_operation,
    parse_value,
    split_of,
    substitute,
)


def steps_of(text: str) -> list[Operation]:
    """The operations done when every answer is exact."""
    steps = []
    while (operation := next_operation(text)) is not None:
        steps.append(operation)
        text = substitute(text, operation, operation.value)
    return steps


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), low=st.integers(1, 6), extra=st.integers(0, 3))
def test_evaluation_agrees_with_big_integers_and_with_single_steps(seed: int, low: int, extra: int) -> None:
    tasks = generate_tasks(4, (low, low + extra), seed)
    for text, reference in zip(tasks.prompts, tasks.references, strict=True):
        # Every prompt is Python syntax, and reducing modulo 1000 at the end is the same as at every step.
        assert evaluate(text) == eval(text) % 1000 == parse_value(reference)
        steps = steps_of(text)
        assert low <= len(steps) <= low + extra
        assert steps[-1].value == evaluate(text)
        for step in steps:
            assert level(step) in LEVELS
            assert step.op != "*" or 2 <= step.b <= 9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), answers=st.lists(st.integers(0, 999), min_size=6, max_size=6))
def test_any_answers_keep_the_episode_in_range(seed: int, answers: list[int]) -> None:
    text = generate_tasks(1, (3, 6), seed).prompts[0]
    count = len(steps_of(text))
    for answer in answers[:count]:
        operation = next_operation(text)
        assert operation is not None
        assert 0 <= operation.a <= 999
        assert 0 <= operation.b <= 999
        assert operation.op != "*" or 2 <= operation.b <= 9
        text = substitute(text, operation, answer)
    assert parse_value(text) == answers[count - 1]


def test_operations_come_leftmost_innermost_first() -> None:
    text = "(((7+58)*3)-(120-41))"
    first = next_operation(text)
    assert first == Operation(7, "+", 58, (2, 8))
    assert first.prompt == "7+58"
    assert first.value == 65
    assert substitute(text, first, 65) == "((65*3)-(120-41))"
    assert [step.prompt for step in steps_of(text)] == ["7+58", "65*3", "120-41", "195-79"]
    assert evaluate(text) == 116
    assert next_operation("116") is None


def test_values_wrap_modulo_1000() -> None:
    assert evaluate("(3-5)") == 998
    assert evaluate("(999+2)") == 1
    assert evaluate("(987*9)") == 883


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("0+9", "add1"),
        ("7+58", "add2"),
        ("7+100", "add3"),
        ("9-3", "sub1"),
        ("10-3", "sub2"),
        ("3-999", "sub3"),
        ("0*9", "mul1"),
        ("10*2", "mul2"),
        ("999*9", "mul3"),
    ],
)
def test_levels(prompt: str, name: str) -> None:
    operation = next_operation(f"({prompt})")
    assert operation is not None
    assert level(operation) == name


@pytest.mark.parametrize("text", ["0", "7", "65", "999"])
def test_values_are_read(text: str) -> None:
    assert parse_value(text) == int(text)


@pytest.mark.parametrize(
    "text", ["", " 7", "7 ", "7\n", "007", "00", "1000", "-1", "+1", "1.0", "٣", "²", "1_0", "6?5"]
)
def test_malformed_values_are_not_read(text: str) -> None:
    assert parse_value(text) is None


@pytest.mark.parametrize("text", ["", "(1+2", "1+2", "(1+2)3", "(1/2)", "(1000+1)", "(1+(2))"])
def test_malformed_expressions_are_refused(text: str) -> None:
    with pytest.raises(TaskError, match="cannot be evaluated"):
        evaluate(text)


def test_substitution_outside_the_range_is_refused() -> None:
    operation = next_operation("(1+2)")
    assert operation is not None
    with pytest.raises(TaskError, match="value 1000 is outside"):
        substitute("(1+2)", operation, 1000)


def test_generation_is_fixed_by_the_seed_and_has_prefixes() -> None:
    tasks = generate_tasks(300, seed=5)
    assert tasks == generate_tasks(300, seed=5)
    assert generate_tasks(100, seed=5).prompts == tasks.prompts[:100]
    assert len(set(tasks.prompts)) == 300
    assert tasks.ids[17] == "arith-00017"
    assert tasks.splits == tuple(split_of(task_id) for task_id in tasks.ids)


def test_neighbouring_seeds_share_no_tasks() -> None:
    # Seeding an item with `seed + index` would make 299 of these 300 equal.
    shared = set(generate_tasks(300, seed=42).prompts) & set(generate_tasks(300, seed=43).prompts)
    assert len(shared) <= 3


def test_easy_and_hard_steps_occur_together() -> None:
    levels = [{level(step) for step in steps_of(text)} for text in generate_tasks(500).prompts]
    mixed = sum(any(name[-1] == "3" for name in names) and any(name[-1] != "3" for name in names) for names in levels)
    assert mixed > 0.6 * len(levels)
    assert set().union(*levels) == set(LEVELS)


def test_single_operations() -> None:
    tasks = generate_tasks(200, operations=(1, 1), seed=1)
    assert all(len(steps_of(text)) == 1 for text in tasks.prompts)


@pytest.mark.parametrize(
    ("count", "operations", "seed", "message"),
    [
        (0, (3, 6), 0, "count = 0"),
        (5, (0, 6), 0, "operations = \\(0, 6\\)"),
        (5, (4, 3), 0, "operations = \\(4, 3\\)"),
        (5, (3, 6), -1, "seed = -1"),
    ],
)
def test_bad_arguments_are_refused(count: int, operations: tuple[int, int], seed: int, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        generate_tasks(count, operations, seed)
