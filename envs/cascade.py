"""``routegym/Cascade-v0``: call an arm, look at its answer, accept it or call another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routegym.core.env import RoutingEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.graph.graph import OPEN, TERMINATED
from routegym.graph.signals import RESPONSE_SIGNALS, confidence, response_signals
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.features import OPERATION_FEATURES, last_digit_verdict, operation_features
from routegym.tasks.taskset import TaskSet

__all__ = ["CascadeEnv", "CascadeVectorEnv", "CascadeWorkflow", "Conversation"]

ACCEPT = "accept"


@dataclass(frozen=True)
class Conversation:
    """A prompt and the calls made for it: (arm name, answer, confidence) each, the last one at the end."""

    task: int
    step: int
    prompt: str
    calls: tuple[tuple[str, str, float], ...] = ()
    closed: bool = False

    @property
    def answer(self) -> str | None:
        """The answer that is handed in when the conversation is closed: the last one."""
        return self.calls[-1][1] if self.calls else None


class CascadeWorkflow:
    """Calls until an answer is accepted, which is graded as its task set says.

    Args:
        arms: names of the pool's arms, in order.
        most_calls: the call after which the answer is accepted as it is.
        levels: show the difficulty level of the operation and the verdict of a check of last digits; for tasks that
            are arithmetic operations.
    """

    kind = "cascade"
    controls: tuple[str, ...] = (ACCEPT,)
    edge_signal_names = RESPONSE_SIGNALS

    def __init__(self, arms: Sequence[str], most_calls: int = 3, levels: bool = True) -> None:
        self.arms, self.most_calls, self.levels = tuple(arms), most_calls, levels
        self.node_signal_names = (
            *(OPERATION_FEATURES if levels else ()),
            "confidence",
            "best_confidence",
            "agreement",
            "length",
            *(("verdict_passed", "verdict_failed") if levels else ()),
            "calls",
            *(f"tried_{name}" for name in self.arms),
        )

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Conversation]:
        """The questions, nobody asked yet."""
        return [Conversation(i, 0, tasks.prompts[i]) for i in indices]

    def requests(self, states: Sequence[Conversation], arms: Sequence[Arm]) -> list[Request]:
        """The task's prompt: an arm does not see what others answered."""
        return [Request(arm, state.prompt) for arm, state in zip(arms, states, strict=True)]

    def advance(
        self,
        states: Sequence[Conversation],
        actions: Sequence[Arm | str],
        responses: Sequence[Response | None],
    ) -> list[Conversation]:
        """Add the answer, or close the conversation."""
        after = []
        for state, action, response in zip(states, actions, responses, strict=True):
            if response is None or isinstance(action, str):
                after.append(replace(state, step=state.step + 1, closed=True))
            else:
                call = (action.name, response.text, confidence(response))
                calls = (*state.calls, call)
                after.append(replace(state, step=state.step + 1, calls=calls, closed=len(calls) >= self.most_calls))
        return after

    def outcome(
        self, states: Sequence[Conversation], tasks: TaskSet
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Ended when closed; the last answer is graded, and none at all scores 0."""
        closed = np.array([state.closed for state in states], dtype=bool)
        score = np.where(closed, 0.0, np.nan).astype(np.float32)
        answered = {row: state.answer for row, state in enumerate(states) if state.closed and state.answer is not None}
        score[list(answered)] = tasks.grade([states[row].task for row in answered], list(answered.values()))
        return np.where(closed, TERMINATED, OPEN).astype(np.uint8), score

    def signals(self, states: Sequence[Conversation]) -> npt.NDArray[np.float32]:
        """What a caller sees at run time; never whether the answer is right."""
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        place = {name: column for column, name in enumerate(self.node_signal_names)}
        if self.levels:
            rows[:, : len(OPERATION_FEATURES)] = operation_features([state.prompt for state in states])
        for row, state in zip(rows, states, strict=True):
            if state.closed or not state.calls:
                continue  # a closed conversation is known by its answer alone, see `encode`
            answers = [answer for _, answer, _ in state.calls]
            scores = [score for _, _, score in state.calls]
            row[place["confidence"]], row[place["best_confidence"]] = scores[-1], max(scores)
            row[place["agreement"]] = answers.count(answers[-1]) / len(answers)
            row[place["length"]] = min(len(answers[-1]) / 8, 1.0)
            row[place["calls"]] = len(answers) / self.most_calls
            if self.levels:
                verdict = last_digit_verdict(state.prompt, answers[-1])
                row[place["verdict_passed"]], row[place["verdict_failed"]] = verdict, not verdict
            for name, _, _ in state.calls:
                row[place[f"tried_{name}"]] = 1.0
        return rows

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """The answer's confidence and whether there is one."""
        return response_signals(responses, bool)

    def encode(self, states: Sequence[Conversation]) -> list[str]:
        """The calls as JSON; of a closed conversation only the answer, since nothing else matters any more."""
        return [
            f"= {state.answer or ''}" if state.closed else json.dumps(state.calls, separators=(",", ":"))
            for state in states
        ]

    def decode(
        self, tasks: TaskSet, indices: Sequence[int], steps: Sequence[int], texts: Sequence[str]
    ) -> list[Conversation]:
        """The situations of these texts."""
        states = []
        for task, step, text in zip(indices, steps, texts, strict=True):
            if text.startswith("= "):
                calls: tuple[tuple[str, str, float], ...] = (("", text[2:], 0.0),) if text[2:] else ()
                states.append(Conversation(task, step, tasks.prompts[task], calls, closed=True))
            else:
                calls = tuple((arm, answer, float(score)) for arm, answer, score in json.loads(text))
                states.append(Conversation(task, step, tasks.prompts[task], calls))
        return states


class CascadeVectorEnv(RoutingVectorEnv):
    """The batch form of `CascadeEnv`, whose docstring is the specification of both."""

    kind = "cascade"


class CascadeEnv(RoutingEnv):
    """Call an arm, see what can be seen at run time, then accept the answer or call another arm.

    ## Description
    A task is one question; in the shipped recording ``cascade`` an operation on three-digit registers such as
    ``58*7``. The last answer counts.

    ## Situations
    The calls made so far: arm, answer and confidence of each.

    ## Actions
    ``Discrete(n_arms + 1)``: an arm to call (again), or ``accept`` (the last action). Accepting before any call
    hands in nothing: score 0 at no cost.

    ## Observation
    By default ``Box(0, 1, (width,), float32)``; ``env.unwrapped.layout.names`` names every column. ``node_signals``
    are confidence of the last answer and the best so far; share of the answers that agree with the last; its
    length / 8; calls / 3; which arms were tried. Where tasks are arithmetic, also the level of the operation and the
    verdict of a last-digit check (a verifier that can be had at run time: it catches wrong last digits only); once the
    answer is accepted, the level alone. ``task`` is the embedding of the prompt where the recording has one.
    The other groups are those of `AgentStepsEnv`.

    ## Reward
    ``-lambda * cost / cost_scale`` at every step, plus the score, the grade of the accepted answer in [0, 1].

    ## Episode end
    *Terminated* by ``accept`` and after the third call, whose answer is accepted as it is. Never truncated.

    ## Arguments
    ``recording`` (``"cascade"``), ``observation``, ``budget_usd`` (None), ``lambda_`` (0.2), ``reward``,
    ``split``, ``expander``, ``info``, ``render_mode``: see `routegym.core.RoutingVectorEnv`.

    ## Version history
    v0: first version.
    """

    vector_class = CascadeVectorEnv
