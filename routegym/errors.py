"""Every error that routegym raises on purpose.

    RoutegymError
    ├── ConfigError        an option, keyword or configuration file that makes no sense
    ├── BudgetError        a budget or lambda that cannot be used
    ├── ActionError        an action that is out of range or masked
    ├── TaskError          an unknown or malformed task
    ├── RecordingError     a recording that is damaged, inconsistent or of another version
    │   └── MissingEdgeError   a situation was never recorded for the chosen arm
    ├── PoolError          a pool, arm or backend that cannot do what is asked
    │   └── PriceError     a price that is missing or impossible
    ├── RunError           a run folder that is damaged or belongs to something else
    └── MissingExtraError  an optional dependency is not installed

A message says what was given, what was expected and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ActionError",
    "BudgetError",
    "ConfigError",
    "MissingEdgeError",
    "MissingExtraError",
    "PoolError",
    "PriceError",
    "RecordingError",
    "RoutegymError",
    "RunError",
    "TaskError",
]


class RoutegymError(Exception):
    """Base class of all errors that routegym raises on purpose."""


class ConfigError(RoutegymError, ValueError):
    """An option, keyword or configuration file that makes no sense."""


class BudgetError(RoutegymError, ValueError):
    """A budget or lambda that is not a number, negative, or below the cheapest arm."""


class ActionError(RoutegymError, ValueError):
    """An action that is out of range or masked in the present situation."""


class TaskError(RoutegymError, ValueError):
    """An unknown or malformed task."""


class RecordingError(RoutegymError, ValueError):
    """A recording that is damaged, inconsistent or of another schema version."""


class MissingEdgeError(RecordingError):
    """The recording has no edge for the chosen (task, node, arm), and there is no expander."""


class PoolError(RoutegymError, ValueError):
    """A pool, arm or backend that cannot do what is asked of it."""


class PriceError(PoolError):
    """A price that is missing, negative or not a number."""


class RunError(RoutegymError, ValueError):
    """A run folder that is missing, damaged or belongs to another recording."""


class MissingExtraError(RoutegymError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'{package!r} is needed for this and is not installed; install it with: pip install "routegym[{extra}]"'
        )
