"""Mathematical equality by Math-Verify, behind a strict gate and in a process that can be killed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from routegym.errors import GraderError, MissingExtraError
from routegym.tasks.extraction import final_answer, number, unnamed
from routegym.tasks.workers import call

__all__ = ["TIMEOUT_S", "compare", "expression", "judge", "prepare", "timeout_of"]

#: Seconds that one answer may take, where the details of its task do not say otherwise.
TIMEOUT_S = 5.0

_LONGEST = 500  # characters of an expression
_WORD = re.compile(r"[A-Za-z]+")
_COMMANDS = {
    *("frac", "dfrac", "tfrac", "sqrt", "cdot", "times", "div", "left", "right", "pi", "sin", "cos", "tan", "cot"),
    *("sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp", "binom", "circ"),
}
_COUNTED = "=<>%|!~?;&"  # as often as in the reference
_TRANSLATED = str.maketrans({"\N{MINUS SIGN}": "-", "×": "*", "·": "*", "÷": "/", "π": r"\pi "})  # noqa: RUF001
_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?:[^0-9]|$))")


def judge(answer: str, reference: str, details: Mapping[str, Any]) -> float:
    """Score of one answer; see `routegym.tasks.graders.math_verify`."""
    timeout_s = timeout_of(details)
    stated = final_answer(answer)
    if stated is None:
        return 0.0
    stated = expression(stated, reference)
    if stated is None:
        return 0.0
    value = number(stated)
    if value is not None and value == number(reference):
        return 1.0  # plain, and a thousand times faster
    if find_spec("math_verify") is None:
        raise MissingExtraError("math-verify", "tasks")
    return float(call("routegym.tasks.mathematics:compare", [stated, reference], timeout_s))


def timeout_of(details: Mapping[str, Any]) -> float:
    """Seconds that one answer of a task may take.

    Raises:
        GraderError: it is none that can be used.
    """
    timeout_s = details.get("timeout_s", TIMEOUT_S)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 600:
        raise GraderError(f"timeout_s = {timeout_s!r}; expected seconds in (0, 600]")
    return float(timeout_s)


def expression(stated: str, reference: str) -> str | None:
    r"""What is compared: the stated answer, or None where it is no single expression in the reference's own words.

    Math-Verify looks for something that fits and passes over the rest; this gate leaves it nothing to pass over.
    Where the reference is a number, so must the answer be: ``6*2`` is no answer to "6*2". Elsewhere letters, relations,
    ``!``, ``%`` and the number of elements must be those of the reference.
    """
    stated, reference = stated.translate(_TRANSLATED), reference.translate(_TRANSLATED)
    if len(stated) > _LONGEST:
        return None
    if "=" not in reference:
        stated = unnamed(stated)
    if number(reference) is not None:
        return stated if number(stated) is not None else None
    if any(ord(character) > 126 and character not in reference for character in stated):
        return None
    letters = set("".join(_WORD.findall(reference)))
    words = set(_WORD.findall(reference)) | _COMMANDS
    if any(word not in words and not set(word) <= letters for word in _WORD.findall(stated)):
        return None
    for shape in (stated, reference):
        if re.search(r"[0-9.]\s+[0-9.]", shape):
            return stated if stated == reference else None
    if any(stated.count(character) != reference.count(character) for character in _COUNTED):
        return None
    if _COMMA.sub("", stated).count(",") != _COMMA.sub("", reference).count(","):
        return None
    return stated if stated.count("{") == stated.count("}") else None


def prepare() -> None:
    """Runs in a new worker process: what is slow the first time is done before the first answer."""
    compare("x^2", "x^2")


def compare(stated: str, reference: str) -> float:
    """Runs in the worker process: 1.0 where Math-Verify finds both equal.

    Raises:
        ValueError: the reference is no expression.
    """
    from math_verify import verify

    gold = _parsed(reference)
    if not gold:
        raise ValueError(f"the reference {reference!r:.60} is no mathematical expression")
    return float(verify(gold, _parsed(stated), timeout_seconds=None, raise_on_error=True))


def _parsed(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # As LaTeX; what is written as on a keyboard (x**2) is read as an expression.
    return list(
        parse(
            f"${text.replace('**', '^').strip('$')}$",
            [LatexExtractionConfig(), ExprExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=0,
            raise_on_error=True,
        )
    )
