"""What a policy achieves over a grid of hard budgets and prices: the one measurement everything is compared by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["LAMBDAS", "Grid", "Outcomes", "budget_grid", "play"]

_Floats = npt.NDArray[np.float64]

#: Prices of cost that a policy is asked to respect, at each budget.
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)

#: Episodes played side by side.
_SLOTS = 16_384


@dataclass(frozen=True)
class Grid:
    """Operating points: every budget with every price."""

    budgets: _Floats
    """Hard caps in USD, ascending, inf = none, float64 (b,)."""
    lambdas: _Floats
    """Prices of cost, ascending, float64 (l,)."""

    @classmethod
    def of(
        cls, recording: Recording, budgets: Sequence[float] | None = None, lambdas: Sequence[float] = LAMBDAS
    ) -> Grid:
        """Some budgets, `budget_grid` by default, and no cap, with some prices.

        Raises:
            BudgetError: a budget below the cheapest arm of a task.
            ConfigError: no price, or one that is negative or not finite.
        """
        caps = np.unique(np.asarray(budget_grid(recording) if budgets is None else budgets, dtype=np.float64))
        floors = recording.graph.arm_floor(recording.graph.task_start)
        need = float(floors[np.isfinite(floors)].max(initial=0.0))
        if not len(caps) or not caps[0] >= need:
            raise BudgetError(
                f"budgets = {caps.tolist()}: the cheapest arm of the dearest task may cost {need:.6g} USD; "
                "name budgets of at least that"
            )
        prices = np.unique(np.asarray(lambdas, dtype=np.float64))
        if not len(prices) or not (np.isfinite(prices).all() and prices[0] >= 0):
            raise ConfigError(f"lambdas = {prices.tolist()}; expected at least one finite number >= 0")
        return cls(np.unique(np.append(caps, np.inf)), prices)

    @property
    def caps(self) -> _Floats:
        """The finite budgets."""
        return self.budgets[np.isfinite(self.budgets)]

    @property
    def points(self) -> tuple[_Floats, _Floats]:
        """Budget and price of every operating point, float64 (b * l,) each, budgets outermost."""
        return np.repeat(self.budgets, len(self.lambdas)), np.tile(self.lambdas, len(self.budgets))

    def at_cap(self, number: int) -> int:
        """The operating point with the number-th budget and the lowest price."""
        return number * len(self.lambdas)


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of a policy at each operating point on each task."""

    scores: npt.NDArray[np.float32]
    """float32 (points, tasks)."""
    costs: _Floats
    """USD, float64 (points, tasks)."""
    violations: npt.NDArray[np.int64]
    """Episodes that spent more than their cap, int64 (points,)."""
    calls: npt.NDArray[np.int64]
    """How often each action was taken, int64 (points, actions)."""


def budget_grid(recording: Recording, count: int = 10) -> _Floats:
    """Budgets spaced evenly on a log scale over the recording's range, float64 (count,)."""
    low, high = recording.budget_range_usd
    return np.geomspace(low, high, count)


def play(policy: Policy, recording: Recording, split: str, grid: Grid, seed: int = 0) -> Outcomes:
    """Play every task of a split at every operating point.

    A policy with the attribute ``observation = "text"`` gets observations of that form, any other flat ones.

    Args:
        policy: any that is fitted.
        recording: complete, at least where the policy goes.
        split: tasks to play.
        grid: budgets and prices.
        seed: fixes the recorded samples met, the same for every policy.
    """
    tasks = recording.split(split)
    budgets, lambdas = grid.points
    n, points = len(tasks), len(budgets)
    form: Any = getattr(policy, "observation", "flat")
    env = RoutingVectorEnv(
        min(_SLOTS, n * points), recording, split=split, observation=form, info="lean", autoreset_mode="SameStep"
    )
    table = rollout(
        policy,
        env,
        np.tile(tasks, points),
        budget_usd=np.repeat(budgets, n),
        lambda_=np.repeat(lambdas, n),
        seed=seed,
    )
    return Outcomes(
        scores=table.score.reshape(points, n).astype(np.float32),
        costs=table.cost_usd.reshape(points, n),
        violations=table.violations.reshape(points, n).sum(axis=1),
        calls=table.arm_counts.reshape(points, n, -1).sum(axis=1),
    )
