"""The one final answer that a text states, strictly: whoever states two, or takes one back, has stated none."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

__all__ = ["final_answer", "normalized_text", "number", "tokens", "unnamed"]

_LONGEST = 200_000  # characters of an answer that are looked at
_MOST_DIGITS = 400
_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_AFTER_BOX = re.compile(r"(?:[\s.$*]|\\[)\]])*")
_CLAIM = re.compile(
    r"(?i)\b(?:answer|result|solution)\s*(?:is\b\s*:?|:|=)[*_ \t]*|(?<!#)####(?!#)[ \t]*",
)
_DENIAL = re.compile(
    r"(?i)\b(?:not|never|neither|nor|cannot|wrong|incorrect|incorrectly|except|unlikely|doubt)\b|n['\u2019]t\b|\bor\W*$"
)
_WRAPPERS = (("**", "**"), ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("`", "`"), ('"', '"'), ("'", "'"))
_NAMED = re.compile(r"[A-Za-z]\s*=\s*(?=\S)")
_NUMBER = re.compile(
    r"\$?([-+]?)\$?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE]([-+]?[0-9]{1,3}))?"
)
_RATIO = re.compile(
    r"([-+]?)(?:\\[dt]?frac\s*\{\s*([-+]?[0-9]+)\s*\}\s*\{\s*([-+]?[0-9]+)\s*\}|([0-9]+)\s*/\s*([0-9]+)"
    r"|\\[dt]?frac\s*([0-9])\s*([0-9]))"
)
_TOKEN = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?|[^\W\d_]+|\S")
_QUIET = ".,;:!?\"'`()[]{}*_“”‘’«»…"  # noqa: RUF001


def final_answer(text: str) -> str | None:
    r"""The single final answer of a text, without its wrapping; None where there is none or more than one.

    Read are, in this order: one ``\boxed{...}`` with nothing behind it; what follows ``answer is``, ``Answer:`` or
    ``####`` up to the end of the text, on one line; a text that is one line. Claims that differ, a claim inside a
    denial ("not", "never", "wrong", ...), and everything said after a box leave none.
    """
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return None
    boxes = list(_BOX.finditer(text))
    claims = list(_CLAIM.finditer(text))
    if boxes:
        content, end = _braced(text, boxes[0].end())
        if len(boxes) > 1 or content is None or not _AFTER_BOX.fullmatch(text, end):
            return None
        found = _unwrapped(content)
        head = text[: boxes[0].start()]
        if _denied(head) or any(
            claimed.strip("$*\\([ ") and claimed != found
            for claimed in (_claimed(head, claim.end()) for claim in claims if claim.end() <= len(head))
        ):
            return None
    elif claims:
        rest = text[claims[-1].end() :].strip()
        if "\n" in rest or any(_denied(text[: claim.start()]) for claim in claims):
            return None
        found = _unwrapped(rest)
        if any(_claimed(text, claim.end()) != found for claim in claims[:-1]):
            return None
    else:
        found = "" if "\n" in text else _unwrapped(text)
    return found or None


def number(text: str) -> Fraction | None:
    r"""The value of one number and nothing else: ``-12``, ``1,234.5``, ``3/4``, ``\frac{3}{4}``, ``1e-3``, ``$5``.

    ASCII digits only; None for everything else, NaN and infinities among it.
    """
    if len(text) > _MOST_DIGITS:
        return None
    text = text.replace("\N{MINUS SIGN}", "-").strip()
    match = _RATIO.fullmatch(text)
    if match:
        sign, *parts = match.groups()
        upper, lower = (int(part) for part in parts if part is not None)
        if lower == 0:
            return None
        value = Fraction(upper, lower)
        return -value if sign == "-" else value
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    sign, digits, exponent = match.groups()
    value = Fraction(digits.replace(",", "")) * Fraction(10) ** int(exponent or 0)
    return -value if sign == "-" else value


def unnamed(text: str) -> str:
    """Without a leading ``x =``."""
    return _NAMED.sub("", text, count=1) if _NAMED.match(text) else text


def normalized_text(text: str) -> str:
    """Lower case, single spaces, without quiet punctuation around words and without a leading article.

    Nothing that could be part of a value is dropped: signs, decimal points, and what stands behind a digit
    other than ``. , ; :`` and closing brackets or quotes. Letters of other alphabets stay what they are.
    """
    words = []
    for word in unicodedata.normalize("NFC", text).casefold().split():
        if any(character.isdigit() for character in word):
            kept = word.lstrip("*\"'`([{“‘«").rstrip(".,;:*\"'`)]}”’»")  # noqa: RUF001
        else:
            kept = "".join(character for character in word if character not in _QUIET)
        if kept:
            words.append(kept)
    if len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return " ".join(words)


def tokens(text: str) -> list[str]:
    """Numbers by value, words in lower case, and every other character that is no space."""
    return [
        str(Fraction(found)) if found[-1] in "0123456789" and len(found) < _MOST_DIGITS else found.casefold()
        for found in _TOKEN.findall(text)
    ]


def _braced(text: str, start: int) -> tuple[str | None, int]:
    """What stands in the braces that open at `start`, and the position behind them."""
    if not text.startswith("{", start):
        return None, start
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position], position + 1
    return None, start


def _unwrapped(text: str) -> str:
    text = text.strip()
    for _ in range(len(_WRAPPERS)):
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opening, closing in _WRAPPERS:
            inside = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inside and closing not in inside:
                text = inside.strip()
        if text.endswith("**") and "**" not in text[:-2]:  # bold that began before the claim
            text = text[:-2].rstrip()
        if text == before:
            break
    return text


def _claimed(text: str, start: int) -> str:
    """What a claim says up to the end of its sentence or line."""
    return _unwrapped(re.split(r"\n|(?<=\S)\.(?:\s|$)", text[start:], maxsplit=1)[0])


def _denied(head: str) -> bool:
    """Whether the sentence that leads to an answer denies it or makes it conditional."""
    return bool(_DENIAL.search(re.split(r"[\n.!?;,]\s*(?=\S)", head[-300:])[-1]))
