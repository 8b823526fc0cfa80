"""The engine that runs any causal language model with Hugging Face transformers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import engine_contract as contract
import numpy as np
import pytest
import torch
from engine_contract import CONTEXT, SYMBOLS, Subject, completions, failure_of, save_tiny_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from routegym.errors import CallRefusedError, PoolError, PromptTooLongError, ServerFailedError
from routegym.pool.backend import Completion, Failure
from routegym.pool.transformers import TransformersEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return Subject(TransformersEngine({"tiny": folder}, batch_size=4), "transformers", "tiny")


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("check", contract.CHECKS[:3], ids=lambda check: check.__name__)
def test_contract_of_chats(check: Any, subject: Subject) -> None:
    check(Subject(subject.engine, "transformers", "tiny", fields={"api": "chat"}))


def test_greedy_answers_equal_those_of_generate(folder: Path, subject: Subject) -> None:
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    calls = subject.calls(5, max_tokens=20)
    for call, result in zip(calls, completions(subject, calls), strict=True):
        inputs = tokenizer(call.messages[0][1], return_tensors="pt", return_token_type_ids=False)
        out = network.generate(
            **inputs, max_new_tokens=20, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        new = out.sequences[0, inputs["input_ids"].shape[1] :]
        assert result.texts == (tokenizer.decode(new, skip_special_tokens=True),)
        assert result.tokens == (inputs["input_ids"].shape[1], 0, len(new), 0)
        assert result.finish_reasons == ("stop" if int(new[-1]) == 2 else "length",)
        logprobs = torch.cat(out.logits).log_softmax(-1).gather(1, new[:, None])
        assert result.logprobs[0] == pytest.approx(float(logprobs.mean()), abs=1e-5)


def test_chats_go_through_the_template(folder: Path, subject: Subject) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    call = subject.call("", api="chat", messages=(("system", "be short"), ("user", "1+1")))
    raw = "system: be short\nuser: 1+1\nassistant: "
    assert subject.engine.count_prompt_tokens([call]) == [len(tokenizer.encode(raw))]
    assert completions(subject, [call])[0].texts == completions(subject, [subject.call(raw)])[0].texts


def test_sampling_follows_the_model(folder: Path, subject: Subject) -> None:
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = network(**tokenizer("1+", return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
    expected = (logits / 0.8).softmax(-1).numpy()
    engine = TransformersEngine({"tiny": folder}, batch_size=2000)
    subject = Subject(engine, "transformers", "tiny")
    [result] = completions(subject, [subject.call("1+", n=2000, temperature=0.8, max_tokens=1)])
    counts = Counter(result.texts)
    observed = np.array([counts[symbol] for symbol in ["<none>", "<none>", "<none>", *SYMBOLS]]) / 2000
    np.testing.assert_allclose(observed[3:], expected[3:], atol=4 * np.sqrt(0.25 / 2000))
    # The reported log-probability is the model's own, before the temperature.
    known = dict(zip(SYMBOLS, logits.log_softmax(-1).tolist()[3:], strict=True))
    for text, logprob in list(zip(result.texts, result.logprobs, strict=True))[:50]:
        if text:
            assert logprob == pytest.approx(known[text], abs=1e-4)


def test_an_interrupt_tells_which_calls_were_not_begun(folder: Path) -> None:
    engine = TransformersEngine({"tiny": folder}, batch_size=2)
    subject = Subject(engine, "transformers", "tiny")
    got: dict[int, Completion | Failure] = {}

    def on_result(index: int, result: Completion | Failure) -> None:
        got[index] = result
        if len(got) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.complete(subject.calls(7), on_result)
    unsent = [result for result in got.values() if isinstance(result, Failure)]
    assert len(got) == 6  # the fourth had been begun
    assert len(unsent) == 3
    assert all(result.attempts == () and "before it was sent" in str(result.error) for result in unsent)


def test_top_k_and_top_p_cut_the_tail(subject: Subject) -> None:
    greedy = completions(subject, [subject.call("1+")])[0].texts[0]
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        [result] = completions(subject, [subject.call("1+", n=3, temperature=2.0, options=options)])
        assert result.texts == (greedy,) * 3
    [result] = completions(subject, [subject.call("1+", n=60, temperature=5.0, max_tokens=1, options={"top_k": 3})])
    assert 1 < len(set(result.texts)) <= 3


def test_a_stop_string_ends_the_answer_and_is_cut_off(subject: Subject) -> None:
    free = completions(subject, [subject.call("1+1=", max_tokens=20)])[0]
    text = free.texts[0]
    stop = text[5:7]
    [result] = completions(subject, [subject.call("1+1=", max_tokens=20, stop=("never seen", stop))])
    assert result.texts == (text[: text.index(stop)],)
    assert result.finish_reasons == ("stop",)
    assert result.tokens[2] == text.index(stop) + len(stop)


def test_the_folders_own_sampling_defaults_do_not_apply(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "eos_token_id": [2, 5]}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    engine = TransformersEngine({"plain": folder, "set": tmp_path}, batch_size=8)
    plain = Subject(engine, "transformers", "plain")
    other = Subject(engine, "transformers", "set")
    both = contract.run(engine, [*plain.calls(5), *other.calls(5)])
    for one, two in zip(both[:5], both[5:], strict=True):
        assert isinstance(one, Completion)
        assert isinstance(two, Completion)
        # Its end tokens do: they are part of how the model answers.
        assert two.texts[0] == one.texts[0].partition(SYMBOLS[2])[0] + SYMBOLS[2] * (SYMBOLS[2] in one.texts[0])


def test_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    answers = []
    for batch_size in (1, 3, 64):
        subject = Subject(TransformersEngine({"tiny": folder}, batch_size=batch_size), "transformers", "tiny")
        calls = [*subject.calls(6), *subject.calls(4, n=3, temperature=1.0, max_tokens=5)]
        answers.append([result.texts for result in completions(subject, calls)])
    assert answers[0] == answers[1] == answers[2]


def test_what_cannot_be_sent_fails_without_a_charge(folder: Path, subject: Subject) -> None:
    for call, error, message in [
        (subject.call("1+1=é"), CallRefusedError, "cannot be encoded"),
        (subject.call("1+1=\ud800"), CallRefusedError, "cannot be encoded"),
        (subject.call(""), CallRefusedError, "the prompt has no tokens"),
        (subject.call("1", max_tokens=CONTEXT), PromptTooLongError, f"do not fit the {CONTEXT} tokens"),
        (subject.call("1", options={"min_p": 0.1}), CallRefusedError, "options min_p are not known"),
        (subject.call("1", options={"top_p": 0}), CallRefusedError, "top_p = 0; expected"),
    ]:
        failure = failure_of(subject, call)
        assert isinstance(failure.error, error)
        assert message in str(failure.error)
        assert failure.attempts == ()
    assert subject.engine.count_prompt_tokens([subject.call("1+1=é"), subject.call("12", n=3)]) == [0, 6]
    assert isinstance(completions(subject, [subject.call("1", max_tokens=CONTEXT - 1)])[0], Completion)


def test_a_failing_model_is_charged_the_worst_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(TransformersEngine({"tiny": folder}, batch_size=2), "transformers", "tiny")
    completions(subject, subject.calls(1))
    network = subject.engine._models["tiny"].network  # type: ignore[attr-defined]

    def exhausted(**kwargs: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(network, "generate", exhausted)
    [failure] = subject.run([subject.call("1+1=", n=3, max_tokens=5)])
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, ServerFailedError)
    [attempt] = failure.attempts
    assert attempt.tokens == (12, 0, 15, 0)
    assert attempt.error == "ServerFailedError"
    assert "smaller batch_size" in attempt.message


def test_what_is_not_here_is_an_error_before_anything_runs(folder: Path, tmp_path: Path, subject: Subject) -> None:
    reported: list[int] = []

    def refuse(call: Any, message: str, engine: Any = subject.engine) -> None:
        with pytest.raises(PoolError, match=message):
            engine.complete([subject.call("1+1="), call], lambda index, result: reported.append(index))

    refuse(Subject(subject.engine, "transformers", "huge").call("1"), "unknown model 'huge' .*this engine has tiny")
    refuse(subject.call("1", adapter="poet"), "takes no adapters")
    silent = save_tiny_llama(tmp_path / "silent", chat=False)
    engine = TransformersEngine({"tiny": silent})
    refuse(subject.call("1", api="chat"), "has no chat template .*api: completions", engine)
    assert reported == []
    with pytest.raises(PoolError, match="batch_size = 0"):
        TransformersEngine({}, batch_size=0)
    with pytest.raises(PoolError, match="device 'abacus' is no torch device"):
        TransformersEngine({}, device="abacus")


@pytest.mark.parametrize("damage", ["missing", "truncated", "incomplete", "no config", "no folder", "code"])
def test_damaged_folders_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "incomplete":
        kept = load_file(weights)
        kept.pop("model.layers.1.mlp.up_proj.weight")
        save_file(kept, weights, metadata={"format": "pt"})
    elif damage == "no config":
        (tmp_path / "config.json").unlink()
    elif damage == "code":
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {
            "model_type": "made_up",
            "auto_map": {"AutoConfig": "made_up.C", "AutoModelForCausalLM": "made_up.M"},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "made_up.py").write_text("raise SystemExit('ran')")
    path = tmp_path / "elsewhere" if damage == "no folder" else tmp_path
    subject = Subject(TransformersEngine({"tiny": path}), "transformers", "tiny")
    with pytest.raises(PoolError, match=r"the model cannot be loaded .*save_pretrained"):
        subject.run(subject.calls(1))


def test_a_closed_engine_holds_no_model(folder: Path) -> None:
    subject = Subject(TransformersEngine({"tiny": folder}), "transformers", "tiny")
    completions(subject, subject.calls(1))
    subject.engine.close()
    assert subject.engine._models == {}  # type: ignore[attr-defined]
