"""What a failed attempt means: which error it is, whether it is charged, whether it is tried again, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from routegym.errors import (
    CallError,
    CallRefusedError,
    CallTimeoutError,
    ConnectionFailedError,
    MalformedResponseError,
    PromptTooLongError,
    RateLimitError,
    ServerFailedError,
)
from routegym.pool.protocol import error_text

__all__ = ["AttemptFailedError", "failed_status", "retry_after_s"]

#: How servers say that prompt and answer do not fit the context.
_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|max(imum)?[ _](model|context|sequence)[ _]len|prompt is too long"
    r"|reduce the length|longer than the max|exceed_context",
    re.IGNORECASE,
)
_MESSAGE_CHARACTERS = 300


class AttemptFailedError(Exception):
    """One attempt brought no answer.

    Attributes:
        error: what the user sees.
        charged: whether the server may have worked on it, so that the worst case is charged.
        retry: whether another attempt may help.
        retry_after_s: how long the server asks to wait; None = it does not say.
    """

    def __init__(
        self,
        error: CallError,
        *,
        charged: bool,
        retry: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.charged = charged
        self.retry = retry
        self.retry_after_s = retry_after_s

    @property
    def server_failed(self) -> bool:
        """Whether it speaks against the endpoint, and not against this one request."""
        kinds = (ConnectionFailedError, CallTimeoutError, ServerFailedError, MalformedResponseError)
        return isinstance(self.error, kinds)


def failed_status(status: int, headers: Mapping[str, str], content: bytes) -> AttemptFailedError:
    """What an answer with another status than 2xx means.

    Args:
        status: HTTP status.
        headers: the answer's headers, names in lower case.
        content: its body, or the beginning of it.
    """
    said = error_text(content)
    shown = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    message = f"the server answers {status}: {shown[:_MESSAGE_CHARACTERS] or 'nothing'}"
    wait_s = retry_after_s(headers.get("retry-after"))
    if wait_s is not None:
        message += f" (it asks to wait {wait_s:g} s)"
    if status < 400:
        return AttemptFailedError(
            CallRefusedError(
                f"the server answers {status}; redirects are not followed: give the address that it leads to"
            ),
            charged=False,
            retry=False,
        )
    if status in (400, 413, 422) and (status == 413 or _TOO_LONG.search(said)):
        return AttemptFailedError(
            PromptTooLongError(f"{message}; shorten the prompt or lower max_tokens"), charged=False, retry=False
        )
    if status in (408, 504):
        return AttemptFailedError(CallTimeoutError(message), charged=True, retry_after_s=wait_s)
    if status == 429:
        # A quota that is used up comes back next month, not within a deadline.
        retry = "insufficient_quota" not in said
        return AttemptFailedError(RateLimitError(message), charged=False, retry=retry, retry_after_s=wait_s)
    if status < 500:
        # 409 and 425 speak of a state of the server that passes; the others of the request, which will not change.
        retry = status in (409, 425)
        return AttemptFailedError(CallRefusedError(message), charged=False, retry=retry, retry_after_s=wait_s)
    return AttemptFailedError(ServerFailedError(message), charged=status != 503, retry_after_s=wait_s)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait, from seconds or an HTTP date; None where it makes no sense."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())
