"""Actors: torch modules that turn observations into a logit for every action, illegal ones masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError, MissingExtraError

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

from routegym.policies.networks.attention import ArmAttention
from routegym.policies.networks.mlp import mlp

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["NETWORKS", "Actor", "make_actor"]

#: What is added to the logit of an illegal action: probability 0 in float32, and no infinity in entropies.
_ILLEGAL = -1e8


def _mlp(recording: Recording, hidden: Sequence[int]) -> th.nn.Module:
    layout = ObservationLayout.of(recording)
    return mlp(layout.width, hidden, len(layout.action_names))


#: Makers of networks from observations (n, width) to unmasked logits (n, n_actions), by the name in configurations.
NETWORKS: dict[str, Callable[[Recording, Sequence[int]], th.nn.Module]] = {"mlp": _mlp, "attention": ArmAttention}


class Actor(th.nn.Module):
    """A network with the illegal actions masked.

    Which actions are legal is read from the observation's ``affordable`` columns, so that every algorithm that samples
    from the logits, masked variant or not, takes legal actions only.

    Args:
        network: gives logits (n, n_actions) to observations (n, width).
        layout: of the observations.
    """

    def __init__(self, network: th.nn.Module, layout: ObservationLayout) -> None:
        super().__init__()
        self.network = network
        self.legal = layout.columns["affordable"]

    def forward(self, observation: th.Tensor) -> th.Tensor:
        """Logits (n, n_actions) of observations float32 (n, width)."""
        logits: th.Tensor = self.network(observation)
        return logits.masked_fill(observation[:, self.legal] < 0.5, _ILLEGAL)


def make_actor(network: str, hidden: Sequence[int], recording: Recording) -> Actor:
    """A fresh actor for the observations and actions of a recording; torch's global generator draws its weights.

    Raises:
        ConfigError: no such network.
    """
    if network not in NETWORKS:
        raise ConfigError(f"network = {network!r}; expected one of {', '.join(NETWORKS)}")
    return Actor(NETWORKS[network](recording, hidden), ObservationLayout.of(recording))
