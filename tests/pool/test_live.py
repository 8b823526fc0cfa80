"""The backend of a live pool: known completions, the spend cap, fallbacks, endpoints side by side, interruptions."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from routegym.errors import CallTimeoutError, PoolError, PriceError, RateLimitError, SpendCapError, StoreError
from routegym.pool import (
    Arm,
    Attempt,
    Call,
    Completion,
    Failure,
    PoolBackend,
    Price,
    PriceTable,
    Request,
    Response,
    ResponseStore,
    SpendCap,
)
from routegym.pool.backend import OnCompletion
from routegym.pool.tiers import Tier

ONE = Arm("a", "one", 100, 10)
SAFE = Arm("a", "safe", 100, 10, charged_attempts=2, fallback="b/one")
OTHER = Arm("b", "one", 300, 20)
#: USD per million tokens, so that a token of `a` costs 1e-6 USD and one of `b` 1e-5.
PRICES = PriceTable("2026-01-01", "made up", {"a": Price(1, 1, 1, 1), "b": Price(10, 10, 10, 10)})
WORST_ONE = 15e-6  # 5 prompt tokens and 10 of the answer


@dataclass
class Scripted:
    """An engine that answers as told, one call after the other, and remembers what it was asked."""

    answer: Callable[[Call], Completion | Failure] = lambda call: done(call)
    asked: list[Call] = field(default_factory=list)
    closed: bool = False

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        for index, call in enumerate(calls):
            self.asked.append(call)
            on_result(index, self.answer(call))

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        return [5 * call.n for call in calls]

    def close(self) -> None:
        self.closed = True


@dataclass
class Kept:
    """A store in memory."""

    rows: dict[str, Completion] = field(default_factory=dict)

    def get_many(self, keys: Sequence[str]) -> dict[str, Completion]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    def put(self, call: Call, completion: Completion) -> None:
        self.rows[call.key] = completion


@dataclass
class Purse:
    """A spend cap in memory."""

    cap_usd: float
    spent: float = 0.0
    held: dict[int, float] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)

    def reserve(self, worst_usd: Sequence[float], *, wait: bool) -> list[int | None]:
        assert wait
        self.batches.append(len(worst_usd))
        tickets: list[int | None] = []
        for worst in worst_usd:
            fits = self.spent + sum(self.held.values()) + worst <= self.cap_usd + 1e-12
            tickets.append(len(self.held) + 1000 * len(self.batches) + len(tickets) if fits else None)
            if fits:
                self.held[tickets[-1] or 0] = worst
        return tickets

    def settle_many(self, costs: Sequence[tuple[int, float]]) -> None:
        for ticket, usd in costs:
            assert usd <= self.held.pop(ticket) + 1e-12
            self.spent += usd

    def release(self, ticket: int) -> None:
        del self.held[ticket]


def done(call: Call, tokens: tuple[int, int, int, int] = (5, 0, 2, 0), **fields: Any) -> Completion:
    text = call.messages[-1][1]
    return Completion((f"{text}!",) * call.n, (-0.5,) * call.n, ("stop",) * call.n, tokens, 0.1, **fields)


def timed_out(call: Call) -> Failure:
    return Failure(CallTimeoutError("late"), (Attempt(call.arm.name, "CallTimeoutError", "late", (5, 0, 10, 0), 1.0),))


def refused(call: Call) -> Failure:
    return Failure(RateLimitError("later"), (Attempt(call.arm.name, "RateLimitError", "later", (0, 0, 0, 0), 0.5),))


def backend(
    first: Any = None, second: Any = None, store: Any = None, spend: Any = None
) -> tuple[PoolBackend, Any, Any]:
    """A backend of two endpoints: `x`, a server, has model a, `y`, in this process, model b."""
    first, second = first or Scripted(), second or Scripted()
    tiers = {
        arm.name: Tier(arm, endpoint, engine, model, template, arm.max_completion_tokens or 0)
        for arm, endpoint, engine, model, template in (
            (ONE, "x", "openai", "A", "{prompt}"),
            (SAFE, "x", "openai", "A", "safe {prompt}"),
            (OTHER, "y", "transformers", "B", "{prompt}"),
        )
    }
    engines = {"x": lambda: first, "y": lambda: second}
    return PoolBackend(tiers, engines, PRICES, store, spend), first, second


def asks(*prompts: str, arm: Arm = ONE, seed: int = 0) -> list[Request]:
    return [Request(arm, prompt, seed) for prompt in prompts]


def text(result: Response | Failure) -> str:
    assert isinstance(result, Response)
    return result.text


def test_results_come_in_order_and_are_reported_as_they_come() -> None:
    live, _, _ = backend()
    told: list[tuple[int, Response | Failure]] = []
    requests = [*asks("p", "q"), *asks("r", arm=OTHER), *asks("s")]
    results = live.generate(requests, lambda index, result: told.append((index, result)))
    assert [text(result) for result in results] == ["p!", "q!", "r!", "s!"]
    assert sorted(told, key=lambda item: item[0]) == list(enumerate(results))
    assert live.generate([]) == []


def test_equal_calls_of_a_batch_are_made_once() -> None:
    live, engine, _ = backend()
    same_call = replace(ONE, tier="one")
    results = live.generate([*asks("p", "p"), Request(same_call, "p"), *asks("p", seed=1)])
    assert [call.seed for call in engine.asked] == [0, 1]
    assert results[0] == results[1] == results[2]


def test_what_the_store_knows_is_not_asked_and_not_charged() -> None:
    store, purse = Kept(), Purse(1.0)
    live, engine, _ = backend(store=store, spend=purse)
    first = live.generate(asks("p", "q"))
    spent = purse.spent
    assert spent == pytest.approx(2 * 7e-6)
    told: list[int] = []
    again = live.generate(asks("q", "p", "new"), lambda index, _: told.append(index))
    assert again[:2] == first[::-1]
    assert told == [0, 1, 2]
    assert [call.messages[0][1] for call in engine.asked] == ["p", "q", "new"]
    assert purse.spent == pytest.approx(spent + 7e-6)
    fresh, engine, _ = backend(store=store, spend=Purse(0.0))
    assert fresh.generate(asks("p")) == first[:1]
    assert engine.asked == []


def test_failures_are_not_kept() -> None:
    store = Kept()
    live, _, _ = backend(Scripted(timed_out), store=store)
    (result,) = live.generate(asks("p"))
    assert isinstance(result, Failure)
    assert store.rows == {}
    live, _, _ = backend(store=store)
    assert text(live.generate(asks("p"))[0]) == "p!"


def test_a_response_is_stored_before_it_is_reported() -> None:
    store = Kept()
    live, _, _ = backend(store=store)
    seen: list[int] = []
    live.generate(asks("p", "q", "r"), lambda *_: seen.append(len(store.rows)))
    assert seen == [1, 2, 3]


def test_the_spend_cap_refuses_before_anything_is_sent() -> None:
    purse = Purse(WORST_ONE - 1e-9)
    live, engine, _ = backend(spend=purse)
    (result,) = live.generate(asks("p"))
    assert isinstance(result, Failure)
    assert isinstance(result.error, SpendCapError)
    assert result.attempts == ()
    assert engine.asked == []
    assert "arm a/one: a call may cost up to 1.5e-05 USD" in str(result.error)
    assert (purse.spent, purse.held) == (0.0, {})


def test_what_is_left_of_worst_cases_admits_further_calls() -> None:
    # 7e-6 each in truth, 15e-6 at worst: a cap of 100e-6 pays for 13 calls one after the other.
    purse = Purse(100e-6)
    live, engine, _ = backend(spend=purse)
    results = live.generate(asks(*(f"p{number}" for number in range(40))))
    answered = [isinstance(result, Response) for result in results]
    assert sum(answered) == len(engine.asked) == 13
    assert purse.spent == pytest.approx(13 * 7e-6)
    assert purse.spent <= purse.cap_usd
    assert purse.held == {}
    assert purse.batches == [40, 34, 31, 29, 28, 27]


def test_failed_and_lost_attempts_are_settled() -> None:
    def answer(call: Call) -> Completion | Failure:
        if "late" in call.messages[0][1]:
            return timed_out(call)
        lost = (
            (Attempt("a/one", "ServerFailedError", "", (5, 0, 10, 0), 1.0),) if "twice" in call.messages[0][1] else ()
        )
        return done(call, lost=lost)

    purse = Purse(1.0)
    live, _, _ = backend(Scripted(answer), spend=purse)
    arm = replace(SAFE, fallback=None)
    late, twice, once = live.generate(asks("late", "twice", "once", arm=arm))
    assert isinstance(late, Failure)
    assert isinstance(twice, Response)
    assert twice.lost_tokens == (5, 0, 10, 0)
    assert isinstance(once, Response)
    assert purse.spent == pytest.approx((15 + 15 + 7 + 7) * 1e-6)
    assert purse.held == {}


def test_a_fallback_answers_at_its_own_price() -> None:
    purse, store = Purse(1.0), Kept()
    second = Scripted(lambda call: done(call, lost=(Attempt("b/one", "E", "", (1, 0, 2, 0), 0.25),)))
    live, first, second = backend(Scripted(timed_out), second, store=store, spend=purse)
    told: list[int] = []
    (result,) = live.generate(asks("p", arm=SAFE), lambda index, _: told.append(index))
    assert isinstance(result, Response)
    assert told == [0]
    assert (result.text, result.served_by, result.attempts) == ("p!", "b/one", 3)
    assert result.lost_tokens == (5, 0, 10, 0)  # at the prices of the arm that was asked
    assert result.tokens == (6, 0, 4, 0)  # at those of the arm that answered, its own lost attempts included
    assert result.latency_s == pytest.approx(1.0 + 0.1 + 0.25)
    assert result.flops == 2 * 300 * 7
    assert purse.spent == pytest.approx(15e-6 + 10 * 10e-6)
    assert (len(first.asked), len(second.asked), len(store.rows)) == (1, 1, 1)
    assert second.asked[0].arm.name == "b/one"


def test_a_fallback_that_fails_as_well_is_a_failure_with_all_attempts() -> None:
    live, _, _ = backend(Scripted(timed_out), Scripted(refused))
    (result,) = live.generate(asks("p", arm=SAFE))
    assert isinstance(result, Failure)
    assert isinstance(result.error, RateLimitError)
    assert [attempt.arm for attempt in result.attempts] == ["a/safe", "b/one"]
    assert result.latency_s == 1.5


def test_a_call_that_the_cap_refuses_has_no_fallback() -> None:
    live, first, second = backend(spend=Purse(1e-9))
    (result,) = live.generate(asks("p", arm=SAFE))
    assert isinstance(result, Failure)
    assert isinstance(result.error, SpendCapError)
    assert not first.asked
    assert not second.asked


def test_prompt_tokens_cover_the_fallback() -> None:
    class Wordy(Scripted):
        def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
            return [50] * len(calls)

    live, _, _ = backend(second=Wordy())
    requests = [*asks("p"), *asks("p", arm=SAFE), *asks("p", arm=OTHER)]
    assert live.count_prompt_tokens(requests) == [5, 50, 50]


def test_endpoints_work_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(call: Call) -> Completion:
        both.wait()
        return done(call)

    live, _, _ = backend(Scripted(answer), Scripted(answer))
    overlapping = []
    busy = threading.Lock()

    def told(index: int, result: Response | Failure) -> None:
        overlapping.append(not busy.acquire(blocking=False))
        time.sleep(0.01)
        busy.release()

    results = live.generate([*asks("p", "q"), *asks("p", "q", arm=OTHER)], told)
    assert [text(result) for result in results] == ["p!", "q!", "p!", "q!"]
    assert overlapping == [False] * 4


def test_several_threads_may_use_one_backend() -> None:
    live, engine, _ = backend(store=Kept(), spend=Purse(1.0))
    results: dict[int, list[Response | Failure]] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: live.generate(asks(*(f"{n}.{i}" for i in range(20))))}))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert [text(result) for result in results[number]] == [f"{number}.{i}!" for i in range(20)]
    assert len(engine.asked) == 160


def test_an_interruption_while_an_answer_is_kept_does_not_lose_it() -> None:
    class Interrupted(Kept):
        def put(self, call: Call, completion: Completion) -> None:
            if call.messages[0][1] == "q" and not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            super().put(call, completion)

        interrupted = False

    store = Interrupted()
    live, _, _ = backend(store=store)
    with pytest.raises(KeyboardInterrupt):
        live.generate(asks("p", "q", "r"))
    assert [completion.texts for completion in store.rows.values()] == [("p!",), ("q!",)]


def test_an_interruption_lets_the_other_endpoint_keep_what_has_come() -> None:
    store, purse = Kept(), Purse(1.0)
    began = threading.Event()

    class Queued(Scripted):
        """Has all answers before it reports the first, and reports what has come when it is stopped."""

        def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
            came = iter(enumerate(map(done, calls)))
            began.set()
            time.sleep(0.2)
            try:
                for result in came:
                    on_result(*result)
            finally:
                for result in came:
                    on_result(*result)

    def interrupt(call: Call) -> Completion:
        began.wait(5)
        raise KeyboardInterrupt

    live, _, _ = backend(Queued(), Scripted(interrupt), store=store, spend=purse)
    with pytest.raises(KeyboardInterrupt):
        live.generate([*asks("stop", arm=OTHER), *asks(*"abcdefgh")])
    assert len(store.rows) == 8
    assert purse.spent == pytest.approx(25e-5 + 8 * 7e-6)


def test_dear_calls_that_are_refused_do_not_stand_in_the_way_of_cheap_ones() -> None:
    live, _, _ = backend(spend=Purse(40e-6))
    results = live.generate([*asks(*(f"dear {n}" for n in range(1200)), arm=OTHER), *asks("p", "q", "r")])
    assert all(isinstance(result, Failure) for result in results[:1200])
    assert [text(result) for result in results[1200:]] == ["p!", "q!", "r!"]


def test_nobody_is_refused_for_what_others_have_only_reserved(tmp_path: Path) -> None:
    """Four processes' worth of callers, a cap of twice the cost and a quarter of the worst case."""
    calls, callers = 40, 4
    results: list[Response | Failure] = []

    def work(number: int) -> None:
        with SpendCap(tmp_path, 2 * callers * calls * 7e-6) as cap:
            live, _, _ = backend(Scripted(lambda call: time.sleep(0.001) or done(call)), spend=cap)
            results.extend(live.generate(asks(*(f"{number}.{n}" for n in range(calls)))))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [result for result in results if isinstance(result, Failure)] == []
    assert len(results) == callers * calls


