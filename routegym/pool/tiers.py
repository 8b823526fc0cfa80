"""A tier: how an arm asks its model, and how samples become one answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from routegym.errors import CallRefusedError
from routegym.pool.arms import Arm
from routegym.pool.backend import Attempt, Call, Completion, Request, Response, Tokens

__all__ = ["Tier", "lost_tokens"]


@dataclass(frozen=True)
class Tier:
    """How an arm asks its model."""

    arm: Arm
    """The arm; it answers for its fallback and its limits."""
    endpoint: str
    """Which endpoint of the pool serves it."""
    engine: str
    """Kind of the endpoint's engine."""
    model: str
    """Name by which the engine knows the model."""
    template: str
    """What is sent, with ``{prompt}`` once in the place of the prompt."""
    max_tokens: int
    """Most tokens that one sample may generate."""
    system: str | None = None
    """System message, of a chat."""
    api: Literal["chat", "completions"] = "chat"
    revision: str = ""
    adapter: str = ""
    temperature: float = 0.0
    samples: int = 1
    """Answers drawn for each call; the most frequent one is returned."""
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    answer: str | None = None
    """Regular expression whose last match holds the answer in group 1; None = the text without white space around."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_call(self, request: Request) -> Call:
        """What is sent for a request of this tier's arm.

        Raises:
            CallRefusedError: the request has a history, and the tier asks for plain completions.
        """
        before, after = self._around
        text = f"{before}{request.prompt}{after}"
        history = request.history
        if self.api == "completions":
            if history:
                raise CallRefusedError(
                    f"arm {self.arm.name}: api = 'completions' takes no conversation; ask it one prompt, or use a tier "
                    "with api = 'chat'"
                )
            messages: tuple[tuple[str, str], ...] = (("prompt", text),)
        elif self.system is None or any(role == "system" for role, _ in history):
            messages = (*history, ("user", text))
        else:
            messages = (("system", self.system), *history, ("user", text))
        return Call(
            arm=request.arm,
            engine=self.engine,
            model=self.model,
            messages=messages,
            max_tokens=self.max_tokens,
            revision=self.revision,
            adapter=self.adapter,
            api=self.api,
            temperature=self.temperature,
            n=self.samples,
            seed=request.seed,
            stop=self.stop,
            reasoning_effort=self.reasoning_effort,
            options=self.options,
        )

    def to_response(self, completion: Completion) -> Response:
        """One answer from all samples: the most frequent, of equally frequent ones the earliest.

        Samples without a usable answer have no vote, but count in `Response.agreement`.
        """
        answers = [self._extract(text) for text in completion.texts]
        # Counter keeps first-seen order, so the earliest sample wins a tie.
        counted = Counter(filter(None, answers)) or Counter(answers)
        text, votes = counted.most_common(1)[0]
        return Response(
            text=text,
            tokens=completion.tokens,
            latency_s=completion.latency_s + sum(attempt.latency_s for attempt in completion.lost),
            flops=2.0 * self.arm.parameters * sum(completion.tokens),
            logprob=completion.logprobs[answers.index(text)],
            agreement=votes / len(answers),
            gpu_s=completion.gpu_s,
            attempts=1 + len(completion.lost),
            lost_tokens=lost_tokens(completion.lost),
        )

    @cached_property
    def _around(self) -> tuple[str, str]:
        before, _, after = self.template.partition("{prompt}")
        return before, after

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return None if self.answer is None else re.compile(self.answer)

    def _extract(self, text: str) -> str:
        if self._pattern is None:
            return text.strip()
        matches = list(self._pattern.finditer(text))
        return (matches[-1][1] or "").strip() if matches else ""


def lost_tokens(attempts: tuple[Attempt, ...]) -> Tokens:
    """Tokens charged for failed attempts, by kind."""
    prompt, cached, completion, reasoning = (sum(a.tokens[kind] for a in attempts) for kind in range(4))
    return prompt, cached, completion, reasoning
