"""A pool on disk: its arms, its dated prices and the backend that serves them."""

from __future__ import annotations

import importlib.resources
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from routegym.errors import PoolError, PriceError
from routegym.pool.arms import TOKEN_KINDS, Arm, Price, PriceTable

if TYPE_CHECKING:
    from routegym.pool.transformers import TransformersBackend

__all__ = ["POOL_SCHEMA", "Pool", "load_pool"]

#: Version of the pool file's layout.
POOL_SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _ModelEntry(_Strict):
    folder: str = Field(min_length=1)
    parameters: int = Field(gt=0)
    training: dict[str, object]


class _ArmEntry(_Strict):
    model: str = Field(min_length=1)
    tier: str = Field(min_length=1)
    template: Literal["direct", "written"]
    samples: int = Field(ge=1, le=64)
    temperature: float = Field(ge=0)
    max_completion_tokens: int = Field(gt=0)

    @model_validator(mode="after")
    def _one_answer_without_temperature(self) -> _ArmEntry:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"{self.samples} samples at temperature 0 are all the same; use 1 sample")
        return self


class _PriceEntry(_Strict):
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    note: str = Field(min_length=1)
    usd_per_million_tokens: dict[str, dict[str, float]]


class _PoolFile(_Strict):
    schema_version: int
    about: str
    models: dict[str, _ModelEntry]
    arms: list[_ArmEntry] = Field(min_length=1)
    prices: _PriceEntry


@dataclass(frozen=True)
class Pool:
    """Arms in their order, what they cost, and where their models are."""

    arms: tuple[Arm, ...]
    """The arms; the order is the order of actions."""
    prices: PriceTable
    """Price of every model of the pool."""
    path: Path
    """The pool file."""
    _file: _PoolFile

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
    def backend(self) -> TransformersBackend:
        """Serves the arms with the pool's own models, each loaded at its first request."""
        from routegym.pool.transformers import Sampling, TransformersBackend

        return TransformersBackend(
            folders={name: self.path.parent / entry.folder for name, entry in self._file.models.items()},
            sampling={
                arm.name: Sampling(entry.template, entry.samples, entry.temperature)
                for arm, entry in zip(self.arms, self._file.arms, strict=True)
            },
        )

    def training(self, model: str) -> dict[str, object]:
        """What is known about the training of a model: command, seed, seconds, recipe.

        Raises:
            PoolError: there is no such model.
        """
        if model not in self._file.models:
            raise PoolError(f"unknown model {model!r}; this pool has {', '.join(self._file.models)}")
        return dict(self._file.models[model].training)


def load_pool(path: str | Path | None = None) -> Pool:
    """Read and check a pool file.

    Args:
        path: the pool's JSON file; None takes the embedded pool.

    Raises:
        PoolError: the file is missing, no JSON, of another schema version, or a field is wrong.
        PriceError: a model has no price, or a price is impossible.
    """
    if path is None:
        path = Path(str(importlib.resources.files("routegym") / "data" / "pool" / "pool.json"))
    path = Path(path)
    content = _read(path)
    models = content.models
    arms = []
    for index, entry in enumerate(content.arms):
        if entry.model not in models:
            raise PoolError(
                f"{path}: arms.{index}.model is {entry.model!r}; "
                f"expected one of {', '.join(models) or 'none'}, describe the model under models"
            )
        arms.append(Arm(entry.model, entry.tier, models[entry.model].parameters, entry.max_completion_tokens))
    names = [arm.name for arm in arms]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise PoolError(f"{path}: arms.{index} is {name!r} a second time; model and tier must be unique together")
    prices = PriceTable(
        content.prices.date,
        content.prices.note,
        {model: _price(path, model, listed) for model, listed in content.prices.usd_per_million_tokens.items()},
    )
    prices.per_token(arms)
    return Pool(tuple(arms), prices, path, content)


def _read(path: Path) -> _PoolFile:
    """The pool file, validated field by field."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PoolError(f"{path}: cannot be read ({error.strerror}); expected a pool file, check the path") from error
    except ValueError as error:
        raise PoolError(f"{path}: no valid JSON ({error}); expected a pool file, restore it") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != POOL_SCHEMA:
        raise PoolError(
            f"{path}: schema_version is {version!r}; this routegym reads version {POOL_SCHEMA}, "
            "write the pool file again with the same version of routegym"
        )
    try:
        return _PoolFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PoolError(f"{path}: {field} is {first['input']!r}: {first['msg']}; correct the field") from error


def _price(path: Path, model: str, listed: dict[str, float]) -> Price:
    """Price of one model, every token kind named."""
    if set(listed) != set(TOKEN_KINDS):
        raise PriceError(
            f"{path}: prices.usd_per_million_tokens.{model} names {', '.join(sorted(listed)) or 'nothing'}; "
            f"expected a price for each of {', '.join(TOKEN_KINDS)}"
        )
    for kind, value in listed.items():
        if not (math.isfinite(value) and value >= 0):
            raise PriceError(
                f"{path}: prices.usd_per_million_tokens.{model}.{kind} is {value!r}; expected a finite number >= 0"
            )
    return Price(**listed)
