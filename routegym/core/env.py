"""One routing episode at a time: the batch environment at N = 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from routegym.core.vector_env import RoutingVectorEnv

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["RoutingEnv"]


class RoutingEnv(gym.Env[Any, Any]):
    """A `RoutingVectorEnv` of one episode with gymnasium's single-environment interface.

    Args:
        recording: name of a shipped recording, path of a recording folder, or a `Recording`; None takes the
            shipped recording of the env's family.
        render_mode: None, ``"ansi"``, ``"human"`` or ``"rgb_array"``.
        kwargs: see `RoutingVectorEnv`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 4}  # type: ignore[misc]

    vector_class: ClassVar[type[RoutingVectorEnv]] = RoutingVectorEnv
    """The batch environment behind it."""

    def __init__(
        self,
        recording: str | Path | Recording | None = None,
        *,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.vector = self.vector_class(
            1,
            recording,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,  # type: ignore[arg-type]
            **kwargs,
        )
        self.render_mode = render_mode
        self.recording, self.layout = self.vector.recording, self.vector.layout
        self.action_space = self.vector.single_action_space
        self.observation_space = self.vector.single_observation_space
        if hasattr(self.vector, "reward_space"):
            self.reward_space = self.vector.reward_space

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see `RoutingVectorEnv` for seed and options."""
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed, options=options)
        self._render_human()
        return self._first(observation), {k: _plain(v[0]) for k, v in info.items() if not k.startswith("_")}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one action; see `RoutingVectorEnv.step` for the errors."""
        observation, reward, terminated, truncated, info = self.vector.step([action])
        self._render_human()
        return (
            self._first(observation),
            float(reward[0]) if reward.ndim == 1 else reward[0],
            bool(terminated[0]),
            bool(truncated[0]),
            {key: _plain(value[0]) for key, value in info.items()},
        )

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are legal now, bool (n_actions,)."""
        return np.asarray(self.vector.action_masks()[0])

    def render(self) -> Any:
        """The route so far: a text (``ansi``), a picture (``rgb_array``), or printed at every step (``human``)."""
        routes = None if self.render_mode == "human" else self.vector.render()
        return routes[0] if routes else None

    def _render_human(self) -> None:
        if self.render_mode == "human":
            self.vector.render()

    def _first(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {name: part[0] for name, part in observation.items()}
        return observation[0]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
