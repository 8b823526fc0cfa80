from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from routegym.errors import TaskError
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
