from __future__ import annotations

import math
import re
import sys
from datetime import UTC, datetime

import pytest

from routegym.errors import MissingExtraError, PriceError
from routegym.pool import Arm, Attempt, Price
from routegym.pool.prices import attempt_usd, call_usd, look_up, worst_usd

genai_prices = pytest.importorskip("genai_prices")
DAY = "2026-11-22"
PRICE = Price(1.0, 0.1, 4.0, 5.0)


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "openai/gpt-5", "anthropic/claude-sonnet-4-5", "openai/o3"])
def test_looked_up_prices_are_those_of_the_package(name: str) -> None:
    price, note = look_up(name, DAY)
    provider, model = name.split("/")

    def usd(**tokens: int) -> float:
        calculated = genai_prices.calc_price(
            genai_prices.Usage(**tokens),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime.fromisoformat(DAY).replace(tzinfo=UTC),
        )
        return float(calculated.total_price)

    # A long prompt, so that prices that rise with it are at their highest.
    long = 1_000_000
    assert call_usd(price, (long, 0, 0, 0)) == pytest.approx(usd(input_tokens=long))
    cached = usd(input_tokens=long, cache_read_tokens=long)
    assert call_usd(price, (0, long, 0, 0)) == pytest.approx(cached)
    output = usd(input_tokens=long, output_tokens=1000) - usd(input_tokens=long)
    assert call_usd(price, (0, 0, 1000, 0)) == call_usd(price, (0, 0, 0, 1000)) == pytest.approx(output)
    assert re.fullmatch(rf"genai-prices {re.escape(genai_prices.__version__)}: {name}, sha256 [0-9a-f]{{16}}", note)


def test_prices_are_those_of_the_given_day() -> None:
    before, note_before = look_up("openai/o3", "2025-06-09")
    after, note_after = look_up("openai/o3", "2025-06-10")
    assert before.prompt > after.prompt
    assert note_before != note_after
    assert look_up("openai/o3", "2025-06-10") == (after, note_after)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opnai/gpt-4o", r"has no provider 'opnai'; did you mean openai"),
        ("openai/gpt-4o-minni", r"has no model 'gpt-4o-minni' of openai; did you mean gpt-4o-mini"),
        ("openai/", r"has no model '' of openai"),
        ("perplexity/sonar", r"perplexity/sonar is also paid by requests_kcount"),
        ("openai/tts-1", r"openai/tts-1 has no price per token"),
    ],
)
def test_an_unknown_price_is_an_error(name: str, message: str) -> None:
    with pytest.raises(PriceError, match=rf"{message}.*USD per million tokens"):
        look_up(name, DAY)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from routegym.pool import prices

    prices._table.cache_clear()
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    try:
        with pytest.raises(MissingExtraError, match=r"routegym\[live\]"):
            look_up("openai/gpt-4o", DAY)
    finally:
        prices._table.cache_clear()


def test_the_worst_case_covers_every_charged_attempt() -> None:
    arm = Arm("m", "t", 1, 100, charged_attempts=3)
    assert worst_usd(PRICE, arm, 50) == pytest.approx(3 * (50 * 1.0 + 100 * 5.0) / 1e6)
    assert worst_usd(PRICE, Arm("m", "t", 1, None), 50) == math.inf
    by_time = Price(0, 0, 0, 0, gpu_hour=36.0)
    assert worst_usd(by_time, Arm("m", "t", 1, 100, max_gpu_s=10.0), 50) == pytest.approx(0.1)
    assert worst_usd(by_time, Arm("m", "t", 1, 100), 50) == math.inf


def test_charges() -> None:
    assert call_usd(PRICE, (10, 20, 30, 40)) == pytest.approx((10 + 2 + 120 + 200) / 1e6)
    by_time = Price(0, 0, 0, 0, gpu_hour=36.0)
    assert call_usd(by_time, (10, 20, 30, 40), 2.0) == pytest.approx(0.02)
    arm = Arm("m", "t", 1, 100, max_gpu_s=10.0)
    assert attempt_usd(PRICE, arm, Attempt("m/t", "E", "", (50, 0, 100, 0))) == pytest.approx(450 / 1e6)
    assert attempt_usd(by_time, arm, Attempt("m/t", "E", "", (50, 0, 100, 0))) == pytest.approx(0.1)
    assert attempt_usd(by_time, arm, Attempt("m/t", "E", "")) == 0
