"""From tokens to dollars: what an edge cost, and the most that a call may cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.graph.graph import edge_dtype
from routegym.pool.arms import Arm, PriceTable
from routegym.pool.backend import Response

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["edge_costs", "edge_records", "worst_case_usd"]


def worst_case_usd(prices: PriceTable, arm: Arm, prompt_tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Most USD that a call with these prompt tokens may cost; inf where the arm has no token limit.

    No prompt token is assumed to be cached, and every token that may be generated is charged at the
    dearer of the completion and the reasoning price.
    """
    prompt, cached, completion, reasoning = prices.per_token([arm])[0]
    if arm.max_completion_tokens is None:
        return np.full(len(prompt_tokens), np.inf)
    generated = arm.max_completion_tokens * max(completion, reasoning)
    return np.asarray(prompt_tokens * max(prompt, cached) + generated, dtype=np.float64)


def edge_costs(
    prices: PriceTable,
    arms: Sequence[Arm],
    action: npt.NDArray[Any],
    tokens: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What each edge cost and the worst case reserved for it, in USD; control actions are free.

    Args:
        action: integers (n,); those >= len(arms) are control actions.
        tokens: integers (n, 4) in the order of `TOKEN_KINDS`.

    Returns:
        cost_usd and reserve_usd, float64 (n,); never cost > reserve.
    """
    per_token = np.vstack([prices.per_token(arms), np.zeros((1, tokens.shape[1]))])
    row = np.minimum(action, len(arms))
    cost = np.einsum("nk,nk->n", tokens, per_token[row])
    reserve = np.zeros(len(cost))
    for index, arm in enumerate(arms):
        mine = row == index
        reserve[mine] = worst_case_usd(prices, arm, tokens[mine, :2].sum(axis=1).astype(np.float64))
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
        records["tokens"][rows] = [response.tokens for response in called]
        records["latency_s"][rows] = [response.latency_s for response in called]
        records["flops"][rows] = [response.flops for response in called]
        records["signals"][rows] = response_signals(called)
    records["cost_usd"], records["reserve_usd"] = edge_costs(
        recording.prices, recording.arms, actions, records["tokens"]
    )
    return records
