"""``routegym/AgentSteps-v0``: a task of several steps, each answered by an arm of the router's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routegym.core.env import RoutingEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED
from routegym.graph.signals import RESPONSE_SIGNALS, response_signals
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.tasks.arithmetic import next_operation, parse_value, substitute
from routegym.tasks.features import EXPRESSION_FEATURES, expression_features
from routegym.tasks.taskset import TaskSet

__all__ = ["AgentStepsEnv", "AgentStepsVectorEnv", "AgentStepsWorkflow", "Expression"]


@dataclass(frozen=True)
class Expression:
    """A situation of an arithmetic agent: what is left of the expression, and the calls made so far."""

    task: int
    step: int
    text: str
    operations: int
    """Operations of the whole task."""

    @property
    def wasted(self) -> int:
        """Calls whose answer was malformed."""
        return self.step - (self.operations - _operations(self.text))


class AgentStepsWorkflow:
    """Arithmetic agents: the chosen arm does the next operation, and its answer, right or wrong, is put in.

    Args:
        most_wasted: malformed answers that an episode survives; one more truncates it.
    """

    kind = "agent_steps"
    controls: tuple[str, ...] = ()
    node_signal_names = (*EXPRESSION_FEATURES, "wasted")
    edge_signal_names = RESPONSE_SIGNALS

    def __init__(self, most_wasted: int = 2) -> None:
        self.most_wasted = most_wasted

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Expression]:
        """The untouched expressions."""
        return [Expression(i, 0, tasks.prompts[i], _operations(tasks.prompts[i])) for i in indices]

    def requests(self, states: Sequence[Expression], arms: Sequence[Arm]) -> list[Request]:
        """The next operation as a prompt such as ``58+7``."""
        prompts = []
        for state in states:
            operation = next_operation(state.text)
            assert operation is not None  # an open situation has one
            prompts.append(operation.prompt)
        return [Request(arm, prompt) for arm, prompt in zip(arms, prompts, strict=True)]

    def advance(
        self,
        states: Sequence[Expression],
        actions: Sequence[Arm | str],
        responses: Sequence[Response | None],
    ) -> list[Expression]:
        """Put the answers in; a malformed one leaves the expression as it is and wastes the call."""
        after = []
        for state, response in zip(states, responses, strict=True):
            operation = next_operation(state.text)
            value = None if response is None else parse_value(response.text)
            text = state.text if operation is None or value is None else substitute(state.text, operation, value)
            after.append(replace(state, step=state.step + 1, text=text))
        return after

    def outcome(
        self, states: Sequence[Expression], tasks: TaskSet
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Ended with score 1 or 0 when one number is left; truncated with 0 when too many calls were wasted."""
        status = np.full(len(states), OPEN, dtype=np.uint8)
        score = np.full(len(states), np.nan, dtype=np.float32)
        for row, state in enumerate(states):
            if _operations(state.text) == 0:
                status[row], score[row] = TERMINATED, float(state.text == tasks.references[state.task])
            elif state.wasted > self.most_wasted:
                status[row], score[row] = TRUNCATED, 0.0
        return status, score

    def signals(self, states: Sequence[Expression]) -> npt.NDArray[np.float32]:
        """Level of the next operation, what is left, and the share of wasted calls."""
        wasted = np.array([[state.wasted / (self.most_wasted + 1)] for state in states], dtype=np.float32)
        return np.hstack([expression_features([state.text for state in states]), wasted])

    def response_signals(self, responses: Sequence[Response]) -> npt.NDArray[np.float32]:
        """The answer's confidence and whether it is well-formed."""
        return response_signals(responses, lambda text: parse_value(text) is not None)

    def encode(self, states: Sequence[Expression]) -> list[str]:
        """The expression as it stands; with the number of calls that says it all."""
        return [state.text for state in states]

    def decode(
        self, tasks: TaskSet, indices: Sequence[int], steps: Sequence[int], texts: Sequence[str]
    ) -> list[Expression]:
        """The situations of these texts."""
        return [
            Expression(task, step, text, _operations(tasks.prompts[task]))
            for task, step, text in zip(indices, steps, texts, strict=True)
        ]


def _operations(text: str) -> int:
    return text.count("(")


class AgentStepsVectorEnv(RoutingVectorEnv):
    """The batch form of `AgentStepsEnv`, whose docstring is the specification of both."""

    kind = "agent_steps"


class AgentStepsEnv(RoutingEnv):
    """A multi-step task, each step answered by the arm that the router chooses.

    ## Description
    The embedded problem is *arithmetic agents*: a task is an expression such as ``(((7+58)*3)-(120-41))`` over
    three-digit registers (everything modulo 1000). At each step the chosen arm is asked for the leftmost innermost
    operation and its answer, whatever it is, is put into the expression. A wrong answer is not noticed: it changes
    what comes next and ruins the end. Small operations are safe with a small model; large ones are not.

    ## Situations
    The expression as it stands and the number of calls made. Equal situations are one node of the graph.

    ## Actions
    ``Discrete(n_arms)``: the arm that answers the next operation. There are no control actions.

    ## Observation
    By default ``Box(0, 1, (width,), float32)``; ``env.unwrapped.layout.names`` names every column:

    | group | meaning |
    | --- | --- |
    | ``node_signals`` | one-hot level of the next operation; operations left by operator and numbers left by digits, |
    | | each / 8; wasted calls / 3 |
    | ``arm_reserve`` | worst case of each arm here / cost scale |
    | ``edge_signals`` | confidence of the last answer and whether it was well-formed; 0 at the start |
    | ``affordable`` | 1 for each arm that may be chosen now |
    | ``remaining`` | remaining budget b as b / (b + cost scale); 1 without a cap |
    | ``lambda`` | lambda / (1 + lambda) |
    | ``step`` | calls made / (calls made + 4) |

    ``observation="dict"`` gives the groups by name, ``observation="index"`` the node id, ``observation="text"`` the
    task's and the present expression beside the columns.

    ## Reward
    ``-lambda * cost / cost_scale`` at every step, plus the score (1 if the final number is exact, else 0) at the end.

    ## Episode end
    *Terminated* when one number is left, or when no arm can be paid for any more (score 0). *Truncated* at the third
    malformed answer (score 0).

    ## Arguments
    ``recording`` (``"agent_steps"``), ``observation``, ``budget_usd`` (None), ``lambda_`` (0.2), ``reward``,
    ``split``, ``expander``, ``info``, ``render_mode``: see `routegym.core.RoutingVectorEnv`.

    ## Version history
    v0: first version.
    """

    vector_class = AgentStepsVectorEnv
