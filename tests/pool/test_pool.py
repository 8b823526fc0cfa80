"""Pools from their files: the embedded one, and what a file of any backend turns into."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from routegym.errors import PoolError, PriceError
from routegym.graph.library import load_recording, shipped_recordings
from routegym.pool import Call, Completion, Pool, Request, Response, load_pool

SERVERS = r"""
schema_version: 2
name: laptop
about: two small models
prices: {date: 2026-11-22, note: nominal}
endpoints:
  local:
    backend: openai
    base_url: http://127.0.0.1:8000/v1
    api_key_env: LOCAL_KEY
    concurrency: 32
  gpu: {backend: vllm, gpu_count: 2, options: {max_model_len: 2048}}
models:
  smol:
    endpoint: local
    served_as: SmolLM2
    revision: q4_1
    parameters: 135000000
    context_tokens: 1024
    price: {prompt: 0.01, cached: 0.001, completion: 0.03, reasoning: 4e-2}
    tiers:
      direct: {template: "{prompt}\nNumber only.", max_tokens: 16, system: "Be {brief}."}
      vote5: {template: "{prompt}", max_tokens: 16, samples: 5, temperature: 0.7, fallback: smol/direct}
  big:
    endpoint: gpu
    folder: weights/big
    price: {gpu_usd_per_hour: 2.5, max_gpu_s: 60}
    tiers:
      steps: {template: "{prompt}", max_tokens: 128, answer: 'answer is (-?\d+)', options: {top_p: 0.9}}
  big-sql:
    endpoint: gpu
    folder: weights/big
    adapter: adapters/sql
    price: {gpu_usd_per_hour: 2.5, max_gpu_s: 60}
    tiers:
      steps: {template: "{prompt}", max_tokens: 128, stop: ["\n\n"]}
"""


@pytest.fixture(scope="module")
def embedded() -> Pool:
    return load_pool()


@pytest.fixture
def servers(tmp_path: Path) -> Pool:
    path = tmp_path / "pool.yaml"
    path.write_text(SERVERS)
    return load_pool(str(path))


def answers(pool: Pool, requests: list[Request]) -> list[Response]:
    results = pool.backend.generate(requests)
    assert all(isinstance(result, Response) for result in results)
    return results  # type: ignore[return-value]


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
    assert sum(file.stat().st_size for file in embedded.path.parent.rglob("*")) < 5_000_000


@pytest.mark.parametrize("name", sorted(set(shipped_recordings()) & {"single_call", "cascade", "agent_steps"}))
def test_the_embedded_pool_is_the_one_that_was_recorded(embedded: Pool, name: str) -> None:
    recorded = load_recording(name)
    assert embedded.arms == recorded.arms
    assert embedded.prices == recorded.prices


def test_every_embedded_arm_knows_the_easy_steps(embedded: Pool) -> None:
    for arm in embedded.arms:
        easy = [f"{a}*{b}" for a in (3, 4, 8) for b in (2, 5, 9)]
        if arm.model != "times":
            easy += [f"{a}{op}{b}" for a in (3, 8, 24, 57) for op in "+-" for b in (2, 5, 9, 31)]
        responses = answers(embedded, [Request(arm, prompt) for prompt in easy])
        right = [answer.text == str(eval(prompt) % 1000) for answer, prompt in zip(responses, easy, strict=True)]
        assert sum(right) >= 0.9 * len(right), arm.name
        samples = 5 if arm.tier == "vote5" else 1
        for answer in responses:
            assert answer.tokens == (8 * samples, 0, 4 * samples, 0)
            assert answer.flops == 2 * arm.parameters * 12 * samples
            assert round(answer.agreement * samples) == pytest.approx(answer.agreement * samples)
        assert embedded.backend.count_prompt_tokens([Request(arm, "1+1")]) == [8 * samples]


def test_arms_are_found_by_name(embedded: Pool) -> None:
    name = embedded.arms[2].name
    assert embedded.arm(name) is embedded.arms[2]
    with pytest.raises(PoolError, match="unknown arm 'huge/direct'; this pool has nano/direct"):
        embedded.arm("huge/direct")
    with pytest.raises(PoolError, match="unknown model 'huge'"):
        embedded.training("huge")


def test_arms_follow_the_file(servers: Pool) -> None:
    assert [arm.name for arm in servers.arms] == ["smol/direct", "smol/vote5", "big/steps", "big-sql/steps"]
    direct, vote, steps, _ = servers.arms
    assert (direct.max_completion_tokens, vote.max_completion_tokens) == (16, 80)
    assert (direct.fallback, vote.fallback) == (None, "smol/direct")
    assert (direct.max_gpu_s, steps.max_gpu_s) == (None, 60.0)
    assert servers.prices.price_of(vote).reasoning == 0.04
    assert servers.prices.price_of(steps).gpu_hour == 2.5
    assert (servers.prices.date, servers.prices.note) == ("2026-11-22", "nominal")
    assert servers.name == "laptop"


def test_tiers_say_what_is_sent(servers: Pool) -> None:
    calls = [servers.tiers[arm.name].to_call(Request(arm, "1+1", 7)) for arm in servers.arms]
    direct, vote, steps, sql = calls
    assert direct.messages == (("system", "Be {brief}."), ("user", "1+1\nNumber only."))
    assert (direct.engine, direct.model, direct.revision, direct.n, direct.seed) == ("openai", "SmolLM2", "q4_1", 1, 7)
    assert (vote.n, vote.temperature, vote.max_tokens) == (5, 0.7, 16)
    assert (steps.engine, steps.model, steps.adapter, steps.options) == ("vllm", "weights/big", "", {"top_p": 0.9})
    assert (sql.model, sql.adapter, sql.stop) == ("weights/big", "adapters/sql", ("\n\n",))
    assert len({call.key for call in calls}) == 4


class Told:
    """Stands in for an engine's class and remembers what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.closed = False
        MADE.append(self)

    def complete(self, calls: list[Call], on_result: Any) -> None:
        for index, _ in enumerate(calls):
            on_result(index, Completion(("the answer is 2",), (0.0,), ("stop",), (3, 0, 1, 0), 0.1, gpu_s=0.1))

    def count_prompt_tokens(self, calls: list[Call]) -> list[int]:
        return [3] * len(calls)

    def close(self) -> None:
        self.closed = True