def test_a_caller_does_not_wait_for_the_reservations_of_the_dead(tmp_path: Path) -> None:
    dead = SpendCap(tmp_path, 40e-6)
    assert dead.reserve([15e-6]) != [None]
    threading.Timer(0.3, dead.close).start()
    with SpendCap(tmp_path, 25e-6) as cap:
        live, _, _ = backend(spend=cap)
        began = time.monotonic()
        (result,) = live.generate(asks("p"))
        assert time.monotonic() - began > 0.2
        assert isinstance(result, Failure)
        assert isinstance(result.error, SpendCapError)
        assert cap.spent_usd == 15e-6


def test_a_connected_backend_goes_on_in_another_process(tmp_path: Path) -> None:
    with ResponseStore(tmp_path / "store") as store, SpendCap(tmp_path / "cap", 1.0) as cap:
        tiers = {"a/one": Tier(ONE, "x", "openai", "A", "{prompt}", 10)}
        live = PoolBackend(tiers, {"x": Scripted}, PRICES, store, cap)
        live.generate(asks("p"))
        twin = pickle.loads(pickle.dumps(live))
        twin.generate(asks("p", "q"))
        assert len(store) == 2
        assert cap.spent_usd == pytest.approx(14e-6)


@pytest.mark.parametrize("endpoints", [1, 2])
def test_an_interruption_keeps_what_is_finished(endpoints: int) -> None:
    store, purse = Kept(), Purse(1.0)

    def answer(call: Call) -> Completion:
        if call.messages[0][1] == "stop":
            raise KeyboardInterrupt
        return done(call)

    hang = threading.Event()

    def never(call: Call) -> Completion:
        hang.wait(10)
        return done(call)

    live, _, _ = backend(Scripted(never), Scripted(answer), store=store, spend=purse)
    requests = asks("p", "q", "stop", "r", arm=OTHER)
    if endpoints == 2:
        requests += asks("slow", "slower")
    told: list[int] = []
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        live.generate(requests, lambda index, _: told.append(index))
    assert time.monotonic() - began < 5
    assert told == [0, 1]
    assert len(store.rows) == 2
    assert purse.held == {}
    # Two answers of 7 tokens, two calls under way of 25, all of b; two of 15 of a.
    assert purse.spent == pytest.approx((2 * 7 + 2 * 25) * 1e-5 + (endpoints - 1) * 2 * WORST_ONE)
    spent = purse.spent
    hang.set()
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(5)
    assert len(store.rows) == 2 + endpoints - 1  # what comes back late is paid for, so it is kept
    assert purse.spent == spent
    assert told == [0, 1]


