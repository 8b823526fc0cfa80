"""What a training run reports while it learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from routegym.errors import MissingExtraError

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise MissingExtraError("stable_baselines3", "train") from error

__all__ = ["MetricsCallback"]


class MetricsCallback(BaseCallback):
    """Hands one record of metrics to `report` after every roll-out.

    A record holds: global step, seed, steps per second, and over the episodes that ended in the roll-out: how many,
    mean score, mean cost (USD), mean return; the share of calls of each arm; and the losses of the last update.

    Args:
        report: is given each record.
        seed: of the training.
    """

    def __init__(self, report: Callable[[Mapping[str, Any]], None], seed: int) -> None:
        super().__init__()
        self._report, self._seed = report, seed
        self._began = 0.0

    def _on_training_start(self) -> None:
        self._began = time.monotonic()

    def _on_rollout_start(self) -> None:
        self._episodes: list[tuple[float, float, float]] = []
        self._calls = np.zeros(self.training_env.action_space.n, dtype=np.int64)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self._calls += np.bincount(self.locals["actions"].reshape(-1), minlength=len(self._calls))
        infos = self.locals["infos"]
        for slot in np.flatnonzero(self.locals["dones"]):
            info = infos[slot]
            self._episodes.append((info["score"], info["cost_usd_total"], info["episode"]["r"]))
        return True

    def _on_rollout_end(self) -> None:
        ended = np.array(self._episodes).reshape(-1, 3)
        score, cost, reward = ended.mean(axis=0).tolist() if len(ended) else (None, None, None)
        losses = {
            name.removeprefix("train/"): float(value)
            for name, value in self.logger.name_to_value.items()
            if name.startswith("train/")
        }
        self._report(
            {
                "step": self.num_timesteps,
                "seed": self._seed,
                "steps_per_second": round(self.num_timesteps / max(time.monotonic() - self._began, 1e-9)),
                "episodes": len(ended),
                "score": score,
                "cost_usd": cost,
                "return": reward,
                "shares": (self._calls / self._calls.sum()).round(4).tolist(),
                **losses,
            }
        )
