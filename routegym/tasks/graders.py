"""Graders: how right an answer is, as a number in [0, 1].

=====================  ==================================================================================
grader                 an answer is right where
=====================  ==================================================================================
``exact``              it is the reference, character by character
``normalized``         it is the reference but for case, spaces, punctuation around words, a leading article
``multiple_choice``    it names one letter, and that is the reference
``numeric``            it states one number within the tolerance of the reference
``math_verify``        it states one expression that is mathematically equal to the reference
``reasoning_gym``      reasoning-gym's own verifier of the task says so, behind a strict gate
``module:function``    a function of yours, marked with `grader`, says so
=====================  ==================================================================================

A grader that cannot judge raises `GraderError`: an error is never a score of 0.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from importlib import import_module
from typing import Any, TypeVar

from routegym.errors import GraderError, MissingExtraError, TaskError
from routegym.tasks.extraction import final_answer, normalized_text, number, unnamed

__all__ = [
    "GRADERS",
    "Grader",
    "check_details",
    "check_grader",
    "exact",
    "grade_answer",
    "grader",
    "math_verify",
    "multiple_choice",
    "normalized",
    "numeric",
    "reasoning_gym",
    "register_grader",
]

#: Called with answer, reference and details; returns a score in [0, 1].
Grader = Callable[[str, str, dict[str, Any]], float]

_Function = TypeVar("_Function", bound=Callable[..., float])
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_LETTER = re.compile(r"(?i)(?:option|choice)?\s*[(\[]?([A-Z])(?:\)|\]|\.|:)?")
_LETTER_AND_TEXT = re.compile(r"(?i)[(\[]?([A-Z])(?:\)|\]|\.|:)+\s+(\S.*)")
_MARK = "_routegym_grader"


def exact(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where the answer is the reference, character by character."""
    return float(answer == reference)


