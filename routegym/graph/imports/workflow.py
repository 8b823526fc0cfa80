"""Imported recordings at work: the situations of `routegym.graph.imports.build`, reached one response at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.graph.graph import OPEN, TERMINATED
from routegym.graph.imports.build import squashed
from routegym.graph.recording import Recording
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.taskset import TaskSet

__all__ = ["Attempted", "Calls", "ImportedAttempts", "ImportedCalls", "Turn", "imported_workflow"]


def imported_workflow(recording: Recording) -> ImportedCalls | ImportedAttempts:
    """The rules of a recording that `routegym.graph.imports.to_recording` made."""
    return ImportedAttempts(recording) if recording.kind == "attempts" else ImportedCalls(recording)


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


@dataclass(frozen=True)
class Turn(Response):
    """A response that is a turn of an attempt, with what the environment said to it."""

    feedback: str = ""
    """One of those that were recorded."""
    reward: float = 0.0
    """Reward in [0, 1] that the environment showed; not looked at where it showed none."""
    over: bool = False
    """Whether the attempt has come to its end."""


@dataclass(frozen=True)
class Attempted:
    """A query and the attempts at it: the last of them, turn by turn, and who tried before."""

    task: int
    step: int
    prompt: str
    arm: int = -1
    """Whose attempt is the last, -1 before the first."""
    running: int = -1
    """That arm while its attempt goes on, -1 otherwise."""
    begun: int = 0
    turn: int = 0
    """Turns of the last attempt."""
    feedback: tuple[int, ...] = ()
    """Of each of these turns."""
    rewards: tuple[float, ...] = ()
    tokens: tuple[int, int] = (0, 0)
    """Prompt and completion tokens of the last turn."""
    before: tuple[int, ...] = ()
    """Arms of the attempts before the last."""
    used: tuple[int, ...] = ()
    """Arms that may not begin an attempt."""
    last: bool = False
    """Whether nobody may take over from the attempt under way."""
    closed: bool = False


_State = TypeVar("_State", Calls, Attempted)


class _Imported(Generic[_State]):
    """What the rules of all imported recordings have in common."""

    edge_signal_names: tuple[str, ...] = ()

    def __init__(self, recording: Recording) -> None:
        self.kind, self.controls = recording.kind, recording.controls
        self.node_signal_names = recording.node_signal_names
        self.arms = tuple(arm.name for arm in recording.arms)
        self.most_attempts = int(recording.provenance["imported"]["most_attempts"])
        self._shows_tokens = "prompt_tokens" in self.node_signal_names
        self._repeatable = _repeatable(recording)

    def requests(self, states: Sequence[_State], arms: Sequence[Arm]) -> list[Request]:
        """The query: an arm sees neither what others answered nor the turns of an agent, which are its own affair."""
        return [Request(arm, state.prompt) for arm, state in zip(arms, states, strict=True)]

    def advance(
        self, states: Sequence[_State], actions: Sequence[Arm | str], responses: Sequence[Response | None]
    ) -> list[_State]:
        """Note the responses; a control ends it.

        Raises:
            ConfigError: a response cannot be one of this recording.
        """
        return [
            replace(state, step=state.step + 1, closed=True)
            if response is None or isinstance(action, str)
            else self._answered(state, self.arms.index(action.name), response)
            for state, action, response in zip(states, actions, responses, strict=True)
        ]

    def outcome(
        self, states: Sequence[_State], tasks: TaskSet
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Status; the score is not known here (NaN): only what was recorded was graded."""
        closed = np.array([state.closed for state in states], dtype=bool)
        return np.where(closed, TERMINATED, OPEN).astype(np.uint8), np.full(len(states), np.nan, dtype=np.float32)

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """Nothing: imported recordings show it in their situations."""
        return np.zeros((len(responses), 0), dtype=np.float32)

    def _answered(self, state: _State, arm: int, response: Response) -> _State:
        """The state after a response of that arm."""
        raise NotImplementedError


class ImportedCalls(_Imported[Calls]):
    """What a router sees of a query and of the calls made for it, as in a recording that was imported.

    Args:
        recording: of kind ``single_call`` or ``cascade``.
    """

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Calls]:
        """The queries, nobody asked yet."""
        return [Calls(i, 0, tasks.prompts[i]) for i in indices]

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
            row[first] = len(state.arms) / self.most_attempts
            row[first + 1 + state.arms[-1]] = 1.0
            row[[first + 1 + n_arms + arm for arm in state.arms]] = 1.0
        return rows

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

    def _answered(self, state: Calls, arm: int, response: Response) -> Calls:
        called = (*state.arms, arm)
        used = tuple(sorted({one for one in called if not self._repeatable[one]}))
        closed = len(called) >= self.most_attempts or len(used) == len(self.arms)
        tokens = sum(response.tokens[:2]), sum(response.tokens[2:])
        return Calls(state.task, state.step + 1, state.prompt, called, tokens, used, closed)


