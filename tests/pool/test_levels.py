from __future__ import annotations

import numpy as np
import pytest

from routegym.errors import PoolError
from routegym.pool.codec import VOCABULARY
from routegym.pool.levels import HELD_OUT_LEVELS, is_held_out, sample_operations
from routegym.tasks import LEVELS, level, next_operation


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("part", ["train", "held_out", "all"])
def test_operations_have_the_level_and_come_from_the_part(name: str, part: str) -> None:
    a, op, b = sample_operations(np.random.default_rng(3), {name: 1.0}, 400, part)
    for x, symbol, y in zip(a, op, b, strict=True):
        operation = next_operation(f"({x}{VOCABULARY[symbol]}{y})")
        assert operation is not None
        assert level(operation) == name
        assert operation.op != "*" or 2 <= operation.b <= 9
    held_out = is_held_out(a, op, b)
    if name in HELD_OUT_LEVELS and part != "all":
        assert held_out.all() == (part == "held_out")
        assert held_out.any() == (part == "held_out")


def test_a_tenth_of_the_pairs_is_held_out() -> None:
    a, b = (grid.ravel() for grid in np.meshgrid(np.arange(1000), np.arange(1000)))
    for symbol in "+-":
        share = is_held_out(a, np.full_like(a, VOCABULARY.index(symbol)), b).mean()
        assert abs(share - 0.1) < 0.002


def test_shares_are_followed() -> None:
    _, op, _ = sample_operations(np.random.default_rng(0), {"add1": 3.0, "mul3": 1.0}, 8000, "train")
    assert abs((op == VOCABULARY.index("+")).mean() - 0.75) < 0.03


@pytest.mark.parametrize(("shares", "part"), [({"add4": 1.0}, "train"), ({"add1": 1.0}, "test")])
def test_unknown_levels_and_parts_are_refused(shares: dict[str, float], part: str) -> None:
    with pytest.raises(PoolError, match="unknown; expected levels among add1"):
        sample_operations(np.random.default_rng(0), shares, 5, part)
