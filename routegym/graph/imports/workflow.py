"""Imported recordings at work: the situations of `routegym.graph.imports.build`, reached one response at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import RecordingError
from routegym.graph.graph import OPEN, TERMINATED
from routegym.graph.imports.build import squashed
from routegym.graph.recording import Recording
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.taskset import TaskSet

__all__ = ["Calls", "ImportedWorkflow"]


@dataclass(frozen=True)
class Calls:
    """A query and the calls made for it."""

    task: int
    step: int
    prompt: str
    arms: tuple[int, ...] = ()
    """Who was called, in order."""
    tokens: tuple[int, int] = (0, 0)
    """Prompt and completion tokens of the last call."""
    used: tuple[int, ...] = ()
    """Arms that may not be called: those that were, where none was recorded twice."""
    closed: bool = False


class ImportedWorkflow:
    """What a router sees of a query and of the calls made for it, as in a recording that was imported.

    Args:
        recording: of kind ``single_call`` or ``cascade``, made by `routegym.graph.imports.to_recording`.

    Raises:
        RecordingError: it is of another kind, or was not imported.
    """

    edge_signal_names: tuple[str, ...] = ()

    def __init__(self, recording: Recording) -> None:
        made = recording.provenance.get("imported")
        if made is None or recording.kind not in ("single_call", "cascade"):
            what = f"kind {recording.kind!r}" if made else "its own workflow"
            raise RecordingError(
                f"{recording.name}: a recording of {what}; expected an imported one of kind 'single_call' or 'cascade'"
            )
        self.kind, self.controls = recording.kind, recording.controls
        self.node_signal_names = recording.node_signal_names
        self.arms = tuple(arm.name for arm in recording.arms)
        self.most_calls = int(made["most_attempts"])
        self._shows_tokens = "prompt_tokens" in self.node_signal_names
        self._repeatable = _repeatable(recording)

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Calls]:
        """The queries, nobody asked yet."""
        return [Calls(i, 0, tasks.prompts[i]) for i in indices]

    def requests(self, states: Sequence[Calls], arms: Sequence[Arm]) -> list[Request]:
        """The query: an arm does not see what others answered."""
        return [Request(arm, state.prompt) for arm, state in zip(arms, states, strict=True)]

    def advance(
        self, states: Sequence[Calls], actions: Sequence[Arm | str], responses: Sequence[Response | None]
    ) -> list[Calls]:
        """Note the call; a control ends it, and so do the last call and the last arm."""
        after = []
        for state, action, response in zip(states, actions, responses, strict=True):
            if response is None or isinstance(action, str):
                after.append(replace(state, step=state.step + 1, closed=True))
                continue
            called = (*state.arms, self.arms.index(action.name))
            used = tuple(sorted({arm for arm in called if not self._repeatable[arm]}))
            closed = len(called) >= self.most_calls or len(used) == len(self.arms)
            tokens = sum(response.tokens[:2]), sum(response.tokens[2:])
            after.append(Calls(state.task, state.step + 1, state.prompt, called, tokens, used, closed))
        return after

    def outcome(self, states: Sequence[Calls], tasks: TaskSet) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Status; the score is not known here (NaN): only recorded calls were graded."""
        closed = np.array([state.closed for state in states], dtype=bool)
        return np.where(closed, TERMINATED, OPEN).astype(np.uint8), np.full(len(states), np.nan, dtype=np.float32)

    def signals(self, states: Sequence[Calls]) -> npt.NDArray[np.float32]:
        """Tokens of the last call where they are shown, calls made, who was called last, and who was called."""
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        if self.kind == "single_call":
            return rows
        first = 2 * self._shows_tokens
        n_arms = len(self.arms)
        for row, state in zip(rows, states, strict=True):
            if not state.arms or state.closed:
                continue
            if self._shows_tokens:
                row[:2] = squashed(np.array(state.tokens))
            row[first] = len(state.arms) / self.most_calls
            row[first + 1 + state.arms[-1]] = 1.0
            row[[first + 1 + n_arms + arm for arm in state.arms]] = 1.0
        return rows

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """Nothing: imported recordings show it in their situations."""
        return np.zeros((len(responses), 0), dtype=np.float32)

    def encode(self, states: Sequence[Calls]) -> list[str]:
        """The query at the start; then who was called last, and who before."""
        texts = []
        for state in states:
            if not state.arms:
                texts.append(state.prompt)
                continue
            situation: dict[str, Any] = {"arm": self.arms[state.arms[-1]]}
            if before := sorted(state.arms[:-1]):
                situation["tried"] = [self.arms[arm] for arm in before]
            texts.append(json.dumps(situation, ensure_ascii=False, separators=(",", ":")))
        return texts


def _repeatable(recording: Recording) -> list[bool]:
    """Which arms were recorded more than once for a task, so that they may be called again."""
    graph, names = recording.graph, recording.node_signal_names
    if recording.kind == "single_call":
        return [False] * graph.n_arms
    first = names.index(f"tried_{recording.arms[0].name}")
    tried = graph.node_signals[:, first : first + graph.n_arms] > 0.5
    again = (graph.edge_first[:, : graph.n_arms] >= 0) & tried
    found: list[bool] = np.any(again, axis=0).tolist()
    return found