class ImportedAttempts(_Imported[Attempted]):
    """What a router sees of attempts that are watched turn by turn, as in a recording that was imported.

    `advance` takes each response as a `Turn`, with feedback that was recorded.

    Args:
        recording: of kind ``attempts``.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        names = self.node_signal_names
        self.feedback = tuple(name.removeprefix("feedback_") for name in names if name.startswith("feedback_"))
        self._shows_rewards = "best_reward" in names
        turns = recording.graph.node_signals[:, names.index("turn")]
        self._longest = round(1 / float(turns[turns > 0].min()))

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Attempted]:
        """The queries, nobody at work."""
        return [Attempted(i, 0, tasks.prompts[i]) for i in indices]

    def signals(self, states: Sequence[Attempted]) -> npt.NDArray[np.float32]:
        """Turns, feedback, rewards and tokens of the last attempt, attempts begun, who is at work and who tried."""
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        place = {name: column for column, name in enumerate(self.node_signal_names)}
        for row, state in zip(rows, states, strict=True):
            if state.arm < 0 or state.closed:
                continue
            row[place["turn"]] = state.turn / self._longest
            for number, name in enumerate(self.feedback):
                row[place[f"feedback_{name}"]] = state.feedback[-1] == number
                row[place[f"share_{name}"]] = state.feedback.count(number) / self._longest
            if self._shows_rewards:
                row[place["reward"]], row[place["best_reward"]] = state.rewards[-1], max(state.rewards)
            if self._shows_tokens:
                row[place["prompt_tokens"]], row[place["completion_tokens"]] = squashed(np.array(state.tokens))
            row[place["attempts"]] = state.begun / self.most_attempts
            if state.running >= 0:
                row[place[f"running_{self.arms[state.running]}"]] = 1.0
            for arm in state.before if state.running >= 0 else (*state.before, state.arm):
                row[place[f"tried_{self.arms[arm]}"]] = 1.0
        return rows

    def encode(self, states: Sequence[Attempted]) -> list[str]:
        """The query at the start; then how far the last attempt has come, and who tried before."""
        texts = []
        for state in states:
            if state.arm < 0:
                texts.append(state.prompt)
                continue
            said = self.feedback[state.feedback[-1]]
            situation: dict[str, Any] = {"arm": self.arms[state.arm], "turn": state.turn, "feedback": said}
            if state.before:
                situation["tried"] = [self.arms[arm] for arm in sorted(state.before)]
            texts.append(json.dumps(situation, ensure_ascii=False, separators=(",", ":")))
        return texts

    def _answered(self, state: Attempted, arm: int, response: Response) -> Attempted:
        if not isinstance(response, Turn):
            raise ConfigError("the response of an attempt is no Turn; tell what the environment said: Turn(...)")
        if response.feedback not in self.feedback:
            raise ConfigError(f"feedback = {response.feedback!r}; expected one of {', '.join(self.feedback)}")
        said = self.feedback.index(response.feedback)
        if arm == state.running:
            step, begun, turn, before = state.step + 1, state.begun, state.turn + 1, state.before
            feedback, rewards = (*state.feedback, said), (*state.rewards, response.reward)
        else:
            step, begun, turn = state.begun * self._longest + 1, state.begun + 1, 1
            feedback, rewards = (said,), (response.reward,)
            before = (*state.before, state.arm) if state.arm >= 0 else ()
        used = tuple(sorted({one for one in (*before, arm) if not self._repeatable[one]}))
        over = response.over or turn == self._longest
        return Attempted(
            task=state.task,
            step=step,
            prompt=state.prompt,
            arm=arm,
            running=-1 if over else arm,
            begun=begun,
            turn=turn,
            feedback=feedback,
            rewards=rewards,
            tokens=(sum(response.tokens[:2]), sum(response.tokens[2:])),
            before=before,
            used=used if over else tuple(one for one in used if one != arm),
            last=not over and begun == self.most_attempts,
            closed=over and (begun == self.most_attempts or len(used) == len(self.arms)),
        )


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
