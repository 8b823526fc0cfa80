"""The same recording with its tasks dealt anew into training, validation and held-out parts, for cross-validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.graph.recording import Recording
from routegym.tasks.embeddings import settings_of
from routegym.tasks.taskset import TaskSet, prompt_hash

__all__ = ["fold_of_tasks", "fold_recordings"]

_VALIDATION = 8  # of the tasks that are not held out, one in so many


def fold_of_tasks(tasks: TaskSet, folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """The fold of every task, int64 (n,), from a hash of its prompt: equal prompts are in one fold."""
    return np.array([_bucket(prompt, seed) % folds for prompt in tasks.prompts], dtype=np.int64)


def fold_recordings(recording: Recording, folds: int, seed: int = 0) -> list[Recording]:
    """One recording per fold, whose test split is that fold; every task is held out in exactly one of them.

    Arms, situations and scales stay as they are, so that costs and budgets look alike in all folds; scales say nothing
    of single tasks. An embedding that `TaskSet.with_embedding` made is fitted anew on each
    training split; any other is kept.

    Args:
        recording: is left as it is; its own splits do not matter.
        folds: at least 2.
        seed: deals the tasks in another way.

    Raises:
        ConfigError: fewer than 2 folds, or a fold without tasks to hold out, to validate on or to train on.
    """
    if folds < 2:
        raise ConfigError(f"folds = {folds}; expected at least 2")
    tasks = recording.tasks
    place = fold_of_tasks(tasks, folds, seed)
    missing = np.setdiff1d(np.arange(folds), place)
    if len(missing):
        raise ConfigError(f"folds = {folds}: {len(tasks)} tasks leave fold {missing[0]} empty; take fewer folds")
    validation = np.array([_bucket(prompt, seed) // folds % _VALIDATION == 0 for prompt in tasks.prompts])
    made = settings_of(tasks.embedder)
    found = []
    for fold in range(folds):
        splits = np.where(place == fold, "test", np.where(validation, "val", "train")).tolist()
        for split, what in (("val", "validation"), ("train", "training")):
            if split not in splits:
                raise ConfigError(
                    f"folds = {folds}: {len(tasks)} tasks leave fold {fold} no {what} task; take other folds, another "
                    "seed or more tasks"
                )
        dealt = replace(tasks, splits=tuple(splits))
        if made is not None:
            dealt = dealt.with_embedding(*made)
        about = {"fold": {"number": fold, "of": folds, "seed": seed, "content_hash": recording.content_hash}}
        found.append(replace(recording, tasks=dealt, provenance=recording.provenance | about, content_hash=""))
    return found


def _bucket(prompt: str, seed: int) -> int:
    return int(prompt_hash(prompt if seed == 0 else f"{seed}:{prompt}"), 16)
