"""Hyperparameters: one YAML file per algorithm, an entry per environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from routegym.errors import ConfigError

__all__ = ["PPOConfig", "tuned"]

_FOLDER = Path(__file__).parent / "hyperparameters"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters of PPO."""

    steps: int = 500_000
    """Environment steps in all."""
    n_envs: int = 512
    """Episodes played side by side."""
    n_steps: int = 16
    """Steps of each episode between two updates."""
    batch_size: int = 2048
    """Transitions in a minibatch."""
    n_epochs: int = 4
    """Passes over the collected transitions."""
    learning_rate: float = 2e-3
    """At the start; it falls linearly to zero."""
    gamma: float = 1.0
    """Discount: episodes are short and end by themselves."""
    gae_lambda: float = 0.95
    """Trace of generalised advantage estimation."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.005
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, for policy and value each."""

    def __post_init__(self) -> None:
        for name in ("steps", "n_envs", "n_steps", "batch_size", "n_epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a number > 0")
        if (self.n_envs * self.n_steps) % self.batch_size:
            raise ConfigError(
                f"batch_size = {self.batch_size} does not divide n_envs x n_steps = {self.n_envs * self.n_steps}; "
                "choose a divisor"
            )
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden = {self.hidden}; expected at least one width >= 1")


def tuned(algo: str, env_id: str, changes: dict[str, Any] | None = None) -> PPOConfig:
    """The tuned hyperparameters of an algorithm on an environment, with changes.

    Raises:
        ConfigError: there is no such algorithm, or a value is wrong.
    """
    path = _FOLDER / f"{algo}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
        raise ConfigError(f"algo = {algo!r}; expected one of: {known}")
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = table.get(env_id, table["default"]) | {k: v for k, v in (changes or {}).items() if v is not None}
    try:
        return TypeAdapter(PPOConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(field.name for field in dataclasses.fields(PPOConfig))
        raise ConfigError(f"{path.name}: {name} = {first['input']!r}: {first['msg']}; fields: {known}") from None
