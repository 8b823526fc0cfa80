"""What a policy would earn, estimated from the log of another one: IPS, SNIPS, DM and DR, with 95 % intervals.

Papers: Precup, Sutton and Singh, "Eligibility Traces for Off-Policy Policy Evaluation" (2000) for per-decision
importance sampling; Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning" (2015);
Dudík, Langford and Li, "Doubly Robust Policy Evaluation and Learning", arXiv 1103.4601; Jiang and Li, "Doubly Robust
Off-policy Value Evaluation", arXiv 1511.03722, for its stepwise form. Deviations: none in the estimates; the
intervals are normal ones from the spread of the episodes' influence (for SNIPS by the delta method), over groups of
episodes if named.

With rho_t = product of target / propensity up to step t, an episode's terms are

- IPS: ``sum_t rho_t r_t``;
- SNIPS: ``sum_t rho_t r_t / mean(rho_t)``, an episode that is over keeping its last rho;
- DM: ``V(s_0)``;
- DR: ``sum_t rho_{t-1} V(s_t) + rho_t (r_t - Q(s_t, a_t))``.

A contextual bandit is the case of episodes with one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.statistics import Interval

__all__ = ["LoggedRows", "dm", "dr", "ips", "snips"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoggedRows:
    """Logged decisions, n rows, and what the policy in question thinks of them.

    Raises:
        ConfigError: a value is missing or out of range, the message names its row; or a policy that could do what was
            logged with propensity 0.
    """

    reward: npt.ArrayLike
    """What each decision earned, (n,)."""
    propensity: npt.ArrayLike
    """Probability of the logged action under the policy that logged it, in (0, 1], (n,)."""
    target: npt.ArrayLike
    """Probability of the logged action under the policy to be evaluated, in [0, 1], (n,)."""
    episode: npt.ArrayLike | None = None
    """Number of each row's episode, (n,), rows of an episode together and in order; by default each row is one."""
    group: npt.ArrayLike | None = None
    """Number of each row's group (its task, say), (n,): episodes of a group are not taken for independent."""

    def __post_init__(self) -> None:
        reward = np.asarray(self.reward, dtype=np.float64)
        n = len(reward) if reward.ndim == 1 else 0
        if not n:
            raise ConfigError(f"reward has shape {reward.shape}; expected (n,) with n >= 1")
        numbers = np.arange(n) if self.episode is None else np.asarray(self.episode)
        columns: dict[str, npt.NDArray[Any]] = {"reward": reward, "episode": numbers}
        columns |= {name: np.asarray(getattr(self, name), dtype=np.float64) for name in ("propensity", "target")}
        columns["group"] = numbers if self.group is None else np.asarray(self.group)
        for name, values in columns.items():
            if values.shape != (n,):
                raise ConfigError(f"{name} has shape {values.shape}; expected ({n},), one for each reward")
            object.__setattr__(self, name, values)
        chance, target = columns["propensity"], columns["target"]
        _refuse("reward", reward, np.isfinite(reward), "a finite number")
        _refuse(
            "propensity",
            chance,
            (chance > 0) & (chance <= 1),
            "a probability in (0, 1]; log the probability of each chosen action, and give every action that the "
            "evaluated policy may take some",
        )
        _refuse("target", target, (target >= 0) & (target <= 1), "a probability in [0, 1]")
        starts = np.append(True, numbers[1:] != numbers[:-1])
        if len(np.unique(numbers)) != starts.sum():
            raise ConfigError("episode: rows of one episode stand apart; sort the rows by episode, steps in order")

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """Row at which each episode begins, int64 (episodes,)."""
        numbers = np.asarray(self.episode)
        return np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))

    def _table(self, values: npt.ArrayLike, filling: float) -> _Floats:
        """Values of rows as (episodes, steps), `filling` after an episode's end."""
        first = self.first
        n = len(np.asarray(self.reward))
        length = np.diff(np.append(first, n))
        episode = np.repeat(np.arange(len(first)), length)
        table = np.full((len(first), int(length.max())), filling)
        table[episode, np.arange(n) - first[episode]] = values
        return table

    def _weights(self) -> _Floats:
        """rho_t, (episodes, steps); after an episode's end its last."""
        ratio = np.asarray(self.target) / np.asarray(self.propensity)
        return np.asarray(np.cumprod(self._table(ratio, 1.0), axis=1), dtype=np.float64)


