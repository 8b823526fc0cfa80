"""What every policy offers: stable-baselines3's ``predict`` on batches, with masks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Policy"]


class Policy(Protocol):
    """Observation -> action."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Choose one action for each of N episodes.

        Args:
            observation: a batch of observations, float32 (N, width) for the flat form.
            state: what the last call returned; None at the very start.
            episode_start: bool (N,), which episodes are at their first step; with None all are if `state` is
                None.
            deterministic: take the best action rather than a random one, where the policy knows both.
            action_masks: bool (N, n_actions), which actions are legal.

        Returns:
            (actions int64 (N,), state to pass to the next call).
        """
        ...