def test_an_unusable_engine_is_an_error_and_what_others_answered_stays() -> None:
    store, purse = Kept(), Purse(1.0)

    def unusable(call: Call) -> Completion:
        raise PoolError("no such weights")

    live, _, _ = backend(Scripted(unusable), store=store, spend=purse)
    with pytest.raises(PoolError, match="no such weights"):
        live.generate([*asks("p"), *asks("q", arm=OTHER)])
    assert len(store.rows) == 1
    assert purse.spent == pytest.approx(7e-5)
    assert purse.held == {}

    # Once something came back, what is missing may have been sent as well.
    live, _, _ = backend(
        Scripted(lambda call: done(call) if call.messages[0][1] == "p" else unusable(call)), spend=purse
    )
    purse.spent = 0.0
    with pytest.raises(PoolError, match="no such weights"):
        live.generate(asks("p", "q", "r"))
    assert purse.spent == pytest.approx(7e-6 + 2 * WORST_ONE)


def test_a_bug_in_an_engine_is_charged_at_worst() -> None:
    purse = Purse(1.0)

    def broken(call: Call) -> Completion:
        raise ZeroDivisionError

    live, _, _ = backend(Scripted(broken), spend=purse)
    with pytest.raises(ZeroDivisionError):
        live.generate(asks("p", "q"))
    assert purse.spent == pytest.approx(2 * WORST_ONE)

    class Silent(Scripted):
        def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
            on_result(0, done(calls[0]))

    live, _, _ = backend(Silent())
    with pytest.raises(RuntimeError, match="endpoint 'x' reported nothing on 1 of its calls"):
        live.generate(asks("p", "q"))