MADE: list[Told] = []


def test_engines_are_made_once_and_from_the_file(servers: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    import routegym.pool.openai
    import routegym.pool.vllm

    MADE.clear()
    monkeypatch.setattr(routegym.pool.openai, "OpenAIEngine", Told)
    monkeypatch.setattr(routegym.pool.vllm, "VLLMEngine", Told)
    with pytest.raises(PoolError, match=r"variable LOCAL_KEY is not set, and endpoints\.local\.api_key_env names it"):
        servers.backend.generate([Request(servers.arms[0], "1+1")])
    monkeypatch.setenv("LOCAL_KEY", "canary-1")
    assert MADE == []
    for _ in range(2):
        assert [answer.text for answer in answers(servers, [Request(arm, "1+1") for arm in servers.arms])] == [
            "the answer is 2",
            "the answer is 2",
            "2",
            "the answer is 2",
        ]
    by_address = {engine.args[0]: engine.kwargs for engine in MADE}
    assert len(MADE) == 2
    assert by_address["http://127.0.0.1:8000/v1"] == {
        "api_key": "canary-1",
        "concurrency": 32,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "timeout_s": 60.0,
        "attempts": 4,
        "tokenize": False,
        "allow_private": False,
        "context_tokens": {"SmolLM2": 1024},
    }
    folder = servers.path.parent
    assert by_address[str(folder / "weights/big")] == {
        "adapters": {"adapters/sql": str(folder / "adapters/sql")},
        "options": {"max_model_len": 2048},
        "gpu_count": 2,
    }
    assert "canary-1" not in repr(servers)
    first = servers.backend
    second = servers.connect()
    assert all(engine.closed for engine in MADE)
    assert servers.backend is second is not first


def test_looked_up_prices_are_named_in_the_note(tmp_path: Path) -> None:
    content = yaml.safe_load(SERVERS.replace("2026-11-22", "'2026-11-22'"))
    content["models"]["smol"]["price"] = {"genai_prices": "openai/gpt-4o-mini"}
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    pool = load_pool(path)
    assert pool.prices.prices["smol"].prompt > 0
    assert pool.prices.note.startswith("nominal; smol: genai-prices ")
    content["models"]["smol"]["price"] = {"genai_prices": "openai/gpt-4o-minni"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(PriceError, match=r"pool\.yaml: models\.smol\.price\.genai_prices: .*did you mean gpt-4o-mini"):
        load_pool(path)


def test_missing_weights_are_found_at_the_first_call(tmp_path: Path, embedded: Pool) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(embedded.path.read_text())
    pool = load_pool(path)
    with pytest.raises(PoolError, match="nano: the model cannot be loaded"):
        pool.backend.generate([Request(pool.arms[0], "1+1")])


def test_a_pool_that_was_used_survives_pickling(embedded: Pool) -> None:
    requests = [Request(embedded.arms[0], "1+1")]
    before = answers(embedded, requests)
    copied = pickle.loads(pickle.dumps(embedded))
    assert copied.arms == embedded.arms
    assert answers(copied, requests)[0].text == before[0].text == "2"
