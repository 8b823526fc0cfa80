"""Text of others on a page: nothing in it may act, reorder what stands around it, or fill the page."""

from __future__ import annotations

import html
import re

__all__ = ["excerpt", "label", "reveal"]

#: Controls, zero-width characters, what reorders the text around it, and halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def reveal(text: str) -> str:
    """The text with what cannot be seen written out: ``<U+202E>`` and the like. Still to be escaped."""
    return _HIDDEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text.replace("\r\n", "\n"))


def excerpt(text: str, limit: int) -> str:
    """Beginning and end of a text, `limit` characters together; what is left out between is counted."""
    if len(text) <= limit:
        return text
    head, tail = limit * 3 // 4, limit // 4
    return f"{text[:head]}\n[\N{HORIZONTAL ELLIPSIS} {len(text) - head - tail:,} characters]\n{text[-tail:]}"


def label(text: str, limit: int = 60) -> str:
    """A name in a figure: short, on one line, and escaped, as plotly reads some HTML in its texts."""
    return html.escape(" ".join(reveal(excerpt(text, limit)).split()))
