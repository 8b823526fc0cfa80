"""The batch environment as a stable-baselines3 ``VecEnv``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, MissingExtraError

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError("stable_baselines3", "train") from error

__all__ = ["SB3RoutingVecEnv"]


class SB3RoutingVecEnv(VecEnv):
    """Adapter that adds no copy and no Python loop over episodes that go on.

    ``action_masks`` are there for sb3-contrib's MaskablePPO. The info of a finished episode has ``episode``
    (reward and length, as stable-baselines3's Monitor writes it), ``score`` and ``cost_usd_total``.

    Args:
        env: made with ``autoreset_mode=AutoresetMode.SAME_STEP`` and with copies.

    Raises:
        ConfigError: `env` resets in another mode, or overwrites its observations.
    """

    def __init__(self, env: RoutingVectorEnv) -> None:
        if env.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ConfigError(f"autoreset_mode = {env.autoreset_mode}; stable-baselines3 needs AutoresetMode.SAME_STEP")
        if env.reuses_buffers:
            raise ConfigError(
                "copy = False: stable-baselines3 keeps observations while it steps, and the next step would overwrite "
                "them; leave copy out"
            )
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._actions: npt.NDArray[Any] = np.zeros(env.num_envs, dtype=np.int64)
        self._return = np.zeros(env.num_envs)
        self._length = np.zeros(env.num_envs, dtype=np.int64)

    def reset(self) -> Any:
        """Start every episode, with the seeds of `seed` if it was called."""
        seeds: Any = self._seeds if any(s is not None for s in self._seeds) else None
        observation, info = self.env.reset(seed=seeds, options=self._options[0] or None)
        self.reset_infos = [{k: v[i] for k, v in info.items() if k[0] != "_"} for i in range(self.num_envs)]
        self._return[:] = 0
        self._length[:] = 0
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take note of the actions."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step every episode."""
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        done = terminated | truncated
        self._return += reward
        self._length += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            final = info["final_obs"]
            for slot in np.flatnonzero(done):
                infos[slot] = {
                    "terminal_observation": _row(final, int(slot)),
                    "TimeLimit.truncated": bool(truncated[slot] and not terminated[slot]),
                    "episode": {"r": float(self._return[slot]), "l": int(self._length[slot])},
                    "score": float(info["score"][slot]),
                    "cost_usd_total": float(info["cost_usd_total"][slot]),
                }
            self._return[done] = 0
            self._length[done] = 0
        return observation, reward.astype(np.float32), done, infos

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Which actions are legal now, bool (N, n_actions)."""
        return self.env.action_masks()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What decides how the episodes go on; see `RoutingVectorEnv.state`."""
        return self.env.state() | {"return": self._return.copy(), "length": self._length.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Go on where `state` was taken, and return the observation."""
        rest = dict(state)
        self._return[:], self._length[:] = rest.pop("return"), rest.pop("length")
        return self.env.restore(rest)

    def close(self) -> None:
        """Release the environment."""
        self.env.close()

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environment has this attribute."""
        return hasattr(self.env, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the environment, once for each index."""
        return [getattr(self.env, attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environment; its result holds one row per episode."""
        result = getattr(self.env, method_name)(*args, **kwargs)
        rows = self._indices(indices)
        return [result[i] for i in rows] if result is not None else [None] * len(rows)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Whether single environments are wrapped: they are not, except that episodes are monitored."""
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor] * len(self._indices(indices))

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """No pictures: routes render as text."""
        return [None] * self.num_envs

    def _indices(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)


def _row(observation: Any, slot: int) -> Any:
    if isinstance(observation, dict):
        return {name: part[slot] for name, part in observation.items()}
    return observation[slot]
