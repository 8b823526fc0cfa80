"""A cap on what a whole run may spend, shared by all its threads and processes."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import isfinite, isnan, nextafter
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

from routegym.errors import BudgetError, StoreError
from routegym.pool.database import Database, FileLock, Schema

__all__ = ["SpendCap"]

SCHEMA = Schema(
    what="a record of spending",
    application_id=0x72676D63,  # "rgmc"
    version=1,
    tables=(
        "CREATE TABLE runs (run TEXT PRIMARY KEY, spent INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL "
        "DEFAULT 0, overrun INTEGER NOT NULL DEFAULT 0, abandoned INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE tickets (ticket INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, owner TEXT NOT NULL, "
        "worst INTEGER NOT NULL)",
    ),
    # A journal instead of a log with shared memory: machines that share a folder can share the cap as well.
    # Without fsync, since every call takes several transactions; a killed process loses nothing by it.
    pragmas=("journal_mode = PERSIST", "synchronous = OFF"),
)

_PICO = 10**12
#: Seconds between two looks at what others have reserved.
_LOOK_AGAIN_S = 0.1
#: What an integer of sqlite can hold, in pico-dollars.
_MOST_PICO = 9 * 10**18


class SpendCap:
    """Admits calls as long as the run's spending, with the worst case of all calls under way, stays within a cap.

    Before a call its worst case is reserved, after it what it cost is settled. Money is counted in integers of
    1e-12 USD, so sums are exact: amounts are read at 15 significant digits, which takes away the noise of floating
    point, then worst cases are rounded up, the cap down and costs to the nearest integer.

    What a process had reserved when it died may have been charged: it counts as spent at its worst case from the next
    time that anybody opens the folder.

    Args:
        folder: Holds ``spend.sqlite``, shared by everybody who spends for the run; created where it is missing.
        cap_usd: The cap, counted from the run's first call ever; None or infinite = only count. Everybody is held to
            the cap they came with, so a later run may raise it.
        run: Name of the run; several runs may share a folder, each with its own cap.

    Raises:
        BudgetError: the cap is not a number >= 0.
        StoreError: the folder cannot be used.
    """

    def __init__(self, folder: str | Path, cap_usd: float | None, run: str = "default") -> None:
        self.folder = Path(folder)
        self.run = run
        if cap_usd is not None:
            _check("the spend cap", cap_usd)
        self.cap_usd = float("inf") if cap_usd is None else float(cap_usd)
        self._cap = _MOST_PICO if self.cap_usd * _PICO >= _MOST_PICO else _pico(self.cap_usd, ROUND_FLOOR)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be created ({error.strerror}); give a folder that this user may write to"
            ) from error
        self._database = Database(self.folder / "spend.sqlite", SCHEMA, "write")
        self._owner: FileLock | None = None
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO runs (run) VALUES (?)", (run,))
            self._charge_the_dead(connection)

    def reserve(self, worst_usd: Sequence[float], *, wait: bool = False) -> list[int | None]:
        """Ask for calls, all in one transaction and in order.

        Args:
            worst_usd: The most that each call can cost.
            wait: Where none fits, and one would if what others have reserved costs less than its worst case, wait for
                that. A caller that holds tickets itself would wait for ever.

        Returns:
            One ticket per call to settle or release; None = this call would not fit and is refused. A cheaper one
            after it may still fit.

        Raises:
            BudgetError: a worst case is not a finite number >= 0.
            StoreError: the record cannot be written.
        """
        for worst in worst_usd:
            _check("the worst case of a call", worst, finite=True)
        asked = [_pico(worst, ROUND_CEILING) for worst in worst_usd]
        while True:
            with self._database.transaction() as connection:
                spent, reserved, *_ = self._totals(connection)
                free = self._cap - spent - reserved
                tickets = self._tickets(connection, asked, free)
                if not wait or any(ticket is not None for ticket in tickets):
                    return tickets
                if reserved == 0 or min(asked, default=self._cap + 1) > self._cap - spent:
                    return tickets
                # One who died while others wait for him gives nothing back.
                self._charge_the_dead(connection)
            time.sleep(_LOOK_AGAIN_S)

    def reserve_up_to(self, most_usd: float | None) -> tuple[int, float] | None:
        """Ask for an amount, or for all that is left where that is less; waits for what others hold.

        A caller that holds tickets itself would wait for ever.

        Args:
            most_usd: the amount; None = all that is left.

        Returns:
            The ticket and the amount in USD, never more than was reserved; None where nothing is left.

        Raises:
            BudgetError: the amount is not a finite number >= 0.
            StoreError: the record cannot be written.
        """
        if most_usd is not None:
            _check("the amount", most_usd, finite=True)
        asked = _MOST_PICO if most_usd is None else _pico(most_usd, ROUND_CEILING)
        while True:
            with self._database.transaction() as connection:
                spent, reserved, *_ = self._totals(connection)
                wanted = min(asked, self._cap - spent)
                if wanted <= 0:
                    return None
                (ticket,) = self._tickets(connection, [wanted], self._cap - spent - reserved)
                if ticket is not None:
                    if most_usd is not None and wanted == asked:
                        return ticket, most_usd
                    return ticket, nextafter(wanted / _PICO, 0.0)
                self._charge_the_dead(connection)
            time.sleep(_LOOK_AGAIN_S)

    def settle(self, ticket: int, cost_usd: float) -> None:
        """Replace a reservation by what the call cost.

        A cost above the reservation is charged in full, and counted in `overrun_usd` as well: it is money spent.

        Raises:
            BudgetError: the cost is not a finite number >= 0, or the ticket is not open in this run.
            StoreError: the record cannot be written.
        """
        self.settle_many([(ticket, cost_usd)])

    def settle_many(self, costs: Sequence[tuple[int, float]]) -> None:
        """Settle (ticket, cost in USD) pairs in one transaction: all of them or, where this raises, none."""
        for _, cost in costs:
            _check("the cost of a call", cost, finite=True)
        with self._database.transaction() as connection:
            for ticket, cost_usd in costs:
                cost = _pico(cost_usd, ROUND_HALF_EVEN)
                worst = self._close_ticket(connection, ticket)
                connection.execute(
                    "UPDATE runs SET spent = spent + ?, reserved = reserved - ?, overrun = overrun + ? WHERE run = ?",
                    (cost, worst, max(0, cost - worst), self.run),
                )

    def release(self, ticket: int) -> None:
        """Give a reservation back: nothing was sent.

        Raises:
            BudgetError: the ticket is not open in this run.
            StoreError: the record cannot be written.
        """
        with self._database.transaction() as connection:
            worst = self._close_ticket(connection, ticket)
            connection.execute("UPDATE runs SET reserved = reserved - ? WHERE run = ?", (worst, self.run))

    @property
    def spent_usd(self) -> float:
        """What the run has cost so far, over all processes and sessions."""
        return self._read()[0] / _PICO

    @property
    def reserved_usd(self) -> float:
        """Worst case of the calls that are under way."""
        return self._read()[1] / _PICO

    @property
    def overrun_usd(self) -> float:
        """What calls of the run cost above their reservations; 0 unless a worst case was no worst case."""
        return self._read()[2] / _PICO

    @property
    def abandoned(self) -> int:
        """Calls of the run that were charged at their worst case because their process died."""
        return self._read()[3]

    def close(self) -> None:
        """Close the file; closing twice does nothing. Open tickets are treated as those of a dead process."""
        if self._owner is not None and self._owner.held:
            self._owner.path.unlink(missing_ok=True)
            self._owner.release()
        self._database.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder itself."""
        return SpendCap, (self.folder, self.cap_usd, self.run)

    def __enter__(self) -> SpendCap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> tuple[int, int, int, int]:
        with self._database.read() as connection:
            return self._totals(connection)

    def _totals(self, connection: sqlite3.Connection) -> tuple[int, int, int, int]:
        """Spent, reserved and overrun in pico-dollars, and the number of abandoned calls."""
        query = "SELECT spent, reserved, overrun, abandoned FROM runs WHERE run = ?"
        spent, reserved, overrun, abandoned = connection.execute(query, (self.run,)).fetchone()
        return spent, reserved, overrun, abandoned

    def _tickets(self, connection: sqlite3.Connection, asked: Sequence[int], free: int) -> list[int | None]:
        """Open tickets for what fits into `free` pico-dollars, in order."""
        tickets: list[int | None] = []
        taken = 0
        for worst in asked:
            if worst > free - taken:
                tickets.append(None)
                continue
            taken += worst
            values = (self.run, self._my_name(), worst)
            cursor = connection.execute("INSERT INTO tickets (run, owner, worst) VALUES (?, ?, ?)", values)
            tickets.append(cursor.lastrowid)
        connection.execute("UPDATE runs SET reserved = reserved + ? WHERE run = ?", (taken, self.run))
        return tickets

    def _close_ticket(self, connection: sqlite3.Connection, ticket: int) -> int:
        """Delete an open ticket; what it had reserved."""
        query = "DELETE FROM tickets WHERE ticket = ? AND run = ? RETURNING worst"
        rows = connection.execute(query, (ticket, self.run)).fetchall()
        if not rows:
            raise BudgetError(
                f"{self._database.path}: ticket {ticket} is not open in run {self.run!r}; settle or release each "
                "ticket once, in the run that gave it"
            )
        return int(rows[0][0])

    def _my_name(self) -> str:
        """The name under which this process holds its tickets: a file that stays locked until it dies."""
        if self._owner is None or not self._owner.held:
            self._owner = FileLock(self.folder / f"spend-{uuid.uuid4().hex}.owner")
            self._owner.try_exclusive()
        return self._owner.path.name

    def _charge_the_dead(self, connection: sqlite3.Connection) -> None:
        """Settle the tickets of dead processes at their worst case, in all runs, and remove their files."""
        # New owners come up inside transactions only, so no file can be seen here before it is locked.
        dead = [path for path in self.folder.glob("spend-*.owner") if _is_dead(path)]
        owners = {name.decode() for (name,) in connection.execute("SELECT DISTINCT owner FROM tickets")}
        gone = {name for name in owners if not (self.folder / name).exists()}
        for name in gone | {path.name for path in dead}:
            query = "SELECT run, sum(worst), count(*) FROM tickets WHERE owner = ? GROUP BY run"
            for run, worst, count in connection.execute(query, (name,)).fetchall():
                connection.execute(
                    "UPDATE runs SET spent = spent + ?, reserved = reserved - ?, abandoned = abandoned + ? "
                    "WHERE run = ?",
                    (worst, worst, count, run.decode()),
                )
            connection.execute("DELETE FROM tickets WHERE owner = ?", (name,))
        for path in dead:
            path.unlink(missing_ok=True)


def _is_dead(path: Path) -> bool:
    lock = FileLock(path, create=False)
    dead = lock.try_exclusive()
    lock.release()
    return dead


def _check(what: str, usd: object, *, finite: bool = False) -> None:
    if isinstance(usd, bool) or not isinstance(usd, Real) or isnan(usd) or usd < 0 or (finite and not isfinite(usd)):
        raise BudgetError(f"{what} is {usd!r}; expected a{' finite' if finite else ''} number of USD >= 0")
    if finite and float(usd) * _PICO > _MOST_PICO:
        raise BudgetError(f"{what} is {usd!r} USD; expected at most {_MOST_PICO // _PICO:,} USD")


def _pico(usd: float, rounding: str) -> int:
    """An amount in pico-dollars."""
    return int((Decimal(f"{float(usd):.15g}") * _PICO).to_integral_value(rounding=rounding))
