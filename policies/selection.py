"""Choosing among variants of a rule on the validation split, for every budget and every price of cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from routegym.core.observation import ObservationLayout
from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError, RecordingError
from routegym.policies.storage import policy_of, state_of
from routegym.policies.training import Arrays, nested, pick

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.policies.storage import StoredPolicy

__all__ = ["LAMBDAS", "Selected", "affordable_budgets", "budgets_of", "lambdas_of", "select"]

#: Prices of cost that `select` chooses a variant for.
LAMBDAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)

_BUDGETS = 10

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Observation = npt.NDArray[np.float32]


@dataclass
class _Memory:
    """Which variant each episode has, and what the variants remember; rows of another variant's episodes are unused."""

    variant: _Ints  # (N,)
    states: dict[int, npt.NDArray[Any]]  # variant -> (N, ...)


class Selected:
    """Plays in each episode the variant that was chosen for its budget and its price of cost.

    Both are read at the start of the episode. The cell is the nearest one: in the logarithm of the budget, where no
    cap is a cell of its own, and in the price.

    Args:
        recording: gives the columns and the scale of cost.
        variants: at least one; the state of each is None or an array with a row per episode.
        budgets_usd: of the cells, ascending, > 0, inf = no cap, (b,).
        lambdas: of the cells, ascending, (l,).
        table: index of the variant of each cell, int (b, l).

    Raises:
        ConfigError: table, budgets, lambdas and variants do not fit together.
    """

    kind = "selected"

    def __init__(
        self,
        recording: Recording,
        variants: Sequence[StoredPolicy],
        budgets_usd: npt.ArrayLike,
        lambdas: npt.ArrayLike,
        table: npt.ArrayLike,
    ) -> None:
        self.layout, self.cost_scale_usd = ObservationLayout.of(recording), recording.cost_scale_usd
        self.variants = tuple(variants)
        self.draws = any(getattr(variant, "draws", False) for variant in self.variants)
        self.budgets_usd = np.asarray(budgets_usd, dtype=np.float64)
        self.lambdas = np.asarray(lambdas, dtype=np.float64)
        self.table = np.asarray(table, dtype=np.int64)
        if self.table.shape != (len(self.budgets_usd), len(self.lambdas)) or not self.table.size:
            raise ConfigError(
                f"table has shape {self.table.shape}; expected a variant for each of {len(self.budgets_usd)} budgets "
                f"and {len(self.lambdas)} lambdas, at least one of each"
            )
        if self.table.min() < 0 or self.table.max() >= len(self.variants):
            raise ConfigError(f"table names variant {self.table.max()}; expected indices below {len(self.variants)}")

    def cells(self, budget_usd: npt.ArrayLike, lambda_: npt.ArrayLike) -> tuple[_Ints, _Ints]:
        """Row and column of the nearest cell of each budget (n,) and price (n,)."""
        budget, price = np.asarray(budget_usd, dtype=np.float64), np.asarray(lambda_, dtype=np.float64)
        capped = self.budgets_usd[np.isfinite(self.budgets_usd)]
        row = np.full(len(budget), len(self.budgets_usd) - 1)
        has_cap = np.isfinite(budget) & bool(len(capped))
        with np.errstate(divide="ignore"):  # nothing is left: the smallest budget is the nearest
            far = np.abs(np.log(budget[has_cap])[:, None] - np.log(capped))
        if has_cap.any():
            row[has_cap] = far.argmin(axis=1)
        return row, np.abs(price[:, None] - self.lambdas).argmin(axis=1)

    def predict(
        self,
        observation: _Observation,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[_Ints, Any]:
        """See `routegym.policies.policy.Policy`."""
        n = len(observation)
        if state is None:
            memory, start = _Memory(np.zeros(n, dtype=np.int64), {}), np.ones(n, dtype=bool)
        else:
            memory = _Memory(state.variant.copy(), dict(state.states))
            start = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
        if start.any():
            shown = observation[start]
            row, column = self.cells(
                budgets_of(shown, self.layout, self.cost_scale_usd), lambdas_of(shown, self.layout)
            )
            memory.variant[start] = self.table[row, column]
        actions = np.zeros(n, dtype=np.int64)
        for variant in np.unique(memory.variant).tolist():
            rows = np.flatnonzero(memory.variant == variant)
            known = memory.states.get(variant)
            # An episode joins a variant at its start only, so that no row of a memory is read before it is written.
            actions[rows], after = self.variants[variant].predict(
                observation[rows],
                None if known is None else known[rows],
                start[rows],
                deterministic,
                None if action_masks is None else action_masks[rows],
            )
            if after is not None:
                after = np.asarray(after)
                known = np.zeros((n, *after.shape[1:]), dtype=after.dtype) if known is None else known.copy()
                known[rows] = after
                memory.states[variant] = known
        return actions, memory

    def to_state(self) -> tuple[dict[str, Any], Arrays]:
        """See `routegym.policies.storage.StoredPolicy`; the variants are stored inside."""
        settings: dict[str, Any] = {
            "budgets_usd": [None if np.isinf(budget) else budget for budget in self.budgets_usd.tolist()],
            "lambdas": self.lambdas.tolist(),
            "variants": [],
        }
        arrays: Arrays = {"table": self.table}
        for number, variant in enumerate(self.variants):
            own, its = state_of(variant)
            settings["variants"].append(own)
            arrays |= nested(f"variants/{number}", its)
        return settings, arrays

    @classmethod
    def from_state(cls, recording: Recording, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `routegym.policies.storage.StoredPolicy`."""
        variants: list[Any] = [
            policy_of(recording, state, pick(f"variants/{number}", arrays))
            for number, state in enumerate(settings["variants"])
        ]
        budgets = [np.inf if budget is None else float(budget) for budget in settings["budgets_usd"]]
        return cls(recording, variants, budgets, settings["lambdas"], arrays["table"])


def budgets_of(observation: _Observation, layout: ObservationLayout, cost_scale_usd: float) -> _Floats:
    """Remaining budget in USD that observations (n, width) show, inf = no cap; float64 (n,)."""
    share = observation[:, layout.columns["remaining"].start].astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(cost_scale_usd * share / (1.0 - share))


def lambdas_of(observation: _Observation, layout: ObservationLayout) -> _Floats:
    """Price of cost that observations (n, width) show; float64 (n,)."""
    share = observation[:, layout.columns["lambda"].start].astype(np.float64)
    return np.asarray(share / (1.0 - share))


def select(
    problem: Problem, variants: Sequence[StoredPolicy], seed: int = 0, lambdas: Sequence[float] = LAMBDAS
) -> Selected:
    """Choose for every budget and price the variant with the best mean ``score - lambda * cost / cost_scale``.

    Each variant plays the tasks of the validation split (of the problem's split where there is none) once per budget:
    ten budgets over the recording's range, log-spaced, and no cap. What a rule does depends on no price, so one
    roll-out serves all of them. Of equals the cheapest is taken, then the first.

    Args:
        problem: gives the recording.
        variants: at least one; none may look at the price of cost.
        seed: fixes the responses met, the same ones for every variant.
        lambdas: prices of the table.

    Raises:
        ConfigError: no variants.
    """
    if not variants:
        raise ConfigError("no variants to select from; give at least one")
    recording = problem.recording
    try:
        split, tasks = "val", recording.split("val")
    except RecordingError:
        split, tasks = problem.split, problem.tasks
    caps = np.append(affordable_budgets(recording, tasks), np.inf)
    grid = np.repeat(caps, len(tasks))
    env = RoutingVectorEnv(len(grid), recording, split=split, info="lean", autoreset_mode="SameStep", copy=False)
    scores, costs = np.empty((2, len(variants), len(caps)))
    for number, variant in enumerate(variants):
        table = rollout(variant, env, np.tile(tasks, len(caps)), budget_usd=grid, seed=seed)
        scores[number] = table.score.reshape(len(caps), -1).mean(axis=1)
        costs[number] = table.cost_usd.reshape(len(caps), -1).mean(axis=1) / recording.cost_scale_usd
    prices = np.asarray(lambdas, dtype=np.float64)
    objective = np.round(scores[..., None] - prices * costs[..., None], 12)  # (variants, caps, lambdas)
    worth = np.where(objective == objective.max(axis=0), -costs[..., None], -np.inf)
    best = worth.argmax(axis=0)
    used, table_of_used = np.unique(best, return_inverse=True)
    # Random draws start afresh: those of the roll-outs above do not count.
    kept: list[Any] = [policy_of(recording, *state_of(variants[number])) for number in used.tolist()]
    return Selected(recording, kept, caps, prices, table_of_used.reshape(best.shape))


def affordable_budgets(recording: Recording, tasks: _Ints, count: int = _BUDGETS) -> _Floats:
    """`count` budgets over the recording's range that pay for a call in every one of these tasks, log-spaced."""
    low, high = recording.budget_range_usd
    low = max(low, float(recording.graph.arm_floor(recording.graph.task_start[tasks]).max()))
    return np.geomspace(low, max(low, high), count)
