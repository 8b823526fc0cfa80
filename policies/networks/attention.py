"""Arm attention: a score for every arm from the situation, the arm's descriptor and the other arms that are legal.

Its weights belong to no arm in particular. A permuted pool permutes the choice, an arm that is masked or gone changes
nothing but the comparison with it, and an arm never seen in training is judged by its descriptor.

Paper: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762 (attention); Lee et al., "Set Transformer", arXiv
1810.00825 (attention over a set without positions, pooled by a query that all members share). Deviations: one head, one
query for all arms of a situation, tanh units and no layer norm: a quarter of the time of attention between all pairs,
and enough for pools of tens of arms. An arm's accuracy in situations of the present kind is looked up, not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch as th

from routegym.core.observation import ObservationLayout
from routegym.graph.graph import OPEN
from routegym.graph.subset import arm_signals
from routegym.policies.networks.descriptors import describe, kind_signals
from routegym.policies.networks.mlp import mlp

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["ArmAttention"]

_SHARE = 4  # the last hidden width over that of an arm: there are several arms to a situation
_SHARPEST = 8.0  # bound of an attention score: no overflow, and no search for the largest
_TINY = 1e-9


class ArmAttention(th.nn.Module):
    """Logits (n, n_actions) of observations (n, width), for any pool with the same columns of the situation.

    Args:
        recording: gives the columns of the observation and the descriptors of the arms.
        hidden: widths of the layers that encode the situation; what is known of an arm has a quarter of the last.
    """

    #: Buffers, by their names in an `Actor`, that are the pool's and not learned.
    descriptors = ("network.traits", "network.accuracy")

    traits: th.Tensor
    accuracy: th.Tensor
    _shared: th.Tensor
    _kinds: th.Tensor
    _per_arm: th.Tensor

    def __init__(self, recording: Recording, hidden: Sequence[int]) -> None:
        super().__init__()
        layout = ObservationLayout.of(recording)
        graph = recording.graph
        arms = [arm.name for arm in recording.arms]
        per_arm = arm_signals(recording.node_signal_names, arms)
        owned = {column for columns in per_arm.values() for column in columns}
        shared = [column for column in range(len(recording.node_signal_names)) if column not in owned]
        for group in ("task", "edge_signals", "remaining", "lambda", "step"):
            place = layout.columns[group]
            shared += range(place.start, place.stop)
        kinds = kind_signals(recording.node_signal_names, graph.node_signals[graph.node_status == OPEN])
        #: Names of what the weights belong to; a pool with the same can be adapted to.
        self.situation: tuple[str, ...] = (
            *(layout.names[column] for column in shared),
            *(f"per arm: {what}" for what in per_arm),
        )
        self._reserve, self._legal = layout.columns["arm_reserve"], layout.columns["affordable"]
        self._n_controls = len(recording.controls)
        self.register_buffer("_shared", th.as_tensor(shared), persistent=False)
        self.register_buffer("_kinds", th.as_tensor(kinds, dtype=th.int64), persistent=False)
        self.register_buffer("_per_arm", th.as_tensor(list(per_arm.values()), dtype=th.int64), persistent=False)
        known = describe(recording)
        self.register_buffer("traits", th.as_tensor(known.traits))
        self.register_buffer("accuracy", th.as_tensor(known.accuracy))

        width = max(hidden[-1] // _SHARE, 1)
        columns = 2 + bool(kinds) + len(per_arm)
        self.situation_encoder = th.nn.Sequential(mlp(len(shared), hidden[:-1], hidden[-1], 2**0.5), th.nn.Tanh())
        self.from_situation = mlp(hidden[-1], (), width, 1.0)
        self.from_arm = mlp(columns, (), width, 2**0.5)
        self.from_traits = mlp(known.traits.shape[1], (), width, 2**0.5)
        self.attend = mlp(width, (), width + 1, 1.0)  # the arm itself, and how much the others heed it
        self.from_others = mlp(width, (), width, 1.0)
        self.score = mlp(width, (), 1)

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """Logits of observations float32 (n, width); those of illegal actions mean nothing."""
        legal = observation[:, self._legal]
        columns = [observation[:, self._reserve].unsqueeze(-1), legal.unsqueeze(-1)]
        if len(self._kinds):
            here = observation.index_select(1, self._kinds) @ self.accuracy.T  # (n, actions)
            columns.append(here.unsqueeze(-1))
        for group in self._per_arm:
            own = th.nn.functional.pad(observation.index_select(1, group), (0, self._n_controls))
            columns.append(own.unsqueeze(-1))
        situation = self.from_situation(self.situation_encoder(observation.index_select(1, self._shared)))  # (n, w)
        arm = self.from_arm(th.cat(columns, dim=-1)) + self.from_traits(self.traits) + situation.unsqueeze(1)
        arm = arm.tanh()  # (n, actions, w)
        attended = self.attend(arm)
        weight = attended[..., -1:].tanh().mul(_SHARPEST).exp() * legal.unsqueeze(-1)  # (n, actions, 1)
        others = (weight * arm).sum(dim=1) / weight.sum(dim=1).clamp(min=_TINY)  # (n, w)
        logits: th.Tensor = self.score(th.tanh(attended[..., :-1] + self.from_others(others).unsqueeze(1))).squeeze(-1)
        return logits
