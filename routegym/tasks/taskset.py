"""Named tasks with their references and splits."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routegym.errors import TaskError

__all__ = ["SPLITS", "TaskSet", "split_of"]

#: The splits a task may be in.
SPLITS = ("train", "val", "test")


def split_of(task_id: str, seed: int = 0) -> str:
    """Split of a task, from a hash of its id: 70 % train, 10 % val, 20 % test.

    Args:
        task_id: id of the task.
        seed: another seed gives another partition; mixed into the hashed text unless it is 0.
    """
    hashed = task_id if seed == 0 else f"{seed}:{task_id}"
    bucket = int(hashlib.sha1(hashed.encode(), usedforsecurity=False).hexdigest(), 16) % 10
    if bucket <= 6:
        return "train"
    return "val" if bucket == 7 else "test"


@dataclass(frozen=True)
class TaskSet:
    """Tasks in a fixed order; all four tuples have one entry per task.

    Raises:
        TaskError: lengths differ, an id is empty or occurs twice, a split is unknown,
            or one prompt is in two splits.
    """

    ids: tuple[str, ...]
    """Unique names."""
    prompts: tuple[str, ...]
    """What is asked."""
    references: tuple[str, ...]
    """The right answers, as text."""
    splits: tuple[str, ...]
    """One of `SPLITS` each."""

    def __post_init__(self) -> None:
        for name in ("ids", "prompts", "references", "splits"):
            values = getattr(self, name)
            if not isinstance(values, tuple):
                object.__setattr__(self, name, tuple(values))
        count = len(self.ids)
        for name in ("prompts", "references", "splits"):
            length = len(getattr(self, name))
            if length != count:
                raise TaskError(f"task set: {length} {name} for {count} ids; expected one entry of each per task")
        seen: set[str] = set()
        split_of_prompt: dict[str, str] = {}
        for task_id, prompt, split in zip(self.ids, self.prompts, self.splits, strict=True):
            if not task_id:
                raise TaskError("task set: an id is empty; give every task a name")
            if task_id in seen:
                raise TaskError(f"task set: id {task_id!r} occurs twice; ids must be unique, rename one")
            seen.add(task_id)
            if split not in SPLITS:
                raise TaskError(f"task {task_id!r}: unknown split {split!r}; expected one of {', '.join(SPLITS)}")
            other = split_of_prompt.setdefault(prompt, split)
            if other != split:
                raise TaskError(
                    f"task {task_id!r}: prompt {prompt!r} is in split {split!r} and also in {other!r}; "
                    "a prompt may be in one split only, drop the duplicate"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, task_id: str) -> int:
        """Position of a task.

        Raises:
            TaskError: there is no such task.
        """
        try:
            return self.ids.index(task_id)
        except ValueError:
            close = difflib.get_close_matches(task_id, self.ids, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; take one of `TaskSet.ids`"
            raise TaskError(f"unknown task {task_id!r} among {len(self.ids)} tasks{hint}") from None

    def in_split(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of the tasks of one split, int64, ascending.

        Raises:
            TaskError: the split is unknown.
        """
        if split not in SPLITS:
            raise TaskError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(np.array([name == split for name in self.splits], dtype=bool)).astype(np.int64)
