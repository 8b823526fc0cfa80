"""The OpenAI protocol as far as it is spoken here: a call as JSON, an answer as texts, log-probabilities and tokens."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from routegym.errors import CallRefusedError, MalformedResponseError, MissingUsageError
from routegym.pool.backend import Call, Tokens

__all__ = [
    "COSTLY_FIELDS",
    "OWN_FIELDS",
    "Answer",
    "error_text",
    "most_prompt_tokens",
    "read_answer",
    "read_count",
    "request_body",
    "response_limit",
    "tokenize_body",
]

#: Fields of a request that routegym fills in itself: what a call may cost and how its answer is read hang on them.
OWN_FIELDS = frozenset(
    [
        *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "best_of", "stream"),
        "stream_options",
    ]
)
#: Fields that change what a call costs, beyond what a price per token says.
COSTLY_FIELDS = frozenset(["audio", "echo", "modalities", "service_tier", "use_beam_search", "web_search_options"])

#: Options that change how a prompt is written.
TEMPLATE_OPTIONS = frozenset(
    [
        "add_generation_prompt",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "tools",
    ]
)

#: Tokens that a chat template may add: for the call (a default system prompt among them) and for each message.
TEMPLATE_TOKENS = 256
MESSAGE_TOKENS = 16
#: Tokens that a plain completion's prompt may get besides its text: beginning of text and the like.
PROMPT_TOKENS = 16

#: Bytes of a response: for the whole, for each token with its log-probability, and at most.
_RESPONSE_BYTES = 2**20
_TOKEN_BYTES = 2**10
_MOST_RESPONSE_BYTES = 2**28


@dataclass(frozen=True)
class Answer:
    """What a server's answer says; one entry per sample."""

    texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    """Mean log-probability per token; 0 where the answer has none."""
    finish_reasons: tuple[str, ...]
    tokens: Tokens


def request_body(call: Call) -> bytes:
    """The JSON that is posted for a call.

    The limit is sent as ``max_tokens``, with a reasoning effort as ``max_completion_tokens``, which is what models
    with one want. An option replaces a field of the same name; an option that is None takes the field out.

    Raises:
        CallRefusedError: the text is no valid Unicode, or an option would change what the call may cost.
    """
    if fixed := (OWN_FIELDS | COSTLY_FIELDS).intersection(call.options):
        raise CallRefusedError(
            f"arm {call.arm.name}: options must not hold {', '.join(sorted(fixed))}; "
            "set the tier's own fields (max_tokens, samples, template) in the pool file"
        )
    body: dict[str, Any] = {"model": call.model}
    if call.api == "chat":
        body["messages"] = [{"role": role, "content": content} for role, content in call.messages]
        body["logprobs"] = True
    else:
        body["prompt"] = "".join(content for _, content in call.messages)
        body["logprobs"] = 1
    body["max_tokens" if call.reasoning_effort is None else "max_completion_tokens"] = call.max_tokens
    body |= {"temperature": call.temperature, "n": call.n, "seed": call.seed}
    if call.stop:
        body["stop"] = list(call.stop)
    if call.reasoning_effort is not None:
        body["reasoning_effort"] = call.reasoning_effort
    body |= call.options
    body = {name: value for name, value in body.items() if value is not None}
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise CallRefusedError(
            f"arm {call.arm.name}: the call cannot be encoded ({error}); expected valid Unicode and options of JSON"
        ) from error


def most_prompt_tokens(call: Call) -> int:
    """A bound on the prompt tokens of a call, without the model's tokenizer.

    No token of a byte-level or byte-fallback tokenizer is shorter than a byte, so there are at most as many as bytes
    of UTF-8 (after the normalisation that some tokenizers begin with), plus what a chat template adds. All samples
    of a call share one prompt.
    """
    if call.api == "completions":
        return sum(_most_bytes(content) for _, content in call.messages) + PROMPT_TOKENS
    # Tools and other fields may be written into the prompt.
    extra = len(json.dumps(dict(call.options), ensure_ascii=True)) if call.options else 0
    contents = sum(_most_bytes(role) + _most_bytes(content) + MESSAGE_TOKENS for role, content in call.messages)
    return contents + extra + TEMPLATE_TOKENS


def tokenize_body(call: Call) -> bytes:
    """The JSON that is posted to vLLM's ``/tokenize`` to count the prompt of a call."""
    if call.api == "completions":
        body: dict[str, Any] = {"model": call.model, "prompt": "".join(content for _, content in call.messages)}
    else:
        messages = [{"role": role, "content": content} for role, content in call.messages]
        body = {"model": call.model, "messages": messages, "add_generation_prompt": True}
        if call.reasoning_effort is not None:
            body["chat_template_kwargs"] = {"reasoning_effort": call.reasoning_effort}
    body |= {name: value for name, value in call.options.items() if name in TEMPLATE_OPTIONS and value is not None}
    return json.dumps(body, separators=(",", ":")).encode()


def read_count(content: bytes) -> int | None:
    """The number of tokens in an answer of ``/tokenize``; None where it is not one."""
    try:
        count = _parse(content)["count"]
    except (MalformedResponseError, KeyError, TypeError):
        return None
    return count if type(count) is int and count >= 0 else None


def response_limit(call: Call) -> int:
    """Most bytes that an answer to a call may have."""
    return min(_RESPONSE_BYTES + _TOKEN_BYTES * call.n * call.max_tokens, _MOST_RESPONSE_BYTES)


