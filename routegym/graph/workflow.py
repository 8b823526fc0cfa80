"""The protocol of one environment family: which situation a response leads to, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.taskset import TaskSet

__all__ = ["STOP", "Rules", "Situation", "Workflow"]

#: The control that ends an episode with what there is, of a family whose environment says when a task is solved.
STOP = "stop"


class Situation(Protocol):
    """A situation the router can be in. Immutable; a frozen dataclass does."""

    @property
    def task(self) -> int:
        """Index of the task in its task set."""
        ...

    @property
    def step(self) -> int:
        """How far along the episode is, usually the calls made so far; every call leads to a larger step."""
        ...

    # A situation may have an attribute ``running``: index of the arm whose attempt goes on, -1 where none does; and an
    # attribute ``last``: whether no other arm may take over from that attempt; and an attribute ``used``: indices of
    # the arms that may not be called.


class Rules(Protocol):
    """What deployment needs of a workflow: pure functions over batches, all of which keep the order of their arguments.

    Attributes:
        kind: name of the environment family, stored in recordings.
        controls: names of the actions that call no model; they come after the arms. The first one hands in what there
            is and ends the episode: scales, rules and references count on it.
        node_signal_names: columns of `signals`.
        edge_signal_names: columns of `response_signals`.
    """

    kind: str
    controls: tuple[str, ...]
    node_signal_names: tuple[str, ...]
    edge_signal_names: tuple[str, ...]

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Any]:
        """The first situation of each task."""
        ...

    def requests(self, states: Sequence[Any], arms: Sequence[Arm]) -> list[Request]:
        """What each arm is asked in its situation."""
        ...

    def advance(
        self, states: Sequence[Any], actions: Sequence[Arm | str], responses: Sequence[Response | None]
    ) -> list[Any]:
        """The situations that the responses (None for a control) lead to."""
        ...

    def outcome(self, states: Sequence[Any], tasks: TaskSet) -> tuple[npt.NDArray[np.uint8], Any]:
        """Status (`OPEN`, `TERMINATED`, `TRUNCATED`) and score (NaN while open) of each situation."""
        ...

    def signals(self, states: Sequence[Any]) -> npt.NDArray[np.float32]:
        """What the router may see of each situation, in [0, 1], shape (n, k); never a hidden score."""
        ...

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """What the router may see of each response, in [0, 1], shape (n, ke)."""
        ...

    def encode(self, states: Sequence[Any]) -> list[str]:
        """A readable text of each situation; equal situations of a task have equal texts and are one node."""
        ...


class Workflow(Rules, Protocol):
    """The rules, and the way back from a text, so that recordings can be made and grown."""

    def decode(self, tasks: TaskSet, indices: Sequence[int], steps: Sequence[int], texts: Sequence[str]) -> list[Any]:
        """The inverse of `encode`."""
        ...
