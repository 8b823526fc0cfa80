"""Checks that hyperparameters share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from routegym.errors import ConfigError

__all__ = ["check_not_negative", "check_positive", "check_widths"]


def check_positive(of: Any, *names: str) -> None:
    """Refuse an attribute that is not above 0.

    Raises:
        ConfigError: naming it and its value.
    """
    for name in names:
        if not getattr(of, name) > 0:
            raise ConfigError(f"{name} = {getattr(of, name)}; expected a number > 0")


def check_not_negative(of: Any, *names: str) -> None:
    """Refuse an attribute below 0, or one that is not finite.

    Raises:
        ConfigError: naming it and its value.
    """
    for name in names:
        if not 0 <= getattr(of, name) < math.inf:
            raise ConfigError(f"{name} = {getattr(of, name)}; expected a finite number >= 0")


def check_widths(hidden: Sequence[int]) -> None:
    """Refuse a network without hidden layers, or with an empty one.

    Raises:
        ConfigError: giving the widths.
    """
    if not hidden or min(hidden) < 1:
        raise ConfigError(f"hidden = {hidden}; expected at least one width >= 1")
