"""Every error that routegym raises on purpose.

    RoutegymError
    ├── ConfigError        an option, keyword or configuration file that makes no sense
    ├── BudgetError        a budget or lambda that cannot be used
    │   └── SpendCapError      the cap on what a whole run may spend does not admit another call
    ├── ActionError        an action that is out of range or masked
    ├── TaskError          an unknown or malformed task
    ├── GraderError        a grader that could not judge an answer: never a score of 0
    ├── StoreError         a response store that is damaged, read-only, full or of another version
    ├── ImportDataError    a file of other people's data that is not what it should be
    ├── RecordingError     a recording that is damaged, inconsistent or of another version
    │   └── MissingEdgeError   a situation was never recorded for the chosen arm
    ├── PoolError          a pool, arm or backend that cannot do what is asked
    │   ├── PriceError     a price that is missing or impossible
    │   ├── TargetError    an endpoint's address that routegym refuses to connect to
    │   └── CallError      a call that brought no answer: an infrastructure failure, never a score
    │       ├── ConnectionFailedError   no connection, or one that broke
    │       ├── CallTimeoutError        no answer in time
    │       ├── RateLimitError          the server wants fewer requests
    │       ├── CallRefusedError        the server refuses the request (key, address, form)
    │       ├── ServerFailedError       the server failed
    │       ├── MalformedResponseError  an answer that is not what the protocol says
    │       │   └── MissingUsageError       no usable token counts: what it cost is not known
    │       ├── PromptTooLongError      prompt and answer do not fit the model's context
    │       └── CircuitOpenError        the endpoint failed too often just now; nothing was sent
    ├── RunError           a run folder that is damaged or belongs to something else
    ├── WorkerError        a job in another process that could not be finished
    └── MissingExtraError  an optional dependency is not installed

A message says what was given, what was expected and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "ActionError",
    "BudgetError",
    "CallError",
    "CallRefusedError",
    "CallTimeoutError",
    "CircuitOpenError",
    "ConfigError",
    "ConnectionFailedError",
    "GraderError",
    "ImportDataError",
    "MalformedResponseError",
    "MissingEdgeError",
    "MissingExtraError",
    "MissingUsageError",
    "PoolError",
    "PriceError",
    "PromptTooLongError",
    "RateLimitError",
    "RecordingError",
    "RoutegymError",
    "RunError",
    "ServerFailedError",
    "SpendCapError",
    "StoreError",
    "TargetError",
    "TaskError",
    "WorkerError",
]


class RoutegymError(Exception):
    """Base class of all errors that routegym raises on purpose."""


class ConfigError(RoutegymError, ValueError):
    """An option, keyword or configuration file that makes no sense."""


class BudgetError(RoutegymError, ValueError):
    """A budget or lambda that is not a number, negative, or below the cheapest arm."""


class SpendCapError(BudgetError):
    """The cap on what a whole run may spend does not admit another call."""


class ActionError(RoutegymError, ValueError):
    """An action that is out of range or masked in the present situation."""


class TaskError(RoutegymError, ValueError):
    """An unknown or malformed task."""


class GraderError(RoutegymError, RuntimeError):
    """A grader that could not judge an answer; the answer is not wrong for that."""


class StoreError(RoutegymError, OSError):
    """A response store that is damaged, read-only, full or of another version."""


class ImportDataError(RoutegymError, ValueError):
    """A file of other people's data that is not what it should be."""


class RecordingError(RoutegymError, ValueError):
    """A recording that is damaged, inconsistent or of another schema version."""


class MissingEdgeError(RecordingError):
    """The recording has no edge for the chosen (task, node, arm), and there is no expander."""


class PoolError(RoutegymError, ValueError):
    """A pool, arm or backend that cannot do what is asked of it."""


class PriceError(PoolError):
    """A price that is missing, negative or not a number."""


class TargetError(PoolError):
    """An endpoint's address that is refused before any connection is made."""


class CallError(PoolError):
    """A call that brought no answer: an infrastructure failure, never a wrong answer."""


class ConnectionFailedError(CallError):
    """No connection to the endpoint, or one that broke before the answer was complete."""


class CallTimeoutError(CallError):
    """No complete answer in time; the server may still be working, so the worst case is charged."""


class RateLimitError(CallError):
    """The server wants fewer requests or tokens per minute."""


class CallRefusedError(CallError):
    """The server refuses the request: wrong key, unknown model or path, or a form that it does not take."""


class ServerFailedError(CallError):
    """The server reports that it failed."""


class MalformedResponseError(CallError):
    """An answer that is not what the protocol says."""


class MissingUsageError(MalformedResponseError):
    """An answer without usable token counts: what it cost is not known."""


class PromptTooLongError(CallError):
    """Prompt and answer together do not fit the model's context."""


class CircuitOpenError(CallError):
    """The endpoint failed too often just now; nothing was sent."""


class RunError(RoutegymError, ValueError):
    """A run folder that is missing, damaged or belongs to another recording."""


class WorkerError(RoutegymError, RuntimeError):
    """A job in another process that could not be finished; where it has failed, a note has its traceback."""


class MissingExtraError(RoutegymError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'{package!r} is needed for this and is not installed; install it with: pip install "routegym[{extra}]"'
        )
