"""PPO on a batch routing environment, by stable-baselines3 and sb3-contrib: plain, with masks, with memory.

Paper: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347; masks as in Huang and Ontañón, "A
Closer Look at Invalid Action Masking in Policy Gradient Algorithms", arXiv 2006.14171.
Deviations: none in the algorithms; rewards are divided by 1 + lambda, so that every price counts alike. Large batches
of short episodes and few epochs (hyperparameters/). All three variants mask by the observation; in the recurrent one
the head sees the observation beside the LSTM's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.actor_critic import ActorCritic, MaskableActorCritic, RecurrentActorCritic
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_not_negative, check_positive, check_widths
from routegym.policies.network import NetworkPolicy
from routegym.policies.recurrent import RecurrentPolicy
from routegym.policies.sb3_training import learn, linear
from routegym.policies.training import Arrays, Training

try:
    import sb3_contrib
    import stable_baselines3
    import torch as th
    from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
    from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
except ImportError as error:
    raise MissingExtraError("sb3-contrib", "train") from error

__all__ = ["PPO", "MaskablePPO", "PPOParameters", "RecurrentPPO"]


@dataclass(frozen=True)
class PPOParameters:
    """Hyperparameters of PPO."""

    steps: int = 500_000
    """Environment steps in all."""
    n_envs: int = 512
    """Episodes played side by side."""
    n_steps: int = 16
    """Steps of each episode between two updates."""
    batch_size: int = 2048
    """Transitions in a minibatch."""
    n_epochs: int = 4
    """Passes over the collected transitions."""
    learning_rate: float = 2e-3
    """At the start; it falls linearly to zero."""
    gamma: float = 1.0
    """Discount: episodes are short and end by themselves."""
    gae_lambda: float = 0.95
    """Trace of generalised advantage estimation."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.005
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    embedding_prior: float = 300.0
    """Tasks' worth of caution about the text, against learning few tasks by heart: see `TrainingEnv`."""
    network: str = "mlp"
    """A key of `routegym.policies.networks.NETWORKS`."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, for policy and value each."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "n_envs", "n_steps", "batch_size", "n_epochs", "learning_rate")
        if (self.n_envs * self.n_steps) % self.batch_size:
            raise ConfigError(
                f"batch_size = {self.batch_size} does not divide n_envs x n_steps = {self.n_envs * self.n_steps}; "
                "choose a divisor"
            )
        check_not_negative(self, "embedding_prior")
        check_widths(self.hidden)

    def arguments(self, problem: Problem, seed: int, **of_env: Any) -> dict[str, Any]:
        """What every PPO of stable-baselines3 takes; `of_env` are further arguments of the environment."""
        names = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "clip_range", "ent_coef", "vf_coef")
        return {
            "env": SB3RoutingVecEnv(problem.env(self.n_envs, embedding_prior=self.embedding_prior, **of_env)),
            "learning_rate": linear(self.learning_rate),
            "max_grad_norm": self.max_grad_norm,
            "policy_kwargs": {"recording": problem.recording, "network": self.network, "hidden": self.hidden},
            "seed": seed,
            "device": "cpu",
            **{name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True)
class PPO(PPOParameters):
    """PPO (stable-baselines3); the actor masks by what it observes."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        model = stable_baselines3.PPO(ActorCritic, **self.arguments(problem, seed))
        learn(model, self.steps, seed, training)
        return cast(ActorCritic, model.policy).to_network_policy()


@dataclass(frozen=True)
class MaskablePPO(PPOParameters):
    """PPO with action masks (sb3-contrib)."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        model = sb3_contrib.MaskablePPO(MaskableActorCritic, **self.arguments(problem, seed))
        learn(model, self.steps, seed, training)
        return cast(MaskableActorCritic, model.policy).to_network_policy()


@dataclass(frozen=True)
class RecurrentPPO(PPOParameters):
    """PPO with an LSTM (sb3-contrib): sees what earlier observations of the episode showed, too."""

    lstm_units: int = 32
    """Width of the memory, for policy and value each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lstm_units < 1:
            raise ConfigError(f"lstm_units = {self.lstm_units}; expected an integer >= 1")
        if self.network != "mlp":
            raise ConfigError(f"network = {self.network!r}; recurrent_ppo has one of its own: leave network out")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> RecurrentPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        arguments = self.arguments(problem, seed)
        arguments["policy_kwargs"]["lstm_hidden_size"] = self.lstm_units
        model = _RecurrentModel(RecurrentActorCritic, **arguments)
        learn(model, self.steps, seed, training)
        return cast(RecurrentActorCritic, model.policy).to_recurrent_policy()


class _RecurrentModel(sb3_contrib.RecurrentPPO):
    """Pads minibatches in one go, and keeps the memory of the episodes that go on in its checkpoints."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.rollout_buffer = PaddedBuffer(
            self.n_steps,
            self.observation_space,
            self.action_space,
            (self.n_steps, 1, self.n_envs, cast(RecurrentActorCritic, self.policy).lstm_actor.hidden_size),
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
        )

    def extra_arrays(self) -> Arrays:
        return {f"{who}/{i}": state.numpy() for who in ("pi", "vf") for i, state in enumerate(self._memory(who))}

    def restore_extra(self, arrays: Arrays) -> None:
        memories = [(th.as_tensor(arrays[f"{who}/0"]), th.as_tensor(arrays[f"{who}/1"])) for who in ("pi", "vf")]
        self._last_lstm_states: Any = RNNStates(*memories)

    def _memory(self, who: str) -> tuple[th.Tensor, ...]:
        states: tuple[th.Tensor, ...] = getattr(self._last_lstm_states, who)
        return states


class PaddedBuffer(RecurrentRolloutBuffer):
    """sb3-contrib's buffer with the loop over the sequences of a minibatch replaced by indexing."""

    def _get_samples(  # type: ignore[override]
        self, batch_inds: npt.NDArray[Any], env_change: npt.NDArray[Any], env: Any = None
    ) -> RecurrentRolloutBufferSamples:
        starts = np.logical_or(self.episode_starts[batch_inds], env_change[batch_inds]).flatten()
        starts[0] = True
        first = np.flatnonzero(starts)
        sequence = np.cumsum(starts) - 1
        position = np.arange(len(starts)) - first[sequence]
        length = int(position.max()) + 1
        place = sequence * length + position

        def padded(rows: npt.NDArray[Any]) -> th.Tensor:
            blank = np.zeros((len(first) * length, *rows.shape[1:]), dtype=np.float32)
            blank[place] = rows
            return th.from_numpy(blank)

        def memory(*states: npt.NDArray[Any]) -> tuple[th.Tensor, ...]:
            return tuple(th.from_numpy(state[batch_inds[first]].swapaxes(0, 1).copy()) for state in states)

        return RecurrentRolloutBufferSamples(
            observations=padded(self.observations[batch_inds]),
            actions=padded(self.actions[batch_inds]),
            old_values=padded(self.values[batch_inds]).flatten(),
            old_log_prob=padded(self.log_probs[batch_inds]).flatten(),
            advantages=padded(self.advantages[batch_inds]).flatten(),
            returns=padded(self.returns[batch_inds]).flatten(),
            lstm_states=RNNStates(
                memory(self.hidden_states_pi, self.cell_states_pi), memory(self.hidden_states_vf, self.cell_states_vf)
            ),
            episode_starts=padded(self.episode_starts[batch_inds]).flatten(),
            mask=padded(np.ones(len(batch_inds))),
        )
