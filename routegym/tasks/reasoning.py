"""Tasks of reasoning-gym's generators, and its verifiers behind a strict gate.

Generators and verifiers run in worker processes: some never end on unlucky input, some evaluate an answer as Python
code, and some draw other tasks under another hash seed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from routegym.errors import GraderError, MissingExtraError, TaskError
from routegym.tasks.extraction import final_answer, number, tokens, unnamed
from routegym.tasks.mathematics import timeout_of
from routegym.tasks.taskset import TaskSet, prompt_hash, split_of
from routegym.tasks.workers import call

__all__ = ["draw", "generate_reasoning_tasks", "judge", "names", "prepare", "verify"]

_DRAW_LIMIT_S = 60.0  # for one task
_DRAWS_PER_TASK = 4  # before a generator is taken to have no more different tasks
_CLOSE = Fraction(1, 100)  # relative; some verifiers take any number that begins like the reference
_FULL = 1.0 - 1e-9

# Several answers to one task are right. The whole answer must be made of nothing but this, whatever its verifier
# reads over; answers to all other generators must be the reference but for spaces, case and the form of numbers.
_ALGEBRA = r"(?:[0-9+\-*/^(). ]|\b(?:[A-Za-z]|sin|cos|tan|sinh|cosh|tanh|exp|log|ln|sqrt|asin|acos|atan|pi)\b)+"
_ARITHMETIC = r"(?!.*\*\s*\*)[0-9+\-*/() ]+"
_LISTS = r"\[[\s\"'\[\],A-Za-z]*\]"
_FORMS = {
    "countdown": _ARITHMETIC,
    "group_anagrams": _LISTS,
    "intermediate_integration": _ALGEBRA,
    "jugs": r"\[[\s\",A-Za-z>\-]*\]",
    "knight_swap": r"No|\[[\s\",A-Za-z0-9]*\]",
    "n_queens": r"[Q_\s]+",
    "palindrome_generation": r"[a-z]+",
    "palindrome_partitioning": _LISTS,
    "polynomial_multiplication": _ALGEBRA,
    "puzzle24": _ARITHMETIC,
    "quantum_lock": r"[A-C](?:\s*(?:→|->)\s*[A-C])*",
    "shortest_path": r"infeasible|(?:up|down|left|right)(?:\s+(?:up|down|left|right))*",
    "simple_integration": _ALGEBRA,
    "sokoban": r"[LRUD]+",
    "tower_of_hanoi": r"(?:Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+\s*)+",
    "word_ladder": r"[A-Za-z]+(?:,[A-Za-z]+)*",
}


def generate_reasoning_tasks(name: str, count: int, seed: int = 0, options: Mapping[str, Any] | None = None) -> TaskSet:
    """Different tasks of one generator; the first k are the same for every `count` >= k.

    Ids and splits follow from the prompts alone, so that a prompt is in the same split whatever the seed.

    Args:
        name: generator, one of `names`.
        count: number of tasks.
        seed: task i is drawn from ``SeedSequence([seed, i])``, so that neighbouring seeds share nothing;
            a prompt that was drawn before is dropped and the next one drawn.
        options: settings of the generator, for example ``{"max_terms": 2}``.

    Raises:
        TaskError: the generator or an option is unknown, it has not that many different tasks, its tasks have no
            reference, or its verifier does not accept its own reference.
        MissingExtraError: reasoning-gym is not installed.
    """
    _require()
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names())}"
        raise TaskError(f"unknown generator {name!r} of reasoning-gym; {hint}")
    if count < 1 or seed < 0:
        raise TaskError(f"reasoning_gym:{name}: count = {count}, seed = {seed}; expected count >= 1 and seed >= 0")
    settings = dict(options or {})
    entries: dict[str, dict[str, Any]] = {}
    for index in range(_DRAWS_PER_TASK * count + 100):
        own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
        try:
            entry = call("routegym.tasks.reasoning:draw", [name, settings, own_seed], _DRAW_LIMIT_S)
        except GraderError as error:
            raise TaskError(f"reasoning_gym:{name}: no task could be drawn with options {settings}: {error}") from error
        if not isinstance(entry["answer"], str):
            raise TaskError(
                f"reasoning_gym:{name} gives no reference with its tasks, so that nothing proves its grader; "
                "take another generator"
            )
        entries.setdefault(entry["question"], entry)
        if len(entries) == count:
            break
    else:
        raise TaskError(
            f"reasoning_gym:{name} gave only {len(entries)} different tasks in {index + 1} draws, {count} were asked "
            "for; ask for fewer, or make the tasks larger through its options"
        )
    shown = "&".join(f"{key}={value}" for key, value in settings.items())
    ids = tuple(f"{name}-{prompt_hash(prompt)}" for prompt in entries)
    tasks = TaskSet(
        ids=ids,
        prompts=tuple(entries),
        references=tuple(entry["answer"] for entry in entries.values()),
        splits=tuple(split_of(task_id) for task_id in ids),
        graders=("reasoning_gym",) * count,
        kinds=(f"{name}?{shown}" if shown else name,) * count,
        details=tuple(_details(name, settings, entry) for entry in entries.values()),
    )
    tasks.validate()
    return tasks


def names() -> tuple[str, ...]:
    """The generators of the installed reasoning-gym.

    Raises:
        MissingExtraError: it is not installed.
    """
    _require()
    return _names()


def judge(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """Score of one answer; see `routegym.tasks.graders.reasoning_gym`.

    Full marks are 1, everything below is 0: reasoning-gym gives partial marks for an answer that merely contains the
    reference, for one that has the right form, and for one that is not empty.
    """
    timeout_s = timeout_of(details)
    generator, entry = details.get("generator"), details.get("entry")
    if not isinstance(generator, str) or not isinstance(entry, dict) or entry.get("answer") != reference:
        raise GraderError(
            'reasoning_gym: the details of the task do not belong to its reference; expected {"generator", "options", '
            '"entry"} as routegym.tasks.load_tasks("reasoning_gym:NAME:SIZE") writes them'
        )
    stated = _admitted(answer, reference, generator)
    if stated is None:
        return 0.0
    _require()
    arguments = [generator, details.get("options", {}), entry, stated]
    return float(call("routegym.tasks.reasoning:verify", arguments, timeout_s) >= _FULL)


def prepare() -> None:
    """Runs in a new worker process: the slow import is done before the first answer."""
    import reasoning_gym  # noqa: F401


def draw(name: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Runs in the worker process: the one task that a generator draws from this seed.

    Raises:
        ValueError: an option is unknown or has a value that the generator does not take.
    """
    try:
        entry = _created(name, json.dumps(dict(options)), seed)[0]
    except AssertionError as error:
        raise ValueError(f"the options do not fit each other: {error}") from error
    return json.loads(json.dumps(entry, default=_plain))  # type: ignore[no-any-return]


