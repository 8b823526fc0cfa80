"""A trained actor as a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingExtraError, RunError
from routegym.policies.networks import Actor, make_actor
from routegym.policies.networks.attention import ArmAttention
from routegym.policies.training import Arrays

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["NetworkPolicy"]


class NetworkPolicy:
    """Chooses by the logits of a feed-forward actor.

    Args:
        actor: gives the logits.
        network, hidden: what `make_actor` made it from.
        stochastic: it was trained to mix, so `predict` always draws, whatever ``deterministic`` says.
    """

    kind = "network"

    def __init__(self, actor: Actor, network: str, hidden: Sequence[int], stochastic: bool = False) -> None:
        self.actor = actor.eval()
        self.network, self.hidden, self.stochastic = network, tuple(hidden), stochastic
        self._generator = th.Generator().manual_seed(0)

    @property
    def draws(self) -> bool:
        """Whether `predict` draws although it is asked for the best action; see `probabilities`."""
        return self.stochastic

    def logits(
        self, observation: npt.NDArray[np.float32], action_masks: npt.NDArray[np.bool_] | None = None
    ) -> th.Tensor:
        """Logits (n, n_actions), -inf where masked."""
        with th.inference_mode():
            logits: th.Tensor = self.actor(th.as_tensor(np.asarray(observation, dtype=np.float32)))
            if action_masks is not None:
                legal = th.as_tensor(np.asarray(action_masks, dtype=bool)).reshape(logits.shape)
                logits = logits.masked_fill(~legal, -th.inf)
        return logits

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Choose an action for every row; see `routegym.policies.policy.Policy`."""
        logits = self.logits(observation, action_masks)
        if deterministic and not self.stochastic:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = th.multinomial(logits.softmax(dim=-1), 1, generator=self._generator).squeeze(-1)
        return np.asarray(chosen.numpy(), dtype=np.int64), state

    def probabilities(
        self, observation: npt.NDArray[np.float32], action_masks: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]:
        """How likely each action is, float32 (n, n_actions)."""
        return np.asarray(self.logits(observation, action_masks).softmax(dim=-1).numpy(), dtype=np.float32)

    def adapt(self, recording: Recording) -> Self:
        """This policy for another pool: the same weights, the descriptors of that recording's arms.

        Raises:
            RunError: its network belongs to its pool, or that recording shows other columns of the situation.
        """
        return self.adapted(recording, *self.to_state())

    @classmethod
    def adapted(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """What `from_state` makes, for another pool than that of the state; see `adapt`."""
        network, hidden = str(settings["network"]), [int(width) for width in settings["hidden"]]
        with th.random.fork_rng(devices=[]):
            actor = make_actor(network, hidden, recording)
        if not isinstance(actor.network, ArmAttention):
            raise RunError(
                f"a policy with network = {network!r} belongs to its pool and cannot be adapted to that of "
                f"{recording.name!r}; train one for this recording, or train with network = 'attention'"
            )
        situation = actor.network.situation
        if list(situation) != list(settings["situation"]):
            odd = sorted(set(situation) ^ set(settings["situation"]))[:4]
            raise RunError(
                f"the policy was trained on other columns of the situation than those of {recording.name!r} (they "
                f"differ in {odd or 'their order'}); adapt it to a recording of the same kind, or train one for this"
            )
        own = set(actor.network.descriptors)
        learned = {name: th.as_tensor(array) for name, array in arrays.items() if name not in own}
        actor.load_state_dict({**actor.state_dict(), **learned})
        return cls(actor, network, hidden, bool(settings["stochastic"]))

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        arrays = {name: tensor.detach().numpy() for name, tensor in self.actor.state_dict().items()}
        settings: dict[str, Any] = {"network": self.network, "hidden": list(self.hidden), "stochastic": self.stochastic}
        if isinstance(self.actor.network, ArmAttention):
            settings["situation"] = list(self.actor.network.situation)
        return settings, arrays

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        hidden = [int(width) for width in settings["hidden"]]
        with th.random.fork_rng(devices=[]):
            actor = make_actor(str(settings["network"]), hidden, recording)
        actor.load_state_dict({name: th.as_tensor(array) for name, array in arrays.items()})
        return cls(actor, str(settings["network"]), hidden, bool(settings["stochastic"]))
