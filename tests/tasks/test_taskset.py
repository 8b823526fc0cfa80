from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from routegym.errors import GraderError, TaskError
from routegym.tasks import SPLITS, TaskSet, split_of


def make(**changes: Any) -> TaskSet:
    fields: dict[str, Any] = {
        "ids": ("a", "b", "c"),
        "prompts": ("1+1", "2+2", "3+3"),
        "references": ("2", "4", "6"),
        "splits": ("train", "val", "train"),
    }
    return TaskSet(**{**fields, **changes})


def test_positions_and_splits() -> None:
    tasks = make()
    assert len(tasks) == 3
    assert tasks.index("b") == 1
    assert tasks.in_split("train").tolist() == [0, 2]
    assert tasks.in_split("test").dtype == np.int64
    assert len(tasks.in_split("test")) == 0


def test_lists_become_tuples() -> None:
    assert make(ids=["a", "b", "c"]).ids == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ("a", "b", "a")}, "id 'a' occurs twice"),
        ({"ids": ("a", "", "c")}, "an id is empty"),
        ({"references": ("2",)}, "1 references for 3 ids"),
        ({"prompts": ("1+1",) * 4}, "4 prompts for 3 ids"),
        (
            {"splits": ("train", "dev", "test")},
            "task 'b': unknown split 'dev'; expected one of train, val, test",
        ),
        (
            {"prompts": ("1+1", "1+1", "3+3")},
            "task 'b': prompt '1\\+1' is in split 'val' and also in 'train'",
        ),
    ],
)
def test_bad_task_sets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(**changes)


def test_a_prompt_may_repeat_within_a_split() -> None:
    assert len(make(prompts=("1+1", "2+2", "1+1"))) == 3


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TaskError, match=r"unknown task 'arith-00001'.*did you mean 'arith-00007'"):
        make(ids=("arith-00007", "b", "c")).index("arith-00001")
    with pytest.raises(TaskError, match="unknown split 'dev'"):
        make().in_split("dev")


def test_split_of_is_fixed_and_has_the_stated_shares() -> None:
    # The SHA-1 numbers of these ids end in the decimal digits 5, 7 and 3.
    assert [split_of(f"arith-{index:05d}") for index in range(3)] == ["train", "val", "train"]
    ids = [f"task-{index}" for index in range(4000)]
    shares = Counter(split_of(name) for name in ids)
    assert set(shares) == set(SPLITS)
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert abs(shares[split] / len(ids) - share) < 0.03
    assert sum(split_of(name) != split_of(name, seed=1) for name in ids) > 1000


def test_graders_kinds_details_and_embedding_have_defaults() -> None:
    tasks = make()
    assert tasks.graders == ("exact",) * 3
    assert tasks.kinds == tasks.details == ("",) * 3
    assert tasks.embedding.shape == (3, 0)
    assert tasks.embedding.dtype == np.float32
    assert tasks.embedder == ""
    assert TaskSet((), (), (), ()).embedding.shape == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graders": ("exact",)}, "1 graders for 3 ids"),
        ({"graders": ("exact", "numerc", "exact")}, "unknown grader 'numerc'; did you mean 'numeric'"),
        ({"graders": ("exact", "?", "exact")}, "unknown grader '\\?'; expected one of exact, "),
        ({"kinds": ("a", "b")}, "2 kinds for 3 ids"),
        ({"details": ("", "[]", "")}, "task 'b': details are '\\[\\]'; expected a JSON object"),
        ({"details": ("", "{", "")}, "task 'b': details are not JSON"),
        ({"details": ("", '{"a": NaN}', "")}, "task 'b': details are not JSON .NaN"),
        ({"embedding": np.zeros((2, 4), np.float32)}, r"shape \(2, 4\); expected float32 \(3, d\)"),
        ({"embedding": np.zeros(3, np.float32)}, r"shape \(3,\)"),
        ({"embedding": np.zeros((3, 4))}, "type float64"),
        ({"embedding": np.full((3, 4), 1.5, np.float32)}, "task 'a': its embedding has a value that is not in"),
        ({"embedding": np.full((3, 4), -0.1, np.float32)}, "not in"),
        ({"embedding": np.array([[0], [0], [np.nan]], np.float32)}, "task 'c': its embedding"),
    ],
)
def test_bad_graders_details_and_embeddings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(**changes)


def test_equal_sets_have_equal_embeddings() -> None:
    given = np.eye(3, dtype=np.float32)
    tasks = make(embedding=given)
    assert tasks == make(embedding=given.copy())
    assert tasks != make()
    assert tasks != make(embedding=given[::-1])
    assert make() != make(kinds=("a", "b", "c"))
    assert make() != "tasks"
    assert hash(make()) == hash(make())
    given[:] = 0.5
    assert np.array_equal(tasks.embedding, np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        tasks.embedding[0] = 0.0


def test_answers_are_graded_by_the_grader_of_their_task() -> None:
    tasks = make(graders=("exact", "numeric", "numeric"), details=("", '{"abs_tol": 1}', ""))
    scores = tasks.grade([0, 0, 1, 2, 2], ["2", "2.0", "5", "6.0", "seven"])
    assert scores.tolist() == [1, 0, 1, 1, 0]
    assert scores.dtype == np.float32
    assert tasks.grade(np.array([2, 1]), ["6", "4"]).tolist() == [1, 1]
    assert tasks.grade([], []).shape == (0,)


def test_grading_refuses_what_does_not_fit() -> None:
    with pytest.raises(TaskError, match="2 indices for 1 answers"):
        make().grade([0, 1], ["2"])
    for index in (-1, 3):
        with pytest.raises(TaskError, match=f"task index {index} is out of range"):
            make().grade([index], ["2"])
    with pytest.raises(GraderError, match="task 'b': numeric: reference 'four' is not one number"):
        make(references=("2", "four", "6"), graders=("numeric",) * 3).grade([1], ["4"])


def test_validation_names_references_that_do_not_score_one() -> None:
    make().validate()
    make(graders=("numeric", "math_verify", "normalized")).validate()
    with pytest.raises(
        TaskError, match=r"1 of 3 references do not score 1.*'b' \(math_verify\): reference '4\\n4' scores 0"
    ):
        make(references=("2", "4\n4", "6"), graders=("exact", "math_verify", "exact")).validate()
    with pytest.raises(GraderError, match="is not one letter"):
        make(graders=("multiple_choice",) * 3).validate()
