"""The pool file: what may stand in it."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from routegym.pool.protocol import COSTLY_FIELDS, OWN_FIELDS
from routegym.pool.strict_yaml import one_line

__all__ = [
    "POOL_SCHEMA",
    "SECRET",
    "ArithmeticEndpoint",
    "Endpoint",
    "Entry",
    "GpuPrice",
    "LookedUpPrice",
    "ModelEntry",
    "OpenAIEndpoint",
    "PoolConfig",
    "PriceSource",
    "TierEntry",
    "TokenPrice",
    "TransformersEndpoint",
    "VLLMEndpoint",
    "pool_schema",
]

#: Version of the pool file's layout.
POOL_SCHEMA = 2

#: Fields that routegym fills in as well, but null leaves them out: not every server takes them.
_OWN_OR_NONE = ("temperature", "seed", "stop", "reasoning_effort", "logprobs")
#: Names of fields that would hold a secret.
SECRET = re.compile(
    r"api[-_]?key|authorization|^auth$|password|secret|credential|bearer|(^|access|auth|hf|id|session)[-_]?token$"
    r"|headers$|cookie",
    re.I,
)
#: Values that are secrets: keys by the look of common ones, addresses with a password.
SECRET_VALUE = re.compile(
    r"^(bearer|basic) |//[^/\s]*@|(?<![A-Za-z0-9])((sk|pk|hf|gsk|ghp|xai)[-_](?=[-\w]*\d)[-\w]{12,}|AIza[-\w]{30,})",
    re.I,
)


def _plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Options as they are, if JSON can express them and they hold no secret."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not to be expressed as JSON ({one_line(error)})") from None
    for key, part in _fields(value):
        if SECRET.search(key) or (isinstance(part, str) and SECRET_VALUE.search(part)):
            raise ValueError(f"{key} must not be in the file: options are stored and recorded; use api_key_env")
    return value


def _fields(value: Any, name: str = "options") -> Iterator[tuple[str, Any]]:
    """All (key, value) pairs at any depth; what stands in a list has the list's key."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _fields(part, key)
    elif isinstance(value, list):
        for part in value:
            yield name, part
            yield from _fields(part, name)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1, max_length=100_000)]
Usd = Annotated[float, Field(ge=0, le=1e9)]
Options = Annotated[dict[str, Any], AfterValidator(_plain_json)]


class Entry(BaseModel):
    """An entry of the file: known fields only, each with its exact type."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OpenAIEndpoint(Entry):
    """A server with an OpenAI-compatible API: vLLM's, llama.cpp's, a hosted one."""

    backend: Literal["openai"]
    """Kind of engine."""
    base_url: Text
    """Address up to and including the version, for example http://127.0.0.1:8000/v1."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)] | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Most requests under way at once."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most requests per minute; no limit by default."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    """Most tokens per minute, counted as servers do: a quarter of the prompt's bytes and max_tokens of each sample."""
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds that one attempt may take."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """Most attempts per call; how many of them may cost something is up to the tier's charged_attempts."""
    tokenize: bool = False
    """Whether the server counts prompt tokens (vLLM's POST /tokenize), so that worst cases are exact."""
    allow_private: bool = False
    """Whether addresses in private networks may be called (10/8, 172.16/12, 192.168/16, fc00::/7)."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if re.search(r"//[^/]*@", value):
            raise ValueError("it holds a user name or password; put the key into an environment variable (api_key_env)")
        if SECRET_VALUE.search(value):
            raise ValueError("it holds what looks like a key; put the key into an environment variable (api_key_env)")
        if re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value) is None:
            raise ValueError("expected http:// or https://, a host and a path, without '?' or '#'")
        return value


class VLLMEndpoint(Entry):
    """vLLM in this process: one model, with LoRA adapters if wanted."""

    backend: Literal["vllm"]
    """Kind of engine."""
    options: Options = {}
    """Further arguments of vllm.LLM, for example max_model_len."""
    gpu_count: Annotated[int, Field(ge=1, le=1024)] = 1
    """GPUs over which the model is split."""


class TransformersEndpoint(Entry):
    """Causal language models of Hugging Face's transformers in this process."""

    backend: Literal["transformers"]
    """Kind of engine."""
    device: Text = "cpu"
    """Torch device, for example cpu or cuda:0."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Most sequences computed at once."""


class ArithmeticEndpoint(Entry):
    """The small arithmetic models of the embedded pool, in this process."""

    backend: Literal["arithmetic"]
    """Kind of engine."""
    device: Text = "cpu"
    """Torch device."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Most sequences computed at once."""


Endpoint = OpenAIEndpoint | VLLMEndpoint | TransformersEndpoint | ArithmeticEndpoint


class TokenPrice(Entry):
    """USD per million tokens, by kind."""

    prompt: Usd
    """Prompt tokens that were not cached."""
    cached: Usd
    """Prompt tokens that were read from a cache."""
    completion: Usd
    """Generated tokens of the answer."""
    reasoning: Usd
    """Generated tokens of hidden or written-out reasoning."""


