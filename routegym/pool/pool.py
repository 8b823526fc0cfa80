"""A pool: its arms, its dated prices and the backend that serves them, read from a pool file."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from routegym.errors import PoolError, PriceError
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.config import (
    ArithmeticEndpoint,
    Endpoint,
    GpuPrice,
    LookedUpPrice,
    ModelEntry,
    OpenAIEndpoint,
    PoolConfig,
    TransformersEndpoint,
    VLLMEndpoint,
)
from routegym.pool.config_file import read_config
from routegym.pool.tiers import Tier

if TYPE_CHECKING:
    from routegym.pool.backend import Engine
    from routegym.pool.live import KnownCompletions, PoolBackend, Spending

__all__ = ["Pool", "load_pool"]


@dataclass(frozen=True)
class Pool:
    """Arms in their order, what they cost, and how they are asked."""

    name: str
    """Name of the pool."""
    arms: tuple[Arm, ...]
    """The arms; the order is the order of actions."""
    prices: PriceTable
    """Price of every model of the pool."""
    tiers: Mapping[str, Tier]
    """How each arm asks its model, by the arm's name."""
    path: Path
    """The pool file."""
    config: PoolConfig
    """What stands in it."""

    def arm(self, name: str) -> Arm:
        """The arm called ``model/tier``.

        Raises:
            PoolError: there is no such arm.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise PoolError(f"unknown arm {name!r}; this pool has {', '.join(arm.name for arm in self.arms)}")

    @cached_property
    def backend(self) -> PoolBackend:
        """Serves the arms; each engine starts at its first call. `connect` gives it a store and a spend cap."""
        return self._connected(None, None)

    def connect(self, store: KnownCompletions | None = None, spend: Spending | None = None) -> PoolBackend:
        """Let what comes back be kept in a store and what is sent be held to a spend cap.

        Args:
            store: completions that are known are not asked for again (`routegym.pool.store.ResponseStore`).
            spend: cap on what a whole run may spend (`routegym.pool.spend.SpendCap`).

        Returns:
            The backend, which is `backend` from now on; the one before it is closed.
        """
        if "backend" in self.__dict__:
            self.backend.close()
        backend = self._connected(store, spend)
        self.__dict__["backend"] = backend
        return backend

    def training(self, model: str) -> dict[str, object]:
        """What the file says on the training of a model: command, seed, seconds, recipe.

        Raises:
            PoolError: there is no such model.
        """
        if model not in self.config.models:
            raise PoolError(f"unknown model {model!r}; this pool has {', '.join(self.config.models)}")
        return dict(self.config.models[model].training)

    def _connected(self, store: KnownCompletions | None, spend: Spending | None) -> PoolBackend:
        from routegym.pool.live import PoolBackend

        engines = {name: partial(_engine, self, name, endpoint) for name, endpoint in self.config.endpoints.items()}
        return PoolBackend(self.tiers, engines, self.prices, store, spend)


def load_pool(path: str | Path | None = None) -> Pool:
    """Read and check a pool file; nothing is called and no model is loaded.

    Args:
        path: the pool file; None takes the embedded pool.

    Raises:
        PoolError: the file is missing, no YAML, of another schema version, or a field is wrong.
        PriceError: a model has no price, or a price is impossible or cannot be looked up.
        MissingExtraError: a price is to be looked up and genai-prices is not installed.
    """
    if path is None:
        path = Path(str(importlib.resources.files("routegym") / "data" / "pool" / "pool.yaml"))
    path = Path(path)
    config = read_config(path)
    prices, notes = {}, [config.prices.note]
    tiers: dict[str, Tier] = {}
    for name, entry in config.models.items():
        prices[name], note = _price(path, name, entry, config.prices.date)
        notes += [f"{name}: {note}"] if note else []
        for tier in _tiers(name, entry, config.endpoints[entry.endpoint]):
            tiers[tier.arm.name] = tier
    table = PriceTable(config.prices.date, "; ".join(notes), prices)
    return Pool(config.name, tuple(tier.arm for tier in tiers.values()), table, tiers, path, config)


def _price(path: Path, model: str, entry: ModelEntry, day: str) -> tuple[Price, str]:
    """The price of a model, and where it was looked up."""
    listed = entry.price
    if isinstance(listed, LookedUpPrice):
        from routegym.pool.prices import look_up

        try:
            return look_up(listed.genai_prices, day)
        except PriceError as error:
            raise PriceError(f"{path}: models.{model}.price.genai_prices: {error}") from None
    if isinstance(listed, GpuPrice):
        return Price(0.0, 0.0, 0.0, 0.0, listed.gpu_usd_per_hour), ""
    return Price(listed.prompt, listed.cached, listed.completion, listed.reasoning), ""


def _tiers(name: str, entry: ModelEntry, endpoint: Endpoint) -> list[Tier]:
    """The tiers of a model, in order."""
    return [
        Tier(
            arm=Arm(
                model=name,
                tier=tier_name,
                parameters=entry.parameters,
                max_completion_tokens=tier.max_tokens * tier.samples,
                charged_attempts=tier.charged_attempts,
                fallback=tier.fallback,
                max_gpu_s=entry.price.max_gpu_s if isinstance(entry.price, GpuPrice) else None,
            ),
            endpoint=entry.endpoint,
            engine=endpoint.backend,
            model=_served(name, entry, endpoint),
            template=tier.template,
            max_tokens=tier.max_tokens,
            system=tier.system,
            api=entry.api,
            revision=entry.revision,
            adapter=entry.adapter or "",
            temperature=tier.temperature,
            samples=tier.samples,
            stop=tuple(tier.stop),
            reasoning_effort=tier.reasoning_effort,
            answer=tier.answer,
            options=tier.options,
        )
        for tier_name, tier in entry.tiers.items()
    ]


def _served(name: str, entry: ModelEntry, endpoint: Endpoint) -> str:
    """The name by which the endpoint knows a model."""
    if isinstance(endpoint, OpenAIEndpoint):
        return entry.served_as or name
    # Other weights are another model, whatever its name: the key of a call holds this.
    return entry.folder or entry.served_as or name


def _engine(pool: Pool, name: str, endpoint: Endpoint) -> Engine:
    """The engine of an endpoint."""
    models = {model: entry for model, entry in pool.config.models.items() if entry.endpoint == name}
    served = {_served(model, entry, endpoint): entry for model, entry in models.items()}
    folders = {model: pool.path.parent / entry.folder for model, entry in served.items() if entry.folder}
    match endpoint:
        case OpenAIEndpoint():
            from routegym.pool.openai import OpenAIEngine

            limits = endpoint.model_dump(exclude={"backend", "base_url", "api_key_env"})
            contexts = {model: entry.context_tokens for model, entry in served.items() if entry.context_tokens}
            key = _key(pool.path, name, endpoint)
            return OpenAIEngine(endpoint.base_url, api_key=key, context_tokens=contexts, **limits)
        case VLLMEndpoint():
            from routegym.pool.vllm import VLLMEngine

            bases = sorted({str(folders.get(model, model)) for model in served})
            if len(bases) > 1:
                raise PoolError(
                    f"{pool.path}: endpoints.{name} runs one model and is named by {' and '.join(bases)}; "
                    "give each an endpoint of its own"
                )
            adapters = {a: str(pool.path.parent / a) for entry in models.values() if (a := entry.adapter)}
            return VLLMEngine(bases[0], adapters=adapters, options=endpoint.options, gpu_count=endpoint.gpu_count)
        case TransformersEndpoint():
            from routegym.pool.transformers import TransformersEngine

            return TransformersEngine(folders, device=endpoint.device, batch_size=endpoint.batch_size)
        case ArithmeticEndpoint():
            from routegym.pool.arithmetic import ArithmeticEngine

            return ArithmeticEngine(folders, batch_size=endpoint.batch_size, device=endpoint.device)


def _key(path: Path, name: str, endpoint: OpenAIEndpoint) -> str | None:
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env, "")
    if not key:
        raise PoolError(
            f"{path}: environment variable {endpoint.api_key_env} is not set, and endpoints.{name}.api_key_env "
            "names it; set it to the endpoint's key, or leave api_key_env out where none is needed"
        )
    return key
