"""The environment that learners play in: episodes in which part of what a task's text says is another task's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies.checks import check_not_negative

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["TrainingEnv"]

_LEVELS = 2**16


class TrainingEnv(RoutingVectorEnv):
    """Shows some columns of tasks' embeddings as those of other tasks, so that few tasks are not learned by heart.

    Swap noise (the corruption of Bahri et al., "SCARF", arXiv 2106.15147): a column is replaced by that of a task drawn
    at random, with probability ``embedding_prior / (embedding_prior + tasks)``. That is as many tasks that say nothing
    as `embedding_prior`; noise on the features of a linear model is a ridge penalty (Bishop, "Training with Noise is
    Equivalent to Tikhonov Regularization", 1995), whose weight then does not depend on the number of tasks.

    Args:
        num_envs, recording: see `RoutingVectorEnv`.
        embedding_prior: tasks' worth of caution, >= 0 and finite; 0 shows every task as it is.
        observation: ``flat`` where there is caution; any form of `RoutingVectorEnv` without.
        options: further arguments of `RoutingVectorEnv`.

    Raises:
        ConfigError: `embedding_prior` is none, or does not go with this form of observations.
    """

    def __init__(
        self,
        num_envs: int,
        recording: Recording,
        *,
        embedding_prior: float,
        observation: Any = "flat",
        **options: Any,
    ) -> None:
        self.embedding_prior = embedding_prior
        check_not_negative(self, "embedding_prior")
        if embedding_prior and observation != "flat":
            raise ConfigError(
                f"observation = {observation!r} with embedding_prior = {embedding_prior}; only flat observations are "
                "shown with other tasks' columns: take embedding_prior = 0"
            )
        super().__init__(num_envs, recording, observation=observation, **options)
        self._embedding = self.layout.columns["task"]
        self._values = self.recording.tasks.embedding[self.tasks]
        share = embedding_prior / (embedding_prior + len(self.tasks)) if self._values.size else 0.0
        self._swapped_below = round(share * _LEVELS)
        self._draws = 0  # so far since the seed was given

    def swap(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Put in other tasks' columns, in place, into observations float32 (n, width); each call draws anew."""
        if self._swapped_below:
            generator = np.random.default_rng((int(self._slots.key[0]), self._draws))
            self._draws += 1
            embedding = observation[:, self._embedding]
            drawn = generator.integers(_LEVELS, size=embedding.shape, dtype=np.uint16)
            row, column = np.nonzero(drawn < self._swapped_below)
            other = generator.integers(len(self._values), size=len(row))
            embedding[row, column] = self._values[other, column]
        return observation

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start fresh episodes; see `RoutingVectorEnv.reset`.

        Which columns are swapped is drawn for all slots together: unlike the rest of an episode, it depends on the
        seed of the first slot and on how many there are.
        """
        drawn = self._draws
        if seed is not None:
            self._draws = 0
        try:
            return super().reset(seed=seed, options=options)
        except Exception:
            self._draws = drawn  # a reset that is refused changes nothing
            raise

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See `RoutingVectorEnv.state`; ``swaps`` (1,) says how often columns were drawn."""
        return super().state() | {"swaps": np.array([self._draws])}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Go on where `state` was taken, and return the observation with the same columns swapped."""
        if "swaps" not in state:
            raise ConfigError("state without 'swaps'; expected one that a TrainingEnv gave")
        self._draws = max(int(state["swaps"][0]) - 1, 0)  # what was shown last is shown again
        return super().restore({name: array for name, array in state.items() if name != "swaps"})

    def _write(self, slots: npt.NDArray[Any], out: Any) -> Any:
        written = super()._write(slots, out)
        if self._swapped_below:
            out[slots] = self.swap(out[slots])
        return written
