"""Operations drawn by difficulty level, with operand pairs that training never sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from routegym.errors import PoolError
from routegym.pool.codec import VOCABULARY
from routegym.tasks.arithmetic import LEVELS

__all__ = ["HELD_OUT_LEVELS", "is_held_out", "sample_operations"]

IntArray = npt.NDArray[np.int64]

#: Levels with more than 5,000 operand pairs: a hashed tenth of their pairs is kept out of training.
HELD_OUT_LEVELS = ("add2", "add3", "sub2", "sub3", "mul3")

_OPERATORS = {"add": VOCABULARY.index("+"), "sub": VOCABULARY.index("-"), "mul": VOCABULARY.index("*")}


def is_held_out(a: IntArray, op: IntArray, b: IntArray) -> npt.NDArray[np.bool_]:
    """Whether operand pairs are in the held-out tenth (asked of `HELD_OUT_LEVELS` only), shape (N,)."""
    # splitmix64's finaliser: a fixed hash, equal on every machine and quick on arrays.
    key = ((a * 1000 + b) * 16 + op).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    held_out: npt.NDArray[np.bool_] = (key ^ (key >> np.uint64(31))) % np.uint64(10) == 0
    return held_out


def sample_operations(
    rng: np.random.Generator, shares: Mapping[str, float], size: int, part: str
) -> tuple[IntArray, IntArray, IntArray]:
    """Random operations of given levels.

    Of + and -, one operand (either, evenly) has the level's number of digits, the other evenly any number up
    to it; of *, the first has the level's number of digits and the second is one of 2..9.

    Args:
        rng: source of randomness.
        shares: relative share of each level.
        size: number of operations.
        part: ``train`` (never a held-out pair), ``held_out`` (held-out pairs only, where the level has them)
            or ``all``.

    Returns:
        First operands, token ids of the operators, second operands; int64, shape (size,) each.

    Raises:
        PoolError: an unknown level or part.
    """
    unknown = sorted(set(shares) - set(LEVELS))
    if unknown or part not in ("train", "held_out", "all"):
        raise PoolError(
            f"levels {unknown} or part {part!r} unknown; expected levels among {', '.join(LEVELS)} "
            "and part 'train', 'held_out' or 'all'"
        )
    names = [name for name in LEVELS if shares.get(name, 0.0) > 0]
    weights = np.array([shares[name] for name in names], dtype=np.float64)
    chosen = rng.choice(len(names), size=size, p=weights / weights.sum())
    digits = np.array([int(name[-1]) for name in names])[chosen]
    op = np.array([_OPERATORS[name[:3]] for name in names], dtype=np.int64)[chosen]
    splits = np.array([name in HELD_OUT_LEVELS for name in names])[chosen]
    a, b = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    open_rows = np.arange(size)
    while len(open_rows):
        a[open_rows], b[open_rows] = _operands(rng, op[open_rows], digits[open_rows])
        if part == "all":
            break
        wrong = is_held_out(a[open_rows], op[open_rows], b[open_rows]) == (part == "train")
        open_rows = open_rows[wrong & splits[open_rows]]
    return a, op, b


def _operands(rng: np.random.Generator, op: IntArray, digits: IntArray) -> tuple[IntArray, IntArray]:
    """Operands with the wanted numbers of digits."""
    long = _with_digits(rng, digits)
    short = _with_digits(rng, rng.integers(1, digits + 1))
    swap = rng.random(len(op)) < 0.5
    times = op == _OPERATORS["mul"]
    a = np.where(times | swap, long, short)
    b = np.where(times, rng.integers(2, 10, len(op)), np.where(swap, short, long))
    return a, b


def _with_digits(rng: np.random.Generator, digits: IntArray) -> IntArray:
    """Uniform integers with that many digits; one digit includes 0."""
    low = np.where(digits == 1, 0, 10 ** (digits - 1))
    return rng.integers(low, 10**digits)
