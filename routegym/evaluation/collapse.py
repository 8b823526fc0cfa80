"""Does a router route, or does it always call the same arm? And does it pay for what brings nothing?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError
from routegym.evaluation.references import arms_alone

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = [
    "DIFFICULTIES",
    "difficulty",
    "largest_share",
    "routing_collapse_index",
    "selection_entropy",
    "shares_by_group",
]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

#: What `difficulty` tells apart, from least to most.
DIFFICULTIES = ("easy", "medium", "hard", "intractable")

_TIE = 1e-9


def largest_share(calls: npt.ArrayLike) -> float:
    """Share of the calls that go to the most used arm; NaN without calls.

    Args:
        calls: number or share of calls of each arm, float (arms,); leave control actions out.
    """
    shares = _shares(calls)
    return float(shares.max())


def selection_entropy(calls: npt.ArrayLike) -> float:
    """Entropy of the choice of arm over that of a uniform one: 0 = always the same, 1 = all alike.

    ``-sum_a p_a log p_a / log(arms)``; 0 if there is one arm only, NaN without calls.

    Args:
        calls: number or share of calls of each arm, float (arms,); leave control actions out.
    """
    shares = _shares(calls)
    if np.isnan(shares).any() or len(shares) == 1:
        return float(shares[0] * 0)
    used = shares[shares > 0]
    return float(-(used * np.log(used)).sum() / np.log(len(shares))) + 0.0  # not -0


def routing_collapse_index(
    scores: npt.ArrayLike, costs: npt.ArrayLike, arm_scores: npt.ArrayLike, arm_costs: npt.ArrayLike
) -> float:
    """Share of episodes that some arm alone would have played better or cheaper; RCI-style, our form.

    An episode counts if an arm, always chosen on that task, scores at least as much and costs at most as much, and one
    of the two really more or less. So it is 0 where every choice is best and not needlessly dear. A router that always
    calls the dearest arm has the share of tasks that a cheaper one solves as well; a failure of the cheapest arm does
    not count, however good the others are: see `regret` for that.

    Args:
        scores, costs: outcome of each episode, float (..., tasks); USD.
        arm_scores, arm_costs: expected outcome of each arm alone on each task, float (arms, tasks).

    Raises:
        ConfigError: other numbers of tasks.
    """
    score, cost = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    arm_score, arm_cost = np.asarray(arm_scores, dtype=np.float64), np.asarray(arm_costs, dtype=np.float64)
    if score.shape != cost.shape or arm_score.shape != arm_cost.shape or arm_score.ndim != 2:
        raise ConfigError(
            f"scores have shape {score.shape}, costs {cost.shape}, arm_scores {arm_score.shape}, arm_costs "
            f"{arm_cost.shape}; expected (..., tasks) twice and (arms, tasks) twice"
        )
    if not score.ndim or not score.size or score.shape[-1] != arm_score.shape[1]:
        raise ConfigError(
            f"outcomes of shape {score.shape} beside arms of shape {arm_score.shape}; expected as many tasks"
        )
    dominated = np.zeros(score.shape, dtype=bool)
    for other_score, other_cost in zip(arm_score, arm_cost, strict=True):
        more, cheaper = other_score > score + _TIE, other_cost < cost * (1 - _TIE)
        no_less, no_dearer = other_score >= score - _TIE, other_cost <= cost * (1 + _TIE)
        dominated |= no_less & no_dearer & (more | cheaper)
    return float(dominated.mean())


def difficulty(recording: Recording, tasks: npt.ArrayLike, threshold: float = 0.5) -> _Ints:
    """How hard each task is for the arms alone, from the recording: an index into `DIFFICULTIES`.

    An arm *solves* a task if it scores at least `threshold` in expectation over the recorded samples when it makes
    every call, without a cap. Arms are ordered by their mean cost over `tasks`.

    ===============  ==========================================
    ``easy``         the cheapest arm solves it
    ``medium``       it does not, but one between the ends does
    ``hard``         only the dearest does
    ``intractable``  none does
    ===============  ==========================================

    With two arms this is the taxonomy of BoPO-style training (arXiv 2602.21227), with exact expectations where that
    has five roll-outs.

    For an arm that was not recorded for a task another one stands in, as in `arms_alone`: nobody knows whether it would
    have solved it.

    Args:
        recording: complete.
        tasks: indices, int (n,).
        threshold: least expected score that counts as solved, in (0, 1].

    Returns:
        int64 (n,).

    Raises:
        ConfigError: a threshold outside of (0, 1].
        MissingEdgeError: the recording is incomplete.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold = {threshold!r}; expected an expected score that counts as solved, in (0, 1]")
    arms = arms_alone(recording, np.asarray(tasks, dtype=np.int64))
    order = np.argsort(arms.points()[0], kind="stable")
    solved = arms.scores[0, order] >= threshold  # (arms, n)
    between = solved[1:-1].any(axis=0)
    return np.select([solved[0], between, solved[-1]], [0, 1, 2], 3).astype(np.int64)


def shares_by_group(calls: npt.ArrayLike, group: npt.ArrayLike, n_groups: int) -> _Floats:
    """P(action | group): of the calls in each group, the share that goes to each action.

    Args:
        calls: number of calls of each episode, (n, actions).
        group: of each episode, int (n,), for example its `difficulty`.
        n_groups: number of groups.

    Returns:
        float64 (n_groups, actions); rows sum to 1, and are NaN where a group has no call.
    """
    counts = np.asarray(calls, dtype=np.float64)
    total = np.zeros((n_groups, counts.shape[1]))
    np.add.at(total, np.asarray(group, dtype=np.int64), counts)
    made = total.sum(axis=1, keepdims=True)
    share = np.full_like(total, np.nan)
    np.divide(total, made, out=share, where=made > 0)
    return share


def _shares(calls: npt.ArrayLike) -> _Floats:
    counts = np.asarray(calls, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ConfigError(f"calls = {counts.tolist()}; expected a number >= 0 for each arm")
    total = float(counts.sum())
    return np.asarray(counts / total) if total > 0 else np.full_like(counts, np.nan)