def test_a_store_that_is_full_stops_the_batch_and_charges_what_was_sent() -> None:
    class Full(Kept):
        def put(self, call: Call, completion: Completion) -> None:
            raise StoreError("disk full")

    purse = Purse(1.0)
    live, engine, _ = backend(store=Full(), spend=purse)
    with pytest.raises(StoreError, match="disk full"):
        live.generate(asks("p", "q", "r"))
    assert len(engine.asked) == 1
    assert purse.spent == pytest.approx(7e-6 + 2 * WORST_ONE)
    assert purse.held == {}


def test_arms_and_prices_have_to_be_known() -> None:
    live, _, _ = backend()
    with pytest.raises(PoolError, match="unknown arm 'c/one'; this pool has a/one, a/safe, b/one"):
        live.generate([Request(Arm("c", "one", 1, 1), "p")])
    tier = Tier(Arm("c", "one", 1, 1), "x", "openai", "C", "{prompt}", 1)
    unpriced = PoolBackend({"c/one": tier}, {"x": Scripted}, PRICES, None, Purse(1.0))
    with pytest.raises(PriceError, match="no price for model 'c'"):
        unpriced.generate([Request(tier.arm, "p")])


def test_closing_frees_the_engines() -> None:
    live, first, second = backend()
    live.generate(asks("p"))
    live.close()
    assert first.closed
    assert not second.closed  # never made
    assert text(live.generate(asks("q"))[0]) == "q!"


