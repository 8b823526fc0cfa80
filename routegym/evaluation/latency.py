"""How long a router itself takes to decide."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["DecisionLatency", "decision_latency"]

_WARM_UP = 20


@dataclass(frozen=True)
class DecisionLatency:
    """Wall-clock time of `Policy.predict`, observation and masks ready in memory."""

    p50_s: float
    """Median for one decision on its own, seconds."""
    p99_s: float
    """99th percentile."""
    throughput_per_s: float
    """Decisions per second at batches of `batch`."""
    batch: int
    """Size of these batches."""
    decisions: int
    """Single decisions timed."""


def decision_latency(
    policy: Policy,
    recording: Recording,
    split: str = "test",
    *,
    decisions: int = 500,
    batch: int = 1024,
    batches: int = 10,
    seed: int = 0,
) -> DecisionLatency:
    """Time a policy while it plays: budgets over the recording's range, decisions deterministic.

    The first 20 calls of each kind warm up caches and are not counted. Time is that of this machine and of the threads
    the policy uses; nothing but `predict` is on the clock.

    Args:
        policy: any that is fitted.
        recording: where it plays.
        split: tasks to play.
        decisions: single decisions to time, >= 1.
        batch: size of the batches for throughput, >= 1.
        batches: batches to time, >= 1.
        seed: fixes the tasks and budgets.

    Raises:
        ConfigError: nothing to time.
    """
    if min(decisions, batch, batches) < 1:
        raise ConfigError(f"decisions = {decisions}, batch = {batch}, batches = {batches}; expected at least 1 of each")
    single = _time(policy, recording, split, 1, decisions, seed)
    together = _time(policy, recording, split, batch, batches, seed)
    p50, p99 = np.percentile(single, [50, 99])
    return DecisionLatency(float(p50), float(p99), batch * batches / float(together.sum()), batch, decisions)


def _time(
    policy: Policy, recording: Recording, split: str, slots: int, calls: int, seed: int
) -> npt.NDArray[np.float64]:
    """Seconds of each call of `predict` with that many episodes side by side, float64 (calls,)."""
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(
        slots,
        recording,
        split=split,
        observation=form,
        budget_usd="sampled",
        lambda_=(0.0, 0.5),
        info="lean",
        autoreset_mode="SameStep",
    )
    observation, _ = env.reset(seed=seed)
    state, start = None, np.ones(slots, dtype=bool)
    seconds = np.empty(_WARM_UP + calls)
    for call in range(len(seconds)):
        masks = env.action_masks()
        began = time.perf_counter()
        actions, state = policy.predict(observation, state, start, True, masks)
        seconds[call] = time.perf_counter() - began
        observation, _, terminated, truncated, _ = env.step(actions)
        start = terminated | truncated
    return seconds[_WARM_UP:]
