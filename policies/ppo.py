"""PPO with action masks on a batch routing environment, by sb3-contrib.

Paper: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347; masks as in Huang and Ontañón,
arXiv 2006.14171. Deviations: none in the algorithm; large batches of short episodes and few epochs (hyperparameters/).
"""

from __future__ import annotations

from typing import Any

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import MissingExtraError
from routegym.policies.config import PPOConfig
from routegym.policies.network import NetworkPolicy, NetworkSpec

try:
    import torch as th
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise MissingExtraError("sb3-contrib", "train") from error

from routegym.core.sb3 import SB3RoutingVecEnv

__all__ = ["network_of", "train_ppo"]


def train_ppo(env: RoutingVectorEnv, config: PPOConfig, seed: int, callback: BaseCallback | None = None) -> MaskablePPO:
    """Train MaskablePPO on the CPU; same seed and number of threads, same weights.

    Args:
        env: flat observations, SAME_STEP resets.
        config: hyperparameters.
        seed: of the initial weights, the actions and the environment.
        callback: a stable-baselines3 callback.
    """
    model = MaskablePPO(
        "MlpPolicy",
        SB3RoutingVecEnv(env),
        learning_rate=_linear(config.learning_rate),
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"net_arch": list(config.hidden), "activation_fn": th.nn.Tanh},
        seed=seed,
        device="cpu",
    )
    return model.learn(config.steps, callback=callback)


def network_of(model: MaskablePPO, env: RoutingVectorEnv) -> NetworkPolicy:
    """The policy part of a trained model."""
    hidden = tuple(model.policy_kwargs["net_arch"])
    network = NetworkPolicy(NetworkSpec(env.layout.names, env.recording.action_names, hidden))
    trained = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    for mine, theirs in zip(network.layers, trained, strict=True):
        mine.load_state_dict(theirs.state_dict())
    return network.eval()


def _linear(initial: float) -> Any:
    """A learning rate that falls linearly to zero."""

    def rate(remaining: float) -> float:
        return initial * remaining

    return rate
