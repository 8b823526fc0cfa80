"""A routing problem in words: one tool for every action, and messages that say what the router observes."""

from __future__ import annotations

import itertools
import keyword
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.graph.workflow import STOP

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["INSTRUCTIONS", "RoutingText"]

#: The system message. Amounts in it and in all other messages are in millionths of a US dollar.
INSTRUCTIONS = (
    "Route the task to models: think if it helps, then call one tool a round. Calls cost millionths of a dollar. Solve "
    "the task and spend little."
)

_MICRO = 1e6
#: What an environment has by these names already: GRPOTrainer calls some of it by itself.
_RESERVED = frozenset(
    ["reset", "get_reward", "recording", "text", "failure", "ended", "actions", "vector", "budget_usd", "lambda_"]
)
_CONTROLS = {
    "accept": "Hand in the last answer and end the episode: 0 a call.",
    STOP: "Give up with what there is and end the episode: 0 a call.",
}
_RETURNS = "The answer, what can be seen of it, and what is left of the budget."


class RoutingText:
    """Words for the actions and observations of a recording.

    Messages are made from an observation with ``observation="text"`` and nothing else, so that a policy reads at
    evaluation what it read in training: the text of the situation, the signals of the last response, what is left of
    the budget and the price of cost. Never the score.

    Args:
        recording: gives arms, controls, prices and scales.

    Attributes:
        tool_names: an identifier for every action, in their order: ``nano/direct`` is ``nano_direct``.
        descriptions: what a tool does and costs, likewise. The cost of a call is its mean over the recorded calls for
            training tasks.
    """

    def __init__(self, recording: Recording) -> None:
        self.layout = ObservationLayout.of(recording)
        self.tool_names = _identifiers(recording.action_names)
        self.descriptions = tuple(_descriptions(recording))
        self._scale_usd = recording.cost_scale_usd

    def docstring(self, action: int) -> str:
        """Of the tool of an action."""
        return f"{self.descriptions[action]}\n\nReturns:\n    {_RETURNS}\n"

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as JSON-able function schemas, for ``apply_chat_template(tools=...)``.

        By name, as GRPOTrainer lists the methods of an environment: the list of tools is part of what a model reads.
        """
        nothing = {"type": "object", "properties": {}}
        returned = {"type": "string", "description": _RETURNS}
        return [
            {
                "type": "function",
                "function": {"name": name, "description": description, "parameters": nothing, "return": returned},
            }
            for name, description in sorted(zip(self.tool_names, self.descriptions, strict=True))
        ]

    def call(self, action: int) -> dict[str, Any]:
        """The message of a router that calls the tool of an action."""
        function = {"name": self.tool_names[action], "arguments": {}}
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}

    def message(self, flat: npt.NDArray[np.float32], text: str, first: str | None = None) -> str:
        """What the router is told of a situation.

        Args:
            flat: flat observation, float32 (width,).
            text: the situation's text, as observed.
            first: that of the episode's first situation, whose leading lines are not told again; None at the start.
        """
        groups = self.layout.as_dict(flat)
        told = [text if first is None else _without_shared_lines(text, first)]
        if first is not None:
            signals = zip(self.layout.edge_signal_names, groups["edge_signals"].tolist(), strict=True)
            told.append(", ".join(f"{name} {value:.3g}" for name, value in signals))
        remaining, price = (float(groups[name][0]) for name in ("remaining", "lambda"))
        state = "no cap" if remaining >= 1 else f"left {_amount(self._scale_usd * remaining / (1 - remaining))}"
        if price > 0:
            state += f", cost counts {price / (1 - price):.3g}"
        told.append(state)
        return "\n".join(line for line in told if line)


def _descriptions(recording: Recording) -> list[str]:
    graph = recording.graph
    source, action = graph.edge_sources()
    splits = np.array(recording.tasks.splits)
    train = splits[graph.node_task[source]] == "train" if "train" in splits else np.ones(len(source), dtype=bool)
    used = train & (action < graph.n_arms)
    count = np.bincount(action[used], minlength=graph.n_arms)
    cost = np.bincount(action[used], graph.edges["cost_usd"][used], graph.n_arms) / np.maximum(count, 1)
    words = []
    for arm, usd in zip(recording.arms, cost.tolist(), strict=True):
        tier = f", tier {arm.tier}" if arm.tier else ""
        words.append(f"Ask model {arm.model}{tier}: {_amount(usd)} a call.")
    for control in recording.controls:
        words.append(_CONTROLS.get(control, f"Take the action {control}: 0 a call."))
    return words


def _identifiers(names: tuple[str, ...]) -> tuple[str, ...]:
    """A Python identifier for each name, no two alike and none that means something else."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
        if not word.isidentifier() or keyword.iskeyword(word) or word in _RESERVED:
            word = f"ask_{word}"
        free = word
        for number in itertools.count(2):
            if free not in found:
                break
            free = f"{word}_{number}"
        found.append(free)
    return tuple(found)


def _without_shared_lines(text: str, first: str) -> str:
    lines, told = text.split("\n"), first.split("\n")
    shared = 0
    while shared < min(len(lines), len(told)) and lines[shared] == told[shared]:
        shared += 1
    return "\n".join(lines[shared:])


def _amount(usd: float) -> str:
    """USD in millionths, three digits."""
    micro = usd * _MICRO
    return f"{micro:.0f}" if micro >= 100 else f"{micro:.3g}"
