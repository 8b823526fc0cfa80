from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from routegym.errors import PoolError, PriceError
from routegym.pool import Arm, Price, PriceTable

TABLE = PriceTable("2026-11-22", "nominal", {"a": Price(1.0, 0.1, 4.0, 4.0)})


def test_prices_become_usd_per_token_in_the_order_of_the_token_kinds() -> None:
    per_token = TABLE.per_token([Arm("a", "direct", 10, 4), Arm("a", "vote5", 10, 20)])
    np.testing.assert_array_equal(per_token, np.array([[1e-6, 0.1 / 1e6, 4e-6, 4e-6]] * 2))
    assert TABLE.per_token([]).shape == (0, 4)


def test_a_model_without_a_price_is_an_error_not_free() -> None:
    with pytest.raises(PriceError, match=r"no price for model 'b'.*known models: a"):
        TABLE.per_token([Arm("b", "direct", 10, 4)])


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1"])
def test_impossible_prices_are_refused(value: float) -> None:
    with pytest.raises(PriceError, match="price of completion tokens is"):
        Price(1.0, 0.1, value, 4.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", "direct", 10, 4), "must not be empty"),
        (("a", "direct", -1, 4), "parameters = -1 is negative"),
        (("a", "direct", 10, 0), "max_completion_tokens = 0 must be positive"),
        (("a", "direct", 10, 4, 0), "charged_attempts = 0; expected at least 1"),
        (("a", "direct", 10, 4, 1, "a/direct"), "fallback is the arm itself"),
        (("a", "direct", 10, 4, 1, None, 0.0), r"max_gpu_s = 0\.0; expected a number > 0"),
        (("a", "direct", 10, 4, 1, None, math.inf), "max_gpu_s = inf"),
        (("a", "direct", 10, 4, 1, None, None, -1.0), r"max_charge_usd = -1\.0; expected a finite number >= 0"),
    ],
)
def test_impossible_arms_are_refused(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PoolError, match=message):
        Arm(*fields)


def test_a_model_with_one_tier_needs_no_name_for_it() -> None:
    assert Arm("maker/model", "", 0, None).name == "maker/model"


def test_arm_names() -> None:
    assert Arm("a", "vote5", 0, None).name == "a/vote5"


def test_gpu_time_has_a_price_per_second() -> None:
    table = PriceTable("2026-11-22", "nominal", {"a": Price(0, 0, 0, 0, gpu_hour=3.6), "b": Price(1, 1, 1, 1)})
    arms = [Arm("a", "direct", 10, 4, max_gpu_s=2.0), Arm("b", "direct", 10, 4)]
    np.testing.assert_allclose(table.per_gpu_second(arms), [0.001, 0.0])
    with pytest.raises(PriceError, match=r"price of GPU time is -1\.0; expected .* USD per GPU-hour"):
        Price(0, 0, 0, 0, gpu_hour=-1.0)
