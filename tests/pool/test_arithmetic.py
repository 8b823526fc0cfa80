from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from routegym.errors import CallRefusedError, PoolError
from routegym.pool import Arm, Call, Completion, Failure
from routegym.pool.arithmetic import ArithmeticEngine
from routegym.pool.codec import ANSWER_TOKENS, END, PROMPT_TOKENS, VOCABULARY, WRITTEN_TOKENS, encode_prompts

ARM = Arm("tiny", "any", 3000, 5 * WRITTEN_TOKENS)
SETTINGS: dict[str, dict[str, Any]] = {
    "direct": {"max_tokens": ANSWER_TOKENS, "options": {"template": "direct"}},
    "written": {"max_tokens": WRITTEN_TOKENS, "options": {"template": "written"}},
    "vote": {"max_tokens": ANSWER_TOKENS, "options": {"template": "direct"}, "n": 5, "temperature": 1.0},
}
PROMPTS = [f"{a}{op}{b}" for a in (0, 7, 58, 850, 999) for op in "+-" for b in (0, 3, 41, 700)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, large enough for its answers to differ."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=PROMPT_TOKENS + WRITTEN_TOKENS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.6,
        bos_token_id=None,
        eos_token_id=END,
    )
    path = tmp_path_factory.mktemp("tiny")
    model = GPT2LMHeadModel(config)
    weights = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(path)
    return path


def call(setting: str, prompt: str, seed: int = 0, **other: Any) -> Call:
    fields = {"api": "completions", **SETTINGS[setting], **other}
    return Call(ARM, "arithmetic", "tiny", (("prompt", prompt),), seed=seed, **fields)


def answers(engine: ArithmeticEngine, calls: Sequence[Call]) -> list[Completion]:
    """Completions in the order of the calls; none may fail."""
    results: dict[int, Completion | Failure] = {}
    engine.complete(calls, lambda index, result: results.update({index: result}))
    completions = [results[index] for index in range(len(calls))]
    for completion in completions:
        assert isinstance(completion, Completion)
    return completions  # type: ignore[return-value]


def essence(completions: Sequence[Completion]) -> list[Any]:
    """All of them but the measured time; log-probabilities to nine decimals."""
    return [(c.texts, c.tokens, c.finish_reasons, tuple(round(value, 9) for value in c.logprobs)) for c in completions]


def make(folder: Path, batch_size: int = 64) -> ArithmeticEngine:
    return ArithmeticEngine({"tiny": folder}, batch_size)


@pytest.mark.parametrize("template", ["direct", "written"])
def test_greedy_answers_equal_those_of_generate(folder: Path, template: str) -> None:
    engine = make(folder)
    ours = answers(engine, [call(template, prompt) for prompt in PROMPTS])
    prompts = torch.from_numpy(encode_prompts(PROMPTS, template))
    model: Any = engine.model("tiny")
    theirs = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=SETTINGS[template]["max_tokens"],
        do_sample=False,
        pad_token_id=END,
        output_logits=True,
        return_dict_in_generate=True,
    )
    generated = theirs.sequences[:, PROMPT_TOKENS:]
    logprobs = torch.stack(theirs.logits, 1).log_softmax(-1)
    for row, (answer, tokens) in enumerate(zip(ours, generated.tolist(), strict=True)):
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert answer.tokens[0] == PROMPT_TOKENS
        assert sum(answer.tokens[1:]) == length
        assert answer.finish_reasons == (("stop",) if END in tokens else ("length",))
        expected = np.mean([logprobs[row, step, tokens[step]].item() for step in range(length)])
        # `generate` returns logits in float32.
        assert answer.logprobs[0] == pytest.approx(float(expected), abs=1e-5)
        raw = "".join(VOCABULARY[token] for token in tokens[:length])
        assert answer.texts[0] == raw or raw.endswith(f"{answer.texts[0].zfill(3)}.")
    assert len({answer.texts for answer in ours}) > 5


@pytest.mark.parametrize("setting", SETTINGS)
def test_answers_do_not_depend_on_the_batch(folder: Path, setting: str) -> None:
    calls = [call(setting, prompt, seed=4) for prompt in PROMPTS]
    whole = essence(answers(make(folder, batch_size=1000), calls))
    assert essence(answers(make(folder, batch_size=7), calls)) == whole
    engine = make(folder)
    assert essence([answers(engine, [one])[0] for one in calls[::3]]) == whole[::3]
    assert essence(answers(engine, calls[::-1]))[::-1] == whole