def verify(name: str, options: Mapping[str, Any], entry: dict[str, Any], answer: str) -> float:
    """Runs in the worker process: what the generator's verifier says of an answer."""
    return float(_verifier(name, json.dumps(dict(options))).score_answer(answer, entry))


def _admitted(answer: str, reference: str, generator: str) -> str | None:
    """What the verifier is asked about; None where the answer is wrong before that."""
    stated = final_answer(answer) or answer.strip()
    form = _FORMS.get(generator)
    if form is not None:
        return stated if re.fullmatch(form, stated) else None
    bare = final_answer(reference) or reference.strip()
    wanted, value = number(bare), number(unnamed(stated))
    if wanted is not None:
        if value is None or abs(value - wanted) > _CLOSE * abs(wanted):
            return None
        return reference if value == wanted else unnamed(stated)
    if stated.split() == bare.split():
        return reference
    return stated if tokens(stated) == tokens(bare) else None


def _details(name: str, options: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """What `judge` needs; the question is the prompt, and no verifier reads it."""
    kept = {key: value for key, value in entry.items() if key != "question"}
    return json.dumps({"generator": name, "options": dict(options), "entry": kept}, sort_keys=True)


def _created(name: str, options: str, seed: int) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, **json.loads(options), seed=seed, size=1)


@lru_cache(maxsize=256)
def _verifier(name: str, options: str) -> Any:
    return _created(name, options, seed=0)


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    found = call("routegym.tasks.reasoning:_listed", [], _DRAW_LIMIT_S)
    return tuple(str(name) for name in found)


def _listed() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})  # which mixes others; join several specs instead


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _require() -> None:
    if find_spec("reasoning_gym") is None:
        raise MissingExtraError("reasoning-gym", "tasks")
