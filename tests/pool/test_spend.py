from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import routegym.pool.database
from routegym.errors import BudgetError, StoreError
from routegym.pool.spend import SpendCap

WORKER = Path(__file__).parents[1] / "spend_worker.py"


def work(folder: Path, cap: float, calls: int, worst: float, cost: object, threads: int) -> subprocess.Popen[str]:
    arguments = [str(value) for value in (folder, cap, calls, worst, cost, threads)]
    return subprocess.Popen([sys.executable, str(WORKER), *arguments], stdout=subprocess.PIPE, text=True)


def admitted_by(workers: list[subprocess.Popen[str]], rc: int = 0) -> int:
    outputs = [worker.communicate(timeout=150)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [rc] * len(workers)
    return sum(int(output) for output in outputs)


@pytest.fixture
def spend(tmp_path: Path) -> Iterator[SpendCap]:
    with SpendCap(tmp_path, 0.5) as cap:
        yield cap


def test_reserve_settle_release(spend: SpendCap) -> None:
    first, second = spend.reserve([0.2, 0.3])
    assert first is not None
    assert second is not None
    assert first != second
    assert spend.reserve([0.1]) == [None]
    assert (spend.spent_usd, spend.reserved_usd) == (0.0, 0.5)
    spend.settle(first, 0.05)
    assert (spend.spent_usd, spend.reserved_usd) == (0.05, 0.3)
    spend.release(second)
    assert (spend.spent_usd, spend.reserved_usd) == (0.05, 0.0)
    assert None not in spend.reserve([0.45])
    assert spend.reserve([1e-12]) == [None]
    assert (spend.overrun_usd, spend.abandoned) == (0.0, 0)


def test_a_batch_is_admitted_in_order_and_a_cheaper_call_may_follow_a_refused_one(spend: SpendCap) -> None:
    tickets = spend.reserve([0.3, 0.3, 0.2, 0.1, 0.0])
    assert [ticket is not None for ticket in tickets] == [True, False, True, False, True]
    assert spend.reserve([]) == []


@pytest.mark.parametrize("price", [0.01, 3e-7, 0.1 + 0.2, 1 / 3])
def test_a_budget_for_fifty_admits_exactly_fifty(tmp_path: Path, price: float) -> None:
    cap = float(Fraction(f"{price:.15g}") * 50) if price != 1 / 3 else 50 / 3 + 1e-9
    with SpendCap(tmp_path, cap) as spend:
        tickets = spend.reserve([price] * 60)
        assert [ticket is not None for ticket in tickets] == [True] * 50 + [False] * 10


def test_noise_of_floating_point_refuses_nobody(tmp_path: Path) -> None:
    token = 0.1 / 1e6 * 3  # 3.0000000000000004e-07
    with SpendCap(tmp_path, 3e-4) as spend:
        assert None not in spend.reserve([token * 100] * 10)
        assert spend.reserve([1e-12]) == [None]


def test_what_is_settled_cheaper_admits_later_calls_up_to_the_cap(spend: SpendCap) -> None:
    for expected in (50, 25, 12):
        tickets = [ticket for ticket in spend.reserve([0.01] * 100) if ticket is not None]
        assert len(tickets) == expected
        spend.settle_many([(ticket, 0.005) for ticket in tickets])
    assert spend.spent_usd == 0.435
    assert spend.reserved_usd == 0.0


def test_a_cost_above_the_reservation_is_charged_and_reported(spend: SpendCap) -> None:
    first, second = spend.reserve([0.25, 0.25])
    assert first is not None
    assert second is not None
    spend.settle_many([(first, 0.4), (second, 0.2)])
    assert (spend.spent_usd, spend.overrun_usd, spend.reserved_usd) == (0.6, 0.15, 0.0)
    assert spend.reserve([0.0]) == [None]


def test_a_ticket_is_settled_once(spend: SpendCap, tmp_path: Path) -> None:
    first, second = spend.reserve([0.1, 0.1])
    assert first is not None
    assert second is not None
    spend.settle(first, 0.1)
    message = rf"spend.sqlite: ticket {first} is not open in run 'default'; settle or release each ticket once"
    for again in (lambda: spend.settle(first, 0.1), lambda: spend.release(first)):
        with pytest.raises(BudgetError, match=message):
            again()
    with pytest.raises(BudgetError, match="not open"):
        spend.settle_many([(second, 0.1), (first, 0.1)])
    with SpendCap(tmp_path, 1, run="other") as other, pytest.raises(BudgetError, match="not open in run 'other'"):
        other.settle(second, 0.1)
    assert (spend.spent_usd, spend.reserved_usd) == (0.1, 0.1)


BAD: list[Any] = [float("nan"), -1, -1e-300, True, "5", [1], float("-inf"), 1j]


@pytest.mark.parametrize("cap", BAD)
def test_bad_caps_are_refused(tmp_path: Path, cap: Any) -> None:
    with pytest.raises(BudgetError, match=r"the spend cap is .*; expected a number of USD >= 0"):
        SpendCap(tmp_path / "new", cap)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("amount", [*BAD, None, float("inf"), 1e300])
def test_bad_amounts_are_refused(spend: SpendCap, amount: Any) -> None:
    (ticket,) = spend.reserve([0.1])
    assert ticket is not None
    with pytest.raises(BudgetError, match=r"the worst case of a call is .*; expected"):
        spend.reserve([0.1, amount])
    with pytest.raises(BudgetError, match=r"the cost of a call is .*; expected"):
        spend.settle(ticket, amount)
    assert (spend.spent_usd, spend.reserved_usd) == (0.0, 0.1)


def test_numpy_numbers_are_numbers(spend: SpendCap) -> None:
    tickets = spend.reserve(np.array([0.25, 0.125], dtype=np.float32))  # type: ignore[arg-type]
    assert None not in tickets
    assert spend.reserved_usd == 0.375


@pytest.mark.parametrize("cap", [None, float("inf")])
def test_without_a_cap_it_only_counts(tmp_path: Path, cap: float | None) -> None:
    with SpendCap(tmp_path, cap) as spend:
        (ticket,) = spend.reserve([1000.0])
        assert ticket is not None
        spend.settle(ticket, 999.5)
        assert (spend.spent_usd, spend.cap_usd) == (999.5, float("inf"))


def test_a_cap_of_zero_admits_what_is_free(tmp_path: Path) -> None:
    with SpendCap(tmp_path, 0) as spend:
        free, paid = spend.reserve([0.0, 1e-12])
        assert free is not None
        assert paid is None


def test_a_later_run_goes_on_and_may_raise_the_cap(tmp_path: Path) -> None:
    with SpendCap(tmp_path, 0.1) as spend:
        (ticket,) = spend.reserve([0.1])
        assert ticket is not None
        spend.settle(ticket, 0.1)
    with SpendCap(tmp_path, 0.1) as spend:
        assert spend.spent_usd == 0.1
        assert spend.reserve([0.01]) == [None]
    with SpendCap(tmp_path, 0.15) as spend:
        assert [ticket is not None for ticket in spend.reserve([0.05, 0.05])] == [True, False]


def test_runs_do_not_see_each_other(tmp_path: Path) -> None:
    with SpendCap(tmp_path, 0.1, run="a") as a, SpendCap(tmp_path, 0.1, run="b") as b:
        assert None not in a.reserve([0.1])
        assert None not in b.reserve([0.1])
        assert (a.reserved_usd, b.reserved_usd) == (0.1, 0.1)


def test_what_a_dead_process_had_reserved_counts_as_spent(tmp_path: Path) -> None:
    with SpendCap(tmp_path, 0.5) as watcher:
        assert None not in watcher.reserve([0.05])
        assert admitted_by([work(tmp_path, 0.5, 20, 0.01, "die", 2)], rc=-signal.SIGKILL) == 20
        assert watcher.reserved_usd == 0.25
        with SpendCap(tmp_path, 0.5) as spend:
            # The watcher lives, and so do its tickets.
            assert (spend.spent_usd, spend.reserved_usd, spend.abandoned) == (0.2, 0.05, 20)
            assert len([ticket for ticket in spend.reserve([0.01] * 50) if ticket]) == 25


def test_tickets_left_open_at_the_end_count_as_spent(tmp_path: Path) -> None:
    assert admitted_by([work(tmp_path, 0.5, 10, 0.01, "hold", 1)]) == 10
    with SpendCap(tmp_path, 0.5) as spend:
        assert (spend.spent_usd, spend.reserved_usd, spend.abandoned) == (0.1, 0.0, 10)


def test_nothing_is_left_of_those_who_settled_everything(tmp_path: Path) -> None:
    assert admitted_by([work(tmp_path, 0.5, 10, 0.01, 0.0, 1)]) == 10
    assert not list(tmp_path.glob("*.owner"))


def test_threads_share_the_cap(tmp_path: Path) -> None:
    """R-06: 64 threads, each estimated at 1 % of twice the budget: at most 50 under way at any time."""
    under_way: set[int] = set()
    most = admitted = 0
    turn = threading.Lock()
    with SpendCap(tmp_path, 0.5) as spend:

        def ask() -> None:
            nonlocal most, admitted
            for _ in range(20):
                (ticket,) = spend.reserve([0.01])
                if ticket is None:
                    continue
                with turn:
                    under_way.add(ticket)
                    admitted += 1
                    most = max(most, len(under_way))
                with turn:
                    under_way.discard(ticket)
                spend.settle(ticket, 0.0001)

        threads = [threading.Thread(target=ask) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0 < most <= 50
        assert spend.spent_usd == round(admitted * 0.0001, 12)
        assert spend.reserved_usd == 0.0
        # Nobody was refused for what others have settled since.
        left = round((0.5 - spend.spent_usd) / 0.01 - 0.5)
        assert len([ticket for ticket in spend.reserve([0.01] * 60) if ticket]) == left


@pytest.mark.parametrize(
    ("processes", "calls", "threads"),
    [(3, 40, 4), pytest.param(8, 1000, 8, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_processes_share_the_cap(tmp_path: Path, processes: int, calls: int, threads: int) -> None:
    """R-06: processes ask for more than there is; exactly 50 calls of 1 % are admitted, whoever asks."""
    assert admitted_by([work(tmp_path / "hold", 0.5, calls, 0.01, 0.01, threads) for _ in range(processes)]) == 50
    with SpendCap(tmp_path / "hold", 0.5) as spend:
        assert (spend.spent_usd, spend.reserved_usd) == (0.5, 0.0)
    # Settled at a thousandth: everybody gets what they ask for, and the sum is exact.
    total = processes * (calls // threads * threads)
    assert (
        admitted_by([work(tmp_path / "cheap", 0.5, calls, 0.005, 0.00001, threads) for _ in range(processes)]) == total
    )
    with SpendCap(tmp_path / "cheap", 0.5) as spend:
        assert (spend.spent_usd, spend.reserved_usd) == (round(total * 0.00001, 12), 0.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_threads_of_one_process(tmp_path: Path) -> None:
    assert admitted_by([work(tmp_path, 0.5, 64_000, 0.005, 0.000001, 64)]) == 64_000
    with SpendCap(tmp_path, 0.5) as spend:
        assert (spend.spent_usd, spend.reserved_usd) == (0.064, 0.0)


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routegym.pool.database, "BUSY_S", 0.1)
    message = r"spend.sqlite: .*another process has kept it locked for 0.1 s"
    with SpendCap(tmp_path, 1) as spend, closing(sqlite3.connect(tmp_path / "spend.sqlite")) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=message):
            spend.reserve([0.1])


def test_a_damaged_file_is_an_error_and_not_an_empty_purse(tmp_path: Path) -> None:
    SpendCap(tmp_path, 1).close()
    path = tmp_path / "spend.sqlite"
    path.write_bytes(b"\0" * 50 + path.read_bytes()[50:])
    with pytest.raises(StoreError, match=r"spend.sqlite: "):
        SpendCap(tmp_path, 1)


def test_a_forked_child_has_tickets_of_its_own(tmp_path: Path) -> None:
    code = f"""
import os
from routegym.pool.spend import SpendCap
spend = SpendCap({str(tmp_path)!r}, 1.0)
spend.reserve([0.1])
if os.fork() == 0:
    spend.reserve([0.2])
    os._exit(0)
os.wait()
with SpendCap({str(tmp_path)!r}, 1.0) as other:
    print(other.spent_usd, other.reserved_usd, other.abandoned)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["0.2", "0.1", "1"]


class SpendingMachine(RuleBasedStateMachine):
    """Against exact fractions: the books agree after every step, and the cap is never exceeded."""

    amounts = st.one_of(st.integers(0, 10**6).map(lambda n: n / 10**6), st.floats(0, 1))

    @initialize(cap=amounts)
    def open(self, cap: float) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.spend = SpendCap(self.folder.name, cap)
        self.cap = Fraction(cap)
        self.spent = Fraction(0)
        self.open_tickets: dict[int, Fraction] = {}

    @rule(worst=st.lists(amounts, max_size=4))
    def reserve(self, worst: list[float]) -> None:
        for usd, ticket in zip(worst, self.spend.reserve(worst), strict=True):
            after = self.spent + sum(self.open_tickets.values()) + Fraction(usd)
            if ticket is not None:
                self.open_tickets[ticket] = Fraction(usd)
            # Between what fits for sure and what exceeds the cap for sure lie a few pico-dollars of rounding.
            assert after <= self.cap + Fraction(100, 10**12) if ticket else after > self.cap - Fraction(100, 10**12)

    @rule(share=st.floats(0, 1), data=st.data())
    def settle(self, share: float, data: st.DataObject) -> None:
        if self.open_tickets:
            ticket = data.draw(st.sampled_from(sorted(self.open_tickets)))
            cost = float(self.open_tickets.pop(ticket)) * share
            self.spend.settle(ticket, cost)
            self.spent += Fraction(cost)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.open_tickets:
            ticket = data.draw(st.sampled_from(sorted(self.open_tickets)))
            self.spend.release(ticket)
            del self.open_tickets[ticket]

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "spend"):
            assert self.spend.spent_usd == pytest.approx(float(self.spent), abs=1e-10)
            assert self.spend.reserved_usd == pytest.approx(float(sum(self.open_tickets.values())), abs=1e-10)
            assert self.spend.overrun_usd == 0.0

    def teardown(self) -> None:
        if hasattr(self, "spend"):
            self.spend.close()
            self.folder.cleanup()


TestSpending = SpendingMachine.TestCase
TestSpending.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize(("cap", "spent"), [(5000.0, 0.000326000003), (1.0, 0.3), (8e6, 1e-12), (0.1, 0.0)])
def test_what_is_left_can_be_held_whatever_it_is(tmp_path: Path, cap: float, spent: float) -> None:
    """Also where dollars with a fraction have more digits than a float."""
    with SpendCap(tmp_path, cap) as spend:
        (first,) = spend.reserve([spent])
        assert first is not None
        spend.settle(first, spent)
        ticket, usd = spend.reserve_up_to(0.01) or (0, 0.0)
        assert usd == 0.01
        spend.release(ticket)
        ticket, usd = spend.reserve_up_to(None) or (0, 0.0)
        assert usd <= cap - spent
        assert usd == pytest.approx(cap - spent)
        assert spend.reserve([1e-9]) == [None]
        spend.settle(ticket, cap)
        assert spend.reserve_up_to(0.01) is None
        with pytest.raises(BudgetError, match="the amount"):
            spend.reserve_up_to(-1.0)


def test_who_wants_what_is_left_waits_for_what_others_hold(tmp_path: Path) -> None:
    with SpendCap(tmp_path, 1.0) as spend, SpendCap(tmp_path, 1.0) as other:
        (ticket,) = spend.reserve([0.4])
        assert ticket is not None
        threading.Timer(0.3, spend.settle, (ticket, 0.1)).start()
        _, usd = other.reserve_up_to(None) or (0, 0.0)
        assert usd == pytest.approx(0.9)
