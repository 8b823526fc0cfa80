"""Random numbers that depend on nothing but a slot's own seed and how far it has come.

Every slot of a batch has a 64-bit key; each draw hashes (key, purpose, counter) with SplitMix64. So the
trajectory of a slot is the same in a batch of any size, on any thread, and whatever its neighbours do.

SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BUDGET", "LAMBDA", "SAMPLE", "TASK", "batch_keys", "between", "uniform"]

Words = npt.NDArray[np.uint64]

#: What a draw is for: streams of different purposes never share a number.
TASK, BUDGET, LAMBDA, SAMPLE = (np.uint64(purpose) for purpose in range(4))

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _S2 = (np.uint64(shift) for shift in (30, 27, 31, 11, 2))


def _mix(words: Words) -> Words:
    words = (words ^ (words >> _S30)) * MIX_1
    words = (words ^ (words >> _S27)) * MIX_2
    return words ^ (words >> _S31)


def batch_keys(seed: int | list[int] | npt.NDArray[Any], size: int) -> Words:
    """One key per slot, uint64 (size,).

    Args:
        seed: an integer >= 0 for the whole batch, or one for each slot. Slot 0 of a batch seeded with s
            has the key of a single environment seeded with s; so has every slot of a list of s.
        size: number of slots.
    """
    if isinstance(seed, (int, np.integer)):
        root = np.random.SeedSequence(int(seed)).generate_state(1, np.uint64)
        return _mix(root + GOLDEN * np.arange(size, dtype=np.uint64))
    roots = [np.random.SeedSequence(int(one)).generate_state(1, np.uint64)[0] for one in seed]
    return _mix(np.array(roots, dtype=np.uint64))


def uniform(keys: Words, purpose: np.uint64, counter: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64, one for each (key, counter)."""
    words = _mix(keys + GOLDEN * ((counter.astype(np.uint64) << _S2) + purpose + np.uint64(1)))
    return np.asarray((words >> _S11) * 2.0**-53, dtype=np.float64)


def between(low: float, high: float, u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers from `low` (u = 0) to `high` (u = 1): evenly on a log scale, or as they are where `low` is 0."""
    if low == high:
        return np.full_like(u, low)
    return np.asarray(low * (high / low) ** u if low > 0 else high * u)
