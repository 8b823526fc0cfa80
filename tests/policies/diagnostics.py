"""Tiny problems with known optima, one faculty each: credit over steps, minding a budget, stopping, mixing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from routegym.graph import OPEN, TERMINATED, Expander, Recording, explore, start_recording
from routegym.pool import Arm, Price, PriceTable, Request, Response
from routegym.tasks.taskset import TaskSet

SMALL, LARGE = Arm("small", "t", 1, 1), Arm("large", "t", 5, 1)


class _Pool:
    """Two arms that cost 1 and 5 USD a call; what they answer is the workflow's business."""

    arms = (SMALL, LARGE)
    prices = PriceTable("2026-01-01", "made up", {"small": Price(0, 0, 1e6, 0), "large": Price(0, 0, 5e6, 0)})

    @property
    def backend(self) -> _Pool:
        return self

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return [Response(request.arm.model, (0, 0, 1, 0), 0.0, 0.0, 0.0) for request in requests]

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [0] * len(requests)


@dataclass(frozen=True)
class Walk:
    """A word of steps, and which arm took each so far (s, l, or . for stopping)."""

    task: int
    step: int
    word: str
    taken: str = ""


class _Walk:
    """Common part: the next letter of the word is seen, the score comes at the end."""

    kind = "diagnostic"
    controls: tuple[str, ...] = ()
    letters = "EH"
    edge_signal_names: tuple[str, ...] = ("seen",)

    def __init__(self) -> None:
        self.node_signal_names = (*(f"next_{letter}" for letter in self.letters), "left")

    def start(self, tasks: TaskSet, indices: Sequence[int]) -> list[Walk]:
        return [Walk(i, 0, tasks.prompts[i]) for i in indices]

    def requests(self, states: Sequence[Walk], arms: Sequence[Arm]) -> list[Request]:
        return [Request(arm, state.word) for state, arm in zip(states, arms, strict=True)]

    def advance(self, states: Sequence[Walk], actions: Sequence[Any], responses: Sequence[Any]) -> list[Walk]:
        letters = ["." if isinstance(action, str) else action.model[0] for action in actions]
        return [
            replace(state, step=state.step + 1, taken=state.taken + letter)
            for state, letter in zip(states, letters, strict=True)
        ]

    def over(self, state: Walk) -> bool:
        return len(state.taken) == len(state.word)

    def grade(self, state: Walk) -> float:
        raise NotImplementedError

    def outcome(self, states: Sequence[Walk], tasks: TaskSet) -> tuple[Any, Any]:
        over = [self.over(state) for state in states]
        status = np.where(over, TERMINATED, OPEN).astype(np.uint8)
        score = [self.grade(s) if o else np.nan for s, o in zip(states, over, strict=True)]
        return status, np.array(score, dtype=np.float32)

    def signals(self, states: Sequence[Walk]) -> Any:
        rows = np.zeros((len(states), len(self.node_signal_names)), dtype=np.float32)
        for row, state in enumerate(states):
            if not self.over(state):
                rows[row, self.letters.index(state.word[len(state.taken)])] = 1.0
                rows[row, -1] = (len(state.word) - len(state.taken)) / len(state.word)
        return rows

    def response_signals(self, responses: Sequence[Response]) -> Any:
        return np.zeros((len(responses), 1), dtype=np.float32)

    def encode(self, states: Sequence[Walk]) -> list[str]:
        return [state.taken for state in states]

    def decode(self, tasks: TaskSet, indices: Any, steps: Any, texts: Any) -> list[Walk]:
        return [Walk(i, s, tasks.prompts[i], t) for i, s, t in zip(indices, steps, texts, strict=True)]


class Credit(_Walk):
    """All four steps must be right, and the small arm fails at hard ones (H): large exactly there."""

    def grade(self, state: Walk) -> float:
        return float(all(arm == "l" or letter == "E" for letter, arm in zip(state.word, state.taken, strict=True)))


class Saving(_Walk):
    """A large call earns 0.5 at a valuable step (H), nothing elsewhere; the budget pays for only two of them."""

    def grade(self, state: Walk) -> float:
        won = sum(letter == "H" and arm == "l" for letter, arm in zip(state.word, state.taken, strict=True))
        return min(0.5 * won, 1.0)


class Stopping(_Walk):
    """At a shown answer (G good, B bad) one may accept; calling on shows the next letter, at a price."""

    controls = ("accept",)
    letters = "BG"

    def over(self, state: Walk) -> bool:
        return state.taken.endswith(".") or len(state.taken) == len(state.word)

    def grade(self, state: Walk) -> float:
        accepted = len(state.taken) - 1
        return float(state.taken.endswith(".") and state.word[accepted] == "G")


class Mixing(_Walk):
    """One call; only the large arm scores. Under a cap on the mean cost the optimum is to mix the arms."""

    def grade(self, state: Walk) -> float:
        return float(state.taken == "l")


def build(workflow: _Walk, length: int = 4) -> Recording:
    """Every word of that length is a task; all of them are for training and for testing."""
    words = ["".join(word) for word in product(workflow.letters, repeat=length)]
    tasks = TaskSet(tuple(words), tuple(words), tuple(words), ("train",) * len(words))
    recording = start_recording("diagnostic", workflow, _Pool(), tasks, {"complete": True})
    explore(Expander(workflow, _Pool(), recording))
    recording.fix_scales()
    return recording
