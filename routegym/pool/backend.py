"""The protocol between an expander and whatever answers prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from routegym.pool.arms import Arm

__all__ = ["Backend", "Request", "Response"]


@dataclass(frozen=True)
class Request:
    """One call to make: what is asked of which arm, with the seed of its sampling."""

    arm: Arm
    prompt: str
    seed: int = 0


@dataclass(frozen=True)
class Response:
    """What one call returned and what it took."""

    text: str
    """The answer as generated; empty where the model produced nothing usable."""
    tokens: tuple[int, int, int, int]
    """Prompt, cached, completion and reasoning tokens, all samples of the call together."""
    latency_s: float
    """Measured seconds; a batch's wall-clock time divided by its size where calls are batched."""
    flops: float
    """Floating-point operations of the forward passes (2 x parameters per token)."""
    logprob: float
    """Mean log-probability per token of the answer, <= 0; 0 where it is not known."""
    agreement: float = 1.0
    """Share of the samples that gave `text` (1 where one sample was drawn)."""


class Backend(Protocol):
    """Answers prompts in batches."""

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """One response for each request, in order."""
        ...

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Prompt tokens that each request would be charged, over all samples of its arm."""
        ...
