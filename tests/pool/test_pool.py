from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routegym.errors import PoolError, PriceError
from routegym.pool import Pool, Request, load_pool


@pytest.fixture(scope="module")
def embedded() -> Pool:
    return load_pool()


@pytest.fixture
def content() -> dict[str, Any]:
    """A small valid pool file."""
    price = {"prompt": 1.0, "cached": 0.1, "completion": 4.0, "reasoning": 4.0}
    arm = {
        "model": "a",
        "tier": "direct",
        "template": "direct",
        "samples": 1,
        "temperature": 0.0,
        "max_completion_tokens": 4,
    }
    return {
        "schema_version": 1,
        "about": "a test",
        "models": {"a": {"folder": "a", "parameters": 10, "training": {"seed": 0}}},
        "arms": [arm],
        "prices": {"date": "2026-11-22", "note": "nominal", "usd_per_million_tokens": {"a": price}},
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "pool.json"
    path.write_text(json.dumps(content))
    return path


def test_the_embedded_pool_is_complete(embedded: Pool) -> None:
    models = {arm.model: arm.parameters for arm in embedded.arms}
    assert len(models) >= 4
    assert len(embedded.arms) >= 6
    assert len({arm.tier for arm in embedded.arms}) >= 2
    assert max(models.values()) > 50 * min(models.values())
    assert embedded.prices.per_token(embedded.arms).shape == (len(embedded.arms), 4)
    for name, parameters in models.items():
        price = embedded.prices.prices[name]
        assert price.prompt == pytest.approx(parameters / 100_000)
        assert price.cached == pytest.approx(price.prompt / 10)
        assert price.completion == price.reasoning == pytest.approx(4 * price.prompt)
        assert embedded.training(name)["seed"] == 0
        stored = sum(value.numel() for value in embedded.backend.model(name).parameters())
        assert stored == parameters
    assert sum(file.stat().st_size for file in embedded.path.parent.rglob("*")) < 5_000_000


def test_every_embedded_arm_knows_the_easy_steps(embedded: Pool) -> None:
    for arm in embedded.arms:
        easy = [f"{a}*{b}" for a in (3, 4, 8) for b in (2, 5, 9)]
        if arm.model != "times":
            easy += [f"{a}{op}{b}" for a in (3, 8, 24, 57) for op in "+-" for b in (2, 5, 9, 31)]
        answers = embedded.backend.generate([Request(arm, prompt) for prompt in easy])
        right = [answer.text == str(eval(prompt) % 1000) for answer, prompt in zip(answers, easy, strict=True)]
        assert sum(right) >= 0.9 * len(right), arm.name
        for answer in answers:
            assert answer.tokens[2] + answer.tokens[3] <= (arm.max_completion_tokens or 0)


def test_arms_are_found_by_name(embedded: Pool) -> None:
    name = embedded.arms[2].name
    assert embedded.arm(name) is embedded.arms[2]
    with pytest.raises(PoolError, match="unknown arm 'huge/direct'; this pool has nano/direct"):
        embedded.arm("huge/direct")
    with pytest.raises(PoolError, match="unknown model 'huge'"):
        embedded.training("huge")


def test_a_valid_file_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    pool = load_pool(str(write(tmp_path, content)))
    assert [arm.name for arm in pool.arms] == ["a/direct"]
    assert pool.prices.date == "2026-11-22"
    with pytest.raises(PoolError, match="model 'a' cannot be loaded"):
        pool.backend.generate([Request(pool.arms[0], "1+1")])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema_version is 2; this routegym reads version 1"),
        (("surprise",), 1, "surprise is 1"),
        (("arms",), [], r"arms is \[\]"),
        (("arms", 0, "tier"), "", r"arms\.0\.tier is ''"),
        (("arms", 0, "model"), "b", r"arms\.0\.model is 'b'; expected one of a"),
        (("arms", 0, "template"), "spoken", r"arms\.0\.template is 'spoken'"),
        (("arms", 0, "samples"), 0, r"arms\.0\.samples is 0"),
        (("arms", 0, "samples"), 5, r"arms\.0 is .*5 samples at temperature 0 are all the same"),
        (("arms", 0, "temperature"), -1.0, r"arms\.0\.temperature is -1\.0"),
        (("arms", 0, "temperature"), float("nan"), r"arms\.0\.temperature is nan"),
        (("arms", 0, "max_completion_tokens"), 0, r"arms\.0\.max_completion_tokens is 0"),
        (("models", "a", "parameters"), -3, r"models\.a\.parameters is -3"),
        (("prices", "date"), "yesterday", r"prices\.date is 'yesterday'"),
    ],
)
def test_bad_fields_are_named(
    tmp_path: Path, content: dict[str, Any], path: tuple[str | int, ...], value: object, message: str
) -> None:
    target: Any = content
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises(PoolError, match=rf"pool\.json: {message}"):
        load_pool(write(tmp_path, content))


def test_an_arm_may_not_occur_twice(tmp_path: Path, content: dict[str, Any]) -> None:
    content["arms"] *= 2
    with pytest.raises(PoolError, match=r"arms\.1 is 'a/direct' a second time"):
        load_pool(write(tmp_path, content))


def test_missing_and_impossible_prices_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    prices = content["prices"]["usd_per_million_tokens"]
    prices["a"]["cached"] = -0.5
    with pytest.raises(PriceError, match=r"prices\.usd_per_million_tokens\.a\.cached is -0\.5"):
        load_pool(write(tmp_path, content))
    del prices["a"]["cached"]
    with pytest.raises(PriceError, match="expected a price for each of prompt, cached, completion, reasoning"):
        load_pool(write(tmp_path, content))
    del prices["a"]
    with pytest.raises(PriceError, match="no price for model 'a'"):
        load_pool(write(tmp_path, content))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"nothing\.json: cannot be read"):
        load_pool(tmp_path / "nothing.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema_version": 1')
    with pytest.raises(PoolError, match=r"broken\.json: no valid JSON"):
        load_pool(broken)
    broken.write_text("[]")
    with pytest.raises(PoolError, match="schema_version is None"):
        load_pool(broken)
