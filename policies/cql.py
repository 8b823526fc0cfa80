"""Discrete conservative Q-learning from logged episodes, with hindsight budget relabelling.

Paper: Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", arXiv 2006.04779; budgets as in
SeqRoute: the remaining budget is part of the state, and logged episodes are shown under other budgets too.
Deviations: SeqRoute learns quality alone and acts by argmax Q(s, a) - lambda c(a); here the price is a column of the
observation, drawn afresh in every round, and Q is of score minus priced cost, later cost included. Budgets are drawn
from the problem's range instead of a set. Illegal actions are masked, in the max, the logsumexp and at run time, so
that bankruptcy is worth what the objective says (`penalty` 0, SeqRoute's is 5); and where a new budget forbids the
logged action but not every one, Q of the best of the others stands for what the log does not know (`cut`). Targets
are those of Peng's Q(lambda) (`trace`) with double Q-learning and a target network that is replaced once a round: a
situation does not show whether an earlier answer was wrong, so that with one-step targets no choice gets credit for
the score at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.checks import check_not_negative
from routegym.policies.logs import EpisodeLog, draw_lambdas, relabel
from routegym.policies.offline import Learner, Offline

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.policies.networks import Actor

__all__ = ["CQL"]


@dataclass(frozen=True)
class CQL(Offline):
    """Discrete CQL."""

    alpha: float = 0.05
    """Weight of the conservative term; scores are in [0, 1]."""
    trace: float = 1.0
    """Lambda of Peng's Q(lambda): 0 = one-step targets, 1 = what the logged episode went on to earn."""
    penalty: float = 0.0
    """What bankruptcy costs beside the missing score; SeqRoute's is 5."""
    cut: Literal["bootstrap", "bankrupt"] = "bootstrap"
    """Where a new budget forbids the logged action but not every one: Q of the best of them, or bankruptcy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha", "penalty")
        if not 0 <= self.trace <= 1:
            raise ConfigError(f"trace = {self.trace}; expected a number in [0, 1]")
        if self.cut not in ("bootstrap", "bankrupt"):
            raise ConfigError(f"cut = {self.cut!r}; expected 'bootstrap' or 'bankrupt'")

    def _learner(self, recording: Recording) -> Learner:
        q, target = self._actor(recording), self._actor(recording)
        target.load_state_dict(q.state_dict())
        return _QLearning(q, target, self)


class _QLearning(Learner):
    """Q of legal actions are the actor's logits; those of the others are so low that they count nowhere."""

    def __init__(self, q: Actor, target: Actor, settings: CQL) -> None:
        self.actor, self._target = q, target.requires_grad_(False)
        self.modules = th.nn.ModuleDict({"q": q, "target": target})
        self._settings = settings

    def rows(self, log: EpisodeLog, problem: Problem, rng: np.random.Generator) -> tuple[th.Tensor, ...]:
        """Observation, action and target of every decision."""
        log = log.take(np.sort(rng.permutation(len(log))[: self._settings.episodes_of_a_round(log)]))
        budgets = self._settings.budgets(problem, len(log), rng) if self._settings.relabelling else log.budget_usd
        shown = relabel(log, budgets, draw_lambdas(problem, len(log), rng))
        if self._settings.cut == "bankrupt":
            shown = shown.with_cuts_as_bankrupt()
        y = self._returns(shown)
        self._target.load_state_dict(self.actor.state_dict())
        at = np.flatnonzero(shown.taken)
        columns = shown.observation[at], shown.action[at], y[at].astype(np.float32)
        return tuple(th.as_tensor(column) for column in columns)

    def _returns(self, log: EpisodeLog) -> npt.NDArray[np.float64]:
        """Targets of all rows, (n,): Peng's Q(lambda) with double Q-learning's values."""
        with th.inference_mode():
            seen = th.as_tensor(log.observation)
            best = self.actor(seen).argmax(dim=1, keepdim=True)
            value = self._target(seen).gather(1, best)[:, 0].double().numpy()
        y = log.reward(self._settings.penalty)
        trace = self._settings.trace
        follows = log.taken & ~log.done
        for k in range(int(log.position.max()), -1, -1):
            rows = np.flatnonzero(follows & (log.position == k))
            after = log.next[rows]
            y[rows] += np.where(log.taken[after], (1 - trace) * value[after] + trace * y[after], value[after])
        return y

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """``E[(Q - y)^2] + alpha E[logsumexp_a Q - Q(s, a_data)]``."""
        observation, action, y = rows
        q = self.actor(observation)
        of_data = q.gather(1, action[:, None])[:, 0]
        conservative = (q.logsumexp(dim=1) - of_data).mean()
        loss: th.Tensor = th.nn.functional.mse_loss(of_data, y) + self._settings.alpha * conservative
        return loss
