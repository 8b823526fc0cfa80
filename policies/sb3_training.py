"""Training a model of stable-baselines3: metrics after every roll-out, checkpoints between two roll-outs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.errors import MissingExtraError
from routegym.policies.optimizers import optimizer_arrays, restore_optimizer
from routegym.policies.training import Arrays, Training, nested, pick

try:
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
except ImportError as error:
    raise MissingExtraError("stable_baselines3", "train") from error

__all__ = [
    "MetricsCallback",
    "generators",
    "learn",
    "linear",
    "optimizer_arrays",
    "restore_generators",
    "restore_optimizer",
]


def learn(model: OnPolicyAlgorithm, steps: int, seed: int, training: Training | None = None) -> None:
    """Train a model for `steps` environment steps in all, going on from the checkpoint of `training` if it has one.

    A subclass with more to remember than policy, optimiser and environment offers ``extra_arrays()`` and
    ``restore_extra(arrays)``.
    """
    training = training or Training()
    model.set_logger(Logger(None, []))  # by default stable-baselines3 makes a folder in the temporary one
    found = training.latest()
    if found is not None:
        _restore(model, *found)
    if model.num_timesteps < steps:
        callbacks: list[BaseCallback] = [MetricsCallback(training.report, seed), _Checkpoints(training)]
        model.learn(steps - model.num_timesteps, callback=callbacks, reset_num_timesteps=found is None)


def linear(initial: float) -> Any:
    """A learning rate that falls linearly to zero."""

    def rate(remaining: float) -> float:
        return initial * remaining

    return rate


class MetricsCallback(BaseCallback):
    """Reports after roll-outs of any model of stable-baselines3 on environments of routegym.

    A record holds: global step, seed, steps per second, and over the episodes that ended since the last one: how many,
    mean score, mean cost (USD), mean return; the share of calls of each action; and the losses of the last update.

    Args:
        report: takes a record, such as `routegym.tracking.Tracking.report`.
        seed: names the training.
        every: environment steps between two records at least; for models whose roll-outs are short, such as DQN.
    """

    def __init__(self, report: Callable[[Mapping[str, Any]], None], seed: int = 0, every: int = 1) -> None:
        super().__init__()
        self._report, self._seed, self._every = report, seed, every

    def _on_training_start(self) -> None:
        self._began, self._steps_before = time.monotonic(), self.num_timesteps
        self._losses: dict[str, float] = {}
        self._forget()

    def _on_step(self) -> bool:
        self._calls += np.bincount(self.locals["actions"].reshape(-1), minlength=len(self._calls))
        infos = self.locals["infos"]
        for slot in np.flatnonzero(self.locals["dones"]):
            info = infos[slot]
            reward = info["episode"]["r"] if "episode" in info else np.nan  # only where something monitors episodes
            self._episodes.append((info["score"], info["cost_usd_total"], reward))
        return True

    def _on_rollout_start(self) -> None:
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/"):  # DQN and others clear them during a roll-out
                self._losses[name.removeprefix("train/")] = float(value)

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._reported >= self._every:
            self._tell()

    def _on_training_end(self) -> None:
        if self.num_timesteps > self._reported:
            self._tell()

    def _tell(self) -> None:
        ended = np.array(self._episodes).reshape(-1, 3)
        ended = ended[~np.isnan(ended[:, 0])]  # a live call that failed is no score
        score, cost, reward = ended.mean(axis=0).tolist() if len(ended) else (None, None, None)
        seconds = max(time.monotonic() - self._began, 1e-9)
        self._report(
            {
                "step": self.num_timesteps,
                "seed": self._seed,
                "steps_per_second": round((self.num_timesteps - self._steps_before) / seconds),
                "episodes": len(ended),
                "score": score,
                "cost_usd": cost,
                "return": reward,
                "shares": (self._calls / self._calls.sum()).round(4).tolist(),
                **self._losses,
            }
        )
        self._forget()

    def _forget(self) -> None:
        self._reported = self.num_timesteps
        self._episodes: list[tuple[float, float, float]] = []
        self._calls = np.zeros(self.training_env.action_space.n, dtype=np.int64)  # type: ignore[attr-defined]


class _Checkpoints(BaseCallback):
    """Keeps a checkpoint before a roll-out, when nothing is half done."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training

    def _on_rollout_start(self) -> None:
        if self._training.due and self.num_timesteps:
            self._training.save(self.num_timesteps, *_state(self.model))  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True


def _state(model: OnPolicyAlgorithm) -> tuple[dict[str, Any], Arrays]:
    assert isinstance(model.env, SB3RoutingVecEnv)
    arrays = {
        **nested("policy", {name: tensor.numpy() for name, tensor in model.policy.state_dict().items()}),
        **nested("optimizer", optimizer_arrays(model.policy.optimizer)),
        **nested("env", model.env.state()),
        **nested("generators", generators()),
        "last_obs": np.asarray(model._last_obs),
        "last_episode_starts": np.asarray(model._last_episode_starts),
    }
    if hasattr(model, "extra_arrays"):
        arrays |= nested("extra", model.extra_arrays())
    return {"num_timesteps": model.num_timesteps, "n_updates": model._n_updates}, arrays


def _restore(model: OnPolicyAlgorithm, settings: dict[str, Any], arrays: Arrays) -> None:
    assert isinstance(model.env, SB3RoutingVecEnv)
    model.env.seed(0)
    model.env.reset()
    model.env.restore(pick("env", arrays))
    model.policy.load_state_dict({name: th.as_tensor(a) for name, a in pick("policy", arrays).items()})
    restore_optimizer(model.policy.optimizer, pick("optimizer", arrays))
    model.num_timesteps, model._n_updates = int(settings["num_timesteps"]), int(settings["n_updates"])
    model._last_obs, model._last_episode_starts = arrays["last_obs"], arrays["last_episode_starts"]
    if hasattr(model, "restore_extra"):
        model.restore_extra(pick("extra", arrays))
    restore_generators(pick("generators", arrays))  # last: nothing may draw from them after this


def generators() -> Arrays:
    """The states of the global generators that stable-baselines3 draws from: torch's and numpy's."""
    _, key, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 it is the one in use
    return {
        "torch": th.get_rng_state().numpy(),
        "numpy": np.asarray(key),
        "numpy_rest": np.array([position, has_gauss, gauss], dtype=np.float64),
    }


def restore_generators(arrays: Arrays) -> None:
    """The inverse of `generators`."""
    th.set_rng_state(th.as_tensor(arrays["torch"]))
    position, has_gauss, gauss = arrays["numpy_rest"].tolist()
    np.random.set_state(("MT19937", arrays["numpy"], int(position), int(has_gauss), gauss))  # noqa: NPY002
