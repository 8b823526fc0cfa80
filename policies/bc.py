"""Behaviour cloning of the best logged episodes, for every budget and price.

Paper: Pomerleau, "Efficient Training of Artificial Neural Networks for Autonomous Navigation" (1991) for cloning; Chen
et al., "Decision Transformer", arXiv 2106.01345, for cloning the best episodes only. Deviations: what is best is asked
per task, among its episodes that a drawn budget would have paid for (hindsight relabelling), by score minus priced cost
with a drawn price. As this is asked with knowledge of the score, the very best is mostly luck (a cheap arm happened
to be right): one of several good ones is drawn (`temperature`), and arms that succeed more often are copied more often.
Tasks without a success teach nothing unless `failures` is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from routegym.errors import ConfigError, MissingExtraError
from routegym.policies.checks import check_not_negative
from routegym.policies.logs import ENDED, EpisodeLog, draw_lambdas, relabel
from routegym.policies.offline import Learner, Offline

try:
    import torch as th
except ImportError as error:
    raise MissingExtraError("torch", "train") from error

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.policies.networks import Actor

__all__ = ["BC"]

_TIE = 1e-6  # the least price: of episodes with the same score the cheapest is the best


@dataclass(frozen=True)
class BC(Offline):
    """Behaviour cloning."""

    candidates: int = 8
    """Episodes of a task, drawn afresh, of which one is imitated."""
    temperature: float = 0.1
    """How much worse than the best of them one may be: its chance is as ``exp(value / temperature)``; 0 = the best."""
    failures: bool = False
    """Whether a task without any success that could be paid for teaches to fail cheaply; else it teaches nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ConfigError(f"candidates = {self.candidates}; expected at least 1")
        check_not_negative(self, "temperature")

    def _learner(self, recording: Recording) -> Learner:
        return _Cloning(self._actor(recording), self)


class _Cloning(Learner):
    def __init__(self, actor: Actor, settings: BC) -> None:
        self.actor = self.modules = actor
        self._settings = settings

    def rows(self, log: EpisodeLog, problem: Problem, rng: np.random.Generator) -> tuple[th.Tensor, ...]:
        """Observations and actions of the best episodes."""
        n = self._settings.episodes_of_a_round(log)
        graded = np.flatnonzero((log.outcome == ENDED) & ((log.score > 0) | self._settings.failures))
        need = log.need_usd[graded] if self._settings.relabelling else np.zeros(len(graded))
        # By task, and in it by the budget they need: those that a budget pays for are the first of their task.
        order = np.lexsort((need, log.task[graded]))
        graded, need = graded[order], need[order]
        tasks, by_task = np.unique(log.task[graded], return_inverse=True)
        level = np.unique(need)
        place = by_task * (len(level) + 1) + np.searchsorted(level, need)

        budget, price = self._settings.budgets(problem, n, rng), draw_lambdas(problem, n, rng)
        task = rng.integers(max(len(tasks), 1), size=n)
        first = np.searchsorted(place, task * (len(level) + 1))
        count = np.searchsorted(place, task * (len(level) + 1) + np.searchsorted(level, budget, side="right")) - first
        some = count > 0
        first, count, budget, price = first[some], count[some], budget[some], price[some]
        if not len(first):
            raise ConfigError(
                "the log holds no success that a drawn budget pays for; log more episodes or serve larger budgets"
            )
        drawn = rng.random((len(first), self._settings.candidates))
        candidate = graded[first[:, None] + (drawn * count[:, None]).astype(np.int64)]  # (n, candidates)
        relative_cost = log.total_cost_usd[candidate] / log.cost_scale_usd
        value = log.score[candidate] - np.maximum(price, _TIE)[:, None] * relative_cost
        value += self._settings.temperature * rng.gumbel(size=value.shape)
        best = candidate[np.arange(len(first)), value.argmax(axis=1)]
        shown = relabel(log.take(best), budget if self._settings.relabelling else log.budget_usd[best], price)
        return th.as_tensor(shown.observation), th.as_tensor(shown.action)

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """Cross-entropy of the actions; masked ones have no probability."""
        observation, action = rows
        return th.nn.functional.cross_entropy(self.actor(observation), action)
