"""Policy gradients without a critic, from groups of episodes with the same task, budget and price of cost.

Papers: Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", arXiv
2402.03300 (GRPO); Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", arXiv 2503.20783 (Dr.
GRPO, ``scale="none"``); Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL
Optimization", arXiv 2601.05242 (``scale="per_term"``); Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style
Optimization for Learning from Human Feedback in LLMs", arXiv 2402.14740 (RLOO).
Deviations: an episode is a route and its steps are calls, not tokens; the loss is the mean over all steps of a batch,
so that a longer route weighs more (GRPO's paper takes the mean of each answer first); the policy is small and masked,
with an entropy bonus; rewards are divided by 1 + lambda, so that every price counts alike; RLOO makes clipped updates
in minibatches as GRPO does, where its paper makes one step on all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from pydantic import InstanceOf

from routegym.core.observation import ObservationLayout
from routegym.core.sb3 import SB3RoutingVecEnv
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, MissingExtraError
from routegym.graph.recording import Recording
from routegym.policies.actor_critic import ActorCritic
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_not_negative, check_positive, check_widths
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor
from routegym.policies.sb3_training import learn, linear
from routegym.policies.training import Training

try:
    import torch as th
    from stable_baselines3.common.buffers import RolloutBuffer
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.type_aliases import RolloutBufferSamples
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError("stable_baselines3", "train") from error

__all__ = [
    "GRPO",
    "RLOO",
    "Episodes",
    "GroupAlgorithm",
    "empty_episodes",
    "grpo_advantages",
    "k3",
    "play",
    "rloo_advantages",
    "without_failures",
]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
Scale = Literal["std", "none", "per_term"]

_EPS = 1e-4


class Episodes(NamedTuple):
    """What came of a batch of episodes, (n,) each; those of a group stand together."""

    task: _Ints
    score: _Floats
    """Graded score in [0, 1]."""
    cost_usd: _Floats
    budget_usd: _Floats
    lambda_: _Floats


class Step(NamedTuple):
    """One step of the episodes that still go on, (m,) each."""

    slots: _Ints
    observation: npt.NDArray[np.float32]  # (m, width)
    actions: _Ints
    log_probs: npt.NDArray[np.float32]
    ended: npt.NDArray[np.bool_]
    length: int
    """Steps made so far, this one included."""


#: Observations (m, width) and their slots -> actions and the log-probabilities they were drawn with.
Act = Callable[[npt.NDArray[np.float32], _Ints], tuple[_Ints, npt.NDArray[np.float32]]]
#: Episodes of whole groups -> the advantage of each, float64 (n,).
Advantages = Callable[[Episodes], _Floats]


def play(
    env: RoutingVectorEnv, act: Act, seed: int, group_size: int, episodes: Episodes | None = None
) -> Iterator[Step]:
    """Play one whole episode in every slot, in groups of the same task, budget and lambda.

    Args:
        env: with ``info="lean"`` or more; any autoreset mode. It is reset.
        act: chooses for the episodes that still go on.
        seed: fixes tasks, budgets, lambdas and responses.
        group_size: a divisor of `env.num_envs`.
        episodes: is filled, see `empty_episodes`.
    """
    mode, env.autoreset_mode = env.autoreset_mode, AutoresetMode.DISABLED  # who has finished asks nobody anything
    try:
        # A seed at every reset makes the episode counters of a group equal, and with them the tasks.
        observation, _ = env.reset(seed=seed, options={"group_size": group_size})
        if episodes is not None:
            episodes.task[:] = env.recording.graph.node_task[env.node]
            episodes.budget_usd[:] = env.ledger.budget_usd
            episodes.lambda_[:] = env.lambda_
        slots, length = np.arange(env.num_envs), 0
        everyone = np.zeros(env.num_envs, dtype=np.int64)
        while len(slots):
            rows = observation[slots]
            actions, log_probs = act(rows, slots)
            everyone[slots] = actions
            observation, _, terminated, truncated, info = env.step(everyone)
            length += 1
            ended = (terminated | truncated)[slots]
            over = slots[ended]
            if episodes is not None:
                episodes.score[over] = info["score"][over]  # NaN where a live call failed
                episodes.cost_usd[over] = info["cost_usd_total"][over]
            yield Step(slots, rows, actions, log_probs, ended, length)
            slots = slots[~ended]
    finally:
        env.autoreset_mode = mode


def empty_episodes(n: int) -> Episodes:
    """Room for the results of `play`."""
    return Episodes(np.zeros(n, dtype=np.int64), *(np.zeros(n) for _ in range(4)))


def without_failures(episodes: Episodes, group_size: int) -> Episodes:
    """Episodes whose live call failed get the mean score and cost of the rest of their group: an advantage of 0."""
    failed = np.isnan(episodes.score).reshape(-1, group_size)
    if not failed.any():
        return episodes
    rest = np.maximum((~failed).sum(axis=1, keepdims=True), 1)

    def filled(values: _Floats) -> _Floats:
        grouped = values.reshape(failed.shape)
        mean = np.where(failed, 0.0, grouped).sum(axis=1, keepdims=True) / rest
        return np.where(failed, mean, grouped).reshape(-1)

    return episodes._replace(score=filled(episodes.score), cost_usd=filled(episodes.cost_usd))


# -- advantages --------------------------------------------------------------------------------
def grpo_advantages(
    score: npt.ArrayLike, cost: npt.ArrayLike, lambda_: npt.ArrayLike, group_size: int, scale: Scale = "std"
) -> _Floats:
    """Advantages of groups of episodes, float64 (n,).

    With R = score - lambda * cost and mean, std over the group (std of the population):

    - ``std``: ``(R - mean) / (std + 1e-4)`` (GRPO),
    - ``none``: ``R - mean`` (Dr. GRPO),
    - ``per_term``: ``z(score) - lambda * z(cost)``, z as in ``std`` on each term alone, then the same over the whole
      batch (GDPO).

    Args:
        score: graded scores, (n,).
        cost: over the recording's cost scale, (n,).
        lambda_: price of cost, equal inside a group, (n,).
        group_size: episodes of a group stand together; divides n.
        scale: see above.
    """
    score, cost, lambda_ = (np.asarray(a, dtype=np.float64).reshape(-1, group_size) for a in (score, cost, lambda_))
    if scale == "per_term":
        mixed = _standardised(score) - lambda_ * _standardised(cost)
        return _standardised(mixed.reshape(1, -1)).reshape(-1)
    reward = score - lambda_ * cost
    if scale == "none":
        return np.asarray((reward - reward.mean(axis=1, keepdims=True)).reshape(-1))
    return _standardised(reward).reshape(-1)


def rloo_advantages(score: npt.ArrayLike, cost: npt.ArrayLike, lambda_: npt.ArrayLike, group_size: int) -> _Floats:
    """``R_i`` less the mean of the others in its group, R as in `grpo_advantages`; float64 (n,)."""
    score, cost, lambda_ = (np.asarray(a, dtype=np.float64).reshape(-1, group_size) for a in (score, cost, lambda_))
    reward = score - lambda_ * cost
    others = (reward.sum(axis=1, keepdims=True) - reward) / (group_size - 1)
    return np.asarray((reward - others).reshape(-1))


def _standardised(values: _Floats) -> _Floats:
    """Rows with mean 0 and deviation (almost) 1."""
    return np.asarray((values - values.mean(axis=1, keepdims=True)) / (values.std(axis=1, keepdims=True) + _EPS))


def _weighted(of: Episodes, cost_scale_usd: float) -> tuple[_Floats, _Floats, _Floats]:
    """Score, cost and lambda whose ``score - lambda * cost`` is `routegym.core.reward.weighted_sum` of the episode."""
    weight = 1.0 / (1.0 + of.lambda_)
    return of.score * weight, of.cost_usd / cost_scale_usd * weight, of.lambda_


def k3(log_prob: th.Tensor, reference: th.Tensor) -> th.Tensor:
    """Estimate of KL(policy || reference) from the log-probabilities of sampled actions; never negative.

    ``exp(d) - d - 1`` with d = reference - log_prob: Schulman, "Approximating KL Divergence", 2020, as GRPO uses it.
    """
    d = reference - log_prob
    return d.exp() - d - 1


# -- the model ---------------------------------------------------------------------------------
class _EpisodeBuffer(RolloutBuffer):
    """Steps of whole episodes of any length, with one advantage per episode."""

    def reset(self) -> None:
        """Forget everything."""
        self._steps: list[Step] = []
        super().reset()

    def append(self, step: Step) -> None:
        """Add a step of some episodes."""
        self._steps.append(step)

    def finish(self, advantages: _Floats) -> None:
        """Give every step the advantage of its episode, (slots,); call it once all episodes have ended."""

        def joined(name: str) -> th.Tensor:
            return th.as_tensor(np.concatenate([getattr(step, name) for step in self._steps]))

        self._observation, self._actions, self._log_probs = (
            joined("observation"),
            joined("actions"),
            joined("log_probs"),
        )
        self._advantages = th.as_tensor(advantages, dtype=th.float32)[joined("slots")]
        self._steps = []

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Minibatches of about `batch_size` steps in a random order; old values and returns are not known."""
        n = len(self._actions)
        for rows in th.randperm(n).tensor_split(max(1, round(n / (batch_size or n)))):
            advantages = self._advantages[rows]
            yield RolloutBufferSamples(
                self._observation[rows], self._actions[rows], advantages, self._log_probs[rows], advantages, advantages
            )


