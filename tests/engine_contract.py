"""What every engine must do, as checks to run on one, and a tiny language model to run them with.

@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, subject): check(subject)
"""

from __future__ import annotations

import math
import string
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from routegym.errors import CallError, PromptTooLongError
from routegym.pool.arms import Arm
from routegym.pool.backend import Call, Completion, Engine, Failure

SYMBOLS = [*string.digits, *string.ascii_letters, *" +-*/=?.,:()\n"]
CONTEXT = 128


@dataclass
class Subject:
    """An engine and the calls that it understands."""

    engine: Engine
    kind: str
    model: str
    prompts: Sequence[str] = ("1+1=", "12+30=", "7-2=", "what is 3*4?", "a longer prompt: 100+200=")
    fields: dict[str, Any] = field(default_factory=lambda: {"api": "completions"})
    """Further fields of each call."""
    max_tokens: int = 12
    too_long: str | None = "1" * CONTEXT
    """A prompt that does not fit; None where the engine's prompts cannot be too long."""
    per_sample_prompt: bool = True
    """Whether a call's prompt is charged once for every sample."""

    def call(self, prompt: str, **fields: Any) -> Call:
        role = "prompt" if (self.fields | fields).get("api") == "completions" else "user"
        known: dict[str, Any] = {"max_tokens": self.max_tokens, "messages": ((role, prompt),), **self.fields, **fields}
        arm = Arm(self.model, "direct", 0, known["max_tokens"] * known.get("n", 1))
        return Call(arm, self.kind, self.model, **known)

    def calls(self, count: int, **fields: Any) -> list[Call]:
        return [self.call(self.prompts[index % len(self.prompts)], **fields) for index in range(count)]

    def run(self, calls: Sequence[Call]) -> list[Completion | Failure]:
        return run(self.engine, calls)


def run(engine: Engine, calls: Sequence[Call]) -> list[Completion | Failure]:
    """Results in the order of the calls; fails where one is reported twice or never."""
    results: dict[int, Completion | Failure] = {}

    def on_result(index: int, result: Completion | Failure) -> None:
        assert index not in results, f"call {index} was reported twice"
        results[index] = result

    engine.complete(calls, on_result)
    assert sorted(results) == list(range(len(calls)))
    return [results[index] for index in range(len(calls))]


def completions(subject: Subject, calls: Sequence[Call]) -> list[Completion]:
    results = subject.run(calls)
    failures = [result for result in results if isinstance(result, Failure)]
    assert not failures, failures[0]
    return [result for result in results if isinstance(result, Completion)]


def results_come_once_and_belong_to_their_call(subject: Subject) -> None:
    calls = subject.calls(11)
    whole = completions(subject, calls)
    alone = [completions(subject, [call])[0] for call in calls]
    assert [result.texts for result in whole] == [result.texts for result in alone]
    assert [sum(result.tokens[:2]) for result in whole] == [sum(result.tokens[:2]) for result in alone]
    assert len({result.texts for result in whole}) > 1


def no_calls_are_no_work(subject: Subject) -> None:
    assert subject.run([]) == []
    assert subject.engine.count_prompt_tokens([]) == []


def tokens_are_counted(subject: Subject) -> None:
    calls = [*subject.calls(3), *subject.calls(3, n=3, temperature=1.0)]
    worst = subject.engine.count_prompt_tokens(calls)
    for call, most, result in zip(calls, worst, completions(subject, calls), strict=True):
        prompt, cached, completion, reasoning = result.tokens
        assert min(result.tokens) >= 0
        assert 0 < prompt + cached <= most
        assert 0 < completion + reasoning <= call.max_tokens * call.n
        assert len(result.texts) == len(result.logprobs) == len(result.finish_reasons) == call.n
        assert all(math.isfinite(value) and value <= 0 for value in result.logprobs)
        assert result.latency_s > 0
        assert result.gpu_s == 0
        assert result.lost == ()
    if subject.per_sample_prompt:
        once, thrice = completions(subject, [calls[0], calls[3]])
        assert 3 * sum(once.tokens[:2]) == sum(thrice.tokens[:2])


def max_tokens_is_kept(subject: Subject) -> None:
    for limit in (1, 3):
        for result in completions(subject, subject.calls(4, max_tokens=limit)):
            assert 0 < sum(result.tokens[2:]) <= limit
            assert set(result.finish_reasons) <= {"stop", "length"}


def seeds_fix_samples(subject: Subject) -> None:
    calls = subject.calls(4, n=4, temperature=1.5, seed=7)
    first, again = (completions(subject, calls) for _ in range(2))
    assert [result.texts for result in first] == [result.texts for result in again]
    assert any(len(set(result.texts)) > 1 for result in first)
    other = completions(subject, subject.calls(4, n=4, temperature=1.5, seed=8))
    assert [result.texts for result in first] != [result.texts for result in other]
    # A neighbouring seed must not bring the same samples in another place.
    assert not any({*one.texts} >= {*two.texts} for one, two in zip(first, other, strict=True) if len({*two.texts}) > 1)


def greedy_answers_need_no_seed(subject: Subject) -> None:
    one, two = (completions(subject, subject.calls(5, seed=seed)) for seed in (0, 1))
    assert [result.texts for result in one] == [result.texts for result in two]
    for result in completions(subject, subject.calls(2, n=3)):
        assert len(set(result.texts)) == 1


def what_does_not_fit_fails_alone(subject: Subject) -> None:
    if subject.too_long is None:
        return
    results = subject.run([subject.call(subject.prompts[0]), subject.call(subject.too_long), *subject.calls(2)])
    assert [type(result) for result in results] == [Completion, Failure, Completion, Completion]
    failure = results[1]
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, PromptTooLongError)
    assert all(sum(attempt.tokens) == 0 for attempt in failure.attempts)


def a_failing_receiver_stops_the_batch_only(subject: Subject) -> None:
    """What the receiver raises comes through, and the engine can be used afterwards."""
    calls = subject.calls(6)

    def on_result(index: int, result: Completion | Failure) -> None:
        raise KeyError(index)

    try:
        subject.engine.complete(calls, on_result)
    except KeyError:
        pass
    else:
        raise AssertionError("the receiver's error was lost")
    assert len(completions(subject, calls)) == 6


def threads_may_share_it(subject: Subject) -> None:
    expected = [result.texts for result in completions(subject, subject.calls(6))]
    got: dict[int, Any] = {}

    def work(number: int) -> None:
        try:
            got[number] = [result.texts for result in completions(subject, subject.calls(6))]
        except BaseException as error:
            got[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {0: expected, 1: expected}


CHECKS: tuple[Callable[[Subject], None], ...] = (
    results_come_once_and_belong_to_their_call,
    no_calls_are_no_work,
    tokens_are_counted,
    max_tokens_is_kept,
    seeds_fix_samples,
    greedy_answers_need_no_seed,
    what_does_not_fit_fails_alone,
    a_failing_receiver_stops_the_batch_only,
    threads_may_share_it,
)


def failure_of(subject: Subject, call: Call) -> Failure:
    """The failure of a call that must fail."""
    [result] = subject.run([call])
    assert isinstance(result, Failure)
    assert isinstance(result.error, CallError)
    return result


def save_tiny_llama(folder: Path, *, chat: bool = True, seed: int = 0) -> Path:
    """Write a random Llama with one token per character, as `save_pretrained` does."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *SYMBOLS]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if chat:
        wrapped.chat_template = (
            "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    network: Any = LlamaForCausalLM(config)
    network.save_pretrained(folder)
    return folder
