"""From tokens to dollars: what an edge cost, and the most that a call may cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import PoolError
from routegym.graph.graph import edge_dtype
from routegym.pool.arms import TOKEN_KINDS, Arm, PriceTable
from routegym.pool.backend import Failure, Response, Tokens
from routegym.pool.prices import attempt_usd

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["edge_costs", "edge_records", "failure_cost_usd", "repriced_models", "worst_case_usd"]

_LOST = [TOKEN_KINDS.index("prompt"), TOKEN_KINDS.index("completion")]


def worst_case_usd(
    prices: PriceTable, arm: Arm, prompt_tokens: npt.NDArray[np.float64], arms: Sequence[Arm] = ()
) -> npt.NDArray[np.float64]:
    """Most USD that a call with these prompt tokens may cost; inf where the arm has no limit on what it may take.

    No prompt token is assumed to be cached, and every token that may be generated is charged at the
    dearer of the completion and the reasoning price; that for every attempt that may be charged, and the same
    again for the fallback.

    Args:
        prompt_tokens: float64 (n,).
        arms: where the arm's fallback is looked up.

    Raises:
        PoolError: the fallback is not among `arms`.
    """
    prompt, cached, completion, reasoning = prices.per_token([arm])[0]
    dearest = max(completion, reasoning)
    generated = 0.0
    if dearest > 0:
        if arm.max_completion_tokens is None:
            return np.full(len(prompt_tokens), np.inf)
        generated = arm.max_completion_tokens * dearest
    worst = np.asarray(prompt_tokens * max(prompt, cached) + (generated + arm.max_charge_usd), dtype=np.float64)
    gpu = prices.per_gpu_second([arm])[0]
    if gpu > 0:
        worst += np.inf if arm.max_gpu_s is None else arm.max_gpu_s * gpu
    if arm.charged_attempts > 1:
        worst *= arm.charged_attempts
    if arm.fallback is not None:
        # A fallback of a fallback is not taken: a call ends after the second arm.
        worst += worst_case_usd(prices, replace(_named(arms, arm.fallback), fallback=None), prompt_tokens)
    return worst


def edge_costs(
    prices: PriceTable,
    arms: Sequence[Arm],
    action: npt.NDArray[Any],
    records: npt.NDArray[np.void],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What each edge cost and the worst case reserved for it, in USD; control actions are free.

    Args:
        action: integers (n,); those >= len(arms) are control actions.
        records: `edge_dtype` records (n,), of which ``tokens``, ``lost``, ``gpu_s``, ``charge_usd`` and ``fallback``
            are read.

    Returns:
        cost_usd and reserve_usd, float64 (n,); never cost > reserve.
    """
    tokens, fallback = records["tokens"], records["fallback"]
    per_token = np.vstack([prices.per_token(arms), np.zeros((1, tokens.shape[1]))])
    row = np.minimum(action, len(arms))
    served = np.where(fallback > 0, fallback - 1, row)
    cost = np.einsum("nk,nk->n", tokens, per_token[served])
    if records["lost"].any():
        cost += np.einsum("nk,nk->n", records["lost"], per_token[row][:, _LOST])
    if records["gpu_s"].any():
        cost += records["gpu_s"] * np.append(prices.per_gpu_second(arms), 0.0)[served]
    if records["charge_usd"].any():
        cost += records["charge_usd"]
    reserve = np.zeros(len(cost))
    for index, arm in enumerate(arms):
        mine = row == index
        reserve[mine] = worst_case_usd(prices, arm, tokens[mine, :2].sum(axis=1).astype(np.float64), arms)
    # Sums in another order differ in the last bits: a call that takes all its tokens costs its worst case, no more.
    cost = np.where(cost <= reserve * (1 + 1e-12), np.minimum(cost, reserve), cost)
    return cost, np.maximum(cost, reserve)


def edge_records(
    recording: Recording,
    actions: npt.NDArray[Any],
    responses: Sequence[Response | None],
    response_signals: Callable[[Sequence[Response]], npt.NDArray[np.float32]],
) -> npt.NDArray[np.void]:
    """Priced `edge_dtype` records of fresh responses; ``next`` is left for the caller to fill."""
    records = np.zeros(len(actions), dtype=edge_dtype(len(recording.edge_signal_names)))
    rows = [row for row, response in enumerate(responses) if response is not None]
    called = [response for response in responses if response is not None]
    if called:
        number = {arm.name: 1 + index for index, arm in enumerate(recording.arms)}
        records["tokens"][rows] = [response.tokens for response in called]
        records["lost"][rows] = [_lost(response.lost_tokens) for response in called]
        records["latency_s"][rows] = [response.latency_s for response in called]
        records["gpu_s"][rows] = [response.gpu_s for response in called]
        records["flops"][rows] = [response.flops for response in called]
        records["fallback"][rows] = [number[r.served_by] if r.served_by else 0 for r in called]
        records["retries"][rows] = [min(response.attempts - 1, 2**16 - 1) for response in called]
        records["signals"][rows] = response_signals(called)
    records["cost_usd"], records["reserve_usd"] = edge_costs(recording.prices, recording.arms, actions, records)
    return records


def failure_cost_usd(prices: PriceTable, arms: Sequence[Arm], failure: Failure) -> float:
    """What the attempts of a failed call are charged, in USD."""
    asked = [(_named(arms, attempt.arm), attempt) for attempt in failure.attempts]
    return sum(attempt_usd(prices.price_of(arm), arm, attempt) for arm, attempt in asked)


def repriced_models(former: PriceTable, now: PriceTable, arms: Sequence[Arm]) -> tuple[str, ...]:
    """Models of these arms that have another price in one table than in the other, in order.

    Raises:
        PriceError: an arm has no price in one of them.
    """
    changed = [arm.model for arm in arms if former.price_of(arm) != now.price_of(arm)]
    return tuple(dict.fromkeys(changed))


def _lost(tokens: Tokens) -> tuple[int, int]:
    return tokens[0] + tokens[1], tokens[2] + tokens[3]


def _named(arms: Sequence[Arm], name: str) -> Arm:
    for arm in arms:
        if arm.name == name:
            return arm
    raise PoolError(f"unknown arm {name!r}; this pool has {', '.join(arm.name for arm in arms) or 'none'}")
