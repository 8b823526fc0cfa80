"""Hyperparameters: one YAML file per algorithm, an entry per environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from routegym.errors import ConfigError
from routegym.policies.algorithm import Algorithm, algorithm_class

__all__ = ["hyperparameters", "tuned"]

_FOLDER = Path(__file__).parent / "hyperparameters"


def tuned(algo: str, env_id: str, changes: Mapping[str, Any] | None = None) -> Algorithm:
    """An algorithm with its tuned hyperparameters for an environment, and changes of yours.

    Args:
        algo: see `routegym.policies.algorithm.algorithm_class`.
        env_id: of the environment; one without an entry of its own takes the file's ``default``.
        changes: hyperparameters to set; those that are None are left as they are.

    Raises:
        ConfigError: there is no such algorithm, or a value is wrong.
    """
    found = algorithm_class(algo)
    path = _FOLDER / f"{algo}.yaml"
    table = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    values = table.get(env_id, table.get("default", {})) | {k: v for k, v in (changes or {}).items() if v is not None}
    known = _fields(found)
    odd = [name for name in values if name not in known]
    if odd:
        raise ConfigError(f"{algo}: no hyperparameter {odd[0]!r}; it has {', '.join(known) or 'none'}")
    if not known:
        return found()
    try:
        return TypeAdapter(found).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{algo}: {name} = {first['input']!r}: {first['msg']}") from None


def hyperparameters(algorithm: Any) -> dict[str, Any]:
    """The hyperparameters of an algorithm by name; none if it is not a dataclass."""
    return {name: getattr(algorithm, name) for name in _fields(algorithm)}


def _fields(algorithm: Any) -> list[str]:
    known = dataclasses.fields(algorithm) if dataclasses.is_dataclass(algorithm) else ()
    return [field.name for field in known if field.init]