class _GroupModel(OnPolicyAlgorithm):
    """A model of stable-baselines3 that plays groups of whole episodes and makes clipped updates without a critic.

    Args:
        env: its number of episodes is a multiple of `group_size`.
        advantages: says how much better than expected each episode of the groups was.
        reference: gives logits that the policy is kept near; needed if `kl_coef` is not 0.
    """

    policy: ActorCritic
    rollout_buffer: _EpisodeBuffer

    def __init__(
        self,
        env: SB3RoutingVecEnv,
        *,
        advantages: Advantages,
        group_size: int,
        batch_size: int,
        n_epochs: int,
        clip_range: float,
        kl_coef: float,
        **arguments: Any,
    ) -> None:
        super().__init__(
            ActorCritic,
            env,
            n_steps=1,
            gamma=1.0,
            gae_lambda=1.0,
            vf_coef=0.0,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=_EpisodeBuffer,
            device="cpu",
            **arguments,
        )
        self.advantages, self.group_size = advantages, group_size
        self.batch_size, self.n_epochs, self.clip_range, self.kl_coef = batch_size, n_epochs, clip_range, kl_coef
        self.reference: Actor | None = None

    @property
    def actor(self) -> Actor:
        """Observations -> masked logits."""
        actor: Actor = self.policy.mlp_extractor.actor
        return actor

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play one episode in every slot; callbacks see only the episodes that still go on.

        In the callback's locals ``actions``, ``dones`` and ``infos`` have one entry for each of those.
        """
        assert isinstance(env, SB3RoutingVecEnv)
        assert isinstance(rollout_buffer, _EpisodeBuffer)
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        episodes = empty_episodes(env.num_envs)
        seed = int(th.randint(2**62, ()))
        for step in play(env.env, self._act, seed, self.group_size, episodes):
            rollout_buffer.append(step)
            self.num_timesteps += len(step.slots)
            actions, dones = step.actions, step.ended
            infos: list[dict[str, Any]] = [{} for _ in step.slots]
            score, cost, lambda_ = _weighted(episodes, env.env.recording.cost_scale_usd)
            returns = score - lambda_ * cost
            for row in np.flatnonzero(dones):
                slot = step.slots[row]
                infos[row] = {
                    "episode": {"r": float(returns[slot]), "l": step.length},
                    "score": float(episodes.score[slot]),
                    "cost_usd_total": float(episodes.cost_usd[slot]),
                }
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
        rollout_buffer.finish(self.advantages(without_failures(episodes, self.group_size)))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _act(self, observation: npt.NDArray[np.float32], slots: _Ints) -> tuple[_Ints, npt.NDArray[np.float32]]:
        with th.no_grad():
            log_probs = self.actor(th.as_tensor(observation)).log_softmax(dim=-1)
            noise = th.empty_like(log_probs).exponential_().log_()
            actions = (log_probs - noise).argmax(dim=-1)  # a sample, by the Gumbel-max trick
            chosen = log_probs.gather(1, actions[:, None])[:, 0]
        return actions.numpy(), chosen.numpy()

    def train(self) -> None:
        """Make the clipped updates on the episodes just played."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        parameters = list(self.actor.parameters())
        sums = dict.fromkeys(("policy_loss", "entropy", "approx_kl", "clip_fraction", "reference_kl"), 0.0)
        updates = 0
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                logits = self.actor(batch.observations).log_softmax(dim=-1)
                log_prob = logits.gather(1, batch.actions[:, None])[:, 0]
                ratio = (log_prob - batch.old_log_prob).exp()
                clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
                policy_loss = -th.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()
                entropy = -(logits.exp() * logits).sum(dim=-1).mean()
                loss = policy_loss - self.ent_coef * entropy
                if self.reference is not None:
                    with th.no_grad():
                        theirs = self.reference(batch.observations).log_softmax(dim=-1)
                    reference_kl = k3(log_prob, theirs.gather(1, batch.actions[:, None])[:, 0]).mean()
                    loss = loss + self.kl_coef * reference_kl
                    sums["reference_kl"] += reference_kl.item()
                self.policy.optimizer.zero_grad()
                loss.backward()
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
                updates += 1
                with th.no_grad():
                    sums["policy_loss"] += policy_loss.item()
                    sums["entropy"] += entropy.item()
                    sums["approx_kl"] += k3(batch.old_log_prob, log_prob).mean().item()
                    sums["clip_fraction"] += ((ratio - 1).abs() > self.clip_range).float().mean().item()
        self._n_updates += self.n_epochs
        for name, total in sums.items():
            if name != "reference_kl" or self.reference is not None:
                self.logger.record(f"train/{name}", total / updates)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