def normalized(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where both are the same text after `routegym.tasks.extraction.normalized_text`."""
    wanted = normalized_text(reference)
    return float(normalized_text(answer) == wanted) if wanted else exact(answer, reference, details)


def multiple_choice(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where the answer names one letter, the reference's: ``B``, ``(B)``, ``B.``, ``Answer: B``, ``\\boxed{B}``.

    With ``details = {"choices": {"A": "Paris", ...}}`` the letter must be among them, and may be followed by its own
    text: ``B. Rome``.

    Raises:
        GraderError: the reference is no letter, or not among the choices.
    """
    choices = details.get("choices")
    if not (choices is None or isinstance(choices, dict)):
        raise GraderError(f"multiple_choice: choices = {choices!r:.60}; expected an object from letter to text")
    wanted = _LETTER.fullmatch(reference.strip())
    if wanted is None or (choices is not None and wanted[1].upper() not in choices):
        raise GraderError(f"multiple_choice: reference {reference!r:.60} is not one letter of the choices")
    stated = final_answer(answer)
    if stated is None:
        return 0.0
    match = _LETTER.fullmatch(stated)
    if match is None and choices is not None:
        match = _LETTER_AND_TEXT.fullmatch(stated)
        if match and normalized_text(match[2]) != normalized_text(str(choices.get(match[1].upper(), ""))):
            return 0.0
    return float(match is not None and match[1].upper() == wanted[1].upper())


def numeric(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where the answer states one number that differs from the reference by no more than the tolerance.

    ``details`` may hold ``abs_tol`` and ``rel_tol`` (of the reference), both 0 by default; the larger one counts.

    Raises:
        GraderError: the reference is no number, or a tolerance is none that can be used.
    """
    wanted = number(reference)
    if wanted is None:
        raise GraderError(
            f"numeric: reference {reference!r:.60} is not one number; expected for example 12, -0.5 or 3/4"
        )
    allowed = Fraction(0)
    for name, size in (("abs_tol", Fraction(1)), ("rel_tol", abs(wanted))):
        tolerance = details.get(name, 0)
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            raise GraderError(f"numeric: {name} = {tolerance!r}; expected a finite number >= 0")
        allowed = max(allowed, Fraction(tolerance) * size)
    stated = final_answer(answer)
    value = None if stated is None else number(unnamed(stated))
    return float(value is not None and abs(value - wanted) <= allowed)


def math_verify(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where the answer states one expression that Math-Verify finds equal to the reference.

    Runs in a process that can be killed; ``details`` may hold ``timeout_s`` (5 by default).

    Raises:
        GraderError: the reference cannot be read, or there was no verdict in time.
        MissingExtraError: Math-Verify is not installed.
    """
    from routegym.tasks.mathematics import judge

    return judge(answer, reference, details)


def reasoning_gym(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """1 where reasoning-gym's verifier gives full marks to an answer that passes a strict gate.

    Raises:
        GraderError: the details name no task of reasoning-gym's, or there was no verdict in time.
        MissingExtraError: reasoning-gym is not installed.
    """
    from routegym.tasks.reasoning import judge

    return judge(answer, reference, details)


#: The graders that a task may name.
GRADERS: dict[str, Grader] = {
    "exact": exact,
    "normalized": normalized,
    "multiple_choice": multiple_choice,
    "numeric": numeric,
    "math_verify": math_verify,
    "reasoning_gym": reasoning_gym,
}


def grader(function: _Function) -> _Function:
    """Mark a function as a grader, so that tasks may name it as ``module:function``.

    It is called with (answer, reference, details) and returns a score in [0, 1]. Task files come from anywhere;
    without this mark one could name any function of any installed package.
    """
    setattr(function, _MARK, True)
    return function


def register_grader(name: str, function: Grader) -> None:
    """Add a grader under a name of your own, for this process.

    Raises:
        TaskError: the name is taken, or is none.
    """
    if not name.isidentifier():
        raise TaskError(f"grader name {name!r}; expected letters, digits and underscores")
    if GRADERS.setdefault(name, function) is not function:
        raise TaskError(f"there is a grader {name!r} already; choose another name")


def check_grader(name: str) -> None:
    """Whether a task may name this grader; ``module:function`` is looked up only when it is used.

    Raises:
        TaskError: there is no such grader.
    """
    if name not in GRADERS and not _PATH.fullmatch(name):
        close = difflib.get_close_matches(name, GRADERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(GRADERS)}, or module:function"
        raise TaskError(f"unknown grader {name!r}; {hint}")


def check_details(text: str, where: str) -> dict[str, Any]:
    """The details of one task as an object.

    Raises:
        TaskError: they are not JSON, not an object, or hold NaN or an infinity; `where` begins the message.
    """
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: details are not JSON ({error}); expected a JSON object") from None
    if not isinstance(found, dict):
        raise TaskError(f"{where}: details are {text!r:.60}; expected a JSON object")
    return found


def grade_answer(name: str, answer: str, reference: str, details: str = "") -> float:
    """Score of one answer by the named grader.

    Args:
        name: a name of `GRADERS` or ``module:function``.
        answer: what was answered.
        reference: the right answer.
        details: JSON object with what the grader needs beside the reference; may be empty.

    Raises:
        TaskError: there is no such grader, or the details are no JSON object.
        GraderError: the grader failed, or returned something else than a number in [0, 1].
        MissingExtraError: a package that the grader needs is not installed.
    """
    check_grader(name)
    function = GRADERS.get(name) or _found(name)
    options = check_details(details, "grader") if details else {}
    try:
        score = function(answer, reference, options)
    except (GraderError, MissingExtraError):
        raise
    except Exception as error:
        raise GraderError(f"grader {name!r} raised {type(error).__name__}: {error}") from error
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise GraderError(f"grader {name!r} returned {score!r:.60}; expected a number in [0, 1]")
    return value


def _found(path: str) -> Grader:
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GraderError(f"grader {path!r} cannot be imported ({error}); put its module on the path") from error
    if not getattr(function, _MARK, False):
        raise GraderError(f"{path!r} is not marked as a grader; decorate it with @routegym.tasks.grader")
    return function  # type: ignore[no-any-return]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")
