"""PPO under a constraint on the mean cost of a task.

Paper: Ray, Achiam and Amodei, "Benchmarking Safe Exploration in Deep Reinforcement Learning" (2019; no arXiv number);
the PID form: Stooke, Achiam and Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian Methods", arXiv
2007.03964. Formulas as in OmniSafe's PPOLag and CPPOPID.
Deviations: costs and target are relative to the recording's cost scale; the cost critic is regressed with an optimiser
of its own; advantages are not normalised by default, since at the optimum of a constrained problem the combined one is
zero wherever the policy mixes, and normalising would blow up its noise; the excess that moves the multiplier is a share
of the target. The reward is the score alone: the lambda of the problem plays no part, the multiplier is in its place.
Training has a hard budget only if the problem gives one; the problem's default, a sampled budget, counts as none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.errors import ConfigError, MissingExtraError
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.policies.actor_critic import CostCritic
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_not_negative
from routegym.policies.network import NetworkPolicy
from routegym.policies.optimizers import optimizer_arrays, restore_optimizer
from routegym.policies.ppo import PPOParameters
from routegym.policies.sb3_training import learn
from routegym.policies.training import Arrays, Training, nested, pick

try:
    import stable_baselines3
    import torch as th
    from stable_baselines3.common.buffers import RolloutBuffer
except ImportError as error:
    raise MissingExtraError("stable_baselines3", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["Multiplier", "PPOLagrangian", "combined_advantage", "target_cost"]

_Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class PPOLagrangian(PPOParameters):
    """PPO that keeps the mean cost of a task at a target; the policy is to be played by its probabilities."""

    target_cost_usd: float | None = None
    """Mean cost of a task; None takes the geometric mean of those of the cheapest and the dearest arm alone."""
    pid: bool = True
    """Whether the multiplier is a PID controller's output, or the plain integral of the excess."""
    initial_multiplier: float = 1.0
    """The multiplier before the first update."""
    eta: float = 0.1
    """Step of the plain multiplier per update, for an excess of the whole target."""
    kp: float = 6.0
    """PID: weight of the smoothed excess."""
    ki: float = 0.6
    """PID: step of the integral per update, for an excess of the whole target."""
    kd: float = 6.0
    """PID: weight of a rise of the smoothed excess."""
    smoothing: float = 0.0
    """PID: share of the former value in the smoothed excess."""
    normalize_advantage: bool = False
    """Whether advantages are normalised in every minibatch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "initial_multiplier", "eta", "kp", "ki", "kd")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing = {self.smoothing}; expected a number in [0, 1)")

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the target is outside the range of the arms' mean costs.
        """
        recording = problem.recording
        target = target_cost(recording, problem.tasks, self.target_cost_usd)
        meter = _Meter()
        budget = None if problem.budget_usd == "sampled" else problem.budget_usd
        problem = replace(problem, budget_usd=budget, lambda_=0.0)
        model = _Model(
            CostCritic,
            normalize_advantage=self.normalize_advantage,
            meter=meter,
            multiplier=self.multiplier(),
            target=target / recording.cost_scale_usd,
            **self.arguments(problem, seed, reward=meter),
        )
        policy = cast(CostCritic, model.policy)
        if self.network == "mlp":  # a column that is 0 in training never gets a gradient: other lambdas change nothing
            with th.no_grad():
                column = ObservationLayout.of(recording).columns["lambda"]
                policy.mlp_extractor.actor.network[0].weight[:, column] = 0.0
        learn(model, self.steps, seed, training)
        return policy.to_network_policy(stochastic=True)

    def multiplier(self) -> Multiplier:
        """A fresh one."""
        if self.pid:
            return Multiplier(self.kp, self.ki, self.kd, self.smoothing, self.initial_multiplier)
        return Multiplier(ki=self.eta, integral=self.initial_multiplier)


@dataclass
class Multiplier:
    """Price of cost that rises while the cost is above its target and falls while it is below.

    ``multiplier = max(0, kp * e + integral + kd * max(0, e - e_before))`` with e the smoothed excess and ``integral <-
    max(0, integral + ki * excess)``; with kp = kd = 0 it is the plain ``max(0, multiplier + ki * excess)``.
    """

    kp: float = 0.0
    ki: float = 0.0
    kd: float = 0.0
    smoothing: float = 0.0
    integral: float = 0.0
    excess: float | None = None
    """Smoothed; None before the first update."""

    def update(self, excess: float) -> float:
        """The multiplier after an excess of mean cost over its target, as a share of the target."""
        self.integral = max(0.0, self.integral + self.ki * excess)
        before = excess if self.excess is None else self.excess
        self.excess = self.smoothing * before + (1.0 - self.smoothing) * excess
        return max(0.0, self.kp * self.excess + self.integral + self.kd * max(0.0, self.excess - before))


