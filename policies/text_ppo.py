"""PPO that reads: a small transformer encoder over the text of the situation in the place of hand-made features.

The cheap alternative to a language model as the router (`routegym.integrations.trl`). It is MaskablePPO of
`routegym.policies.ppo` with another network; of the observation it sees prices, budget and step, and the text.
Name it ``routegym.policies.text_ppo:TextPPO``: it takes minutes to fit and is not among what `routegym bench` does by
default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.actor_critic import TextActorCritic
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_positive
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor
from routegym.policies.networks.text import make_text_actor, text_columns
from routegym.policies.ppo import PPOParameters
from routegym.policies.sb3_training import learn
from routegym.policies.training import Arrays, Training

try:
    import sb3_contrib
    import torch as th
except ImportError as error:
    raise MissingExtraError("sb3-contrib", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["TextPPO", "TextPolicy"]


@dataclass(frozen=True)
class TextPPO(PPOParameters):
    """MaskablePPO with a transformer encoder over the text."""

    steps: int = 65_536
    """Environment steps in all."""
    n_envs: int = 128
    """Episodes played side by side."""
    n_steps: int = 8
    """Steps of each episode between two updates."""
    batch_size: int = 512
    """Transitions in a minibatch."""
    n_epochs: int = 2
    """Passes over the collected transitions."""
    embedding_prior: float = 0.0
    """Embeddings of the text are not read: always 0."""
    network: str = "text"
    """Always ``text``."""
    length: int = 128
    """Bytes that are read of a text, the first ones; no more than the longest of the recording."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "length")
        if self.network != "text" or self.embedding_prior:
            raise ConfigError(
                f"network = {self.network!r}, embedding_prior = {self.embedding_prior}; text_ppo has a network of its "
                "own that reads no embeddings: leave both out"
            )

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> TextPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        arguments = self.arguments(problem, seed, observation="text")
        length = min(self.length, _longest(problem.recording))
        arguments["env"] = _TextVecEnv(arguments["env"].env, length)
        model = sb3_contrib.MaskablePPO(TextActorCritic, **arguments)
        learn(model, self.steps, seed, training)
        return TextPolicy(cast(TextActorCritic, model.policy).to_text_actor(), length, self.hidden)


class TextPolicy:
    """What `TextPPO` gives.

    Args:
        actor: gives logits.
        length: bytes of a text.
        hidden: what the actor was made with.
    """

    kind = "text_network"
    observation = "text"

    def __init__(self, actor: Actor, length: int, hidden: Sequence[int]) -> None:
        self.length = length
        self._network = NetworkPolicy(actor, "text", hidden)

    def predict(
        self,
        observation: dict[str, npt.NDArray[Any]],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Choose an action for every row of ``observation="text"``; see `routegym.policies.policy.Policy`."""
        rows = text_columns(observation, self.length)
        return self._network.predict(rows, state, episode_start, deterministic, action_masks)

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        settings, arrays = self._network.to_state()
        return {"length": self.length, "hidden": settings["hidden"]}, arrays

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        length, hidden = int(settings["length"]), [int(width) for width in settings["hidden"]]
        with th.random.fork_rng(devices=[]):
            actor = make_text_actor(recording, length, hidden)
        actor.load_state_dict({name: th.as_tensor(array) for name, array in arrays.items()})
        return cls(actor, length, hidden)


class _TextVecEnv(SB3RoutingVecEnv):
    """Shows rows of `text_columns`."""

    def __init__(self, env: RoutingVectorEnv, length: int) -> None:
        super().__init__(env)
        self._bytes = length
        high = np.append(np.ones(env.layout.width, np.float32), np.full(length, 255, np.float32))
        self.observation_space = Box(np.zeros_like(high), high)

    def reset(self) -> Any:
        return text_columns(super().reset(), self._bytes)

    def step_wait(self) -> Any:
        observation, reward, done, infos = super().step_wait()
        for slot in np.flatnonzero(done):
            last = infos[slot]["terminal_observation"]
            one = {"flat": last["flat"][None], "text": [last["text"]]}
            infos[slot]["terminal_observation"] = text_columns(one, self._bytes)[0]
        return text_columns(observation, self._bytes), reward, done, infos

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        return text_columns(super().restore(state), self._bytes)


def _longest(recording: Recording) -> int:
    """Bytes of the longest text that an observation may hold, at most."""
    prompts = max(len(prompt.encode()) for prompt in recording.tasks.prompts)
    return prompts + 1 + max((len(text.encode()) for text in recording.texts), default=0)