def test_with_the_real_store_and_cap(tmp_path: Path) -> None:
    with ResponseStore(tmp_path / "store") as store, SpendCap(tmp_path / "cap", 100e-6) as cap:
        live, engine, _ = backend(store=store, spend=cap)
        results = live.generate(asks(*(f"p{number}" for number in range(40))))
        assert sum(isinstance(result, Response) for result in results) == len(engine.asked) == 13
        assert cap.spent_usd == pytest.approx(13 * 7e-6)
        assert cap.reserved_usd == 0
    with ResponseStore(tmp_path / "store") as store, SpendCap(tmp_path / "cap", 100e-6) as cap:
        live, engine, _ = backend(store=store, spend=cap)
        assert live.generate(asks("p0", "p12")) == [results[0], results[12]]
        assert engine.asked == []
        assert cap.spent_usd == pytest.approx(13 * 7e-6)


def test_a_live_step_adds_less_than_a_millisecond_per_episode(tmp_path: Path) -> None:
    """Processor time, so that other work on the machine does not count; the model is instant."""
    with ResponseStore(tmp_path / "store") as store, SpendCap(tmp_path / "cap", 100.0) as cap:
        live, _, _ = backend(store=store, spend=cap)
        took = []
        for step in range(12):
            requests = asks(*(f"{'word ' * 60}{step} {episode}" for episode in range(64)))
            began = time.process_time()
            live.generate(requests)
            took.append(time.process_time() - began)
    assert sorted(took)[len(took) // 2] < 64e-3


def test_gpu_time_that_nobody_measured_is_not_free() -> None:
    arm = Arm("g", "one", 1, 10, max_gpu_s=2.0)
    prices = PriceTable("2026-01-01", "made up", {"g": Price(0, 0, 0, 0, gpu_hour=3600.0)})
    tiers = {arm.name: Tier(arm, "x", "vllm", "G", "{prompt}", 10)}
    purse = Purse(10.0)
    measured = PoolBackend(tiers, {"x": lambda: Scripted(lambda call: done(call, gpu_s=0.5))}, prices, None, purse)
    (result,) = measured.generate(asks("p", arm=arm))
    assert isinstance(result, Response)
    assert (result.gpu_s, purse.spent) == (0.5, 0.5)
    with pytest.raises(PriceError, match="arm g/one is paid by GPU time, and its vllm engine measured none"):
        PoolBackend(tiers, {"x": Scripted}, prices).generate(asks("p", arm=arm))
