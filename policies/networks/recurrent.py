"""An actor that remembers: an LSTM over the observations of an episode beside the present one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch as th

from routegym.core.observation import ObservationLayout
from routegym.policies.networks import Actor
from routegym.policies.networks.mlp import mlp

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["Memory", "RecurrentActor", "make_head"]

#: Hidden and cell state of the LSTM, each (1, n, units).
Memory = tuple[th.Tensor, th.Tensor]


def make_head(units: int, hidden: Sequence[int], recording: Recording) -> Actor:
    """From (observation, output of an LSTM with so many units), side by side, to masked logits."""
    layout = ObservationLayout.of(recording)
    return Actor(mlp(layout.width + units, hidden, len(layout.action_names)), layout)


class RecurrentActor(th.nn.Module):
    """Observations and memory to masked logits and the next memory.

    Args:
        lstm: reads observations (1, n, width).
        head: see `make_head`.
    """

    def __init__(self, lstm: th.nn.LSTM, head: Actor) -> None:
        super().__init__()
        self.lstm, self.head = lstm, head

    def forward(self, observation: th.Tensor, memory: Memory) -> tuple[th.Tensor, Memory]:
        """Logits (n, n_actions) of observations float32 (n, width), and what to remember."""
        output, memory = self.lstm(observation.unsqueeze(0), memory)
        logits: th.Tensor = self.head(th.cat([observation, output.squeeze(0)], dim=-1))
        return logits, memory
