"""Reading a pool file: errors name file, line, field, what was given and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from routegym.errors import PoolError, PriceError
from routegym.pool.config import (
    POOL_SCHEMA,
    SECRET,
    ArithmeticEndpoint,
    Entry,
    GpuPrice,
    LookedUpPrice,
    ModelEntry,
    OpenAIEndpoint,
    PoolConfig,
    PriceSource,
    TierEntry,
    TokenPrice,
    TransformersEndpoint,
    VLLMEndpoint,
)
from routegym.pool.strict_yaml import BIDI, line_of, one_line, read_yaml

__all__ = ["read_config"]

#: An address with a password or a query, or something that looks like a key.
_MAY_BE_SECRET = re.compile(r"//[^/\s]*@|://.*[?#]|\b(sk|pk|hf|gsk|ghp|xai|AIza)[-_A-Za-z0-9]{12,}")

_ENDPOINTS: dict[str, type[Entry]] = {
    "openai": OpenAIEndpoint,
    "vllm": VLLMEndpoint,
    "transformers": TransformersEndpoint,
    "arithmetic": ArithmeticEndpoint,
}
_PRICES: dict[str, type[Entry]] = {"per token": TokenPrice, "looked up": LookedUpPrice, "GPU time": GpuPrice}


def read_config(path: Path) -> PoolConfig:
    """Read and check a pool file.

    Raises:
        PoolError: the file cannot be read, or something in it makes no sense.
        PriceError: a model has no price, or a price is impossible.
    """
    node, raw = read_yaml(path)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or isinstance(version, bool) or version != POOL_SCHEMA:
        shown = _shown(("schema_version",), version)
        raise PoolError(
            f"{path}: schema_version is {shown}; this routegym reads version {POOL_SCHEMA}, see docs/pool.md for it"
        )
    try:
        config = PoolConfig.model_validate(raw)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise PoolError(f"{path}: nested too deeply; expected a pool file as in docs/pool.md") from None
        # What the loader did not recognise comes after what it did: the first error is the nearest to the cause.
        first = min(error.errors(include_url=False), key=lambda found: found["type"] == "missing")
        raise _explained(path, node, dict(first)) from None
    for loc, problem in _conflicts(config):
        raise _error(path, node, loc, problem)
    return config


# From what pydantic says to what the user needs


def _explained(path: Path, node: yaml.Node, error: dict[str, Any]) -> PoolError:
    """One error of pydantic's as one of ours."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    if loc[:1] == ("endpoints",) and len(loc) > 2 and loc[2] in _ENDPOINTS:
        loc = (*loc[:2], *loc[3:])  # pydantic names the kind of endpoint
    if loc[:1] == ("models",) and loc[2:3] == ("price",):
        loc = (*loc[:3], *loc[4:])  # and the kind of price
    entry = _entry_at(error["loc"])
    kind, value, name = error["type"], error["input"], str(loc[-1]) if loc else ""
    if kind == "extra_forbidden":
        if SECRET.search(name):
            return _error(
                path, node, loc, "must not be in the file: put the secret into an environment variable and give the "
                "variable's name as api_key_env",
            )  # fmt: skip
        known = list(entry.model_fields) if entry is not None else []
        return _error(path, node, loc, f"is no known field{_meant(name, known)}; known are {', '.join(known)}")
    about = entry.model_fields[name].description if entry is not None and name in entry.model_fields else None
    hint = f" ({name}: {about})" if about else ""
    if kind == "missing":
        return _error(path, node, loc, f"is missing; add it{hint}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        given = value.get("backend") if isinstance(value, dict) else None
        listed = ", ".join(_ENDPOINTS)
        shown = "missing" if given is None else _shown(loc, given) + _meant(str(given), tuple(_ENDPOINTS))
        return _error(path, node, (*loc, "backend"), f"is {shown}; expected one of {listed}")
    problem = one_line(error["msg"].removeprefix("Value error, ")).replace("Input should", "it should")
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        problem = "it should be a mapping"
    elif kind == "too_short":
        problem = "it should have at least one entry"
    if "[key]" in error["loc"]:
        return _error(path, node, loc, "is no name: expected letters, digits and . _ : + - only; rename it")
    return _error(path, node, loc, f"is {_shown(loc, value)}: {problem}; correct it{hint}")


def _entry_at(loc: Sequence[Any]) -> type[Entry] | None:
    """The class in which the last part of a place stands."""
    match tuple(loc):
        case (_,):
            return PoolConfig
        case ("prices", _):
            return PriceSource
        case ("endpoints", _, kind, _, *_):
            return _ENDPOINTS.get(str(kind))
        case ("models", _, _):
            return ModelEntry
        case ("models", _, "price", kind, _):
            return _PRICES.get(str(kind))
        case ("models", _, "tiers", _, _, *_):
            return TierEntry
    return None


Problem = tuple[tuple[str, ...], str]


def _conflicts(config: PoolConfig) -> Iterator[Problem]:
    """Places where entries do not fit each other, each with what is wrong there."""
    served: dict[tuple[str, ...], str] = {}
    bases: dict[str, tuple[str, str]] = {}
    for model, entry in config.models.items():
        at = ("models", model)
        if entry.endpoint not in config.endpoints:
            shown = _shown(("endpoint",), entry.endpoint) + _meant(entry.endpoint, list(config.endpoints))
            known = ", ".join(config.endpoints)
            yield (*at, "endpoint"), f"is {shown}; expected one of {known}, describe it under endpoints"
            continue
        endpoint = config.endpoints[entry.endpoint]
        backend = endpoint.backend
        if backend == "openai" and entry.folder is not None:
            yield (*at, "folder"), "is given for a model on a server; name it by served_as instead"
        if backend in ("transformers", "arithmetic") and entry.folder is None:
            yield (*at, "folder"), f"is missing; the {backend} engine needs the folder of the model's weights"
        if backend != "vllm" and entry.adapter is not None:
            yield (*at, "adapter"), "is given, and only vllm takes one; a server knows its adapters by served_as"
        if isinstance(entry.price, GpuPrice):
            on_cpu = isinstance(endpoint, TransformersEndpoint) and endpoint.device == "cpu"
            if on_cpu or backend not in ("vllm", "transformers"):
                where = "on a CPU" if on_cpu else f"by the {backend} engine"
                yield (*at, "price"), f"is by GPU time, which is not measured {where}; give it per million tokens"
        if backend == "vllm":
            base = entry.folder or entry.served_as or model
            first, other = bases.setdefault(entry.endpoint, (model, base))
            if base != other:
                yield (
                    at,
                    (
                        f"is another model than {first}, and endpoint {entry.endpoint} (vllm) runs one; give it an "
                        "endpoint of its own, or the same folder or served_as where only the adapter differs"
                    ),
                )
        weights = (backend, entry.folder or entry.served_as or model, entry.revision, entry.adapter or "")
        if served.setdefault(weights, entry.endpoint) != entry.endpoint:
            yield (
                at,
                (
                    f"is {weights[1]!r} at endpoint {entry.endpoint}, as is a model at {served[weights]}; "
                    "their answers could not be told apart: give this one a revision"
                ),
            )
        for tier_name, tier in entry.tiers.items():
            for field, problem in _tier_conflicts(config, entry, tier):
                yield (*at, "tiers", tier_name, field), problem
    yield from _cycles(config)


def _tier_conflicts(config: PoolConfig, model: ModelEntry, tier: TierEntry) -> Iterator[tuple[str, str]]:
    endpoint = config.endpoints[model.endpoint]
    attempts = endpoint.attempts if isinstance(endpoint, OpenAIEndpoint) else 1
    arms = [f"{name}/{tier_name}" for name, entry in config.models.items() for tier_name in entry.tiers]
    if tier.charged_attempts > attempts:
        yield (
            "charged_attempts",
            (f"is {tier.charged_attempts}, and endpoint {model.endpoint} makes {attempts} attempts at most; lower it"),
        )
    if tier.fallback is not None and tier.fallback not in arms:
        shown = _shown(("fallback",), tier.fallback) + _meant(tier.fallback, arms)
        yield "fallback", f"is {shown}; expected an arm of this pool: {', '.join(arms)}"
    if tier.fallback is not None and isinstance(model.price, GpuPrice):
        yield (
            "fallback",
            "is given for a model paid by GPU time, and the time that a failure took would be nobody's; leave it out",
        )
    if tier.system is not None and model.api == "completions":
        yield "system", "is given, and a plain completion has none; put it into template"
    if model.context_tokens is not None and tier.max_tokens >= model.context_tokens:
        yield (
            "max_tokens",
            (
                f"is {tier.max_tokens}, which leaves no room for a prompt in the model's {model.context_tokens} "
                "context_tokens; lower it"
            ),
        )


def _cycles(config: PoolConfig) -> Iterator[Problem]:
    """Arms whose fallbacks lead back to them."""
    after = {
        f"{model}/{name}": tier.fallback for model, entry in config.models.items() for name, tier in entry.tiers.items()
    }
    for start in after:
        chain = [start]
        while (following := after.get(chain[-1])) is not None and following not in chain:
            chain.append(following)
        if following == start:
            model, _, tier = start.partition("/")
            circle = " -> ".join([*chain, start])
            yield (
                ("models", model, "tiers", tier, "fallback"),
                (f"leads back to the arm itself ({circle}); leave one of them out"),
            )


def _error(path: Path, node: yaml.Node, loc: Sequence[Any], problem: str) -> PoolError:
    field = ".".join(str(part)[:100] for part in loc) or "the file"
    kind = PriceError if "price" in loc[2:3] else PoolError
    return kind(f"{path}, line {line_of(node, loc)}: {field} {problem}")


def _shown(loc: Sequence[Any], value: Any) -> str:
    """A value for a message; never one that may be a secret."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "empty"
    text = str(value)
    if any(SECRET.search(str(part)) for part in loc) or _MAY_BE_SECRET.search(text):
        return "(not shown)"
    if len(text) > 80:
        return f"a text of {len(text):,} characters"
    return ascii(value) if BIDI.search(text) else repr(value)


def _meant(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given[:100], known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
