"""What is asked of a model, what comes back, and the two protocols in between.

An `Engine` runs models: it gets a `Call`, everything that is sent, and gives a raw `Completion`. A `Backend` is
what an environment's expander talks to: it turns a `Request` (arm and prompt) into calls of the arm's tier, and
the samples that come back into one `Response`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from routegym.errors import BudgetError, CallError, PoolError
from routegym.pool.arms import Arm

__all__ = [
    "NO_TOKENS",
    "Attempt",
    "Backend",
    "Call",
    "Completion",
    "Engine",
    "Failure",
    "OnCompletion",
    "OnResponse",
    "Request",
    "Response",
    "Tokens",
    "unsent",
]

#: Prompt, cached, completion and reasoning tokens; see `routegym.pool.TOKEN_KINDS`.
Tokens = tuple[int, int, int, int]
NO_TOKENS: Tokens = (0, 0, 0, 0)


@dataclass(frozen=True)
class Request:
    """One call to make: what is asked of which arm, with the seed of its sampling."""

    arm: Arm
    prompt: str
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    """What was said before the prompt: (role, content) pairs; a system message among them replaces the tier's."""


@dataclass(frozen=True)
class Response:
    """What one call returned and what it took."""

    text: str
    """The answer as generated; empty where the model produced nothing usable."""
    tokens: Tokens
    """Prompt, cached, completion and reasoning tokens, all samples of the call together."""
    latency_s: float
    """Measured seconds; a batch's wall-clock time divided by its size where calls are batched."""
    flops: float
    """Floating-point operations of the forward passes (2 x parameters per token)."""
    logprob: float
    """Mean log-probability per token of the answer, <= 0; 0 where it is not known."""
    agreement: float = 1.0
    """Share of the samples that gave `text` (1 where one sample was drawn)."""
    gpu_s: float = 0.0
    """Measured GPU-seconds of the call; 0 where they are not measured."""
    attempts: int = 1
    """Attempts made, failed ones included."""
    lost_tokens: Tokens = NO_TOKENS
    """Tokens charged for attempts that failed, at the prices of the arm that was asked."""
    served_by: str | None = None
    """Name of the fallback arm that answered; None = the arm that was asked. Its prices apply to `tokens`."""


@dataclass(frozen=True)
class Attempt:
    """One attempt that brought no answer."""

    arm: str
    """Name of the arm that was asked."""
    error: str
    """Class of the error, a name of `routegym.errors`."""
    message: str
    """What happened, without secrets."""
    tokens: Tokens = NO_TOKENS
    """What it is charged: the worst case where the server may have worked on it, nothing where it refused."""
    latency_s: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A call that brought no answer: an infrastructure failure, never a wrong answer."""

    error: CallError | BudgetError
    """The last attempt's error, that the spend cap does not admit the call, or that it cost more than was reserved."""
    attempts: tuple[Attempt, ...] = ()
    """Every attempt that was made, in order; none where nothing was sent."""

    @property
    def latency_s(self) -> float:
        """Seconds that the attempts took."""
        return sum(attempt.latency_s for attempt in self.attempts)


def unsent() -> Failure:
    """What an engine reports, when it is interrupted, of a call with which it has not begun."""
    return Failure(CallError("interrupted before it was sent; the same command asks again"))


@dataclass(frozen=True)
class Call:
    """One call as it is sent. `key` covers everything that may change what comes back."""

    arm: Arm = field(repr=False)
    """Who is asked; not part of the key: another name or price for the same call is the same call."""
    engine: str
    """Kind of the engine: ``openai``, ``vllm``, ``transformers``, ``arithmetic``."""
    model: str
    """Name or folder by which the engine knows the model."""
    messages: tuple[tuple[str, str], ...]
    """(role, content) pairs; of a plain completion one pair with the role ``prompt``."""
    max_tokens: int
    """Most tokens that one sample may generate."""
    revision: str = ""
    """Version of the weights, as the pool file gives it."""
    adapter: str = ""
    """LoRA adapter on top of the model."""
    api: Literal["chat", "completions"] = "chat"
    temperature: float = 0.0
    n: int = 1
    """Samples drawn."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that are sent as they are (``top_p``, ``tools``, ...); JSON."""

    @property
    def key(self) -> str:
        """sha256 of the call in canonical JSON: the order of keys, white space and 1 or 1.0 make no difference.

        Raises:
            PoolError: an option that JSON cannot express.
        """
        # Not a cached_property: up to Python 3.11 that takes a lock, which nobody gives back in a forked child.
        known = vars(self).get("_key")
        if known is None:
            object.__setattr__(self, "_key", known := self._hash())
        return str(known)

    def _hash(self) -> str:
        sent = {name: value for name, value in vars(self).items() if name != "arm"}
        try:
            # There and back: tuples become lists, and equal numbers are written alike.
            sent = json.loads(json.dumps(sent, ensure_ascii=False, allow_nan=False, default=dict), parse_float=_number)
        except (TypeError, ValueError) as error:
            raise PoolError(f"call of {self.arm.name}: its options are not JSON: {error}") from error
        text = json.dumps(sent, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


@dataclass(frozen=True)
class Completion:
    """What an engine returned to one call, as it came; one entry per sample."""

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    """Mean log-probability per token of each sample, <= 0; 0 where it is not known."""
    finish_reasons: tuple[str, ...]
    """``stop``, ``length`` or what else the engine says."""
    tokens: Tokens
    """All samples together, as the engine counted them."""
    latency_s: float
    gpu_s: float = 0.0
    lost: tuple[Attempt, ...] = ()
    """Attempts that failed before this one."""


OnCompletion = Callable[[int, "Completion | Failure"], None]
"""Called once per call with its position, as soon as its result is there, by one thread at a time."""

OnResponse = Callable[[int, "Response | Failure"], None]


class Engine(Protocol):
    """Runs models. Batch-first; asynchronous inside where that helps."""

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """Make all calls; `on_result` has been called for each of them when this returns.

        What goes wrong with one call is a `Failure` of that call; an exception means that the engine itself
        cannot be used (and those calls that were reported before it stand).
        """
        ...

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """Most prompt tokens that each call can be charged; exact where the engine has its tokenizer."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it is not used afterwards."""
        ...


class Backend(Protocol):
    """Answers prompts in batches."""

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        """One result for each request, in order."""
        ...

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Prompt tokens that each request would be charged, over all samples of its arm."""
        ...
