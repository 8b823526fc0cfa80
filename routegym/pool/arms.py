"""Arms and what they cost: the things a router can choose, and their dated price table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from routegym.errors import PoolError, PriceError

__all__ = ["TOKEN_KINDS", "Arm", "Price", "PriceTable"]

#: The order of the last axis of every token array.
TOKEN_KINDS = ("prompt", "cached", "completion", "reasoning")


@dataclass(frozen=True)
class Arm:
    """One thing the router can choose: a model at a budget tier."""

    model: str
    """Name of the model; the key into the price table."""
    tier: str
    """Name of the tier, for example ``direct``, ``written`` or ``vote5``."""
    parameters: int
    """Number of weights of the model (0 where it is not known)."""
    max_completion_tokens: int | None
    """Most tokens that one call may generate, over all its samples; None = not known."""

    def __post_init__(self) -> None:
        if not self.model or not self.tier:
            raise PoolError(f"arm {self.model!r}/{self.tier!r}: model and tier must not be empty; name both")
        if self.parameters < 0:
            raise PoolError(f"arm {self.name}: parameters = {self.parameters} is negative; give the number of weights")
        if self.max_completion_tokens is not None and self.max_completion_tokens <= 0:
            raise PoolError(
                f"arm {self.name}: max_completion_tokens = {self.max_completion_tokens} must be positive, "
                "or None where the worst case is not known"
            )

    @property
    def name(self) -> str:
        """``model/tier``, unique in a pool."""
        return f"{self.model}/{self.tier}"


@dataclass(frozen=True)
class Price:
    """Prices of one model in USD per million tokens, by token kind."""

    prompt: float
    cached: float
    completion: float
    reasoning: float

    def __post_init__(self) -> None:
        for kind in TOKEN_KINDS:
            value = getattr(self, kind)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise PriceError(
                    f"price of {kind} tokens is {value!r}; expected a finite number >= 0 in USD per million tokens"
                )

    def as_array(self) -> npt.NDArray[np.float64]:
        """USD per token, shape (4,), in the order of `TOKEN_KINDS`."""
        return np.array([getattr(self, kind) for kind in TOKEN_KINDS], dtype=np.float64) / 1e6


@dataclass(frozen=True)
class PriceTable:
    """A dated table of prices. A model that is not in it is an error, never free."""

    date: str
    """Day on which the prices held, ISO format."""
    note: str
    """Where the prices come from; nominal prices say so."""
    prices: Mapping[str, Price] = field(default_factory=dict)

    def per_token(self, arms: Sequence[Arm]) -> npt.NDArray[np.float64]:
        """USD per token, shape (len(arms), 4).

        Raises:
            PriceError: the model of an arm has no price.
        """
        rows = []
        for arm in arms:
            if arm.model not in self.prices:
                known = ", ".join(sorted(self.prices)) or "none"
                raise PriceError(
                    f"no price for model {arm.model!r} (arm {arm.name}) in the table of {self.date}; "
                    f"known models: {known}; add its price in USD per million tokens"
                )
            rows.append(self.prices[arm.model].as_array())
        return np.array(rows, dtype=np.float64).reshape(len(arms), len(TOKEN_KINDS))
