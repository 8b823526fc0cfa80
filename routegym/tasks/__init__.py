"""Task sets, the arithmetic tasks of the embedded problem, and how their answers are read."""

from routegym.tasks.arithmetic import (
    LEVELS,
    Operation,
    evaluate,
    generate_tasks,
    level,
    next_operation,
    parse_value,
    substitute,
)
from routegym.tasks.taskset import SPLITS, TaskSet, split_of

__all__ = [
    "LEVELS",
    "SPLITS",
    "Operation",
    "TaskSet",
    "evaluate",
    "generate_tasks",
    "level",
    "next_operation",
    "parse_value",
    "split_of",
    "substitute",
]
