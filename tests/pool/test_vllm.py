"""The vLLM engine: its bookkeeping against a stand-in for vLLM, and the real one where it is installed.

python -m pytest tests/pool/test_vllm.py -m live    # in an environment with vLLM; see docs/engines.md
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import engine_contract as contract
import pytest
from engine_contract import CONTEXT, Subject, completions, failure_of

from routegym.errors import CallRefusedError, MissingExtraError, PoolError, PromptTooLongError, ServerFailedError
from routegym.pool.backend import Completion, Failure
from routegym.pool.vllm import VLLMEngine

REAL = find_spec("vllm") is not None


# -- a stand-in -----------------------------------------------------------------------------------


class EngineDeadError(Exception):
    pass


@dataclasses.dataclass
class Params:
    """Stand-in for SamplingParams."""

    n: int = 1
    temperature: float = 1.0
    max_tokens: int = 16
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    output_kind: str = ""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")


class Tokenizer:
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(symbol) for symbol in text]


class StandIn:
    """Answers the k-th request after k + 1 steps with max_tokens tokens; two requests at once."""

    started: list[StandIn] = []  # noqa: RUF012 - one list for all
    world_size = 1

    def __init__(self, model: str, **settings: Any) -> None:
        self.settings, self.held, self.most_held, self.steps = settings, {}, 0, 0
        self.aborted: list[str] = []
        self.dies_at: int | None = None
        self.finish = "length"
        self.stopped = False
        self.model_config = types.SimpleNamespace(max_model_len=CONTEXT)
        scheduler = types.SimpleNamespace(max_num_seqs=2)
        self.vllm_config = types.SimpleNamespace(scheduler_config=scheduler)
        self.engine_core = types.SimpleNamespace(shutdown=lambda: setattr(self, "stopped", True))
        self.llm_engine = self
        self.held: dict[str, tuple[Mapping[str, Any], Params]] = {}
        StandIn.started.append(self)

    def generate(self, *args: Any, **kwargs: Any) -> None:
        pass

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def get_world_size(self) -> int:
        return self.world_size

    def add_request(self, name: str, prompt: Mapping[str, Any], params: Params, lora_request: Any = None) -> None:
        if self.stopped:
            raise EngineDeadError("dead")
        self.held[name] = (prompt, params)
        self.most_held = max(self.most_held, len(self.held))

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.held.pop(name, None)

    def step(self) -> list[Any]:
        self.steps += 1
        if self.dies_at is not None and self.steps >= self.dies_at:
            raise EngineDeadError("the core died")
        time.sleep(0.002)
        name = next(iter(self.held))
        prompt, params = self.held.pop(name)
        answer = types.SimpleNamespace(
            text=f"answer to {len(prompt['prompt_token_ids'])}",
            token_ids=[0] * params.max_tokens,
            cumulative_logprob=-0.5 * params.max_tokens,
            finish_reason=self.finish,
        )
        return [
            types.SimpleNamespace(request_id="somebody else's", finished=True),
            types.SimpleNamespace(request_id=name, finished=True, outputs=[answer], num_cached_tokens=1, metrics=None),
        ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """A stand-in for the parts of vLLM that the engine uses."""
    modules: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": StandIn, "SamplingParams": Params},
        "vllm.sampling_params": {"RequestOutputKind": types.SimpleNamespace(FINAL_ONLY="final")},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
        "vllm.platforms": {"current_platform": types.SimpleNamespace(is_cpu=lambda: False)},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": lambda *fields: fields},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(StandIn, "started", [])
    return StandIn


def make(**settings: Any) -> Subject:
    return Subject(VLLMEngine("folder", **settings), "vllm", "folder")


def adapter_folder(folder: Path, rank: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_samples_are_counted_one_by_one(fake: type[StandIn]) -> None:
    subject = make()
    calls = [subject.call("12345", n=3, max_tokens=4), subject.call("123", max_tokens=2)]
    assert subject.engine.count_prompt_tokens(calls) == [15, 3]
    three, one = completions(subject, calls)
    assert three.tokens == (12, 3, 12, 0)
    assert three.texts == ("answer to 5",) * 3
    assert three.logprobs == (-0.5,) * 3
    assert one.tokens == (2, 1, 2, 0)


def test_gpu_seconds_add_up_to_wall_clock_times_gpus(fake: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "world_size", 2)
    subject = make(gpu_count=2)
    completions(subject, subject.calls(1))
    started = time.perf_counter()
    results = completions(subject, [*subject.calls(9), subject.call("1", n=4)])
    wall = time.perf_counter() - started
    assert fake.started[0].settings["tensor_parallel_size"] == 2
    assert sum(result.gpu_s for result in results) == pytest.approx(2 * wall, rel=0.1)
    assert sum(result.latency_s for result in results) == pytest.approx(wall, rel=0.1)


def test_results_are_reported_while_others_go_on(fake: type[StandIn]) -> None:
    subject = make()
    seen = []
    subject.engine.complete(subject.calls(10), lambda index, result: seen.append((index, fake.started[0].steps)))
    assert seen == [(index, index + 1) for index in range(10)]
    assert fake.started[0].most_held == 4


def test_a_dead_vllm_fails_its_batch_and_starts_again(fake: type[StandIn]) -> None:
    subject = make()
    completions(subject, subject.calls(1))
    fake.started[0].dies_at = 4
    results = subject.run([*subject.calls(4), *subject.calls(6, n=2, max_tokens=3)])
    assert [type(result) for result in results[:2]] == [Completion, Completion]
    failures = [result for result in results[2:] if isinstance(result, Failure)]
    assert len(failures) == 8
    assert all(isinstance(failure.error, ServerFailedError) for failure in failures)
    assert "the core died" in str(failures[0].error)
    charged = [attempt.tokens for failure in failures for attempt in failure.attempts]
    # Sent and perhaps worked on: the worst case. Never sent: nothing.
    assert charged[:2] == [(4, 0, 12, 0), (12, 0, 12, 0)]
    assert len(charged) < 8
    assert fake.started[0].stopped
    assert len(completions(subject, subject.calls(2))) == 2
    assert len(fake.started) == 2


def test_a_vllm_that_died_between_batches_charges_nothing(fake: type[StandIn]) -> None:
    subject = make()
    completions(subject, subject.calls(1))
    fake.started[0].stopped = True
    for result in subject.run(subject.calls(3)):
        assert isinstance(result, Failure)
        assert isinstance(result.error, ServerFailedError)
        assert result.attempts == ()
    assert len(completions(subject, subject.calls(2))) == 2


def test_a_call_that_vllm_gives_up_is_a_failure(fake: type[StandIn]) -> None:
    subject = make()
    completions(subject, subject.calls(1))
    fake.started[0].finish = "abort"
    failure = failure_of(subject, subject.call("1234", n=2, max_tokens=5))
    assert isinstance(failure.error, ServerFailedError)
    assert failure.attempts[0].tokens == (8, 0, 10, 0)


def test_ctrl_c_stops_vllm(fake: type[StandIn]) -> None:
    subject = make()

    def interrupt(index: int, result: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subject.engine.complete(subject.calls(6), interrupt)
    assert fake.started[0].stopped
    assert len(fake.started[0].aborted) == 3


def test_settings_reach_vllm(fake: type[StandIn], tmp_path: Path) -> None:
    adapters = {name: str(adapter_folder(tmp_path / name, rank)) for name, rank in (("a", 4), ("b", 20))}
    subject = make(adapters=adapters, options={"max_model_len": 64, "enable_prefix_caching": False})
    completions(subject, subject.calls(1, adapter="b"))
    assert fake.started[0].settings == {
        "enable_prefix_caching": False,
        "load_format": "safetensors",
        "disable_log_stats": False,
        "tensor_parallel_size": 1,
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": 32,
        "max_model_len": 64,
    }
    with pytest.raises(PoolError, match=r"unknown adapter 'c' .*this engine has a, b"):
        subject.run(subject.calls(1, adapter="c"))
    with pytest.raises(PoolError, match="gpu_count = 0"):
        make(gpu_count=0)
    with pytest.raises(PoolError, match=r"adapter 'a' cannot be read .*adapter_config\.json"):
        make(adapters={"a": str(tmp_path / "nothing")})


def test_a_vllm_that_does_not_start_is_an_error(fake: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: StandIn, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(fake, "generate", broken)
    with pytest.raises(PoolError, match=r"vLLM cannot start with model 'folder' \(no memory\)"):
        completions(make(), make().calls(1))


@pytest.mark.skipif(REAL, reason="vLLM is installed")
def test_without_vllm_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError, match=r'pip install "routegym\[vllm\]"'):
        make().run(make().calls(1))
    assert make().run([]) == []


# -- the real one ---------------------------------------------------------------------------------


def live(test: Any) -> Any:
    """Mark a test that runs vLLM. Starting it takes minutes on a busy machine."""
    for mark in (
        pytest.mark.live,
        pytest.mark.skipif(not REAL, reason="vLLM is not installed"),
        pytest.mark.enable_socket,
        pytest.mark.filterwarnings("ignore"),
        pytest.mark.timeout(900),
    ):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contract.save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def real(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    import torch
    from safetensors.torch import save_file

    poet = adapter_folder(tmp_path_factory.mktemp("poet"))
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{half}.weight": torch.randn(
            (4, 64) if half == "A" else (64, 4), generator=generator
        )
        for layer in range(2)
        for name in ("q_proj", "v_proj")
        for half in "AB"
    }
    save_file(weights, poet / "adapter_model.safetensors")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    engine = VLLMEngine(
        str(folder),
        adapters={"poet": str(poet)},
        options={"enforce_eager": True, "max_num_seqs": 8, "dtype": "float32", "block_size": 32},
    )
    yield Subject(engine, "vllm", str(folder))
    engine.close()


@live
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, real: Subject) -> None:
    check(real)


@live
def test_greedy_answers_equal_those_of_transformers(real: Subject, folder: Path) -> None:
    from routegym.pool.transformers import TransformersEngine

    other = Subject(TransformersEngine({str(folder): folder}), "transformers", str(folder))
    for api in ("completions", "chat"):
        calls = [*real.calls(5, api=api), real.call("1+1=", api=api, max_tokens=20, stop=("a", "S"))]
        for ours, theirs in zip(completions(real, calls), completions(other, calls), strict=True):
            assert ours.texts == theirs.texts
            assert ours.finish_reasons == theirs.finish_reasons
            assert sum(ours.tokens) == sum(theirs.tokens)
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


@live
def test_a_prompt_that_was_seen_is_cached(real: Subject) -> None:
    prompt = "seen twice: " + "0123456789" * 9
    first, again = (completions(real, [real.call(prompt)])[0] for _ in range(2))
    assert first.tokens[1] == 0
    assert again.tokens[1] > 0
    assert sum(again.tokens[:2]) == sum(first.tokens[:2]) == len(prompt)
    assert first.texts == again.texts


@live
def test_adapters_answer_in_their_own_way(real: Subject) -> None:
    plain, poet = (completions(real, real.calls(5, adapter=adapter)) for adapter in ("", "poet"))
    assert [result.texts for result in plain] != [result.texts for result in poet]
    with pytest.raises(PoolError, match="unknown adapter 'painter'"):
        real.run(real.calls(1, adapter="painter"))


@live
def test_short_answers_are_reported_before_long_ones_end(real: Subject) -> None:
    order: list[int] = []
    calls = [real.call("1+1=", max_tokens=100), *real.calls(5, max_tokens=1)]
    real.engine.complete(calls, lambda index, result: order.append(index))
    assert order[-1] == 0
    long, short = completions(real, calls[:2])
    assert long.latency_s > short.latency_s


@live
def test_what_cannot_be_sent_fails_without_a_charge(real: Subject) -> None:
    for call, error, message in [
        (real.call("1+1=é"), CallRefusedError, "cannot be encoded"),
        (real.call("1", max_tokens=CONTEXT), PromptTooLongError, f"do not fit the {CONTEXT} tokens"),
        (real.call("1", options={"top_p": 7}), CallRefusedError, "vLLM refuses the call .*top_p"),
        (real.call("1", options={"made_up": 1}), CallRefusedError, "vLLM refuses the call .*made_up"),
        (real.call("1", n=2, options={"allowed_token_ids": [10**6]}), CallRefusedError, "vLLM refuses the call"),
    ]:
        failure = failure_of(real, call)
        with pytest.raises(error, match=message):
            raise failure.error
        assert failure.attempts == ()
    assert not real.engine.llm.llm_engine.has_unfinished_requests()  # type: ignore[attr-defined]
    [result] = completions(real, [real.call("1", temperature=2.0, options={"top_k": 1})])
    assert result.texts == completions(real, [real.call("1")])[0].texts


@live
@pytest.mark.slow
def test_a_killed_vllm_fails_its_calls_and_comes_back(real: Subject) -> None:
    expected = [result.texts for result in completions(real, real.calls(3))]
    processes = real.engine.llm.llm_engine.engine_core.resources.engine_manager.processes  # type: ignore[attr-defined]
    results: dict[int, Any] = {}

    def on_result(index: int, result: Completion | Failure) -> None:
        if not results:
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
        results[index] = result

    calls = [real.call("1", max_tokens=1), *real.calls(20, max_tokens=100)]
    real.engine.complete(calls, on_result)
    assert sorted(results) == list(range(21))
    failures = [result for result in results.values() if isinstance(result, Failure)]
    assert len(failures) >= 10
    assert all(isinstance(failure.error, ServerFailedError) for failure in failures)
    assert {attempt.tokens[2] for failure in failures for attempt in failure.attempts} == {100}
    assert [result.texts for result in completions(real, real.calls(3))] == expected
