"""What every workflow may show of a response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from routegym.pool.backend import Response

__all__ = ["RESPONSE_SIGNALS", "confidence", "response_signals"]

RESPONSE_SIGNALS = ("confidence", "valid")


def confidence(response: Response) -> float:
    """Geometric mean probability of the answer's tokens times the share of samples that gave it.

    Rounded to three digits: finer differences are noise and would not survive another machine.
    """
    return round(float(np.exp(min(response.logprob, 0.0))) * response.agreement, 3)


def response_signals(responses: Sequence[Response], valid: Callable[[str], bool]) -> npt.NDArray[np.float32]:
    """`RESPONSE_SIGNALS` of responses, float32 (n, 2); `valid` tells a well-formed answer."""
    rows = [(confidence(response), float(valid(response.text))) for response in responses]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(RESPONSE_SIGNALS))
