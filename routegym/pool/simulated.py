"""A simulated backend for tests: accuracies by level are given, nothing is computed by a model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from routegym.errors import PoolError
from routegym.pool.arms import Arm
from routegym.pool.backend import Failure, OnResponse, Request, Response
from routegym.tasks.arithmetic import LEVELS, MODULUS, level, next_operation

__all__ = ["SimulatedBackend"]

_PROMPT_TOKENS = 8
_COMPLETION_TOKENS = 4


@dataclass(frozen=True)
class SimulatedBackend:
    """Simulated answers to arithmetic prompts: right with a known probability, otherwise wrong.

    Closed form: an arm answers an operation of level l rightly with probability ``accuracy[arm][l]``,
    independently for each (arm, prompt, seed) and always alike for the same three. A wrong answer is uniform
    over the 999 wrong values, or malformed (``"?"``) with probability `malformed`. Every call takes 8 prompt
    and 4 completion tokens; its log-probability is the log of the accuracy.

    Raises:
        PoolError: a probability is outside [0, 1] or a level is missing.
    """

    accuracy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Probability of a right answer by arm name and level."""
    malformed: float = 0.0
    """Share of the wrong answers that are malformed."""

    def __post_init__(self) -> None:
        if not 0 <= self.malformed <= 1:
            raise PoolError(f"malformed = {self.malformed}; expected a share in [0, 1]")
        for arm, by_level in self.accuracy.items():
            for name in LEVELS:
                value = by_level.get(name)
                if value is None or not 0 <= value <= 1:
                    raise PoolError(
                        f"accuracy of arm {arm!r} at level {name!r} is {value!r}; expected a probability in [0, 1]"
                    )

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        """One simulated response for each request, in order; never a failure.

        Raises:
            PoolError: an arm has no accuracies, or a prompt is no operation.
        """
        results: list[Response | Failure] = []
        for index, request in enumerate(requests):
            results.append(self._respond(request))
            if on_result is not None:
                on_result(index, results[-1])
        return results

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Prompt tokens of each request."""
        return [_PROMPT_TOKENS for _ in requests]

    def _respond(self, request: Request) -> Response:
        operation = next_operation(f"({request.prompt})")
        if operation is None:
            raise PoolError(f"prompt {request.prompt!r} is no operation; expected for example '58+7'")
        accuracy = self._accuracy_of(request.arm)[level(operation)]
        key = f"{request.arm.name}:{request.seed}:{request.prompt}"
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little"))
        text = str(operation.value)
        if rng.random() >= accuracy:
            text = str((operation.value + int(rng.integers(1, MODULUS))) % MODULUS)
            if rng.random() < self.malformed:
                text = "?"
        return Response(
            text=text,
            tokens=(_PROMPT_TOKENS, 0, _COMPLETION_TOKENS, 0),
            latency_s=0.0,
            flops=2.0 * request.arm.parameters * (_PROMPT_TOKENS + _COMPLETION_TOKENS),
            logprob=math.log(max(accuracy, 1e-9)),
        )

    def _accuracy_of(self, arm: Arm) -> Mapping[str, float]:
        if arm.name not in self.accuracy:
            raise PoolError(
                f"no simulated accuracy for arm {arm.name!r}; known arms: {', '.join(self.accuracy) or 'none'}"
            )
        return self.accuracy[arm.name]
