"""What each strategy records, and that it depends on nothing but recording, seed and task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import helpers
import numpy as np
import pytest

from routegym.collect import (
    Collected,
    Strategy,
    arm_rows,
    boundary_arms,
    collect,
    play_policy,
    record_all,
    record_boundary,
    record_random,
    share_of,
)
from routegym.errors import CallRefusedError, CallTimeoutError, ConfigError, SpendCapError
from routegym.graph import Expander, Recording, evaluate_choices
from routegym.graph.values import always_arm_actions
from routegym.policies.baselines import AlwaysArm
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Failure, Request, Response
from routegym.pool.simulated import SimulatedBackend

STRATEGIES: dict[str, Strategy] = {
    "all": record_all,
    "boundary": partial(record_boundary, rollouts=2),
    "random": partial(record_random, rollouts=3, seed=5),
}


class Asked(SimulatedBackend):
    """Counts calls; `errors` are what calls of an arm end in, one after the other."""

    def generate(self, requests: Sequence[Request], on_result: Any = None) -> list[Any]:
        results: list[Response | Failure] = []
        for request, response in zip(requests, super().generate(requests), strict=True):
            calls: list[str] = self.__dict__.setdefault("calls", [])
            calls.append(f"{request.arm.name} {request.prompt} {request.seed}")
            errors: list[Any] = self.__dict__.get("errors", {}).get(request.arm.name, [])
            results.append(Failure(errors.pop(0)) if errors else response)
            on_result(len(results) - 1, results[-1])
        return results


def make_pool(errors: dict[str, list[Any]] | None = None) -> Any:
    accuracy = helpers.SimulatedPool().backend.accuracy
    backend = Asked(accuracy, malformed=0.25)
    backend.__dict__["errors"] = errors or {}
    return helpers.SimulatedPool(backend=backend)


def run(strategy: Strategy, kind: str = "cascade", count: int = 12, pool: Any = None, **options: Any) -> Collected:
    pool = pool or make_pool()
    tasks = options.pop("tasks", None) or helpers.tasks_of(kind, count)
    workflow = helpers.workflow_of(kind, pool)
    return collect(pool, workflow, tasks, strategy, name="x", pause_s=0.0, **options)


def saved_hash(recording: Recording, folder: Any) -> str:
    recording.save(folder)
    return recording.content_hash


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_all_is_everything(kind: str, tmp_path: Any) -> None:
    found = run(record_all, kind, 12, samples={"m0/direct": 2})
    assert found.recording.graph.complete
    whole = helpers.build(kind, 12, samples={"m0/direct": 2})
    assert saved_hash(found.recording, tmp_path / "a") == saved_hash(whole, tmp_path / "b")


@pytest.mark.parametrize("kind", helpers.KINDS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_shares_ask_for_the_same_calls_as_the_whole(name: str, kind: str) -> None:
    def asked(share: Any) -> set[str]:
        pool = make_pool()
        run(STRATEGIES[name], kind, 20, pool, share=share, samples={"m1/direct": 2})
        return set(pool.backend.calls)

    tasks = helpers.tasks_of(kind, 20)
    shares = [share_of(tasks, index, 3) for index in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(20))
    assert all(len(share) for share in shares)
    assert asked(None) == set.union(*(asked(share) for share in shares))


def test_equal_prompts_are_in_one_share() -> None:
    tasks = helpers.tasks_of("cascade", 30)
    twice = type(tasks)(
        (*tasks.ids, *(f"{name}b" for name in tasks.ids)), tasks.prompts * 2, tasks.references * 2, tasks.splits * 2
    )
    for index in range(4):
        share = share_of(twice, index, 4)
        assert {n % 30 for n in share.tolist() if n < 30} == {n % 30 for n in share.tolist() if n >= 30}


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_boundary_is_two_arms_with_their_samples(kind: str) -> None:
    graph = run(STRATEGIES["boundary"], kind).recording.graph
    _, action = graph.edge_sources()
    assert set(action[action < graph.n_arms].tolist()) == {0, 2}
    assert set(graph.edge_count[graph.task_start].ravel().tolist()) == {0, 2}


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_scores_of_always_are_those_of_the_complete_recording(kind: str) -> None:
    whole = helpers.build(kind, 12, samples={"m0/direct": 2, "m2/direct": 2})
    rows = arm_rows(run(STRATEGIES["boundary"], kind))
    assert rows[1]["score"] is None
    for arm in (0, 2):
        score, _ = evaluate_choices(whole.graph, always_arm_actions(whole.graph, arm))
        assert rows[arm]["score"] == pytest.approx(score[whole.graph.task_start].mean())


def test_rows_count_choices_and_what_they_cost() -> None:
    found = run(record_all, "single_call", 12)
    rows = arm_rows(found)
    assert [row["arm"] for row in rows] == ["m0/direct", "m1/direct", "m2/direct"]
    assert [row["choices"] for row in rows] == [12, 12, 12]
    assert sum(12 * row["mean_cost_usd"] for row in rows) == pytest.approx(
        found.recording.graph.edges["cost_usd"].sum()
    )


def test_the_boundary_is_told_by_price_where_a_worst_case_is_unknown() -> None:
    arms = (Arm("m0", "direct", 1, 4), Arm("m1", "direct", 1, 4), Arm("m2", "direct", 1, None))
    prices = PriceTable("2026-01-01", "", {"m0": Price(1, 1, 5, 5), "m1": Price(1, 1, 1, 1), "m2": Price(2, 2, 9, 9)})
    pool = helpers.SimulatedPool(arms=arms, prices=prices)
    workflow = helpers.workflow_of("cascade", pool)
    from routegym.graph import start_recording

    recording = start_recording("x", workflow, pool, helpers.tasks_of("cascade", 4))
    assert boundary_arms(Expander(workflow, pool, recording)) == (1, 2)


def test_random_episodes_follow_their_seed(tmp_path: Any) -> None:
    def once(seed: int, rollouts: int = 2) -> Recording:
        strategy = partial(record_random, rollouts=rollouts, seed=seed)
        return run(strategy, "agent_steps", 15, samples={"m0/direct": 3}).recording

    hashes = [saved_hash(once(seed), tmp_path / str(seed)) for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]
    few, many = once(1), once(1, 30)
    assert few.graph.n_edges < many.graph.n_edges
    _, action = many.graph.edge_sources()
    counts = np.bincount(action)
    assert counts.min() > 0.5 * counts.max() / 3  # three samples of one arm


def test_every_random_episode_ends() -> None:
    graph = run(STRATEGIES["random"], "cascade").recording.graph
    ends = np.isin(graph.node_status, [1, 2])
    assert ends.any()
    followed = (graph.edge_first >= 0).any(axis=1)
    assert (followed | ends).all()


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_policy_is_played_where_it_goes(kind: str) -> None:
    def play(expander: Expander, tasks: Any) -> None:
        play_policy(expander, tasks, [AlwaysArm(expander.recording, 1)])

    def scales(recording: Recording) -> None:
        recording.budget_range_usd, recording.cost_scale_usd = (1.0, 2.0), 0.125

    found = run(play, kind, prepare=scales).recording
    assert found.cost_scale_usd == 0.125
    rows = arm_rows(Collected(found, {}))
    assert rows[1]["score"] is not None
    assert rows[0]["choices"] == rows[2]["choices"] == 0


def test_a_policy_stays_within_its_budget() -> None:
    def play(expander: Expander, tasks: Any) -> None:
        play_policy(expander, tasks, [AlwaysArm(expander.recording, 2)])

    def scales(recording: Recording) -> None:
        recording.budget_range_usd, recording.cost_scale_usd = (1e-9, 1e-8), 1.0  # far below the cheapest arm

    rows = arm_rows(Collected(run(play, "single_call", prepare=scales).recording, {}))
    assert rows[0]["choices"] == 12  # what the budgets, raised to the cheapest arm, allow
    assert rows[2]["choices"] == 12  # no cap is played as well


TIMED_OUT = CallTimeoutError("no answer within 1 s")
REFUSED = CallRefusedError("unknown model")


@pytest.mark.parametrize(
    ("error", "passes", "left", "calls"),
    [
        (TIMED_OUT, 1, 4, 12),
        (TIMED_OUT, 2, 0, 16),
        (REFUSED, 3, 4, 12),  # asking again would not help
    ],
)
def test_failures_are_tried_again_in_later_passes(error: Any, passes: int, left: int, calls: int) -> None:
    pool = make_pool({"m1/direct": [error] * 4})
    found = run(record_all, "single_call", 12, pool, passes=passes)
    assert len(found.failures) == left
    assert {type(failure.error) for failure in found.failures.values()} <= {type(error)}
    assert found.recording.graph.complete == (left == 0)
    assert sum(call.startswith("m1/direct") for call in pool.backend.calls) == calls
    assert arm_rows(found)[1]["failures"] == ({type(error).__name__: left} if left else {})


def test_at_least_one_pass_is_made() -> None:
    with pytest.raises(ConfigError, match="passes = 0; expected at least 1"):
        run(record_all, passes=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_failures_end_a_pass_and_do_not_stop_it(name: str) -> None:
    pool = make_pool({"m0/direct": [TIMED_OUT] * 1000})
    found = run(STRATEGIES[name], "agent_steps", 6, pool, passes=1)
    assert found.failures
    assert {arm for arm, _, _ in found.failures} == {"m0/direct"}
    assert found.recording.graph.n_edges


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("passes", [1, 3])
def test_a_failing_call_is_made_once_in_a_pass(name: str, passes: int) -> None:
    pool = make_pool({"m2/direct": [TIMED_OUT] * 1000})
    found = run(STRATEGIES[name], "cascade", 12, pool, passes=passes)
    calls = Counter(call for call in pool.backend.calls if call.startswith("m2/direct "))
    assert calls
    assert set(calls.values()) == {passes}
    assert len(found.failures) == len(calls)
    assert arm_rows(found)[2]["failures"] == {"CallTimeoutError": len(calls)}


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_nothing_is_asked_once_the_cap_has_refused(kind: str) -> None:
    refusal = SpendCapError("a call may cost up to 1 USD")
    pool = make_pool({"m1/direct": [refusal] * 1000})
    found = run(record_all, kind, 8, pool, passes=3)
    assert found.refusal is refusal
    single_batch = 8 * 3
    assert len(pool.backend.calls) == single_batch
    assert not found.recording.graph.complete
    assert found.recording.graph.n_edges > 0
    found.recording.fix_scales()


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_a_refusal_is_told_where_calls_of_the_same_batch_failed(kind: str) -> None:
    refusal = SpendCapError("a call may cost up to 1 USD")
    pool = make_pool({"m0/direct": [TIMED_OUT] * 1000, "m1/direct": [refusal] * 1000})
    found = run(record_all, kind, 8, pool, passes=3)
    assert found.refusal is refusal
    assert len(pool.backend.calls) == 8 * 3
    assert [row["failures"] for row in arm_rows(found)] == [{"CallTimeoutError": 8}, {"SpendCapError": 8}, {}]


def test_progress_counts_what_is_asked_and_answered() -> None:
    seen: list[tuple[int, int]] = []
    pool = make_pool()
    run(record_all, "agent_steps", 6, pool, watch=lambda asked, answered: seen.append((asked, answered)))
    assert seen == sorted(seen)
    assert all(answered <= asked for asked, answered in seen)
    assert seen[-1] == (len(pool.backend.calls),) * 2


def test_order_makes_no_difference(tmp_path: Any) -> None:
    def backwards(expander: Expander, tasks: Any) -> None:
        for task in tasks[::-1]:
            record_all(expander, np.array([task]))

    hashes = [
        saved_hash(run(strategy, "agent_steps", 8).recording, tmp_path / name)
        for name, strategy in (("a", record_all), ("b", backwards))
    ]
    assert hashes[0] == hashes[1]