def test_settings_may_be_mixed_in_one_batch(folder: Path) -> None:
    engine = make(folder)
    calls = [call(setting, prompt, seed=1) for prompt in PROMPTS[:6] for setting in SETTINGS]
    alone = [answers(engine, [one])[0] for one in calls]
    assert essence(answers(engine, calls)) == essence(alone)
    assert answers(engine, []) == []


def test_sampling_is_seeded(folder: Path) -> None:
    engine = make(folder)
    first, again, other = (
        essence(answers(engine, [call("vote", prompt, seed) for prompt in PROMPTS])) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert max(len(set(answer[0])) for answer in first) > 1
    greedy = essence(answers(engine, [call("direct", prompt, 3) for prompt in PROMPTS]))
    assert greedy == essence(answers(engine, [call("direct", prompt, 4) for prompt in PROMPTS]))


def test_sampling_follows_the_model(folder: Path) -> None:
    engine = make(folder)
    prompt = torch.from_numpy(encode_prompts([PROMPTS[5]], "direct"))
    with torch.inference_mode():
        expected = engine.model("tiny")(prompt).logits[0, -1].softmax(-1).numpy()
    texts = [
        text
        for completion in answers(engine, [call("vote", PROMPTS[5], seed) for seed in range(600)])
        for text in completion.texts
    ]
    # Every three-digit answer that states a value begins with its padded first digit.
    first = [text.zfill(3)[0] if text.isdigit() else text[0] for text in texts]
    observed = np.array([first.count(symbol) for symbol in VOCABULARY]) / len(first)
    np.testing.assert_allclose(observed, expected, atol=4 * np.sqrt(0.25 / len(first)))


def test_a_lower_limit_cuts_the_answer_and_changes_nothing_before(folder: Path) -> None:
    engine = make(folder)
    for setting in ("direct", "vote"):
        calls = [call(setting, prompt, 2) for prompt in PROMPTS]
        shorter = [call(setting, prompt, 2, max_tokens=2) for prompt in PROMPTS]
        for whole, cut in zip(answers(engine, calls), answers(engine, shorter), strict=True):
            assert all(len(text) <= 2 for text in cut.texts)
            assert cut.tokens[2] == sum(min(len(text), 2) for text in cut.texts) <= whole.tokens[2]
            for text, short in zip(whole.texts, cut.texts, strict=True):
                written = text.zfill(3) if text.isdigit() else text
                assert written.startswith(short)


def test_token_counts_cover_all_samples(folder: Path) -> None:
    engine = make(folder)
    calls = [call(setting, "58+7") for setting in SETTINGS]
    assert engine.count_prompt_tokens(calls) == [8, 8, 40]
    for one, answer in zip(calls, answers(engine, calls), strict=True):
        assert answer.tokens[0] == 8 * one.n
        assert 0 < answer.tokens[2] + answer.tokens[3] <= one.n * one.max_tokens
        assert (answer.tokens[3] > 0) == (one.options["template"] == "written")
        assert answer.latency_s > 0
        assert len(answer.texts) == len(answer.logprobs) == len(answer.finish_reasons) == one.n
        assert all(value <= 0 for value in answer.logprobs)


def test_a_prompt_that_is_no_operation_fails_alone(folder: Path) -> None:
    results: dict[int, Completion | Failure] = {}
    calls = [call("direct", prompt) for prompt in ("1+1", "1/1", "2+2")]
    make(folder).complete(calls, lambda index, result: results.update({index: result}))
    failure = results[1]
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, CallRefusedError)
    assert "prompt '1/1' cannot be encoded" in str(failure.error)
    assert [attempt.tokens for attempt in failure.attempts] == [(0, 0, 0, 0)]
    assert isinstance(results[0], Completion)
    assert isinstance(results[2], Completion)


def test_what_is_not_of_the_engine_is_refused(folder: Path) -> None:
    engine = make(folder)
    with pytest.raises(PoolError, match="unknown model 'huge'; this pool has tiny"):
        engine.model("huge")
    with pytest.raises(PoolError, match=r"options\.template is 'spoken'; expected one of direct, written"):
        answers(engine, [call("direct", "1+1", options={"template": "spoken"})])
    with pytest.raises(PoolError, match="batch_size = 0"):
        make(folder, batch_size=0)


@pytest.mark.parametrize("damage", ["missing", "truncated", "incomplete", "no config"])
def test_damaged_weights_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    weights = load_file(folder / "model.safetensors")
    if damage == "incomplete":
        weights.pop("transformer.h.1.mlp.c_fc.weight")
    if damage != "missing":
        save_file(weights, tmp_path / "model.safetensors")
    if damage == "truncated":
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    if damage != "no config":
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(PoolError, match=r"the model cannot be loaded .*train it again"):
        answers(make(tmp_path), [call("direct", "1+1")])
