"""Task sets by name: files, reasoning-gym's generators, the arithmetic tasks, and several of them joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from routegym.errors import TaskError
from routegym.tasks.arithmetic import generate_tasks
from routegym.tasks.files import read_tasks
from routegym.tasks.taskset import TaskSet, prompt_hash, split_of

__all__ = ["join_tasks", "load_tasks"]

_FORMS = (
    "expected a .jsonl, .csv or .parquet file, arithmetic:SIZE, operations:SIZE or reasoning_gym:NAME:SIZE?OPTION=VALUE"
)


def load_tasks(
    spec: str | Path,
    *,
    id: str = "id",
    prompt: str = "prompt",
    reference: str = "reference",
    split: str = "split",
    grader: str = "grader",
    kind: str = "kind",
    details: str = "details",
    default_grader: str = "exact",
    seed: int = 0,
) -> TaskSet:
    """Tasks from a file or a generator.

    Args:
        spec: path of a ``.jsonl``, ``.csv`` or ``.parquet`` file; ``reasoning_gym:chain_sum:500``, with options of the
            generator ``reasoning_gym:chain_sum:500?max_terms=2&max_digits=2``; ``arithmetic:500`` (expressions,
            for AgentSteps); ``operations:500`` (single operations such as ``58*7``); or several of
            these joined by ``+``.
        id: column of the ids in files; likewise `prompt`, `reference`, `split`, `grader`, `kind` and `details`.
            Only prompt and reference must be there.
        default_grader: grader of the tasks in files that name none.
        seed: fixes what is generated, and the split of tasks in files that name none.

    Raises:
        TaskError: the spec or the file makes no sense; messages about files name the line and the field.
        MissingExtraError: reasoning-gym is needed and not installed.
    """
    if seed < 0:
        raise TaskError(f"seed = {seed}; expected an integer >= 0")
    columns = {
        "id": id,
        "prompt": prompt,
        "reference": reference,
        "split": split,
        "grader": grader,
        "kind": kind,
        "details": details,
    }
    text = str(spec)
    parts = [text] if isinstance(spec, Path) or Path(text).is_file() else text.split("+")
    return join_tasks([_load(part.strip(), columns, default_grader, seed) for part in parts])


def join_tasks(parts: list[TaskSet]) -> TaskSet:
    """One task set of several, in order; a task that is there already (same id and prompt) is dropped.

    Raises:
        TaskError: an id stands for two prompts, or one prompt is in two splits.
    """
    if len(parts) == 1:
        return parts[0]
    seen: set[tuple[str, str]] = set()
    rows: list[tuple[str, ...]] = []
    for tasks in parts:
        columns = (tasks.ids, tasks.prompts, tasks.references, tasks.splits, tasks.graders, tasks.kinds, tasks.details)
        for row in zip(*columns, strict=True):
            if row[:2] not in seen:
                seen.add(row[:2])
                rows.append(row)
    ids, prompts, references, splits, graders, kinds, details = zip(*rows, strict=True)
    return TaskSet(ids, prompts, references, splits, graders, kinds, details)


def _load(part: str, columns: dict[str, str], default_grader: str, seed: int) -> TaskSet:
    source, _, rest = part.partition(":")
    if source == "arithmetic":
        tasks = generate_tasks(_size(rest, part), seed=seed)
        return _named_by_prompt("arithmetic", tasks.prompts, tasks.references)
    if source == "operations":
        tasks = generate_tasks(_size(rest, part), operations=(1, 1), seed=seed)
        prompts = tuple(prompt[1:-1] for prompt in tasks.prompts)  # without their parentheses
        return _named_by_prompt("operation", prompts, tasks.references)
    if source == "reasoning_gym":
        from routegym.tasks.reasoning import generate_reasoning_tasks

        address, _, query = rest.partition("?")
        name, _, size = address.rpartition(":")
        if not name:
            raise TaskError(
                f"tasks {part!r}: expected reasoning_gym:NAME:SIZE, for example reasoning_gym:chain_sum:500"
            )
        return generate_reasoning_tasks(name, _size(size, part), seed, _options(query, part))
    if not Path(part).suffix:
        raise TaskError(f"tasks {part!r} are unknown; {_FORMS}")
    return read_tasks(part, columns, default_grader, seed)


def _named_by_prompt(kind: str, prompts: tuple[str, ...], references: tuple[str, ...]) -> TaskSet:
    """With ids and splits that follow from the prompts, so that a prompt is in the same split whatever the seed."""
    ids = tuple(f"{kind}-{prompt_hash(prompt)}" for prompt in prompts)
    return TaskSet(ids, prompts, references, tuple(map(split_of, ids)), kinds=(kind,) * len(ids))


def _size(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise TaskError(f"tasks {part!r}: size {text!r}; expected a number from 1 to 1000000 at the end")
    return int(text)


def _options(query: str, part: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in query.split("&") if query else []:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier() or name in options:
            raise TaskError(f"tasks {part!r}: option {pair!r}; expected NAME=VALUE, each name once, joined by &")
        if name in ("seed", "size"):
            raise TaskError(f"tasks {part!r}: option {name!r} is given elsewhere: the size behind the name, and seed=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
