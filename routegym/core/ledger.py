"""Who owes what in an episode: reserve the worst case before a call, settle the real cost after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import BudgetError

__all__ = ["Ledger", "check_budget", "check_lambda"]

Dollars = npt.NDArray[np.float64]


class Ledger:
    """Accounts of a batch of episodes, in USD; float64 arrays (n,).

    A call is admitted only if ``spent + worst case <= budget`` in float64, and settles for at most what
    was reserved. Addition is monotone in floating point, so no account ever ends above its budget.

    Attributes:
        budget_usd: hard caps; inf = none.
        spent_usd: what has been settled.
    """

    def __init__(self, size: int) -> None:
        self.budget_usd: Dollars = np.full(size, np.inf)
        self.spent_usd: Dollars = np.zeros(size)
        self._reserved_usd: Dollars = np.zeros(size)

    @property
    def remaining_usd(self) -> Dollars:
        """What may still be spent, inf where there is no cap."""
        return self.budget_usd - self.spent_usd

    def open(self, slots: npt.NDArray[Any], budget_usd: Dollars) -> None:
        """Start fresh accounts with these budgets."""
        self.budget_usd[slots] = budget_usd
        self.spent_usd[slots] = 0.0
        self._reserved_usd[slots] = 0.0

    def admits(self, worst_case_usd: Dollars) -> npt.NDArray[np.bool_]:
        """Which calls fit, bool of the shape of `worst_case_usd` (n,) or (n, k); NaN never fits."""
        columns = (slice(None),) + (None,) * (worst_case_usd.ndim - 1)
        return np.less_equal(self.spent_usd[columns] + worst_case_usd, self.budget_usd[columns])

    def reserve(self, worst_case_usd: Dollars, active: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Reserve the worst case of one call in every active account, or in none at all.

        Returns:
            bool (n,): active accounts whose call does not fit; nothing was reserved if there is one.
        """
        refused: npt.NDArray[np.bool_] = ~self.admits(worst_case_usd) & active
        if not refused.any():
            self._reserved_usd = np.where(active, worst_case_usd, 0.0)
        return refused

    def settle(self, cost_usd: Dollars) -> None:
        """Replace what is reserved by what the calls really cost (0 for accounts without a call).

        Raises:
            BudgetError: a call cost more than was reserved for it; nothing is charged then.
        """
        over = cost_usd > self._reserved_usd
        if over.any():
            slot = int(np.argmax(over))
            raise BudgetError(
                f"account {slot}: a call cost {cost_usd[slot]} USD and {self._reserved_usd[slot]} USD were reserved; "
                "the worst case of its arm is too low: raise its max_completion_tokens"
            )
        self.spent_usd += cost_usd
        self._reserved_usd = np.zeros_like(cost_usd)


def check_budget(value: Any, name: str = "budget_usd") -> Dollars:
    """A budget or an array of them as float64.

    Raises:
        BudgetError: not a number, NaN, zero or negative. inf is allowed: no cap.
    """
    return _check(value, name, "a number > 0 in USD (inf or None = no cap)", lambda array: array > 0)


def check_lambda(value: Any, name: str = "lambda_") -> Dollars:
    """A price of cost, or an array of them, as float64.

    Raises:
        BudgetError: not a number, NaN, infinite or negative.
    """
    return _check(value, name, "a finite number >= 0", lambda array: (array >= 0) & np.isfinite(array))


def _check(value: Any, name: str, expected: str, valid: Any) -> Dollars:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise BudgetError(f"{name} = {value!r}; expected {expected}") from None
    bad = ~np.atleast_1d(valid(array))
    if bad.any():
        raise BudgetError(f"{name} = {np.atleast_1d(array)[bad][0]}; expected {expected}")
    return array