def read_answer(call: Call, content: bytes, most_prompt: int) -> Answer:
    """The answer to a call, checked.

    Args:
        call: what was asked.
        content: the body of the response.
        most_prompt: most prompt tokens that can be right.

    Raises:
        MalformedResponseError: no JSON, or not what the protocol says.
        MissingUsageError: token counts are missing or cannot be right.
    """
    answer = _parse(content)
    if not isinstance(answer, dict):
        raise MalformedResponseError(f"the answer is {_shown(answer)}; expected a JSON object")
    tokens = _tokens(call, answer.get("usage"), most_prompt)
    choices = answer.get("choices")
    if not (isinstance(choices, list) and len(choices) == call.n and all(isinstance(c, dict) for c in choices)):
        number = len(choices) if isinstance(choices, list) else _shown(choices)
        raise MalformedResponseError(f"choices: {number}; expected a list of {call.n} objects, one per sample")
    places = [choice.get("index", place) for place, choice in enumerate(choices)]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(call.n)):
        raise MalformedResponseError(f"choices: their indices are {places}; expected each of 0 to {call.n - 1} once")
    choices = [choice for _, choice in sorted(zip(places, choices, strict=True), key=lambda pair: pair[0])]
    finish_reasons = tuple(_finish_reason(choice) for choice in choices)
    return Answer(
        texts=tuple(_text(call, choice, tokens) for choice in choices),
        logprobs=tuple(_logprob(choice.get("logprobs")) for choice in choices),
        finish_reasons=finish_reasons,
        tokens=tokens,
    )


def error_text(content: bytes) -> str:
    """What the body of an error response says: type, code and message where it is the protocol's, else its text."""
    try:
        answer = _parse(content)
        error = answer["error"] if isinstance(answer.get("error"), dict) else answer
        parts = [str(error[name]) for name in ("type", "code", "message") if error.get(name)]
        if parts:
            return ": ".join(parts)
    except (MalformedResponseError, AttributeError):
        pass
    return content.decode("utf-8", "replace")


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        start = content[:60].decode("utf-8", "replace")
        raise MalformedResponseError(f"the answer is no JSON ({error}); it begins with {start!r}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not allowed")


def _tokens(call: Call, usage: Any, most_prompt: int) -> Tokens:
    """Prompt, cached, completion and reasoning tokens, each token counted once."""
    if not isinstance(usage, dict):
        raise MissingUsageError(
            f"usage is {_shown(usage)}; expected the numbers of prompt and completion tokens, "
            "without which the cost of a call is not known: use a server that reports them"
        )
    prompt = _count(usage, "prompt_tokens", most_prompt)
    completion = _count(usage, "completion_tokens", call.n * call.max_tokens)
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens", prompt)
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens", completion)
    return (prompt - cached, cached, completion - reasoning, reasoning)


def _count(counts: Mapping[str, Any], name: str, most: int) -> int:
    value = counts.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise MissingUsageError(
            f"usage: {name} is {_shown(value)}; expected a whole number from 0 to {most}, "
            "check how the server counts and what its chat template adds to a prompt"
        )
    return value


def _detail(usage: Mapping[str, Any], part: str, name: str, most: int) -> int:
    """A count that a server may leave out; 0 then."""
    details = usage.get(part)
    if details is None or (isinstance(details, dict) and details.get(name) is None):
        return 0
    return _count(details if isinstance(details, dict) else {}, name, most)


def _finish_reason(choice: Mapping[str, Any]) -> str:
    reason = choice.get("finish_reason")
    return _valid(reason) if isinstance(reason, str) else ""


def _text(call: Call, choice: Mapping[str, Any], tokens: Tokens) -> str:
    """A sample's text. None instead of a text is an answer only where the choice says why there is none."""
    message: Any = choice.get("message") if call.api == "chat" else choice
    if not isinstance(message, dict):
        raise MalformedResponseError(f"choices: message is {_shown(message)}; expected an object with the answer")
    name = "content" if call.api == "chat" else "text"
    text = message.get(name)
    if isinstance(text, str):
        return _valid(text)
    explained = (
        any(message.get(field) for field in ("refusal", "tool_calls", "reasoning", "reasoning_content"))
        or choice.get("finish_reason") == "content_filter"
        or tokens[3] > 0
    )
    if text is None and explained:
        return ""
    raise MalformedResponseError(
        f"choices: {name} is {_shown(text)}, and neither reasoning nor a refusal, a filter or tool calls explain it; "
        "expected the answer's text"
    )


def _logprob(logprobs: Any) -> float:
    """Mean log-probability per token, of a list of tokens (chat) or of ``token_logprobs`` (completions)."""
    if not isinstance(logprobs, dict):
        return 0.0
    values: Any = logprobs.get("token_logprobs")
    if values is None and isinstance(tokens := logprobs.get("content"), list):
        values = [token.get("logprob") if isinstance(token, dict) else token for token in tokens]
    if not values:
        return 0.0
    # type(): True is an int as well.
    if isinstance(values, list) and all(type(value) in (int, float) for value in values):
        with suppress(OverflowError):
            mean = math.fsum(values) / len(values)
            if math.isfinite(mean):
                return min(0.0, mean)
    raise MalformedResponseError("choices: logprobs hold something that is no finite number")


def _most_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    forms = (text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _valid(text: str) -> str:
    """The text with what is no Unicode character replaced: JSON can spell half a surrogate pair."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _shown(value: Any) -> str:
    """A value for a message, cut to bounded length."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