# -- algorithms --------------------------------------------------------------------------------
@dataclass(frozen=True)
class GroupAlgorithm:
    """Hyperparameters of what learns from groups of episodes."""

    steps: int = 1_000_000
    """Environment steps in all."""
    n_envs: int = 1024
    """Episodes between two updates."""
    group_size: int = 8
    """Episodes with the same task, budget and lambda."""
    batch_size: int = 2048
    """Transitions in a minibatch, about."""
    n_epochs: int = 4
    """Passes over the collected transitions."""
    learning_rate: float = 3e-3
    """At the start; it falls linearly to zero."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.002
    """Weight of the entropy bonus."""
    kl_coef: float = 0.0
    """Weight of the divergence from the reference."""
    reference: InstanceOf[NetworkPolicy] | None = None
    """Policy to stay near; None takes the one that training starts from."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    embedding_prior: float = 300.0
    """Tasks' worth of caution about the text, against learning few tasks by heart: see `TrainingEnv`."""
    network: str = "mlp"
    """A key of `routegym.policies.networks.NETWORKS`."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        check_positive(
            self, "steps", "n_envs", "batch_size", "n_epochs", "learning_rate", "clip_range", "max_grad_norm"
        )
        check_not_negative(self, "ent_coef", "kl_coef", "embedding_prior")
        if self.group_size < 2:
            raise ConfigError(f"group_size = {self.group_size}; expected at least 2 episodes to compare")
        if self.n_envs % self.group_size:
            raise ConfigError(
                f"group_size = {self.group_size} does not divide n_envs = {self.n_envs}; choose a divisor, or make "
                f"n_envs {-(-self.n_envs // self.group_size) * self.group_size}"
            )
        check_widths(self.hidden)

    def train(
        self,
        problem: Problem,
        seed: int,
        training: Training | None,
        advantages: Advantages,
        start: Actor | None = None,
    ) -> NetworkPolicy:
        """Train on the CPU.

        Args:
            problem, seed, training: see `routegym.policies.algorithm.Algorithm`.
            advantages: of the episodes of whole groups.
            start: weights to start from; fresh ones without.
        """
        names = ("group_size", "batch_size", "n_epochs", "clip_range", "ent_coef", "kl_coef", "max_grad_norm")
        model = _GroupModel(
            SB3RoutingVecEnv(problem.env(self.n_envs, embedding_prior=self.embedding_prior)),
            advantages=advantages,
            learning_rate=linear(self.learning_rate),
            policy_kwargs={"recording": problem.recording, "network": self.network, "hidden": self.hidden},
            seed=seed,
            **{name: getattr(self, name) for name in names},
        )
        if start is not None:
            model.actor.load_state_dict(start.state_dict())
        if self.kl_coef:
            model.reference = deepcopy(model.actor) if self.reference is None else self.reference.actor
            _check_reference(model.reference, problem.recording)
        learn(model, self.steps, seed, training)
        return model.policy.to_network_policy()


def _check_reference(reference: Actor, recording: Recording) -> None:
    layout = ObservationLayout.of(recording)
    try:
        with th.no_grad():
            width: object = reference(th.ones(1, layout.width)).shape[1]
    except RuntimeError as error:
        width = error
    if width != len(layout.action_names):
        raise ConfigError(
            f"reference does not take the {layout.width} columns and {len(layout.action_names)} actions of recording "
            f"{recording.name!r} ({width}); give a policy trained on it"
        )


@dataclass(frozen=True)
class GRPO(GroupAlgorithm):
    """Group-relative policy optimisation."""

    scale: Scale = "std"
    """How advantages are scaled, see `grpo_advantages`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in ("std", "none", "per_term"):
            raise ConfigError(f"scale = {self.scale!r}; expected 'std', 'none' or 'per_term'")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        unit = problem.recording.cost_scale_usd

        def advantages(of: Episodes) -> _Floats:
            return grpo_advantages(*_weighted(of, unit), self.group_size, self.scale)

        return self.train(problem, seed, training, advantages)


@dataclass(frozen=True)
class RLOO(GroupAlgorithm):
    """REINFORCE with the mean of the other episodes of the group as a baseline."""

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        unit = problem.recording.cost_scale_usd

        def advantages(of: Episodes) -> _Floats:
            return rloo_advantages(*_weighted(of, unit), self.group_size)

        return self.train(problem, seed, training, advantages)