def ips(rows: LoggedRows, level: float = 0.95) -> Interval:
    """Inverse propensity scoring, per decision: unbiased, of large variance where policies differ."""
    terms = (rows._weights() * rows._table(rows.reward, 0.0)).sum(axis=1)
    return _interval(rows, float(terms.mean()), terms - terms.mean(), level)


def snips(rows: LoggedRows, level: float = 0.95) -> Interval:
    """Self-normalised IPS, per decision: a little bias for much less variance, and invariant to shifts of reward.

    Raises:
        ConfigError: the policy does nothing that was logged, at some step.
    """
    weights, rewards = rows._weights(), rows._table(rows.reward, 0.0)
    total = weights.mean(axis=0)  # (steps,)
    if (total == 0).any():
        raise ConfigError(
            f"the evaluated policy takes none of the actions logged up to step {int(np.argmax(total == 0))}; log with "
            "a policy that tries them all"
        )
    by_step = (weights * rewards).mean(axis=0) / total
    influence = (weights * (rewards - by_step) / total).sum(axis=1)
    return _interval(rows, float(by_step.sum()), influence, level)


def dm(rows: LoggedRows, value: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Direct method: the mean of a model's values, as biased as the model is.

    Args:
        rows: logged decisions; only where episodes begin matters.
        value: the model's V(s) of every row under the evaluated policy, ``sum_a pi(a|s) Q(s, a)``, (n,).
        level: coverage of the interval, which knows nothing of the model's error.
    """
    terms = _model("value", value, rows)[rows.first]
    return _interval(rows, float(terms.mean()), terms - terms.mean(), level)


def dr(rows: LoggedRows, value: npt.ArrayLike, action_value: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Doubly robust: unbiased if the propensities are right or the model is, and of small variance if both nearly are.

    Args:
        rows: logged decisions.
        value: the model's V(s) of every row under the evaluated policy, (n,).
        action_value: its Q(s, a) of the logged action, (n,); fitted on other data, or the interval is too narrow.
        level: coverage of the interval.
    """
    v = rows._table(_model("value", value, rows), 0.0)
    q = rows._table(_model("action_value", action_value, rows), 0.0)
    weights = rows._weights()
    before = np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)
    terms = (before * v + weights * (rows._table(rows.reward, 0.0) - q)).sum(axis=1)
    return _interval(rows, float(terms.mean()), terms - terms.mean(), level)


def _interval(rows: LoggedRows, estimate: float, influence: _Floats, level: float) -> Interval:
    """A normal interval from each episode's influence on the estimate, (episodes,)."""
    if not 0 < level < 1:
        raise ConfigError(f"level = {level}; expected a coverage between 0 and 1, usually 0.95")
    _, group = np.unique(np.asarray(rows.group)[rows.first], return_inverse=True)
    sums = np.bincount(group, weights=influence)
    k = len(sums)
    if k < 2:
        return Interval(estimate, -np.inf, np.inf, level)
    error = np.sqrt((sums**2).sum() * k / (k - 1)) / len(influence)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * float(error)
    return Interval(estimate, estimate - reach, estimate + reach, level)


def _model(name: str, values: npt.ArrayLike, rows: LoggedRows) -> _Floats:
    array = np.asarray(values, dtype=np.float64)
    n = len(np.asarray(rows.reward))
    if array.shape != (n,):
        raise ConfigError(f"{name} has shape {array.shape}; expected ({n},), one for each row")
    _refuse(name, array, np.isfinite(array), "a finite number")
    return array


def _refuse(name: str, values: _Floats, valid: npt.NDArray[np.bool_], expected: str) -> None:
    if not valid.all():
        row = int(np.argmin(valid))
        raise ConfigError(f"row {row}: {name} = {values[row]}; expected {expected}")
