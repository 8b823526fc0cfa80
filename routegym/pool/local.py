"""What the engines that run language models in this process share: prompts as token ids, seeds, failures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from routegym.errors import CallError, CallRefusedError, PoolError, PromptTooLongError
from routegym.pool.backend import NO_TOKENS, Attempt, Call, Failure, Tokens

__all__ = ["failed", "one_line", "prompt_counts", "prompt_ids", "sample_seed", "worst_case"]


def prompt_counts(calls: Sequence[Call], ids_of: Callable[[Call], list[int]]) -> list[int]:
    """Prompt tokens of each call, one prompt for every sample; 0 where `ids_of` refuses it with a `CallError`."""
    counts = []
    for call in calls:
        try:
            counts.append(call.n * len(ids_of(call)))
        except CallError:
            counts.append(0)
    return counts


def prompt_ids(tokenizer: Any, call: Call, context_tokens: int | None = None, template: str | None = None) -> list[int]:
    """Token ids of a call's prompt.

    Args:
        tokenizer: a tokenizer with the interface of transformers.
        call: the call. With `api` ``chat`` its messages go through the chat template, which also gets
            `reasoning_effort` and the option ``chat_template_kwargs``; otherwise the text is encoded as it stands.
        context_tokens: most tokens of prompt and one answer together; None = no limit.
        template: chat template that replaces the tokenizer's own.

    Raises:
        PoolError: a chat is asked of a model without a chat template.
        CallRefusedError: the text cannot be encoded, or the template refuses the messages.
        PromptTooLongError: prompt and answer do not fit `context_tokens`.
    """
    if call.api == "chat" and template is None and not getattr(tokenizer, "chat_template", None):
        raise PoolError(
            f"model {call.model!r} has no chat template (arm {call.arm.name}); "
            "set 'api: completions' for it in the pool file, or use a model with a chat template"
        )
    try:
        if call.api == "chat":
            extra = dict(call.options.get("chat_template_kwargs") or {})
            if call.reasoning_effort is not None:
                extra["reasoning_effort"] = call.reasoning_effort
            if template is not None:
                extra["chat_template"] = template
            messages = [{"role": role, "content": content} for role, content in call.messages]
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **extra)
            # The template writes the special tokens itself; encoding must not add them a second time.
            ids = list(tokenizer.encode(text, add_special_tokens=False))
        else:
            ids = list(tokenizer.encode("".join(content for _, content in call.messages)))
    except Exception as error:
        raise CallRefusedError(
            f"arm {call.arm.name}: the prompt cannot be encoded for model {call.model!r} ({one_line(error)}); "
            "expected text that its tokenizer and chat template take"
        ) from error
    if not ids:
        raise CallRefusedError(f"arm {call.arm.name}: the prompt has no tokens; expected at least one")
    if context_tokens is not None and len(ids) + call.max_tokens > context_tokens:
        raise PromptTooLongError(
            f"arm {call.arm.name}: {len(ids)} prompt tokens and up to {call.max_tokens} of the answer do not fit the "
            f"{context_tokens} tokens of model {call.model!r}; shorten the prompt or lower max_tokens"
        )
    return ids


def sample_seed(call: Call, sample: int) -> int:
    """Seed of one sample of a call, 0 .. 2^63 - 1.

    A hash: samples of neighbouring seeds, and of other prompts with the same seed, are unrelated.
    """
    text = json.dumps([call.seed, sample, call.messages])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def worst_case(call: Call, prompt_tokens: int) -> Tokens:
    """Tokens that a call is charged where the model may have worked on it: every sample to its limit."""
    return (call.n * prompt_tokens, 0, call.n * call.max_tokens, 0)


def failed(call: Call, error: CallError, tokens: Tokens = NO_TOKENS, latency_s: float = 0.0) -> Failure:
    """The failure of a call after one attempt."""
    return Failure(error, (Attempt(call.arm.name, type(error).__name__, str(error), tokens, latency_s),))


def one_line(error: BaseException) -> str:
    """An error's text in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
