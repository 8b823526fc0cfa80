"""MasRouter-style REINFORCE: whole episodes, their return against a moving mean, no critic.

Paper: Yue et al., "MasRouter: Learning to Route LLMs for Multi-Agent Systems", arXiv 2502.11133, which rewards solving
less 200 times the cost in USD.
Deviations: a reconstruction of the training rule alone, not of the cascaded controller network (collaboration mode,
roles, models); the cost is priced by lambda over the recording's cost scale; the moving mean is kept apart for ranges
of budgets and prices, since one policy learns all of them; there is an entropy bonus, and actions are masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.core.reward import weighted_sum
from routegym.core.streams import between
from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.algorithm import Problem
from routegym.policies.checks import check_not_negative, check_positive, check_widths
from routegym.policies.grpo import empty_episodes, play
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor, make_actor
from routegym.policies.optimizers import optimizer_arrays, restore_optimizer
from routegym.policies.training import Arrays, Training, nested, pick

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

__all__ = ["MasRouter", "MovingMeans"]

_Floats = npt.NDArray[np.float64]

_BUDGETS, _LAMBDAS = 8, 4  # ranges


class MovingMeans:
    """Moving means of returns, one for each range of budgets and of prices; the first batch sets them.

    Args:
        budget_range_usd, lambda_range: what is cut into ranges, as evenly as episodes are drawn from it; what lies
            beyond belongs to the outermost.
        decay: weight of what was known before, in [0, 1).
    """

    def __init__(self, budget_range_usd: tuple[float, float], lambda_range: tuple[float, float], decay: float) -> None:
        self._budgets = np.geomspace(*budget_range_usd, _BUDGETS + 1)[1:-1]
        self._lambdas = between(*lambda_range, np.linspace(0.0, 1.0, _LAMBDAS + 1)[1:-1])
        self._decay = decay
        self.means = np.zeros(_BUDGETS * _LAMBDAS)
        self.seen = np.zeros(_BUDGETS * _LAMBDAS, dtype=bool)

    def update(self, budget_usd: _Floats, lambda_: _Floats, returns: _Floats) -> _Floats:
        """Take in the returns of a batch of episodes; the means that held before it, (n,)."""
        cell = np.searchsorted(self._budgets, budget_usd) * _LAMBDAS + np.searchsorted(self._lambdas, lambda_)
        count = np.bincount(cell, minlength=len(self.means))
        mean = np.bincount(cell, returns, len(self.means)) / np.maximum(count, 1)
        fresh = (count > 0) & ~self.seen
        self.means[fresh], self.seen[fresh] = mean[fresh], True
        before: _Floats = self.means[cell]
        self.means = np.where(count > 0, self._decay * self.means + (1 - self._decay) * mean, self.means)
        return before


@dataclass(frozen=True)
class MasRouter:
    """REINFORCE in MasRouter's style."""

    steps: int = 1_000_000
    """Environment steps in all."""
    n_envs: int = 128
    """Episodes between two updates."""
    learning_rate: float = 5e-3
    """At the start; it falls linearly to zero."""
    decay: float = 0.8
    """Weight of what was known before in the moving mean of returns."""
    ent_coef: float = 0.05
    """Weight of the entropy bonus, summed over the steps of an episode as the gradient is."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    embedding_prior: float = 300.0
    """Tasks' worth of caution about the text, against learning few tasks by heart: see `TrainingEnv`."""
    network: str = "mlp"
    """A key of `routegym.policies.networks.NETWORKS`."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "n_envs", "learning_rate", "max_grad_norm")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay = {self.decay}; expected 0 <= decay < 1")
        check_not_negative(self, "ent_coef", "embedding_prior")
        check_widths(self.hidden)

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Train on the CPU; see `routegym.policies.algorithm.Algorithm`."""
        training = training or Training()
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            actor = make_actor(self.network, self.hidden, problem.recording)
        optimizer = th.optim.Adam(actor.parameters(), self.learning_rate)
        generator = th.Generator().manual_seed(seed)
        means = MovingMeans(problem.recording.budget_range_usd, problem.lambda_range, self.decay)
        env = problem.env(self.n_envs, embedding_prior=self.embedding_prior)
        ended, step, update = np.ones(self.n_envs, dtype=bool), 0, 0
        found = training.latest()
        if found is not None:
            settings, arrays = found
            step, update = int(settings["step"]), int(settings["update"])
            actor.load_state_dict({name: th.as_tensor(a) for name, a in pick("actor", arrays).items()})
            restore_optimizer(optimizer, pick("optimizer", arrays))
            generator.set_state(th.as_tensor(arrays["generator"]))
            means.means, means.seen = arrays["means"].copy(), arrays["seen"].astype(bool)

        def act(rows: npt.NDArray[np.float32], slots: npt.NDArray[np.int64]) -> tuple[Any, Any]:
            with th.inference_mode():
                log_probs = actor(th.as_tensor(rows)).log_softmax(dim=1)
                chosen = th.multinomial(log_probs.exp(), 1, generator=generator)
                return chosen.squeeze(1).numpy(), log_probs.gather(1, chosen).squeeze(1).numpy()

        while step < self.steps:
            if training.due and update:
                state: Arrays = {
                    **nested("actor", {name: tensor.numpy() for name, tensor in actor.state_dict().items()}),
                    **nested("optimizer", optimizer_arrays(optimizer)),
                    "generator": generator.get_state().numpy(),
                    "means": means.means,
                    "seen": means.seen.astype(np.uint8),
                }
                training.save(update, {"step": step, "update": update}, state)
            episodes = empty_episodes(self.n_envs)
            # What is drawn depends on seed and update alone, so that no environment has to be kept.
            drawn = int(np.random.SeedSequence((seed, update)).generate_state(1)[0])
            steps = list(play(env, act, drawn, 1, episodes))
            returns = weighted_sum(
                episodes.score,
                episodes.cost_usd,
                episodes.cost_usd,
                ended,
                episodes.lambda_,
                env.recording.cost_scale_usd,
            )
            advantages = returns - means.update(episodes.budget_usd, episodes.lambda_, returns)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - step / self.steps)
            slots = np.concatenate([one.slots for one in steps])
            losses = self._update(
                actor,
                optimizer,
                th.as_tensor(np.concatenate([one.observation for one in steps])),
                th.as_tensor(np.concatenate([one.actions for one in steps])),
                th.as_tensor(advantages[slots], dtype=th.float32),
            )
            step, update = step + len(slots), update + 1
            training.report(
                {
                    "step": step,
                    "seed": seed,
                    "episodes": self.n_envs,
                    "score": float(episodes.score.mean()),
                    "cost_usd": float(episodes.cost_usd.mean()),
                    "return": float(returns.mean()),
                    **losses,
                }
            )
        return NetworkPolicy(actor, self.network, self.hidden)

    def _update(
        self,
        actor: Actor,
        optimizer: th.optim.Optimizer,
        observation: th.Tensor,
        actions: th.Tensor,
        advantages: th.Tensor,
    ) -> dict[str, float]:
        """One gradient step on all steps of a batch of episodes."""
        log_probs = actor(observation).log_softmax(dim=1)
        policy_loss = -(advantages * log_probs.gather(1, actions[:, None]).squeeze(1)).sum() / self.n_envs
        entropy = -(log_probs.exp() * log_probs).sum() / self.n_envs
        loss = policy_loss - self.ent_coef * entropy
        optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(actor.parameters(), self.max_grad_norm)
        optimizer.step()
        return {"policy_loss": policy_loss.item(), "entropy": entropy.item()}
