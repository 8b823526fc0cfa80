from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from routegym.errors import PoolError
from routegym.pool import Arm, Request, Response, TransformersBackend
from routegym.pool.codec import ANSWER_TOKENS, END, PROMPT_TOKENS, VOCABULARY, WRITTEN_TOKENS, encode_prompts
from routegym.pool.transformers import Sampling

DIRECT = Arm("tiny", "direct", 3000, ANSWER_TOKENS)
WRITTEN = Arm("tiny", "written", 3000, WRITTEN_TOKENS)
VOTE = Arm("tiny", "vote", 3000, 5 * ANSWER_TOKENS)
ARMS = (DIRECT, WRITTEN, VOTE)
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


def make(folder: Path, batch_size: int = 64) -> TransformersBackend:
    sampling = {
        DIRECT.name: Sampling("direct", 1, 0.0),
        WRITTEN.name: Sampling("written", 1, 0.0),
        VOTE.name: Sampling("direct", 5, 1.0),
    }
    return TransformersBackend({"tiny": folder}, sampling, batch_size)


def essence(answers: list[Response]) -> list[tuple[str, tuple[int, int, int, int], float, float, float]]:
    """All of the answers but the measured time; log-probabilities to nine decimals."""
    return [
        (answer.text, answer.tokens, answer.flops, round(answer.logprob, 9), answer.agreement) for answer in answers
    ]


@pytest.mark.parametrize(("arm", "template"), [(DIRECT, "direct"), (WRITTEN, "written")])
def test_greedy_answers_equal_those_of_generate(folder: Path, arm: Arm, template: str) -> None:
    backend = make(folder)
    ours = backend.generate([Request(arm, prompt) for prompt in PROMPTS])
    prompts = torch.from_numpy(encode_prompts(PROMPTS, template))
    model: Any = backend.model("tiny")
    theirs = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=arm.max_completion_tokens,
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
        expected = np.mean([logprobs[row, step, tokens[step]].item() for step in range(length)])
        # `generate` returns logits in float32.
        assert answer.logprob == pytest.approx(float(expected), abs=1e-5)
        assert answer.flops == 2 * arm.parameters * (PROMPT_TOKENS + length)
        raw = "".join(VOCABULARY[token] for token in tokens[:length])
        assert answer.text == raw or raw.endswith(f"{answer.text.zfill(3)}.")
    assert len({answer.text for answer in ours}) > 5


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.tier)
def test_answers_do_not_depend_on_the_batch(folder: Path, arm: Arm) -> None:
    requests = [Request(arm, prompt, seed=4) for prompt in PROMPTS]
    whole = essence(make(folder, batch_size=1000).generate(requests))
    assert essence(make(folder, batch_size=7).generate(requests)) == whole
    backend = make(folder)
    assert essence([backend.generate([request])[0] for request in requests[::3]]) == whole[::3]
    assert essence(backend.generate(requests[::-1]))[::-1] == whole


def test_arms_may_be_mixed_in_one_batch(folder: Path) -> None:
    backend = make(folder)
    requests = [Request(arm, prompt, seed=1) for prompt in PROMPTS[:6] for arm in ARMS]
    alone = [backend.generate([request])[0] for request in requests]
    assert essence(backend.generate(requests)) == essence(alone)
    assert backend.generate([]) == []


def test_sampling_is_seeded_and_votes(folder: Path) -> None:
    backend = make(folder)
    first, again, other = (
        essence(backend.generate([Request(VOTE, prompt, seed) for prompt in PROMPTS])) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    agreements = Counter(round(answer[4] * 5) for answer in first)
    assert set(agreements) <= {1, 2, 3, 4, 5}
    assert len(agreements) > 1
    greedy = essence(backend.generate([Request(DIRECT, prompt, 3) for prompt in PROMPTS]))
    assert greedy == essence(backend.generate([Request(DIRECT, prompt, 4) for prompt in PROMPTS]))


def test_sampling_follows_the_model(folder: Path) -> None:
    backend = make(folder)
    prompt = torch.from_numpy(encode_prompts([PROMPTS[5]], "direct"))
    with torch.inference_mode():
        expected = backend.model("tiny")(prompt).logits[0, -1].softmax(-1).numpy()
    single = TransformersBackend({"tiny": folder}, {VOTE.name: Sampling("direct", 1, 1.0)})
    answers = single.generate([Request(VOTE, PROMPTS[5], seed) for seed in range(3000)])
    # Every three-digit answer that states a value begins with its padded first digit.
    first = [answer.text.zfill(3)[0] if answer.text.isdigit() else answer.text[0] for answer in answers]
    observed = np.array([first.count(symbol) for symbol in VOCABULARY]) / len(first)
    np.testing.assert_allclose(observed, expected, atol=4 * np.sqrt(0.25 / len(first)))


def test_token_counts_cover_all_samples(folder: Path) -> None:
    backend = make(folder)
    requests = [Request(arm, "58+7") for arm in ARMS]
    assert backend.count_prompt_tokens(requests) == [8, 8, 40]
    for request, answer in zip(requests, backend.generate(requests), strict=True):
        limit = request.arm.max_completion_tokens
        assert limit is not None
        assert 0 < answer.tokens[2] + answer.tokens[3] <= limit
        assert answer.latency_s > 0
        assert answer.logprob <= 0


def test_what_is_not_of_the_pool_is_refused(folder: Path) -> None:
    backend = make(folder)
    stranger = Arm("tiny", "shouted", 3000, 4)
    with pytest.raises(PoolError, match="unknown arm 'tiny/shouted'; this pool has tiny/direct"):
        backend.generate([Request(stranger, "1+1")])
    with pytest.raises(PoolError, match="unknown arm 'tiny/shouted'"):
        backend.count_prompt_tokens([Request(stranger, "1+1")])
    with pytest.raises(PoolError, match="unknown model 'huge'; this pool has tiny"):
        backend.model("huge")
    with pytest.raises(PoolError, match=r"prompt '1/1' cannot be encoded"):
        backend.generate([Request(DIRECT, "1/1")])
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
    with pytest.raises(PoolError, match=r"model 'tiny' cannot be loaded .*train it again"):
        make(tmp_path).generate([Request(DIRECT, "1+1")])
