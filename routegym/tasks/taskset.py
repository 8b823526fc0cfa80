"""Named tasks with their references and splits."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from routegym.errors import GraderError, TaskError
from routegym.tasks.graders import check_details, check_grader, grade_answer

__all__ = ["SPLITS", "TaskSet", "prompt_hash", "split_of"]

_OFFENDERS = 3  # named in a message

#: The splits a task may be in.
SPLITS = ("train", "val", "test")


def prompt_hash(prompt: str) -> str:
    """What ids are made of where a source gives none: 16 hexadecimal digits, the same for the same prompt."""
    return hashlib.sha1(prompt.encode(), usedforsecurity=False).hexdigest()[:16]


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
    """Tasks in a fixed order; every tuple has one entry per task.

    Raises:
        TaskError: lengths differ, an id is empty or occurs twice, a split or a grader is unknown, details are no
            JSON object, the embedding is not float32 (n, d) in [0, 1], or one prompt is in two splits.
    """

    ids: tuple[str, ...]
    """Unique names."""
    prompts: tuple[str, ...]
    """What is asked."""
    references: tuple[str, ...]
    """The right answers, as text."""
    splits: tuple[str, ...]
    """One of `SPLITS` each."""
    graders: tuple[str, ...] = ()
    """How an answer is judged: a name of `routegym.tasks.graders.GRADERS` or ``module:function``; default ``exact``."""
    kinds: tuple[str, ...] = ()
    """Kind of task, for reports; default the empty text."""
    details: tuple[str, ...] = ()
    """What a grader needs beside the reference, as a JSON object; default the empty text."""
    embedding: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32), compare=False)
    """What a router sees of each prompt, float32 (n, d) in [0, 1]; default (n, 0). Read-only."""
    embedder: str = ""
    """What made the embedding, in words."""

    def __post_init__(self) -> None:
        for name, default in (*((name, None) for name in _REQUIRED), *_DEFAULTS.items()):
            values = getattr(self, name)
            if not isinstance(values, tuple):
                object.__setattr__(self, name, tuple(values))
            if default is not None and not values:
                object.__setattr__(self, name, (default,) * len(self.ids))
        count = len(self.ids)
        for name in (*_REQUIRED[1:], *_DEFAULTS):
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
        for name in set(self.graders):
            check_grader(name)
        for task_id, details in zip(self.ids, self.details, strict=True):
            if details:
                check_details(details, f"task {task_id!r}")
        object.__setattr__(self, "embedding", self._checked_embedding())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskSet):
            return NotImplemented
        names = (*_REQUIRED, *_DEFAULTS, "embedder")
        return all(getattr(self, name) == getattr(other, name) for name in names) and np.array_equal(
            self.embedding, other.embedding
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

    def grade(
        self, indices: Sequence[int] | npt.NDArray[np.integer], answers: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Scores of answers, each by the grader of its task.

        Args:
            indices: positions of the tasks, (n,).
            answers: what was answered to each, (n,).

        Returns:
            float32 (n,) in [0, 1].

        Raises:
            TaskError: the lengths differ or a position is out of range.
            GraderError: a grader could not judge an answer.
        """
        if len(indices) != len(answers):
            raise TaskError(f"{len(indices)} indices for {len(answers)} answers; expected one answer per index")
        scores = np.zeros(len(answers), dtype=np.float32)
        for row, (position, answer) in enumerate(zip(indices, answers, strict=True)):
            task = int(position)
            if not 0 <= task < len(self):
                raise TaskError(f"task index {task} is out of range; expected 0..{len(self) - 1}")
            try:
                scores[row] = grade_answer(self.graders[task], answer, self.references[task], self.details[task])
            except GraderError as error:
                raise GraderError(f"task {self.ids[task]!r}: {error}") from error
        return scores

    def validate(self) -> None:
        """Prove that the reference of every task, given as the answer, scores 1.

        Raises:
            TaskError: references that score less, naming the first ones.
            GraderError: a grader could not judge a reference.
        """
        scores = self.grade(range(len(self)), self.references)
        wrong = np.flatnonzero(scores != 1.0)
        if len(wrong):
            named = "; ".join(
                f"{self.ids[task]!r} ({self.graders[task]}): reference {_shortened(self.references[task])} "
                f"scores {scores[task]:g}"
                for task in wrong[:_OFFENDERS].tolist()
            )
            raise TaskError(
                f"{len(wrong)} of {len(self)} references do not score 1 with their own grader: {named}; "
                "correct the reference or choose another grader"
            )

    def with_embedding(self, method: str = "tfidf", dims: int = 64, seed: int = 0) -> TaskSet:
        """The same tasks with an embedding of their prompts, fitted on the training split only.

        Args:
            method: ``tfidf``, ``hashing`` or ``minilm``; see `routegym.tasks.embeddings.embed`.
            dims: number of columns.
            seed: fixes what is random in the method.

        Raises:
            TaskError: the method is unknown, or there are no training tasks.
            MissingExtraError: a package that the method needs is not installed.
        """
        from routegym.tasks.embeddings import embed

        embedding, embedder = embed(self.prompts, method, dims, seed, fit_on=self.in_split("train"))
        return replace(self, embedding=embedding, embedder=embedder)

    def _checked_embedding(self) -> npt.NDArray[np.float32]:
        given, count = np.asarray(self.embedding), len(self)
        if given.size == 0 and given.shape in ((0, 0), (count, 0)):
            given = np.zeros((count, 0), dtype=np.float32)
        if given.ndim != 2 or len(given) != count or given.dtype != np.float32:
            raise TaskError(
                f"task set: embedding of type {given.dtype} and shape {given.shape}; expected float32 ({count}, d)"
            )
        bad = np.flatnonzero(~((given >= 0) & (given <= 1)).all(axis=1))
        if len(bad):
            raise TaskError(
                f"task {self.ids[bad[0]]!r}: its embedding has a value that is not in [0, 1]; scale every column first"
            )
        kept = np.ascontiguousarray(given)
        if kept.flags.writeable:
            kept = kept.copy()
            kept.flags.writeable = False
        return kept


_REQUIRED = ("ids", "prompts", "references", "splits")
_DEFAULTS = {"graders": "exact", "kinds": "", "details": ""}


def _shortened(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 3] + "...")
