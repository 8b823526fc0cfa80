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
    """One call per task, graded by exact match with the reference."""

    kind = "single_call"
    controls: tuple[str, ...] = ()
    node_signal_names = OPERATION_FEATURES
    edge_signal_names = RESPONSE_SIGNALS

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
        """Ended by the first answer: 1 if it is the reference, else 0."""
        answered = np.array([state.answer is not None for state in states], dtype=bool)
        right = np.array([state.answer == tasks.references[state.task] for state in states], dtype=np.float32)
        return (
            np.where(answered, TERMINATED, OPEN).astype(np.uint8),
            np.where(answered, right, np.nan).astype(np.float32),
        )

    def signals(self, states: Sequence[Question]) -> npt.NDArray[np.float32]:
        """Level of the operation that is asked for."""
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
    A task is one operation on three-digit registers such as ``58*7``; the chosen arm answers and is graded.

    ## Situations
    The question, then its answer.

    ## Actions
    ``Discrete(n_arms)``: the arm that answers.

    ## Observation
    By default ``Box(0, 1, (width,), float32)``; ``env.unwrapped.layout.names`` names every column. ``node_signals``
    is the one-hot level of the operation; the other groups are those of `AgentStepsEnv`.

    ## Reward
    ``score - lambda * cost / cost_scale``; the score is 1 if the answer is exact, else 0.

    ## Episode end
    *Terminated* after the call. Never truncated.

    ## Arguments
    ``recording`` (``"single_call"``), ``observation``, ``budget_usd`` (None), ``lambda_`` (0.2), ``reward``,
    ``split``, ``expander``, ``info``, ``render_mode``: see `routegym.core.RoutingVectorEnv`.

    ## Version history
    v0: first version.
    """

    vector_class = SingleCallVectorEnv
