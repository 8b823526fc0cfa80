"""``routegym/SingleCall-v0``: one task, one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routegym.core.env import RoutingEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.graph.graph import OPEN, TERMINATED
from routegym.graph.signals import RESPONSE_SIGNALS, response_signals
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.features import OPERATION_FEATURES, operation_features
from routegym.tasks.taskset import TaskSet

__all__ = ["Question", "SingleCallEnv", "SingleCallVectorEnv", "SingleCallWorkflow"]


@dataclass(frozen=True)
class Question:
    """A prompt and, once it was asked, the answer."""

    task: int
    step: int
    prompt: str
    answer: str | None = None


class SingleCallWorkflow:
    """One call per task, graded as its task set says.

    Args:
        levels: show the difficulty level of the operation; for tasks that are arithmetic operations.
    """

    kind = "single_call"
    controls: tuple[str, ...] = ()
    edge_signal_names = RESPONSE_SIGNALS

    def __init__(self, levels: bool = True) -> None:
        self.levels = levels
        self.node_signal_names: tuple[str, ...] = OPERATION_FEATURES if levels else ()

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Question]:
        """The questions."""
        return [Question(i, 0, tasks.prompts[i]) for i in indices]

    def requests(self, states: Sequence[Question], arms: Sequence[Arm]) -> list[Request]:
        """The task's prompt."""
        return [Request(arm, state.prompt) for arm, state in zip(arms, states, strict=True)]

    def advance(
        self, states: Sequence[Question], actions: Sequence[Arm | str], responses: Sequence[Response | None]
    ) -> list[Question]:
        """Take the answer."""
        return [
            replace(state, step=1, answer="" if response is None else response.text)
            for state, response in zip(states, responses, strict=True)
        ]

    def outcome(
        self, states: Sequence[Question], tasks: TaskSet
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Ended by the first answer, which is graded."""
        answered = np.array([state.answer is not None for state in states], dtype=bool)
        score = np.full(len(states), np.nan, dtype=np.float32)
        closed = [state for state in states if state.answer is not None]
        score[answered] = tasks.grade([state.task for state in closed], [state.answer or "" for state in closed])
        return np.where(answered, TERMINATED, OPEN).astype(np.uint8), score

    def signals(self, states: Sequence[Question]) -> npt.NDArray[np.float32]:
        """Level of the operation that is asked for, if levels are shown."""
        if not self.levels:
            return np.zeros((len(states), 0), dtype=np.float32)
        return operation_features([state.prompt for state in states])

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """The answer's confidence and whether there is one."""
        return response_signals(responses, bool)

    def encode(self, states: Sequence[Question]) -> list[str]:
        """The prompt, or the answer."""
        return [state.prompt if state.answer is None else f"= {state.answer}" for state in states]

    def decode(
        self, tasks: TaskSet, indices: Sequence[int], steps: Sequence[int], texts: Sequence[str]
    ) -> list[Question]:
        """The situations of these texts."""
        return [
            Question(task, step, tasks.prompts[task], text.removeprefix("= ") if step else None)
            for task, step, text in zip(indices, steps, texts, strict=True)
        ]


class SingleCallVectorEnv(RoutingVectorEnv):
    """The batch form of `SingleCallEnv`, whose docstring is the specification of both."""

    kind = "single_call"


class SingleCallEnv(RoutingEnv):
    """One task, one call: the contextual bandit that most published routers solve.

    ## Description
    A task is one question; the chosen arm answers and is graded as the task set says. In the shipped recording
    ``single_call`` it is an operation on three-digit registers such as ``58*7``.

    ## Situations
    The question, then its answer.

    ## Actions
    ``Discrete(n_arms)``: the arm that answers.

    ## Observation
    By default ``Box(0, 1, (width,), float32)``; ``env.unwrapped.layout.names`` names every column. ``node_signals``
    is the one-hot level of the operation where tasks are arithmetic; ``task`` is the embedding of the prompt where
    the recording has one; the other groups are those of `AgentStepsEnv`.

    ## Reward
    ``score - lambda * cost / cost_scale``; the score is the grade of the answer in [0, 1].

    ## Episode end
    *Terminated* after the call. Never truncated.

    ## Arguments
    ``recording`` (``"single_call"``), ``observation``, ``budget_usd`` (None), ``lambda_`` (0.2), ``reward``,
    ``split``, ``expander``, ``info``, ``render_mode``: see `routegym.core.RoutingVectorEnv`.

    ## Version history
    v0: first version.
    """

    vector_class = SingleCallVectorEnv
