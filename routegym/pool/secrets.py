"""Keeping an endpoint's key out of everything that is logged, raised or stored."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from urllib.parse import quote

from routegym.errors import PoolError

__all__ = ["LogFilter", "check_key", "redactor"]

#: Shorter ones are placeholders ("EMPTY", "none"): taking them out of texts would only garble these.
SHORTEST_KEY = 8

REDACTED = "[redacted]"


def check_key(key: str) -> None:
    """Refuse a key that cannot stand in a header.

    Raises:
        PoolError: it is empty, or holds spaces, line breaks or characters beyond ASCII. The key is not shown.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise PoolError(
            f"the endpoint's key ({len(key)} characters) is empty or holds spaces, line breaks or characters beyond "
            "ASCII; check the variable named by api_key_env"
        )


def redactor(key: str | None) -> Callable[[str], str]:
    """A function that takes a key out of a text: whole, percent-encoded, or cut off after its first half.

    A key of fewer than eight characters is taken for a placeholder and stays.
    """
    if key is None or len(key) < SHORTEST_KEY:
        return lambda text: text
    half = max(SHORTEST_KEY, len(key) // 2)
    forms = {re.escape(quote(key, safe="")), re.escape(key[:half]) + r"[^\s\"'\\<>]*"}
    pattern = re.compile("|".join(sorted(forms)))
    return lambda text: pattern.sub(REDACTED, text)


class LogFilter(logging.Filter):
    """Takes a key out of what a logger records: libraries log response headers, and a server may echo anything."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it is always kept."""
        record.msg, record.args = self._redact(record.getMessage()), None
        return True
