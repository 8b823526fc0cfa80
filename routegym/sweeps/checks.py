"""What can be said of a sweep before its first trial."""

from __future__ import annotations

from collections.abc import Callable

from routegym.errors import ConfigError
from routegym.policies.config import tuned
from routegym.sweeps.config import SweepConfig, Value

__all__ = ["check_hyperparameters", "option"]


def option(config: SweepConfig, name: str) -> str | None:
    """The value of an option in the command; None where it is not given."""
    for place, part in enumerate(config.command):
        if part == name and place + 1 < len(config.command):
            return config.command[place + 1]
        if part.startswith(f"{name}="):
            return part.partition("=")[2]
    return None


def check_hyperparameters(config: SweepConfig, algo: str, env: str, read: Callable[[str], dict[str, Value]]) -> None:
    """Refuse what every trial would: hyperparameters that the algorithm does not have or does not take.

    Args:
        config: of the sweep.
        algo, env: what its command trains.
        read: a pair name=value as the command reads it.

    Raises:
        ConfigError: naming the parameter.
    """
    for name, parameter in config.parameters.items():
        for value in parameter.extremes:
            try:
                tuned(algo, env, read(f"{name}={value}"))
            except ConfigError as error:
                raise ConfigError(f"parameters.{name}: {error}") from None