class LookedUpPrice(Entry):
    """The price that the genai-prices package has for a model, on the date of the price table."""

    genai_prices: Annotated[str, Field(pattern=r"^[^/\s]+/\S+$", max_length=200)]
    """Provider and model, for example openai/gpt-4o-mini."""


class GpuPrice(Entry):
    """A model that is paid by GPU time: measured GPU-seconds x price."""

    gpu_usd_per_hour: Usd
    """USD per GPU-hour."""
    max_gpu_s: Annotated[float, Field(gt=0, le=1e9)]
    """Most GPU-seconds that one call can take: its worst case."""


def _kind_of_price(value: Any) -> str:
    keys = value if isinstance(value, dict) else {}
    if "genai_prices" in keys:
        return "looked up"
    return "GPU time" if "gpu_usd_per_hour" in keys or "max_gpu_s" in keys else "per token"


class TierEntry(Entry):
    """How a model is asked: one arm."""

    template: Text
    """What is sent; {prompt} stands for the task's prompt, other braces for themselves."""
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)]
    """Most tokens that one sample may generate."""
    system: Text | None = None
    """System message before it."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0 = the likeliest token each time."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers drawn per call; the most frequent one is returned."""
    reasoning_effort: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """How much a reasoning model thinks, as its API names it."""
    stop: list[Text] = []
    """Texts at which generation ends."""
    answer: Text | None = None
    """Regular expression; group 1 of its last match is the answer, no match = nothing usable. Without it the text."""
    options: Options = {}
    """Further fields of the request, sent as they are."""
    fallback: Annotated[str, Field(min_length=1)] | None = None
    """Arm (model/tier) that answers where this one fails; charged as well."""
    charged_attempts: Annotated[int, Field(ge=1, le=100)] = 1
    """Attempts of one call that may cost something; each is reserved at its worst case."""

    @field_validator("template")
    @classmethod
    def _has_a_place_for_the_prompt(cls, value: str) -> str:
        if value.count("{prompt}") != 1:
            raise ValueError(f"{{prompt}} occurs {value.count('{prompt}')} times; expected exactly once")
        return value

    @field_validator("answer")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"no regular expression ({error})") from None
            if groups < 1:
                raise ValueError("the expression has no group; put the answer's part into brackets: 'answer is (.+)'")
        return value

    @field_validator("options")
    @classmethod
    def _may_be_sent(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, part in value.items():
            if key in COSTLY_FIELDS:
                raise ValueError(f"{key} would change what a call costs beyond its price per token; leave it out")
            if key in OWN_FIELDS or (key in _OWN_OR_NONE and part is not None):
                raise ValueError(f"{key} is filled in by routegym; use the tier's own fields, or leave it out")
        return value

    @model_validator(mode="after")
    def _one_answer_without_temperature(self) -> TierEntry:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"{self.samples} samples at temperature 0 are all the same; use 1 sample or a temperature")
        return self


class ModelEntry(Entry):
    """A model, what it costs and the tiers at which it is asked."""

    endpoint: Text
    """Which of the endpoints serves it."""
    price: Annotated[
        Annotated[TokenPrice, Tag("per token")]
        | Annotated[LookedUpPrice, Tag("looked up")]
        | Annotated[GpuPrice, Tag("GPU time")],
        Discriminator(_kind_of_price),
    ]
    """USD per million tokens; or where to look it up; or USD per GPU-hour."""
    tiers: Annotated[dict[Name, TierEntry], Field(min_length=1)]
    """Its arms, in order."""
    served_as: Text | None = None
    """The endpoint's name for it; by default the name it has here."""
    folder: Text | None = None
    """Folder of its weights, relative to this file (engines in this process)."""
    revision: str = ""
    """Version of the weights; another one is asked anew."""
    adapter: Text | None = None
    """Folder of a LoRA adapter, relative to this file (vllm)."""
    api: Literal["chat", "completions"] = "chat"
    """Whether it is sent a chat or a plain text."""
    parameters: Annotated[int, Field(ge=0, le=10**15)] = 0
    """Number of weights, for the count of operations; 0 = not known."""
    context_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Most tokens of prompt and answer together."""
    about: str = ""
    """Free words on the model."""
    training: dict[str, Any] = {}
    """Free facts on its training."""


class PriceSource(Entry):
    """When and where the prices of this file were read."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """Day on which they held, YYYY-MM-DD."""
    note: Text
    """Where they come from."""

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        try:
            datetime.date.fromisoformat(value)
        except ValueError:
            raise ValueError("there is no such day") from None
        return value


class PoolConfig(Entry):
    """A pool file."""

    schema_version: Literal[2]
    """Version of this layout."""
    name: Name
    """Name of the pool."""
    prices: PriceSource
    """When and where the prices were read."""
    endpoints: Annotated[
        dict[Name, Annotated[Endpoint, Field(discriminator="backend")]],
        Field(min_length=1),
    ]
    """Servers and engines in this process; limits and the circuit breaker are per endpoint."""
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    """The models, in the order of the arms."""
    about: str = ""
    """Free words on the pool."""


def pool_schema() -> dict[str, Any]:
    """JSON schema of the pool file."""
    schema = PoolConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
