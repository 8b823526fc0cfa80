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
    """Name of the tier, for example ``direct``, ``written`` or ``vote5``; empty where the model has but one."""
    parameters: int
    """Number of weights of the model (0 where it is not known)."""
    max_completion_tokens: int | None
    """Most tokens that one call may generate, over all its samples; None = not known."""
    charged_attempts: int = 1
    """Attempts of one call that may be charged: 1 retries only what failed at no cost."""
    fallback: str | None = None
    """Name of the arm that answers where this one fails; its worst case is reserved as well."""
    max_gpu_s: float | None = None
    """Most GPU-seconds that one call may take; None = not known (needed only where GPU time has a price)."""
    max_charge_usd: float = 0.0
    """Most USD that one call is charged as such, beside what its tokens and its GPU time cost."""

    def __post_init__(self) -> None:
        if not self.model:
            raise PoolError(f"arm {self.model!r}/{self.tier!r}: model must not be empty; name it")
        if self.parameters < 0:
            raise PoolError(f"arm {self.name}: parameters = {self.parameters} is negative; give the number of weights")
        if self.max_completion_tokens is not None and self.max_completion_tokens <= 0:
            raise PoolError(
                f"arm {self.name}: max_completion_tokens = {self.max_completion_tokens} must be positive, "
                "or None where the worst case is not known"
            )
        if self.charged_attempts < 1:
            raise PoolError(f"arm {self.name}: charged_attempts = {self.charged_attempts}; expected at least 1")
        if self.fallback == self.name:
            raise PoolError(f"arm {self.name}: fallback is the arm itself; name another arm or none")
        if self.max_gpu_s is not None and not (math.isfinite(self.max_gpu_s) and self.max_gpu_s > 0):
            raise PoolError(f"arm {self.name}: max_gpu_s = {self.max_gpu_s}; expected a number > 0, or None")

        if not (math.isfinite(self.max_charge_usd) and self.max_charge_usd >= 0):
            raise PoolError(f"arm {self.name}: max_charge_usd = {self.max_charge_usd}; expected a finite number >= 0")

    @property
    def name(self) -> str:
        """``model/tier``, or the model where there is no tier; unique in a pool."""
        return f"{self.model}/{self.tier}" if self.tier else self.model


@dataclass(frozen=True)
class Price:
    """Prices of one model: USD per million tokens by token kind, and USD per GPU-hour where its GPU time is paid."""

    prompt: float
    cached: float
    completion: float
    reasoning: float
    gpu_hour: float = 0.0

    def __post_init__(self) -> None:
        for kind in (*TOKEN_KINDS, "gpu_hour"):
            value = getattr(self, kind)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                unit = "USD per GPU-hour" if kind == "gpu_hour" else "USD per million tokens"
                what = "GPU time" if kind == "gpu_hour" else f"{kind} tokens"
                raise PriceError(f"price of {what} is {value!r}; expected a finite number >= 0 in {unit}")

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
        rows = [self.price_of(arm).as_array() for arm in arms]
        return np.array(rows, dtype=np.float64).reshape(len(arms), len(TOKEN_KINDS))

    def per_gpu_second(self, arms: Sequence[Arm]) -> npt.NDArray[np.float64]:
        """USD per GPU-second, shape (len(arms),); 0 where GPU time is not what is paid.

        Raises:
            PriceError: the model of an arm has no price.
        """
        return np.array([self.price_of(arm).gpu_hour / 3600 for arm in arms], dtype=np.float64)

    def price_of(self, arm: Arm) -> Price:
        """The price of an arm's model.

        Raises:
            PriceError: it has none.
        """
        if arm.model not in self.prices:
            known = ", ".join(sorted(self.prices)) or "none"
            raise PriceError(
                f"no price for model {arm.model!r} (arm {arm.name}) in the table of {self.date}; "
                f"known models: {known}; add its price in USD per million tokens"
            )
        return self.prices[arm.model]