def combined_advantage(reward: _Floats, cost: _Floats, multiplier: float) -> _Floats:
    """``(A_R - multiplier * A_C) / (1 + multiplier)``."""
    combined: _Floats = (reward - multiplier * cost) / (1.0 + multiplier)
    return combined


def target_cost(recording: Recording, tasks: npt.NDArray[np.int64], target_usd: float | None) -> float:
    """The target, checked; without one the geometric mean of the ends of the arms' range.

    Raises:
        ConfigError: it is outside the range from the cheapest to the dearest arm's mean cost on these tasks.
    """
    graph = recording.graph
    starts = graph.task_start[tasks]
    alone = [evaluate_choices(graph, always_arm_actions(graph, arm))[1][starts].mean() for arm in range(graph.n_arms)]
    low, high = float(min(alone)), float(max(alone))
    if target_usd is None:
        return float(np.sqrt(low * high))
    if not low <= target_usd <= high:
        raise ConfigError(
            f"target_cost_usd = {target_usd:.6g} is outside the range of the arms of {recording.name!r}, which cost "
            f"{low:.6g} (the cheapest alone) to {high:.6g} USD (the dearest alone) per task; choose a target in it"
        )
    return target_usd


class _Meter:
    """In the place of a reward: gives the score and keeps what every step and every ended episode cost."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.steps: list[_Floats] = []
        self.episodes: list[_Floats] = []

    def __call__(
        self, score: _Floats, cost: _Floats, total: _Floats, done: npt.NDArray[np.bool_], _: _Floats, scale: float
    ) -> _Floats:
        self.steps.append(cost / scale)
        self.episodes.append(total[done] / scale)
        return score.copy()


class _Model(stable_baselines3.PPO):
    """PPO of stable-baselines3 with the combined advantage in the place of the reward's."""

    def __init__(self, *args: Any, meter: _Meter, multiplier: Multiplier, target: float, **kwargs: Any) -> None:
        self.meter, self.multiplier, self.target = meter, multiplier, target
        super().__init__(*args, **kwargs)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        self.meter.clear()
        return super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        buffer = self.rollout_buffer
        ended = np.concatenate(self.meter.episodes)
        excess = float(ended.mean()) / self.target - 1.0 if len(ended) else 0.0
        multiplier = self.multiplier.update(excess)
        costs = self._costs_to_go()
        buffer.advantages = combined_advantage(buffer.advantages, costs.advantages, multiplier)
        self._fit_cost_critic(buffer.observations, costs.returns)
        super().train()
        self.logger.record("train/multiplier", multiplier)

    def _costs_to_go(self) -> RolloutBuffer:
        """Values, advantages and returns of the costs of the roll-out, (n_steps, n_envs) each."""
        policy, buffer = cast(CostCritic, self.policy), self.rollout_buffer
        costs = RolloutBuffer(
            self.n_steps, self.observation_space, self.action_space, "cpu", self.gae_lambda, self.gamma, self.n_envs
        )
        costs.rewards = np.array(self.meter.steps, dtype=np.float32)
        costs.episode_starts = buffer.episode_starts
        with th.no_grad():
            costs.values = policy.cost_values(th.as_tensor(buffer.observations)).numpy()
            last = policy.cost_values(th.as_tensor(np.asarray(self._last_obs)))
        costs.compute_returns_and_advantage(last, np.asarray(self._last_episode_starts))
        return costs

    def _fit_cost_critic(self, observations: _Floats, returns: _Floats) -> None:
        policy = cast(CostCritic, self.policy)
        self._update_learning_rate(policy.cost_optimizer)
        rows, wanted = th.as_tensor(observations).flatten(0, 1), th.as_tensor(returns).flatten()
        for _ in range(self.n_epochs):
            for batch in th.split(th.randperm(len(rows)), self.batch_size):
                loss = th.nn.functional.mse_loss(policy.cost_values(rows[batch]), wanted[batch])
                policy.cost_optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                th.nn.utils.clip_grad_norm_(policy.cost_critic.parameters(), self.max_grad_norm)
                policy.cost_optimizer.step()
        self.logger.record("train/cost_value_loss", loss.item())

    def extra_arrays(self) -> Arrays:
        excess = np.nan if self.multiplier.excess is None else self.multiplier.excess
        return {
            **nested("cost_optimizer", optimizer_arrays(cast(CostCritic, self.policy).cost_optimizer)),
            "multiplier": np.array([self.multiplier.integral, excess]),
        }

    def restore_extra(self, arrays: Arrays) -> None:
        restore_optimizer(cast(CostCritic, self.policy).cost_optimizer, pick("cost_optimizer", arrays))
        integral, excess = arrays["multiplier"].tolist()
        self.multiplier.integral, self.multiplier.excess = integral, None if np.isnan(excess) else excess
