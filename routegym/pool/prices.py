"""What calls cost: prices looked up by name, worst cases before a call and charges after it."""

from __future__ import annotations

import difflib
import hashlib
import json
from datetime import date
from functools import cache
from typing import Any

from routegym.errors import MissingExtraError, PriceError
from routegym.pool.arms import Arm, Price
from routegym.pool.backend import NO_TOKENS, Attempt, Tokens

__all__ = ["attempt_usd", "call_usd", "look_up", "worst_usd"]


def look_up(name: str, day: str) -> tuple[Price, str]:
    """The price of a hosted model in the genai-prices package; nothing is fetched.

    Where a price depends on the length of the prompt or on the time of the day, the highest is taken. Cached tokens
    cost as much as others where the table has no price for them, reasoning tokens as much as the answer's.

    Args:
        name: provider and model, ``openai/gpt-4o-mini``.
        day: the day on which the price held, ISO format.

    Returns:
        The price, and a note that identifies it: version of the table, model found, hash of the numbers.

    Raises:
        PriceError: the table has no such model, or one that is not paid by the token alone.
        MissingExtraError: genai-prices is not installed.
    """
    snapshot, version = _table()
    provider_id, _, model_ref = name.partition("/")
    providers = {provider.id: provider for provider in snapshot.providers}
    if provider_id not in providers:
        raise PriceError(
            f"genai-prices {version} has no provider {provider_id!r}{_close(provider_id, list(providers))}; "
            "correct genai_prices, or give the price in USD per million tokens"
        )
    try:
        provider, model = snapshot.find_provider_model(model_ref, None, provider_id, None)
    except LookupError:
        known = [model.id for model in providers[provider_id].models]
        raise PriceError(
            f"genai-prices {version} has no model {model_ref!r} of {provider_id}{_close(model_ref, known)}; "
            "correct genai_prices, or give the price in USD per million tokens"
        ) from None
    listed = [vars(prices) for prices in _in_force(model.prices, date.fromisoformat(day))]
    found = f"{provider.id}/{model.id}"
    by_request = sorted({key for prices in listed for key in prices if key.startswith("requests") and prices[key]})
    prompt, completion = _highest(listed, "input_mtok"), _highest(listed, "output_mtok")
    if by_request or prompt is None or completion is None:
        problem = f"is also paid by {', '.join(by_request)}" if by_request else "has no price per token"
        raise PriceError(f"{found} {problem} in genai-prices {version}; give its price in USD per million tokens")
    cached, reasoning = _highest(listed, "cache_read_mtok"), _highest(listed, "output_reasoning_mtok")
    price = Price(
        prompt=prompt,
        cached=prompt if cached is None else cached,
        completion=completion,
        reasoning=completion if reasoning is None else reasoning,
    )
    numbers = [price.prompt, price.cached, price.completion, price.reasoning]
    digest = hashlib.sha256(json.dumps([found, numbers]).encode()).hexdigest()
    return price, f"genai-prices {version}: {found}, sha256 {digest[:16]}"


def worst_usd(price: Price, arm: Arm, prompt_tokens: int) -> float:
    """Most USD that a call may cost, over all attempts that may be charged; without its fallback.

    No prompt token is assumed to be cached, and every token that may be generated is charged at the dearer of the
    completion and the reasoning price. inf where the arm has no limit.
    """
    generated, seconds = arm.max_completion_tokens, arm.max_gpu_s
    if generated is None or (price.gpu_hour > 0 and seconds is None):
        return float("inf")
    attempt = prompt_tokens * max(price.prompt, price.cached) + generated * max(price.completion, price.reasoning)
    return arm.charged_attempts * (attempt / 1e6 + (seconds or 0.0) * price.gpu_hour / 3600)


def call_usd(price: Price, tokens: Tokens, gpu_s: float = 0.0) -> float:
    """USD of tokens and GPU-seconds."""
    prompt, cached, completion, reasoning = tokens
    by_kind = prompt * price.prompt + cached * price.cached
    by_kind += completion * price.completion + reasoning * price.reasoning
    return by_kind / 1e6 + gpu_s * price.gpu_hour / 3600


def attempt_usd(price: Price, arm: Arm, attempt: Attempt) -> float:
    """USD that a failed attempt is charged: its tokens and, where GPU time is paid, the most that it may have taken."""
    seconds = (arm.max_gpu_s or 0.0) if attempt.tokens != NO_TOKENS else 0.0
    return call_usd(price, attempt.tokens, seconds)


@cache
def _table() -> tuple[Any, str]:
    """The prices as the package brings them, whatever its user has set or updated."""
    try:
        import genai_prices
        from genai_prices.data import providers
        from genai_prices.data_snapshot import DataSnapshot
    except ImportError as error:
        raise MissingExtraError("genai-prices", "live") from error
    return DataSnapshot(providers=providers, from_auto_update=False), str(genai_prices.__version__)


def _in_force(prices: Any, day: date) -> list[Any]:
    """The sets of prices that hold at some time of that day."""
    if not isinstance(prices, list):
        return [prices]
    held: list[Any] = [prices[0].prices]
    for conditional in prices:
        start = getattr(conditional.constraint, "start_date", None)
        if conditional.constraint is None or (start is not None and start <= day):
            held = [conditional.prices]
        elif start is None:  # some hours of the day
            held.append(conditional.prices)
    return held


def _highest(listed: list[dict[str, Any]], key: str) -> float | None:
    """USD per million tokens, the highest over all hours and lengths of the prompt; None = not listed."""
    values = [prices[key] for prices in listed if prices.get(key) is not None]
    flat = [
        step
        for value in values
        for step in ([value.base, *(t.price for t in value.tiers)] if hasattr(value, "tiers") else [value])
    ]
    return float(max(flat)) if flat else None


def _close(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
