"""Learning from logged episodes only: what behaviour cloning and conservative Q-learning share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.checks import check_positive, check_widths
from routegym.policies.logs import EpisodeLog, collect, draw_budgets
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import Actor, make_actor
from routegym.policies.optimizers import optimizer_arrays, restore_optimizer
from routegym.policies.training import Arrays, Training, nested, pick

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem

__all__ = ["Learner", "Offline"]


class Learner(ABC):
    """A network that is fitted to rows of a log."""

    actor: Actor
    modules: th.nn.Module
    """Everything with weights, the actor among it."""

    @abstractmethod
    def rows(self, log: EpisodeLog, problem: Problem, rng: np.random.Generator) -> tuple[th.Tensor, ...]:
        """What a round of updates learns from, tensors (n, ...); relabelled by chance."""

    @abstractmethod
    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """Loss of a minibatch of them."""


@dataclass(frozen=True)
class Offline(ABC):
    """Hyperparameters of a learner that sees logged episodes only."""

    episodes: int = 20_000
    """Episodes to log, where `fit` logs them itself."""
    behaviour: str = "random"
    """Who plays them, see `routegym.policies.logs.collect`."""
    epsilon: float = 0.2
    """Share of random choices in them."""
    uncapped: bool = True
    """Play them without a budget, or under those of the problem; the first tell about every budget once relabelled."""
    relabelling: bool = True
    """Show episodes under budgets drawn afresh in every round, or under those they were played with."""
    unlimited: float = 0.1
    """Share of the drawn budgets that is replaced by none at all, where the problem draws budgets."""
    updates: int = 4000
    """Minibatches to learn from in all."""
    batch_size: int = 1024
    """Logged decisions in a minibatch."""
    round_updates: int = 100
    """Updates after which budgets and prices are drawn afresh, at most."""
    learning_rate: float = 2e-3
    """At the start; it falls linearly to zero."""
    network: str = "mlp"
    """A key of `routegym.policies.networks.NETWORKS`."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        check_positive(self, "episodes", "updates", "batch_size", "round_updates", "learning_rate")
        if self.behaviour not in ("random", "mixture"):
            raise ConfigError(
                f"behaviour = {self.behaviour!r}; expected 'random' or 'mixture'; for a policy of yours log with "
                "`collect` and call `fit_log`"
            )
        for name in ("epsilon", "unlimited"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a probability")
        check_widths(self.hidden)

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> NetworkPolicy:
        """Log episodes, then learn from them; see `routegym.policies.algorithm.Algorithm`."""
        played = replace(problem, budget_usd=None) if self.uncapped else problem
        log = collect(played, self.behaviour, self.episodes, seed, self.epsilon)
        return self.fit_log(log, problem, seed, training)

    def fit_log(
        self, log: EpisodeLog, problem: Problem, seed: int = 0, training: Training | None = None
    ) -> NetworkPolicy:
        """Learn from a log of yours.

        Args:
            log: for the columns and actions of the problem's recording.
            problem: says which budgets and prices the policy is to serve; nothing is played in it.
            seed, training: see `routegym.policies.algorithm.Algorithm`.

        Raises:
            ConfigError: the log is of another recording.
        """
        log.check_fits(problem)
        training = training or Training()
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            learner = self._learner(problem.recording)
        optimizer = th.optim.Adam(learner.actor.parameters(), lr=self.learning_rate)
        done = number = 0
        found = training.latest()
        if found is not None:
            settings, arrays = found
            done, number = int(settings["updates"]), int(settings["round"])
            weights = {name: th.as_tensor(array) for name, array in pick("modules", arrays).items()}
            learner.modules.load_state_dict(weights)
            restore_optimizer(optimizer, pick("optimizer", arrays))
        while done < self.updates:
            if training.due and done:
                training.save(done, {"updates": done, "round": number}, _arrays(learner, optimizer))
            rng = np.random.default_rng((seed, number))
            rows = learner.rows(log, problem, rng)
            n = len(rows[0])
            order = th.as_tensor(rng.permutation(n))
            size = min(self.batch_size, n)
            starts = range(0, n - size + 1, size)[: min(self.round_updates, self.updates - done)]
            total = 0.0
            for start in starts:
                optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - done / self.updates)
                chosen = order[start : start + size]
                loss = learner.loss(*(column[chosen] for column in rows))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.item()
                done += 1
            number += 1
            training.report({"step": done, "seed": seed, "loss": total / len(starts)})
        return NetworkPolicy(learner.actor, self.network, self.hidden)

    def episodes_of_a_round(self, log: EpisodeLog) -> int:
        """How many episodes have about as many rows as a round of updates uses."""
        rows_per_episode = len(log.action) / len(log)
        return int(self.batch_size * self.round_updates / rows_per_episode) + 1

    def budgets(self, problem: Problem, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Budgets to show n episodes under, USD (n,)."""
        drawn = draw_budgets(problem, n, rng)
        one = problem.budget_usd is None or (np.size(problem.budget_usd) == 1 and problem.budget_usd != "sampled")
        return drawn if one else np.where(rng.random(n) < self.unlimited, np.inf, drawn)

    def _actor(self, recording: Recording) -> Actor:
        return make_actor(self.network, self.hidden, recording)

    @abstractmethod
    def _learner(self, recording: Recording) -> Learner:
        """A fresh learner; torch's global generator draws its weights."""


def _arrays(learner: Learner, optimizer: th.optim.Optimizer) -> Arrays:
    weights = {name: tensor.numpy() for name, tensor in learner.modules.state_dict().items()}
    return {**nested("modules", weights), **nested("optimizer", optimizer_arrays(optimizer))}
