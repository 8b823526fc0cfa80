"""``routegym/Attempts-v0``: watch an arm's attempt turn by turn: let it go on, hand the task on, or stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routegym.core.env import RoutingEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.envs.agent_steps import AgentStepsWorkflow, Expression
from routegym.graph.graph import OPEN, TERMINATED
from routegym.graph.signals import RESPONSE_SIGNALS
from routegym.graph.workflow import STOP
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.arithmetic import next_operation, parse_value
from routegym.tasks.features import EXPRESSION_FEATURES, expression_features, last_digit_verdict
from routegym.tasks.taskset import TaskSet

__all__ = ["FEEDBACK", "AttemptsEnv", "AttemptsVectorEnv", "AttemptsWorkflow", "Progress"]

#: What the environment says of a turn: the answer is well-formed and passes a check of last digits, it fails the check,
#: it is malformed; or it was the final proposal, and that is wrong.
FEEDBACK = ("ok", "error", "invalid", "rejected")

_STEPS = AgentStepsWorkflow()
_WHOLE = [column for column, name in enumerate(EXPRESSION_FEATURES) if name.startswith("left_")]


@dataclass(frozen=True)
class Progress:
    """A situation of a task that is attempted: the attempt under way, or how the last one failed."""

    task: int
    step: int
    prompt: str
    reference: str
    attempt: Expression
    """What is left of the expression in the attempt under way; untouched where none is."""
    feedback: tuple[str, ...] = ()
    """To the turns of the attempt under way, or else of the last one."""
    running: int = -1
    """Index of the arm whose attempt is under way, -1 where none is."""
    last: bool = False
    """Whether that attempt is the last that the episode has: nobody takes over from it."""
    tried: tuple[int, ...] = ()
    """Arms whose attempts ended or were abandoned, ascending."""
    result: str | None = None
    """None while the situation is open; at the end the accepted proposal, empty where there is none."""


class AttemptsWorkflow:
    """Attempts at an expression, each by one arm that does all its operations, which may be abandoned at every turn.

    Args:
        arms: names of the pool's arms, in order.
        most_attempts: attempts that an episode has.
        most_turns: calls that an attempt has; an expression of more operations cannot be solved.
    """

    kind = "attempts"
    controls: tuple[str, ...] = (STOP,)
    edge_signal_names = RESPONSE_SIGNALS

    def __init__(self, arms: Sequence[str], most_attempts: int = 2, most_turns: int = 8) -> None:
        self.arms, self.most_attempts, self.most_turns = tuple(arms), most_attempts, most_turns
        self.node_signal_names = (
            *EXPRESSION_FEATURES,
            *(f"task_{EXPRESSION_FEATURES[column].removeprefix('left_')}" for column in _WHOLE),
            "turn",
            *(f"feedback_{name}" for name in FEEDBACK),
            *(f"share_{name}" for name in FEEDBACK),
            "attempts",
            *(f"running_{name}" for name in self.arms),
            *(f"tried_{name}" for name in self.arms),
        )

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Progress]:
        """The untouched expressions, nobody at work."""
        expressions = _STEPS.start(tasks, indices)
        return [Progress(e.task, 0, e.text, tasks.references[e.task], e) for e in expressions]

    def requests(self, states: Sequence[Progress], arms: Sequence[Arm]) -> list[Request]:
        """The next operation of the arm's own attempt; an arm that takes over begins with the task's first."""
        attempts = [self._attempt_of(state, arm) for state, arm in zip(states, arms, strict=True)]
        return _STEPS.requests(attempts, arms)

    def advance(
        self, states: Sequence[Progress], actions: Sequence[Arm | str], responses: Sequence[Response | None]
    ) -> list[Progress]:
        """Put the answer in where the arm is at work; another arm abandons that attempt and begins its own."""
        after = []
        for state, action, response in zip(states, actions, responses, strict=True):
            if response is None or isinstance(action, str):
                after.append(_ended(state, state.step + 1, ""))
            else:
                after.append(self._turn(state, action, response))
        return after

    def outcome(
        self, states: Sequence[Progress], tasks: TaskSet
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Ended with score 1 when a proposal is accepted, with 0 when the last attempt failed or by ``stop``."""
        ended = np.array([state.result is not None for state in states], dtype=bool)
        solved = np.array([state.result == tasks.references[state.task] for state in states], dtype=np.float32)
        return np.where(ended, TERMINATED, OPEN).astype(np.uint8), np.where(ended, solved, np.float32(np.nan))

    def signals(self, states: Sequence[Progress]) -> npt.NDArray[np.float32]:
        """What is left, and what was seen of the attempt under way or of the last one."""
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        whole = expression_features([state.prompt for state in states])[:, _WHOLE]
        rows[:, : len(EXPRESSION_FEATURES)] = expression_features([state.attempt.text for state in states])
        rows[:, len(EXPRESSION_FEATURES) : len(EXPRESSION_FEATURES) + len(_WHOLE)] = whole
        place = {name: column for column, name in enumerate(self.node_signal_names)}
        for row, state in zip(rows, states, strict=True):
            if not state.feedback:
                continue  # at the start and, since it is known by its result alone, at the end
            row[place["turn"]] = len(state.feedback) / self.most_turns
            row[place[f"feedback_{state.feedback[-1]}"]] = 1.0
            for name in state.feedback:
                row[place[f"share_{name}"]] = state.feedback.count(name) / self.most_turns
            row[place["attempts"]] = self._begun(state) / self.most_attempts
            if state.running >= 0:
                row[place[f"running_{self.arms[state.running]}"]] = 1.0
            for arm in state.tried:
                row[place[f"tried_{self.arms[arm]}"]] = 1.0
        return rows

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """The answer's confidence and whether it is well-formed."""
        return _STEPS.response_signals(responses)

    def encode(self, states: Sequence[Progress]) -> list[str]:
        """The prompt, at the end the accepted proposal, and JSON in between."""
        texts = []
        for state in states:
            if state.result is not None:
                texts.append(f"= {state.result}")
            elif not state.feedback:
                texts.append(state.attempt.text)
            else:
                told: dict[str, object] = {"tried": [self.arms[arm] for arm in state.tried], "turns": state.feedback}
                if state.running >= 0:
                    told |= {"running": self.arms[state.running], "left": state.attempt.text}
                texts.append(json.dumps(told, separators=(",", ":")))
        return texts

    def decode(
        self, tasks: TaskSet, indices: Sequence[int], steps: Sequence[int], texts: Sequence[str]
    ) -> list[Progress]:
        """The situations of these texts."""
        states = []
        for start, step, text in zip(self.start(tasks, indices), steps, texts, strict=True):
            if text.startswith("= "):
                states.append(replace(start, step=step, result=text[2:]))
            elif not step:
                states.append(start)
            else:
                told = json.loads(text)
                turns, tried = tuple(told["turns"]), tuple(self.arms.index(name) for name in told["tried"])
                state = replace(start, step=step, feedback=turns, tried=tried)
                if "running" in told:
                    attempt = replace(start.attempt, step=len(turns), text=told["left"])
                    state = replace(state, running=self.arms.index(told["running"]), attempt=attempt)
                    state = replace(state, last=self._begun(state) == self.most_attempts)
                states.append(state)
        return states

    def _turn(self, state: Progress, arm: Arm, response: Response) -> Progress:
        """The situation after an arm's answer: its attempt goes on, has failed or is accepted."""
        index = self.arms.index(arm.name)
        before = self._attempt_of(state, arm)
        if index == state.running:
            step, feedback, tried = state.step, state.feedback, state.tried
        else:
            step, feedback, tried = self._begun(state) * self.most_turns, (), _with(state.tried, state.running)
        (attempt,) = _STEPS.advance([before], [arm], [response])
        proposed = next_operation(attempt.text) is None
        if proposed and attempt.text == state.reference:
            return _ended(state, step + 1, attempt.text)
        feedback = (*feedback, "rejected" if proposed else _feedback(before, response.text))
        after = replace(state, step=step + 1, feedback=feedback)
        last = self._begun(after) == self.most_attempts
        if not proposed and len(feedback) < self.most_turns:
            return replace(after, attempt=attempt, running=index, last=last, tried=tried)
        if last:
            return _ended(state, step + 1, "")
        return replace(after, attempt=_afresh(state), running=-1, tried=_with(tried, index))

    def _attempt_of(self, state: Progress, arm: Arm) -> Expression:
        """What is left for an arm: of its attempt, or the whole task where it is not at work."""
        at_work = state.running >= 0 and self.arms[state.running] == arm.name
        return state.attempt if at_work else _afresh(state)

    def _begun(self, state: Progress) -> int:
        """Attempts begun in an open situation: each has room for all its turns among the steps."""
        return (state.step - len(state.feedback)) // self.most_turns + 1 if state.feedback else 0


