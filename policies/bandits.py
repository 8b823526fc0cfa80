"""Contextual bandits: one arm for a whole episode, learned online from what that arm alone brought.

Papers: Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation", arXiv 1003.0146 (LinUCB,
disjoint models); Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", arXiv 1209.3352;
Panda et al., "Adaptive LLM Routing under Budget Constraints", arXiv 2508.21141 (PILOT), whose threshold is that of
Zhou, Chakrabarty and Lukose, "Budget Constrained Bidding in Keyword Auctions and Online Knapsack Problems" (2008).
Deviations: score and cost are regressed apart, on the same contexts, so that one fit serves every price of cost: for
any one price their difference is the very ridge regression of the reward. Feedback comes in batches of episodes. When
it acts, a fitted policy explores no more. `Pilot` is PILOT-style, a reconstruction: no embeddings and no prior from
preference data, one regression for each arm in the place of a cosine in a shared space, a stream budget that is not
cut into bins; under a hard budget of the task it takes arms whose expected cost fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.core.rollout import rollout
from routegym.errors import ConfigError
from routegym.policies.baselines import Baseline, begin
from routegym.policies.checks import check_not_negative, check_positive
from routegym.policies.selection import budgets_of, lambdas_of
from routegym.policies.training import Arrays, Training

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem

__all__ = ["BanditPolicy", "LinUCB", "LinearArms", "Pilot", "Thompson", "knapsack_threshold"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Masks = npt.NDArray[np.bool_]
_Observation = npt.NDArray[np.float32]

_SCORE, _COST = 0, 1
_KNOTS = 6


class LinearArms:
    """A ridge regression of score and relative cost on the context for each arm.

    Args:
        gram: ``ridge * I + sum of x x'`` of each arm, (arms, d, d).
        moment: ``sum of x y'`` of each arm, (arms, d, 2).
    """

    def __init__(self, gram: _Floats, moment: _Floats) -> None:
        self.gram, self.moment = gram, moment
        self._solve()

    @classmethod
    def fresh(cls, n_arms: int, width: int, ridge: float) -> Self:
        """Before any feedback."""
        return cls(np.tile(ridge * np.eye(width), (n_arms, 1, 1)), np.zeros((n_arms, width, 2)))

    def update(self, context: _Floats, arm: _Ints, target: _Floats) -> None:
        """Take in what the chosen arms (n,) brought: score and cost (n, 2) in contexts (n, d)."""
        for one in np.unique(arm).tolist():
            rows = context[arm == one]
            self.gram[one] += rows.T @ rows
            self.moment[one] += rows.T @ target[arm == one]
        self._solve()

    def mean(self, context: _Floats) -> _Floats:
        """Expected score and relative cost of every arm, (n, arms, 2)."""
        return np.asarray(np.einsum("nd,adt->nat", context, self._weights))

    def width(self, context: _Floats) -> _Floats:
        """``sqrt(x' gram^-1 x)`` for every arm, (n, arms)."""
        return np.asarray(np.sqrt(np.einsum("nd,ade,ne->na", context, self._inverse, context, optimize=True)))

    def _solve(self) -> None:
        self._inverse = np.linalg.inv(self.gram)
        self._weights = self._inverse @ self.moment


def knapsack_threshold(spent: float, ratios: tuple[float, float]) -> float:
    """Least score per unit of cost that is worth its money when this share of the stream budget is spent.

    ``(upper * e / lower) ** spent * lower / e``: low while there is plenty, `upper` when all is spent.

    Args:
        spent: share of the stream budget, 0 to 1.
        ratios: bounds of score / cost, (lower, upper).
    """
    lower, upper = ratios
    return float((upper * np.e / lower) ** spent * lower / np.e)


class BanditPolicy(Baseline):
    """Keeps the arm with the best expected score minus priced cost for the whole episode.

    Args:
        recording: gives columns, names and prices.
        model: what is expected of each arm.
        fits: only arms whose expected cost is within the budget are taken, the cheapest where there is none.
    """

    kind = "bandit"

    def __init__(self, recording: Recording, model: LinearArms, fits: bool = False) -> None:
        super().__init__(recording)
        self.model, self.fits, self.cost_scale_usd = model, fits, recording.cost_scale_usd
        self._knots = _knots(recording)

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Ints, Any]:
        """See `Baseline._choose`; the state is the arm of each episode, int64 (N,)."""
        arms, start = begin(len(masks), state, episode_start)
        if start.any():
            arms[start] = self._best(observation[start], masks[start, : self.n_arms])
        return self._pay(arms, masks, self._may_stop(observation, masks)), arms

    def _best(self, observation: _Observation, legal: _Masks) -> _Ints:
        mean = self.model.mean(_contexts(observation, self.layout, self._knots))
        score, cost = mean[..., _SCORE], mean[..., _COST]
        legal = legal | ~legal.any(axis=1, keepdims=True)
        if self.fits:
            left = budgets_of(observation, self.layout, self.cost_scale_usd) / self.cost_scale_usd
            fit = legal & (cost <= left[:, None])
            cheapest = np.arange(self.n_arms) == np.where(legal, cost, np.inf).argmin(axis=1)[:, None]
            legal = np.where(fit.any(axis=1, keepdims=True), fit, cheapest)
        worth = score - lambdas_of(observation, self.layout)[:, None] * cost
        return np.asarray(np.where(legal, worth, -np.inf).argmax(axis=1))

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`."""
        return {"fits": self.fits}, {"gram": self.model.gram, "moment": self.model.moment}

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        return cls(recording, LinearArms(arrays["gram"], arrays["moment"]), bool(settings["fits"]))


class _Kept(Baseline):
    """Plays given arms, one for each episode of a batch."""

    def __init__(self, recording: Recording, arms: _Ints) -> None:
        super().__init__(recording)
        self._arms = arms

    def _choose(
        self, observation: _Observation, state: Any, episode_start: _Masks | None, masks: _Masks
    ) -> tuple[_Ints, Any]:
        return self._pay(self._arms, masks, self._may_stop(observation, masks)), state


@dataclass(frozen=True)
class _Bandit:
    """Hyperparameters of all three; a fit takes seconds and keeps no checkpoints."""

    episodes: int = 16_384
    """Episodes of the stream that is learned from."""
    batch: int = 128
    """Episodes between two updates."""
    ridge: float = 1.0
    """Weight of the squared coefficients."""
    exploration: float = 1.0
    """Multiple of the width of what is not known yet."""

    def __post_init__(self) -> None:
        check_positive(self, "episodes", "batch", "ridge")
        check_not_negative(self, "exploration")

    def choose(
        self, model: LinearArms, context: _Floats, lambda_: _Floats, spent: float, rng: np.random.Generator
    ) -> _Floats:
        """How much each arm is preferred while learning, (n, arms).

        Args:
            model: what is expected so far.
            context: (n, d).
            lambda_: price of cost, (n,).
            spent: cost so far, in cost scales per episode of the whole stream.
            rng: draws what is random.
        """
        raise NotImplementedError

    def learn(self, problem: Problem, seed: int, training: Training | None) -> LinearArms:
        """Play the stream."""
        training = training or Training()
        recording, env = problem.recording, problem.env(self.batch, copy=False)
        n_arms, knots = len(recording.arms), _knots(recording)
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        width = len(env.layout.node_signal_names) + env.layout.embedding_width
        model = LinearArms.fresh(n_arms, width + _KNOTS, self.ridge)
        spent = 0.0
        for done in range(0, self.episodes, self.batch):
            observation, _ = env.reset(seed=int(rng.integers(2**31)))
            context = _contexts(observation, env.layout, knots)
            lambda_, budget = env.lambda_.copy(), env.ledger.budget_usd.copy()
            preferred = self.choose(model, context, lambda_, spent, rng)
            arms = np.where(env.action_masks()[:, :n_arms], preferred, -np.inf).argmax(axis=1)
            task = recording.graph.node_task[env.node]
            table = rollout(_Kept(recording, arms), env, task, budget, lambda_, seed=int(rng.integers(2**31)))
            cost = table.cost_usd / recording.cost_scale_usd
            model.update(context, arms, np.column_stack([table.score, cost]))
            spent += float(cost.sum()) / self.episodes
            training.report(
                {
                    "step": done + self.batch,
                    "seed": seed,
                    "score": float(table.score.mean()),
                    "cost_usd": float(table.cost_usd.mean()),
                    "return": float((table.score - lambda_ * cost).mean()),
                    "shares": (np.bincount(arms, minlength=len(recording.action_names)) / self.batch).round(4).tolist(),
                }
            )
        return model


@dataclass(frozen=True)
class LinUCB(_Bandit):
    """The arm with the highest upper confidence bound of score minus priced cost."""

    def choose(
        self, model: LinearArms, context: _Floats, lambda_: _Floats, spent: float, rng: np.random.Generator
    ) -> _Floats:
        """Mean plus `exploration` times the width."""
        mean = model.mean(context)
        return mean[..., _SCORE] - lambda_[:, None] * mean[..., _COST] + self.exploration * model.width(context)

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> BanditPolicy:
        """See `routegym.policies.algorithm.Algorithm`."""
        return BanditPolicy(problem.recording, self.learn(problem, seed, training))


@dataclass(frozen=True)
class Thompson(_Bandit):
    """The arm that is best by coefficients drawn from their posterior, anew for every episode and arm."""

    exploration: float = 0.5
    """Multiple of the width of what is not known yet: the standard deviation of a draw."""

    def choose(
        self, model: LinearArms, context: _Floats, lambda_: _Floats, spent: float, rng: np.random.Generator
    ) -> _Floats:
        """A draw from ``N(mean, (exploration * width) ** 2)``: all that a draw of the coefficients comes to here."""
        mean, width = model.mean(context), model.width(context)
        value = mean[..., _SCORE] - lambda_[:, None] * mean[..., _COST]
        return value + self.exploration * width * rng.standard_normal(width.shape)

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> BanditPolicy:
        """See `routegym.policies.algorithm.Algorithm`."""
        return BanditPolicy(problem.recording, self.learn(problem, seed, training))


@dataclass(frozen=True)
class Pilot(_Bandit):
    """PILOT-style: the highest bound on the score among the arms that are worth their cost now, by a threshold that
    rises as the budget of the whole stream is spent.
    """

    budget_share: float = 0.5
    """Budget of the stream, in cost scales per episode."""
    ratios: tuple[float, float] = (0.5, 100.0)
    """Bounds of score per relative cost, see `knapsack_threshold`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.budget_share > 0:
            raise ConfigError(f"budget_share = {self.budget_share}; expected a number > 0")
        if not 0 < self.ratios[0] <= self.ratios[1]:
            raise ConfigError(f"ratios = {self.ratios}; expected 0 < lower <= upper")

    def choose(
        self, model: LinearArms, context: _Floats, lambda_: _Floats, spent: float, rng: np.random.Generator
    ) -> _Floats:
        """The bound on the score where an arm is eligible; the cheapest arm where none is."""
        mean = model.mean(context)
        bound, cost = mean[..., _SCORE] + self.exploration * model.width(context), mean[..., _COST]
        least = knapsack_threshold(min(spent / self.budget_share, 1.0), self.ratios)
        eligible = cost * least <= bound
        none = ~eligible.any(axis=1, keepdims=True)
        return np.asarray(np.where(none, -cost, np.where(eligible, bound, -np.inf)))

    def fit(self, problem: Problem, seed: int = 0, training: Training | None = None) -> BanditPolicy:
        """See `routegym.policies.algorithm.Algorithm`."""
        return BanditPolicy(problem.recording, self.learn(problem, seed, training), fits=True)


def _contexts(observation: _Observation, layout: ObservationLayout, knots: _Floats) -> _Floats:
    """The signals of the situation, and the remaining budget's place between the knots; float64 (n, signals + knots).

    The latter are the weights of linear interpolation in the logarithm of the budget; they add up to 1, so that there
    is an intercept among them.
    """
    with np.errstate(divide="ignore"):
        left = np.log(budgets_of(observation, layout, 1.0))
    place = np.interp(left, knots, np.arange(len(knots)))[:, None]
    weights = np.maximum(0.0, 1.0 - np.abs(place - np.arange(len(knots))))
    return np.hstack([observation[:, layout.columns["node_signals"]], observation[:, layout.columns["task"]], weights])


def _knots(recording: Recording) -> _Floats:
    """Logarithms of budgets in cost scales; more than the last makes no difference, nor does less than the first."""
    return np.log(np.geomspace(*recording.budget_range_usd, _KNOTS) / recording.cost_scale_usd)
