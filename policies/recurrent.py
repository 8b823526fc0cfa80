"""A trained actor with a memory as a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import MissingExtraError
from routegym.policies.networks.recurrent import Memory, RecurrentActor, make_head
from routegym.policies.training import Arrays

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["RecurrentPolicy"]


class RecurrentPolicy:
    """Chooses by the logits of a recurrent actor; its memory is the ``state`` of `predict`.

    Args:
        actor: gives the logits.
        hidden: widths of the hidden layers between memory and logits.
    """

    kind = "recurrent"

    def __init__(self, actor: RecurrentActor, hidden: Sequence[int]) -> None:
        self.actor = actor.eval()
        self.hidden = tuple(hidden)
        self._generator = th.Generator().manual_seed(0)

    def logits(
        self,
        observation: npt.NDArray[np.float32],
        state: Memory | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[th.Tensor, Memory]:
        """Logits (n, n_actions), -inf where masked, and the memory after these observations."""
        with th.inference_mode():
            rows = th.as_tensor(np.asarray(observation, dtype=np.float32))
            if state is None:
                blank = th.zeros(1, len(rows), self.actor.lstm.hidden_size)
                state = blank, blank
            elif episode_start is not None:
                going_on = th.as_tensor(~np.asarray(episode_start, dtype=bool)).reshape(1, -1, 1)
                state = state[0] * going_on, state[1] * going_on
            logits, memory = self.actor(rows, state)
            if action_masks is not None:
                legal = th.as_tensor(np.asarray(action_masks, dtype=bool)).reshape(logits.shape)
                logits = logits.masked_fill(~legal, -th.inf)
        return logits, memory

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: Memory | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Memory]:
        """Choose an action for every row; see `routegym.policies.policy.Policy`."""
        logits, memory = self.logits(observation, state, episode_start, action_masks)
        if deterministic:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = th.multinomial(logits.softmax(dim=-1), 1, generator=self._generator).squeeze(-1)
        return np.asarray(chosen.numpy(), dtype=np.int64), memory

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        arrays = {name: tensor.detach().numpy() for name, tensor in self.actor.state_dict().items()}
        return {"units": self.actor.lstm.hidden_size, "hidden": list(self.hidden)}, arrays

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        units, hidden = int(settings["units"]), [int(width) for width in settings["hidden"]]
        with th.random.fork_rng(devices=[]):
            lstm = th.nn.LSTM(ObservationLayout.of(recording).width, units)
            actor = RecurrentActor(lstm, make_head(units, hidden, recording))
        actor.load_state_dict({name: th.as_tensor(array) for name, array in arrays.items()})
        return cls(actor, hidden)