def _afresh(state: Progress) -> Expression:
    return replace(state.attempt, step=0, text=state.prompt)


def _ended(state: Progress, step: int, result: str) -> Progress:
    return Progress(state.task, step, state.prompt, state.reference, _afresh(state), result=result)


def _with(tried: tuple[int, ...], arm: int) -> tuple[int, ...]:
    return tuple(sorted({*tried, arm} - {-1}))


def _feedback(before: Expression, answer: str) -> str:
    if parse_value(answer) is None:
        return "invalid"
    operation = next_operation(before.text)
    assert operation is not None  # somebody was asked for it
    return "ok" if last_digit_verdict(operation.prompt, answer) else "error"


class AttemptsVectorEnv(RoutingVectorEnv):
    """The batch form of `AttemptsEnv`, whose docstring is the specification of both."""

    kind = "attempts"


class AttemptsEnv(RoutingEnv):
    """Watch an arm's attempt at a task turn by turn: let it go on, hand the task to another arm, or stop.

    ## Description
    An attempt is one arm's work at a task, call after call, until its proposal is accepted or rejected or its turns are
    used up. In the shipped recording ``attempts`` a task is an expression as in `AgentStepsEnv` and an attempt does its
    operations one by one, all with the same arm. The environment says when a task is solved. What it says before that
    is weak: an answer is malformed, or fails a check of last digits.

    A recording replays what was recorded and nothing else. Where an answer was recorded several times, each call draws
    one of them. The models of the shipped recording always answer alike: an arm that begins again fails again in the
    same way, and is paid again. In a closed recording an arm without a further trial is masked.

    ## Situations
    While an attempt is under way: its arm, the expression as it stands, the feedback to each of its turns, and the arms
    tried before. Between attempts: the feedback to the last one, and the arms tried.

    ## Actions
    ``Discrete(n_arms + 1)``: the arms, then ``stop``. The arm whose attempt is under way goes on by a turn. Another arm
    abandons that attempt and begins its own, from the task's prompt, which it pays for; nobody takes over from the last
    attempt. Where no attempt is under way, an arm begins one. ``stop`` ends the episode at no cost. It hands in what
    the last attempt has come to, if that has ended: in a recording of imported data its score, which may be partial
    or, where nobody said at run time that it was solved, 1; in the shipped recording 0. While an attempt is under way,
    and before the first, the score is 0. Imported data without a verdict call this action ``accept``.

    ## Observation
    By default ``Box(0, 1, (width,), float32)``; ``env.unwrapped.layout.names`` names every column. ``node_signals``
    are, of the shipped recording,

    | columns | meaning |
    | --- | --- |
    | ``next_...``, ``left_...`` | the expression as it stands, as in `AgentStepsEnv`; the whole task between attempts |
    | ``task_...`` | the whole task: what an arm that takes over begins with, counted as in ``left_...`` |
    | ``turn`` | turns of the attempt under way, or else of the last one / 8 |
    | ``feedback_...`` | what the last turn brought: ``ok`` (the answer is well-formed and its last digit right), |
    | | ``error`` (its last digit is wrong), ``invalid`` (malformed), ``rejected`` (the final number is wrong) |
    | ``share_...`` | turns of that attempt with this feedback / 8 |
    | ``attempts`` | attempts begun / 2 |
    | ``running_<arm>`` | 1 for the arm whose attempt is under way |
    | ``tried_<arm>`` | 1 for each arm whose attempt ended or was abandoned |

    All but the first two rows are 0 at the start and at the end. The other groups are those of `AgentStepsEnv`.

    ## Reward
    ``-lambda * cost / cost_scale`` at every step, plus the score at the end. In the shipped recording that is 1 if a
    proposal was accepted, else 0; in one of imported data the score of the last attempt, if it has ended, else 0.

    ## Episode end
    *Terminated* when a proposal is accepted, when the last of 2 attempts has failed (its number is wrong, or 8 turns
    brought none), by ``stop``, or when nothing can be paid for any more. Never truncated.

    ## Arguments
    ``recording`` (``"attempts"``), ``observation``, ``budget_usd`` (None), ``lambda_`` (0.2), ``reward``,
    ``split``, ``expander``, ``info``, ``render_mode``: see `routegym.core.RoutingVectorEnv`.

    ## Version history
    v0: first version.
    """

    vector_class = AttemptsVectorEnv
