"""Task sets, where they come from, how their answers are judged, and the arithmetic tasks of the embedded problem."""

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
from routegym.tasks.files import save_tasks
from routegym.tasks.graders import grade_answer, grader, register_grader
from routegym.tasks.sources import join_tasks, load_tasks
from routegym.tasks.taskset import SPLITS, TaskSet, split_of

__all__ = [
    "LEVELS",
    "SPLITS",
    "Operation",
    "TaskSet",
    "evaluate",
    "generate_tasks",
    "grade_answer",
    "grader",
    "join_tasks",
    "level",
    "load_tasks",
    "next_operation",
    "parse_value",
    "register_grader",
    "save_tasks",
    "split_of",
    "substitute",
]
